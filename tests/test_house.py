"""The house stays as it was built: functions of a page, and notebooks that meet the library
alone."""

import ast
import json

import pytest

from ltlib.files import ROOT

MODULES = sorted([*(ROOT / "ltlib").rglob("*.py"), *(ROOT / "workbook").rglob("*.py")])
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            first = node.body[0].end_lineno if documented else node.lineno - 1
            signature = node.body[0].lineno - node.lineno if documented else 0
            yield node.name, node.end_lineno - first + signature


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_page(path):
    """A page is 40 lines beside the docstring; who reads a function sees it whole."""
    assert {name: lines for name, lines in functions(path) if lines > 40} == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_the_library_alone(path):
    """Notebook 16 imports photographs, which is the program's; no notebook imports a launcher."""
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("workbook")
        for alias in node.names
    }
    assert found == ({"workbook.photographs"} if path.stem.startswith("16") else set())
