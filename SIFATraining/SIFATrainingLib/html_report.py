"""HTML reports: a single file that includes its pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from SIFASegmentationLib.files import write_atomically

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; text-align: right }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left }
tr.best td { font-weight: 600 } img { max-width: 100%; } figcaption { color: #555 } figure { margin: 1.5rem 0 }
code { background: #f3f3f3; padding: .1rem .3rem } .pixels { width: 100%; image-rendering: pixelated }
"""


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page of parts that are HTML; the title is plain text."""
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    with write_atomically(path) as partial:
        partial.write_text(f"<!doctype html><html lang='en'>{head}" + "\n".join(parts) + "</html>\n", encoding="utf-8")


def picture(figure: Figure, caption: str) -> str:
    """Return a figure with its caption as HTML; the caption is HTML, too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _image(buffer.getvalue(), caption, "")


def picture_of_file(path: Path, caption: str) -> str:
    """Return a PNG file with its caption as HTML, as wide as the page and without smoothing; the caption is HTML."""
    return _image(path.read_bytes(), caption, " class='pixels'")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> str:
    """Return a table of plain texts as HTML; `best` is the index of a row to emphasise."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for number, row in enumerate(rows):
        kind = " class='best'" if number == best else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _image(png: bytes, caption: str, attributes: str) -> str:
    encoded = base64.b64encode(png).decode()
    return f"<figure><img{attributes} src='data:image/png;base64,{encoded}'><figcaption>{caption}</figcaption></figure>"
