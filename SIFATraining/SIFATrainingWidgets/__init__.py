"""What the window of SIFA Training is made of; nothing here computes.

Slicer puts a module's folder on the import path when it loads the module, and may load this one before its sibling:
importing this package makes sure that both are there.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("SIFASegmentationWidgets") is None:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "SIFASegmentation"))
