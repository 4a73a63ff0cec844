"""JupyterLab by ``python -m workbook lab``, and its index of the notebooks."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from browser import chromium, needs_chromium

from ltlib.files import ROOT
from workbook.book import question
from workbook.notebooks import NOTEBOOKS, first_cell

MINUTE = 60_000  # milliseconds


def test_the_index_links_every_notebook_with_its_question():
    text = "\n".join(
        cell.source for cell in nbformat.read(NOTEBOOKS / "index.ipynb", as_version=4).cells
    )
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\) \| (.+) \|$", text, re.MULTILINE))
    sources = {
        path.stem: question(first_cell(path)) for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")
    }
    assert {name: rows.get(name) for name in sources} == sources


@pytest.fixture
def server(tmp_path):
    """A running JupyterLab on a copy of the project, as it saves what it opens."""
    for name in ("ltlib", "workbook", "profiles", "notebooks", "data/reference"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "PYTHONPATH": str(tmp_path),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "LTLIB_OUT": str(tmp_path / "out"),
    }
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("COV")
    }  # coverage counts the project's files alone
    options = f"--no-browser --allow-root --port={port} --ServerApp.port_retries=0"
    options += " --IdentityProvider.token=test"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbook", "lab", f"--lab={options}"],
            cwd=tmp_path,
            env=others | own,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=test").close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", tmp_path
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@needs_chromium
def test_a_notebook_runs_by_hand_from_top_to_bottom(server):
    address, folder = server
    source = folder / "notebooks" / "02_softmax.ipynb"
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.append(
        nbformat.v4.new_code_cell("import sys\nprint('all done by', sys.executable)")
    )
    nbformat.write(notebook, source)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(3 * MINUTE)
        page.goto(f"{address}/?token=test")
        page.get_by_role("tab", name="index.ipynb").wait_for()
        page.get_by_role("link", name="02_softmax").click()
        page.get_by_role(
            "heading", name="In NumPy"
        ).wait_for()  # what is run before all of it is there, or a kernel is, is not run
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output", has_text=f"all done by {sys.executable}").wait_for()
        with page.expect_response(
            lambda response: response.request.method == "PUT" and source.name in response.url
        ):
            page.keyboard.press("Control+s")
    ran = [cell for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    assert not [output for cell in ran for output in cell.outputs if output.output_type == "error"]
    written = {
        path.relative_to(folder / "out").as_posix()
        for path in (folder / "out" / "figures").rglob("*.pdf")
    }
    assert written == {
        f"figures/demo/softmax_{name}.pdf"
        for name in ("curve", "training", "shares", "gradients", "regions")
    }
