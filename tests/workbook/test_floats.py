import json

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from ltlib.files import figures_dir
from workbook.floats import floats
from workbook.notebooks import captions, captions_path


def write(library, page, names):
    nb = new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {page}")])
    nbformat.write(nb, library / f"{page}.ipynb")
    path = figures_dir("smoke") / captions_path(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: f"About {name}." for name in names}))


def test_figures_and_tables_are_counted_by_the_number_of_their_notebook(library, smoke):
    write(library, "02_a", ["one", "tables/one", "two"])
    write(library, "17_b", ["three"])
    write(library, "17_b_experiments", ["tables/two", "four"])
    found = floats(smoke)
    assert {name: made.title for name, made in found.items()} == {
        "one": "Figure 2.1",
        "tables/one": "Table 2.1",
        "two": "Figure 2.2",
        "three": "Figure 17.1",
        "tables/two": "Table 17.1",
        "four": "Figure 17.2",
    }
    assert found["tables/two"].anchor == "table-two"
    assert (found["four"].page, found["four"].caption) == ("17_b_experiments", "About four.")


def test_a_page_that_has_not_been_executed_has_no_figures(library, smoke):
    write(library, "02_a", ["one"])
    (figures_dir("smoke") / captions_path("02_a")).unlink()
    assert floats(smoke) == {}


def test_captions_are_found_in_the_outputs():
    told = {"ltlib": {"name": "tables/x", "caption": "X."}}
    outputs = [
        new_output("stream", text="x"),
        new_output("display_data", {"text/markdown": "**Table.** X."}, metadata=told),
    ]
    nb = new_notebook(cells=[new_code_cell("1", outputs=outputs)])
    assert captions(nb) == {"tables/x": "X."}
