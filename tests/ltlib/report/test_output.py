import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ltlib.report.output import Output
from ltlib.report.tables import Grid


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_FIGURES", str(tmp_path))
    return tmp_path


def test_figures_are_the_same_bytes_when_made_again(out, profile):
    output, made = Output(profile), []
    for _ in range(2):
        fig, ax = plt.subplots()
        ax.plot([1, 2])
        output.figure(fig, "line", png=True, caption="A line.")
        paths = [out / "figures" / "smoke" / f"line.{kind}" for kind in ("pdf", "png")]
        made.append([path.read_bytes() for path in paths])
        plt.close(fig)
    assert made[0] == made[1]
    assert made[0][0].startswith(b"%PDF")
    assert made[0][1][1:4] == b"PNG"


def test_tables_go_to_the_given_folder(folder, profile):
    grid = Grid(profile)
    grid.add(("A", "x"), {("resnetv2_small32", "softmax"): "1.0"})
    Output(profile).table(grid, "one", ["a note"], caption="One.")
    one = (folder / "tables" / "one.tex").read_text()
    assert "Softmax & \\textbf{1.0} \\\\" in one
    assert one.index("Seeds: 0, 1.") < one.index("a note")
    Output(profile).frame(pd.DataFrame({"a %": ["1–2"]}, index=["x_1"]), "two", caption="")
    assert (folder / "tables" / "two.tex").read_text() == (
        "\\begin{tabular}{lr}\n\\toprule\n & a \\% \\\\\n\\midrule\nx\\_1 & 1--2 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_coloured_tables_take_the_colour_for_paper_in_latex(folder, profile):
    table = pd.DataFrame({"a": ["1", "2"]}, index=["x", "y"])
    css = pd.DataFrame({"a": ["color: light-dark(#1b5fa8, #8ab8ee)", ""]}, index=["x", "y"])
    Output(profile).frame(table, "t", css, ["a note"], caption="")
    latex = (folder / "tables" / "t.tex").read_text()
    assert "x & \\color[HTML]{1B5FA8} 1" in latex
    assert "y & 2" in latex
    assert "\\multicolumn{2}{l}{\\scriptsize a" in latex


def test_tables_of_prose_have_the_given_widths(folder, profile):
    table = pd.DataFrame({"said": ["a long sentence"]}, index=["x"])
    Output(profile).frame(table, "t", widths=(2, 5.5), caption="")
    layout = ">{\\raggedright\\arraybackslash}p{2cm}>{\\raggedright\\arraybackslash}p{5.5cm}"
    assert (folder / "tables" / "t.tex").read_text().startswith(f"\\begin{{tabular}}{{{layout}}}")


def test_prose_becomes_latex(folder, profile):
    Output(profile).text("*One* & two, −3 ± 1:\n\n- a\n- b\n", "prose")
    latex = (folder / "prose.tex").read_text()
    assert "$-$3\\,$\\pm$\\,1" in latex
    assert latex.startswith("\\providecommand{\\tightlist}")
    assert "\\emph{One} \\& two, " in latex
    assert "\\item" in latex


def test_a_caption_is_shown_with_what_it_belongs_to(folder, profile, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *what, **more: shown.append((what, more)))
    output = Output(profile)
    fig, _ = plt.subplots()
    output.figure(fig, "line", caption="A $line$.")
    table = pd.DataFrame({"a": [1]})
    output.frame(table, "t", notes=["a < b.", "c"], caption="One.")
    (first, _), (below, told), (above, _), (last, _), (notes, _) = shown
    assert (first, last) == ((fig,), (table,))
    assert notes[0].data == '<p class="table-notes"><small>a &lt; b. c</small></p>'
    assert [part.data for (part,) in (below, above)] == ["**Figure.** A $line$.", "**Table.** One."]
    assert told["metadata"] == {"ltlib": {"name": "line", "caption": "A $line$."}}
    assert not plt.fignum_exists(fig.number)


def test_captions_can_name_the_seeds(profile):
    output = Output(profile)
    assert (output.seeds, output.first, output.tested) == (
        "seeds 0, 1",
        "seed 0",
        "the balanced test",
    )


def test_a_table_of_dashes_alone_is_neither_shown_nor_saved(folder, profile, capsys):
    dashes = pd.DataFrame({"a": ["–", "–"]})
    Output(profile).frame(dashes, "none", caption="")
    grid = Grid(profile)
    grid.add(("A", "x"), {})
    Output(profile).table(grid, "grid", caption="")
    said = capsys.readouterr().out.splitlines()
    assert said == ["none: no run yet, and no table", "grid: no run yet, and no table"]
    assert not (folder / "tables" / "none.tex").exists()
    dashes.iloc[0] = "1"
    Output(profile).frame(dashes, "one", caption="")
    assert (folder / "tables" / "one.tex").exists()
