"""Texts and tables as LaTeX prints them."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable

import pandas as pd
from pandas.io.formats.style import Styler

_ESCAPES = {"\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}"}
_SIGNS = {"†": "$^\\dagger$", "−": "$-$", "–": "--", " ± ": "\\,$\\pm$\\,", "±": "$\\pm$"}
_SIGNS |= {"α": "$\\alpha$", "β": "$\\beta$", "γ": "$\\gamma$", "σ": "$\\sigma$"}
# pandoc's lists ask for this command, and its tables for this counter
TIGHTLIST = (
    "\\providecommand{\\tightlist}{\\setlength{\\itemsep}{0pt}\\setlength{\\parskip}{0pt}}"
    "\\makeatletter\\@ifundefined{c@none}{\\newcounter{none}}{}\\makeatother\n"
)


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return re.sub(r"[&%$#_{}\\^~]", lambda found: _ESCAPES.get(found[0], "\\" + found[0]), text)


def latex_signs(text: str) -> str:
    """The signs of our tables in LaTeX's commands."""
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    return text


def tabular(styler: Styler, layout: str, convert_css: bool = False) -> str:
    """A bare booktabs tabular of a styled table, its texts escaped, columns as in ``layout``."""
    escaped = styler.format(escape="latex")
    for axis in (0, 1):
        escaped = escaped.format_index(escape="latex", axis=axis)
    return escaped.to_latex(
        hrules=True,
        convert_css=convert_css,
        multicol_align="c",
        multirow_align="naive",
        clines=None,
        column_format=layout,
    )


def foot(
    notes: Iterable[str], table: pd.DataFrame, index_columns: int = 1, width: int | None = None
) -> str:
    """Rows of notes for the end of a tabular.

    They are broken at ``width`` characters; without one no wider than the table itself, because
    LaTeX would widen its last column for them. index_columns: how many of the index are printed.
    """
    width = width or _width(table, index_columns)
    lines = [line for note in notes for line in textwrap.wrap(note, width)]
    span = table.shape[1] + index_columns
    start = f"\\multicolumn{{{span}}}{{l}}{{\\scriptsize "
    return "".join(f"{start}{latex_escape(line)}}} \\\\\n" for line in lines)


def _width(table: pd.DataFrame, index_columns: int) -> int:
    """About how many characters wide a table is printed."""
    titles = [title if isinstance(title, tuple) else ("", str(title)) for title in table.columns]
    texts = table.to_numpy(str).T
    widths = [max(map(len, (t[-1], *text))) + 2 for t, text in zip(titles, texts, strict=True)]
    total = 0
    for top, span in itertools.groupby(range(len(titles)), lambda i: titles[i][0] or i):
        total += max(sum(widths[i] for i in span), len(str(top)))
    for level in range(index_columns):
        names = table.index.get_level_values(-1 - level)
        total += max((len(str(name)) for name in names), default=0)
    return int(total)
