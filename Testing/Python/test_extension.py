"""The files that Slicer's build ships, and that no layer imports one above it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("SIFASegmentation", "SIFATraining")
LAYERS = {
    "SIFASegmentation/SIFASegmentationLib": ("torch", "slicer", "qt", "ctk", "vtk", "SIFATrainingLib"),
    "SIFATraining/SIFATrainingLib": ("slicer", "qt", "ctk", "vtk", "SIFASegmentationWidgets", "SIFATrainingWidgets"),
    "SIFASegmentation/SIFASegmentationWidgets": ("torch", "SIFATrainingLib", "SIFATrainingWidgets"),
    "SIFATraining/SIFATrainingWidgets": ("torch",),
}
FROM_PIP = ("pydantic", "onnxruntime", "torch", "lightning_fabric", "safetensors", "onnx", "typer", "PIL", "matplotlib")
OPTIONAL_IN_SLICER = ("SimpleITK", "scipy")


def listed(module: str, variable: str) -> set[str]:
    text = (ROOT / module / "CMakeLists.txt").read_text()
    block = re.search(rf"set\({variable}\s+(.*?)\)", text, re.DOTALL)
    assert block is not None
    return {line.replace("${MODULE_NAME}", module) for line in block[1].split()}


@pytest.mark.parametrize("module", MODULES)
def test_every_python_file_and_resource_is_shipped(module: str) -> None:
    folder = ROOT / module
    scripts = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    assert listed(module, "MODULE_PYTHON_SCRIPTS") == scripts
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".svg")]
    resources = {str(path.relative_to(folder)) for path in files if path.name not in ("CMakeLists.txt", "py.typed")}
    assert listed(module, "MODULE_PYTHON_RESOURCES") == resources


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Top-level names of a file's imports: all of them, or only those at file scope outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(("folder", "forbidden"), LAYERS.items())
def test_no_layer_reaches_upwards(folder: str, forbidden: tuple[str, ...]) -> None:
    files = list((ROOT / folder).glob("*.py"))
    assert files
    for path in files:
        assert not imports(path, everywhere=True) & set(forbidden), path.name


def test_nothing_that_may_be_missing_is_imported_at_file_scope_of_a_module() -> None:
    """Slicer imports the modules when it starts, before anything is installed; imports are followed into our files."""
    packages = {path.name: path for module in MODULES for path in (ROOT / module).iterdir() if path.is_dir()}
    waiting = [ROOT / module / f"{module}.py" for module in MODULES]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        assert not imports(path, everywhere=False) & {*FROM_PIP, *OPTIONAL_IN_SLICER}, path.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                package = packages.get((node.module or "").split(".")[0]) if node.level == 0 else path.parent
                inside = (node.module or "").split(".")[1:] if node.level == 0 else (node.module or "").split(".")
                if package is not None:
                    names = inside[:1] if inside and inside[0] else [alias.name for alias in node.names]
                    waiting += [package / f"{name}.py" for name in names if (package / f"{name}.py").exists()]
    assert len(seen) > 10


def test_the_index_entry_names_what_the_build_needs() -> None:
    entry = json.loads((ROOT / "Resources" / "SIFA.json").read_text())
    depends = re.search(r'EXTENSION_DEPENDS "(.*?)"', (ROOT / "CMakeLists.txt").read_text())
    assert depends is not None
    assert entry["build_dependencies"] == depends[1].split()
    assert entry["category"] == "Segmentation"
