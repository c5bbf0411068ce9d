"""Draws the PNG icons of the extension and its modules from their SVG files (needs PySide6).

QT_QPA_PLATFORM=offscreen python Resources/draw_icons.py
"""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSize
from PySide6.QtGui import QGuiApplication, QIcon

ROOT = Path(__file__).resolve().parents[1]
PIXELS = 128


def main() -> None:
    """Every SVG among the icons to a PNG beside it."""
    application = QGuiApplication([])
    for path in (ROOT / "Resources" / "SIFA.svg", *sorted(ROOT.glob("SIFA*/Resources/Icons/*.svg"))):
        QIcon(str(path)).pixmap(QSize(PIXELS, PIXELS)).save(str(path.with_suffix(".png")))
        print(path.with_suffix(".png").relative_to(ROOT))
    application.quit()


if __name__ == "__main__":
    main()
