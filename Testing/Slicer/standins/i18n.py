"""`slicer.i18n`, in English."""

from __future__ import annotations

from pathlib import Path


def translate(context: str, text: str) -> str:
    """The text in the application's language."""
    return text


def getContext(sourceFile: str) -> str:  # noqa: N802, N803  Slicer's names
    """The context under which a file's texts are translated."""
    path = Path(sourceFile)
    package = f"{path.parent.name}." if (path.parent / "__init__.py").is_file() else ""
    return package + path.stem


def tr(text: str) -> str:
    """The text in the application's language, in the context of the calling file."""
    return text
