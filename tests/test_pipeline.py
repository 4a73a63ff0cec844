"""The whole of it in the smoke profile: undisturbed, a second time, and in a browser."""

import shutil
import time

import pytest
from browser import DESK, PHONE, needs_chromium, read_book
from pipeline import figures, run

from ltlib.files import ROOT
from ltlib.runs.profiles import load_profile
from workbook.notebooks import pages

pytestmark = pytest.mark.slow
NOTEBOOKS = {
    "01_dataset_construction",
    "02_softmax",
    "09_losses_side_by_side",
    "10_backbones",
    "11_finetune_resnetv2_small32",
    "12_head_middle_tail",
}
TABLES = {
    "accuracy_balanced.tex",
    "accuracy_longtailed.tex",
    "appendix_longtailed.tex",
    "groups_thesis.tex",
}


def test_it_makes_what_it_names(built):
    out, said = built
    for place in ("results/smoke", "build/smoke/notebooks", "build/smoke/html/index.html"):
        assert place in said
        assert (out / place).exists()
    made = {path.stem for path in (out / "build" / "smoke" / "notebooks").glob("*.ipynb")}
    assert made >= NOTEBOOKS
    sources = (ROOT / "notebooks").glob("[0-9]*.ipynb")
    derived = {path.stem for path in sources if '"derivation"' in path.read_text()}
    derivations = out / "figures" / "smoke" / "derivations"
    assert {path.stem for path in derivations.glob("*.tex")} == derived
    assert {name.removeprefix("tables/") for name in figures(out)} >= TABLES
    assert len(figures(out)) > 100
    assert len(list((out / "results" / "smoke").glob("*.json"))) == 32


def test_a_second_time_runs_nothing(built):
    out, _ = built
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    start = time.monotonic()
    result = run(out, "all")
    assert time.monotonic() - start < 40  # beside another worker; alone it takes a quarter
    assert "0 to go" in result.stdout
    assert "0 to run" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_status_counts_what_is_there(built):
    said = run(built[0], "status").stdout
    assert "32 of 32 done" in said
    assert f"{len(pages(load_profile('smoke')))} fresh" in said


@needs_chromium
def test_its_book_can_be_read_in_a_browser(built):
    index = built[0] / "build" / "smoke" / "html" / "index.html"
    views = ("light", PHONE), ("dark", DESK)
    names = [page.name for page in pages(load_profile("smoke"))]
    names += [f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")]
    read_book(index, [*names, "references"], views)


@pytest.mark.skipif(shutil.which("latexmk") is None, reason="latexmk is not installed")
def test_the_whole_book_prints(built):
    result = run(built[0], "book-pdf")
    assert result.returncode == 0, result.stdout + result.stderr
    printed = built[0] / "build" / "smoke" / "thesis" / "book.pdf"
    assert printed.read_bytes().startswith(b"%PDF")
    log = printed.with_suffix(".log").read_text(errors="replace")
    assert "undefined" not in log
    assert "multiply defined" not in log
