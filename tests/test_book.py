import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ltlib import book
from ltlib.book import NotebookFailed, execute, execute_stale, pages
from ltlib.config import figures_dir, load_profile

PARAMETERS = 'profile = "demo"\nbackbones = []\nlosses = []\nseeds = []'
WRITE = "import os, pathlib\npathlib.Path(os.environ['LTLIB_FIGURES'], 'made.pdf').write_text('made by ' + profile)"


def notebook(path, *cells):
    nb = new_notebook(cells=[new_markdown_cell("# A title\n\ntext"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
                             *map(new_code_cell, cells)])
    nb.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nb, path)


@pytest.fixture
def profile():
    return load_profile("smoke")


def files(out):
    return sorted(str(p.relative_to(out)) for top in ("build/smoke", "figures") for p in (out / top).rglob("*")
                  if p.is_file() and p.suffix != ".lock")


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


@pytest.mark.parametrize("change", ["source", "parameters", "figure", "notebook", "record"])
def test_whatever_a_notebook_depends_on_makes_it_stale(library, profile, out, change):
    notebook(library / "01_a.ipynb", WRITE)
    page = pages(profile)[0]
    execute(page)
    match change:
        case "source":
            notebook(library / "01_a.ipynb", WRITE, "1 + 1")
        case "parameters":
            page = pages(load_profile("smoke", seeds=[1]))[0]
        case "figure":
            (figures_dir("smoke") / "made.pdf").unlink()
        case "notebook":
            page.executed.write_text("{}")
        case "record":
            path = book.record_path(book.unique_runs(profile)[0])
            path.parent.mkdir(parents=True)
            path.write_text("{}")
    assert page.state() == "stale"


def test_pages_per_backbone_know_only_theirs(library, profile):
    notebook(library / "11_finetune.ipynb", WRITE)
    made = pages(profile)
    assert [page.name for page in made] == ["11_finetune_resnetv2_small32", "11_finetune_convnext_small32"]
    assert [page.parameters["backbones"] for page in made] == [["resnetv2_small32"], ["convnext_small32"]]


def test_the_parameters_cells_of_all_notebooks_take_what_pages_pass():
    import papermill

    names = set(pages(load_profile("demo"))[0].parameters)
    for source in sorted(book.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        assert names <= set(papermill.inspect_notebook(source)), source.name


def test_no_cell_is_longer_than_20_lines():
    for source in sorted(book.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        for cell in nbformat.read(source, as_version=4).cells:
            assert cell.cell_type != "code" or len(cell.source.splitlines()) <= 20, source.name


def test_only_cells_tagged_as_derivation_become_latex(library, profile, out):
    steps = new_markdown_cell("## Steps\n\nSo $a$:\n\n$$ b $$", metadata={"tags": ["derivation"]})
    nb = new_notebook(cells=[new_markdown_cell("# A title"), steps,
                             new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})])
    nb.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nb, library / "02_a.ipynb")
    execute_stale(profile, lambda line: None)
    made = (figures_dir("smoke") / "derivations" / "02_a.tex").read_text()
    assert made.splitlines()[1:] == ["\\subsection{Steps}", "", "So \\(a\\):", "", "\\[ b \\]"]
    assert pages(profile)[0].state() == "fresh"
