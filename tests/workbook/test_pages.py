"""Notebooks as pages: what is fresh, what is stale, and what a page leaves behind."""

import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ltlib.files import figures_dir
from ltlib.runs.profiles import load_profile
from ltlib.runs.progress import unique_runs
from ltlib.runs.records import record_path
from workbook.notebooks import NOTEBOOKS, NotebookFailed, checksum, execute, execute_stale, pages

PARAMETERS = 'profile = "demo"\nbackbones = []\nlosses = []\nseeds = []'
WRITE = """import os, pathlib
pathlib.Path(os.environ['LTLIB_FIGURES'], 'made.pdf').write_text('made by ' + profile)"""


def notebook(path, *cells):
    nb = new_notebook(
        cells=[
            new_markdown_cell("# A title\n\ntext"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, cells),
        ]
    )
    nb.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nb, path)


@pytest.fixture
def profile():
    return load_profile("smoke")


def files(out):
    return sorted(
        str(p.relative_to(out))
        for top in ("build/smoke", "figures")
        for p in (out / top).rglob("*")
        if p.is_file() and p.suffix != ".lock"
    )


def test_a_notebook_is_executed_and_its_figures_moved_into_place(library, profile, out):
    notebook(library / "01_a.ipynb", WRITE)
    page = pages(profile)[0]
    assert (page.title, page.state()) == ("A title", "missing")
    execute(page)
    assert page.state() == "fresh"
    assert files(out) == ["build/smoke/notebooks/01_a.ipynb", "figures/smoke/made.pdf"]
    assert (figures_dir("smoke") / "made.pdf").read_text() == "made by smoke"


def test_a_figure_that_is_not_made_any_more_goes(library, profile, out):
    notebook(library / "01_a.ipynb", WRITE)
    execute(pages(profile)[0])
    notebook(library / "01_a.ipynb", WRITE.replace("made.pdf", "other.pdf"))
    execute(pages(profile)[0])
    assert files(out) == ["build/smoke/notebooks/01_a.ipynb", "figures/smoke/other.pdf"]
    assert pages(profile)[0].state() == "fresh"


def test_a_failing_notebook_leaves_nothing_that_looks_finished(library, profile, out):
    notebook(library / "01_a.ipynb", WRITE, "1 / 0")
    with pytest.raises(NotebookFailed, match="ZeroDivisionError"):
        execute_stale(profile, lambda line: None)
    assert files(out) == ["build/smoke/notebooks/01_a.failed.ipynb"]
    assert pages(profile)[0].state() == "missing"
    notebook(library / "01_a.ipynb", WRITE)
    execute_stale(profile, lambda line: None)
    assert files(out) == ["build/smoke/notebooks/01_a.ipynb", "figures/smoke/made.pdf"]


def test_whatever_a_notebook_depends_on_makes_it_stale(library, profile, out):
    notebook(library / "01_a.ipynb", WRITE)
    page = pages(profile)[0]
    execute(page)
    assert page.state() == "fresh"
    record, figure = record_path(unique_runs(profile)[0]), figures_dir("smoke") / "made.pdf"
    record.parent.mkdir(parents=True)
    for path, changed in (
        (page.source, page.source.read_text().replace("text", "another")),
        (record, "{}"),
        (figure, "another"),
        (page.executed, "{}"),
    ):
        before = path.read_text() if path.exists() else None
        path.write_text(changed)
        assert page.state() == "stale", path
        path.unlink() if before is None else path.write_text(before)
        assert page.state() == "fresh", path
    figure.unlink()
    assert page.state() == "stale"
    assert pages(load_profile("smoke", seeds=[1]))[0].state() == "stale"


def test_a_key_is_of_contents_and_not_of_times(library, profile, out):
    notebook(library / "01_a.ipynb", WRITE)
    page = pages(profile)[0]
    before = page.key()
    os.utime(page.source, (1, 1))
    assert page.key() == before


def test_checksums_follow_a_file(tmp_path):
    path, found = tmp_path / "a", []
    for text in ("one", "two", "three"):
        path.write_text(text)
        found.append(checksum(path))
    path.unlink()
    assert len(set(found)) == 3
    assert checksum(path) == ""


def test_pages_per_backbone_know_only_theirs(library, profile):
    notebook(library / "11_finetune.ipynb", WRITE)
    made = pages(profile)
    assert [page.name for page in made] == [
        "11_finetune_resnetv2_small32",
        "11_finetune_convnext_small32",
    ]
    assert [page.parameters["backbones"] for page in made] == [
        ["resnetv2_small32"],
        ["convnext_small32"],
    ]


def test_the_parameters_cells_of_all_notebooks_take_what_pages_pass():
    import papermill

    names = set(pages(load_profile("demo"))[0].parameters)
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        assert names <= set(papermill.inspect_notebook(source)), source.name


def test_a_profile_gives_values_to_the_parameters_that_a_notebook_has():
    made = {page.name: page.parameters for page in pages(load_profile("smoke"))}
    assert made["18_arconvl_experiments"]["small_epochs"] == 8
    assert made["03_weighted_softmax"]["small_seeds"] == 2
    assert not {"small_seeds", "small_epochs"} & set(made["01_dataset_construction"])


def test_no_cell_is_longer_than_20_lines():
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        for cell in nbformat.read(source, as_version=4).cells:
            assert cell.cell_type != "code" or len(cell.source.splitlines()) <= 20, source.name


def test_only_cells_tagged_as_derivation_become_latex(library, profile, out):
    steps = new_markdown_cell("## Steps\n\nSo $a$:\n\n$$ b $$", metadata={"tags": ["derivation"]})
    nb = new_notebook(
        cells=[
            new_markdown_cell("# A title"),
            steps,
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        ]
    )
    nb.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nb, library / "02_a.ipynb")
    execute_stale(profile, lambda line: None)
    made = (figures_dir("smoke") / "derivations" / "02_a.tex").read_text()
    assert made.splitlines()[3:] == ["\\subsection{Steps}", "", "So \\(a\\):", "", "\\[ b \\]"]
    assert pages(profile)[0].state() == "fresh"
