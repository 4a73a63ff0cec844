import pandas as pd
import pytest

from ltlib.report.latex import foot, latex_escape, latex_signs


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & c", "a\\_b \\& c"),
        ("50 % #1", "50 \\% \\#1"),
        ("a\\b", "a\\textbackslash{}b"),
        ("x^2~{y}", "x\\textasciicircum{}2\\textasciitilde{}\\{y\\}"),
    ],
)
def test_escapes(text, latex):
    assert latex_escape(text) == latex


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("−1–2 ± 3", "$-$1--2\\,$\\pm$\\,3"),
        ("±5†", "$\\pm$5$^\\dagger$"),
        ("β, σ", "$\\beta$, $\\sigma$"),
    ],
)
def test_signs(text, latex):
    assert latex_signs(text) == latex


def test_notes_are_no_wider_than_their_table():
    table = pd.DataFrame(
        [["12.3", "4"]], ["a row"], pd.MultiIndex.from_product([["Top"], ["x", "y"]])
    )
    start = "\\multicolumn{3}{l}{\\scriptsize "
    note, end = "one two three four", "} \\\\\n"
    assert foot([note], table) == f"{start}one two three{end}{start}four{end}"
    assert foot([note], table, width=40) == f"{start}{note}{end}"
