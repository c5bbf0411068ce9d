"""The parts of the window of SIFA Training; computations belong in the libraries.

Slicer puts a module's folder on the import path when it loads the module, and may load this module before its sibling.
Importing this package makes sure that both folders are on the path.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("SIFASegmentationWidgets") is None:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "SIFASegmentation"))
