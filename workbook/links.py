"""Links that a notebook has in plain Markdown, and what the book and the printed documents make of
them.

    [Figure](#figure-features)           Figure 10.1, and the same for tables: #table-groups
    [(6.2)](#eq-6.2)                     the display equation that ends with \\tag{6.2}
    [Cao et al. (2019)](#cite-cao2019)   an entry of notebooks/references.bib; without brackets
    [Cao et al. 2019](#cite-cao2019)     where it stands in brackets already
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

LINK = re.compile(r"\[([^\[\]]*)\]\(#(figure|table|eq|cite)-([^()\s]+)\)")
EQUATION = re.compile(r"\$\$((?:(?!\$\$).)*?)\\tag\{(\d+\.\d+)\}((?:(?!\$\$).)*?)\$\$", re.DOTALL)


def link(text: str, replace: Callable[[str, str, str], str]) -> str:
    """Markdown with each of these links replaced: by the link's text, its kind and its name."""
    return LINK.sub(lambda found: replace(*found.groups()), text)


def as_latex(text: str, there: Collection[str] | None = None) -> str:
    """Markdown whose links and numbered equations are LaTeX's, for pandoc. there: anchors of the
    figures and tables that the document has (None: it may have all); a link to another one is its
    text alone."""

    def latex(shown: str, kind: str, name: str) -> str:
        cite = "citet" if "(" in shown else "citealp"
        commands = {"cite": f"\\{cite}{{{name}}}", "eq": f"\\hyperref[eq-{name}]{{{shown}}}"}
        if kind not in commands and there is not None and f"{kind}-{name}" not in there:
            return shown
        command = commands.get(kind, f"{shown}~\\ref{{{kind}-{name}}}")
        return f"`{command}`{{=latex}}"

    return link(EQUATION.sub(r"$$\1\\tag{\2}\\label{eq-\2}\3$$", text), latex)


def as_myst(text: str, titles: dict[str, str]) -> str:
    """Markdown whose links and numbered equations are MyST's, for Sphinx. titles: of figures and
    tables, "Figure 10.1", by anchor; a link to another one is its text alone."""

    def myst(shown: str, kind: str, name: str) -> str:
        if kind == "cite":
            return f"{{cite:{'t' if '(' in shown else 'p'}}}`{name}`"
        anchor = f"{kind}-{name}"
        if kind != "eq" and anchor not in titles:
            return shown
        return f"[{titles.get(anchor, shown)}](#{anchor})"

    numbered = "\n\n(eq-\\2)=\n\\\\begin{equation*}\\1\\\\tag{\\2}\\3\\\\end{equation*}\n\n"
    return link(EQUATION.sub(numbered, text), myst)


def plain(text: str) -> str:
    """Markdown without its marks, on one line: what describes a figure to who does not see it."""
    words = link(text, lambda shown, *_: shown)
    return " ".join(re.sub(r"[*`$]|\\(?=[A-Za-z])", "", words).split())
