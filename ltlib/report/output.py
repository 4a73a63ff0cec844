"""What a notebook shows and saves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd

from ltlib.files import atomic_path, figures_dir
from ltlib.report.figures import set_style
from ltlib.report.latex import TIGHTLIST, foot, latex_signs, tabular

if TYPE_CHECKING:
    from ltlib.report.tables import Grid
    from ltlib.runs.profiles import Profile

_PDF = {"format": "pdf", "metadata": {"CreationDate": None, "Producer": None, "Creator": None}}
_PNG = {"format": "png", "dpi": 150, "metadata": {"Software": None}}


class Output:
    """Saves a notebook's figures and tables, and shows them in it.

    They go to ``figures/<profile>``, or to the folder that ``LTLIB_FIGURES`` names: under make a
    temporary one, from which they move into place when the whole notebook has succeeded.

    A caption is Markdown. It is shown with what it belongs to, and the book and the printed
    documents take it, with its number, from the executed notebook (``workbook.floats``).
    A table of dashes alone, whose runs are not there yet, is neither shown nor saved.
    seeds, first, tested: what captions say of the profile, "seeds 0, 1, 2", "seed 0" and "the
    balanced test", or "its test" of imported photographs.
    """

    def __init__(self, profile: Profile):
        self.profile = profile
        self.seeds = profile.seeds_in_words
        self.first = f"seed {profile.seeds[0]}"
        self.tested = "its test" if profile.is_imported else "the balanced test"
        self.folder = Path(os.environ.get("LTLIB_FIGURES") or figures_dir(profile.name))
        set_style()

    def figure(
        self, figure: matplotlib.figure.Figure, name: str, png: bool = False, *, caption: str
    ) -> None:
        """Save as a vector PDF, the same bytes for the same figure; ``png``: as PNG too."""
        from IPython.display import display

        for options in (_PDF, _PNG) if png else (_PDF,):
            with atomic_path(self.folder / f"{name}.{options['format']}") as partial:
                figure.savefig(partial, **options)
        display(figure)
        plt.close(figure)  # or the notebook would show it once more
        self._caption(name, caption)

    def frame(
        self,
        frame: pd.DataFrame,
        name: str,
        css: pd.DataFrame | None = None,
        notes: Iterable[str] = (),
        widths: Sequence[float] = (),
        *,
        caption: str,
    ) -> None:
        """Save a plain table as ``tables/<name>.tex``, a bare booktabs tabular.

        css: "" or one declaration for each cell, such as "color: light-dark(#1b5fa8, #8ab8ee)" (in
        LaTeX the first of them, by package xcolor). notes stand under the last rule. widths: of
        the columns in cm, the index included, for tables of prose.
        """
        from IPython.display import display

        if _is_empty(frame, name):
            return
        shown, printed = frame.style, frame.style
        if css is not None:
            on_paper = css.replace(r"light-dark\((#\w+).*\)", r"\1", regex=True)
            shown.apply(lambda _: css, axis=None)
            printed.apply(lambda _: on_paper, axis=None)
        layout = "l" * frame.index.nlevels + "r" * frame.shape[1]
        if widths:
            layout = "".join(rf">{{\raggedright\arraybackslash}}p{{{cm}cm}}" for cm in widths)
            shown.set_properties(**{"white-space": "normal", "text-align": "left"})
        notes = list(notes)
        latex = tabular(printed, layout, convert_css=True)
        end = "\\bottomrule\n"
        under = foot(notes, frame, frame.index.nlevels, 100 if widths else None)
        self._save(f"tables/{name}", latex_signs(latex.replace(end, end + under)))
        self._caption(f"tables/{name}", caption)
        display(frame if css is None and not widths else shown)
        _show_notes(notes)

    def text(self, markdown: str, name: str) -> None:
        """Save a piece of prose as ``<name>.tex``."""
        import pypandoc
        from IPython.display import Markdown, display

        plain = "markdown-auto_identifiers"
        latex = pypandoc.convert_text(markdown, "latex", plain, extra_args=["--wrap=none"])
        self._save(name, TIGHTLIST + latex_signs(latex))
        display(Markdown(markdown))

    def table(self, grid: Grid, name: str, notes: Iterable[str] = (), *, caption: str) -> None:
        """Save as ``tables/<name>.tex``, with notes on the seeds and on the profile."""
        from IPython.display import display

        if _is_empty(grid.frame(), name):
            return
        seeds = self.profile.seeds
        spread = " Mean ± half the 95 % t interval over seeds." if len(seeds) > 1 else ""
        counted = f"Seeds: {', '.join(map(str, seeds))}.{spread}"
        notes = [counted, *notes, *self.profile.deviations]
        self._save(f"tables/{name}", grid.latex(notes))
        self._caption(f"tables/{name}", caption)
        lines = {"selector": "td, th", "props": "white-space: nowrap"}
        display(grid.styler().set_table_styles([lines]))
        _show_notes([*grid.explained(), *notes])

    def _caption(self, name: str, caption: str) -> None:
        """Show it: of a table above it, of a figure below."""
        from IPython.display import Markdown, display

        kind = "Table" if name.startswith("tables/") else "Figure"
        told = {"ltlib": {"name": name, "caption": caption}}
        display(Markdown(f"**{kind}.** {caption}"), metadata=told)

    def _save(self, name: str, latex: str) -> None:
        with atomic_path(self.folder / f"{name}.tex") as partial:
            partial.write_text(latex)


def _show_notes(notes: Iterable[str]) -> None:
    """Under a table, as in print."""
    from IPython.display import HTML, display

    if text := escape(" ".join(notes), quote=False):
        display(HTML(f'<p class="table-notes"><small>{text}</small></p>'))


def _is_empty(table: pd.DataFrame, name: str) -> bool:
    """Whether there is nothing but dashes in it; if so, that is said."""
    empty = bool(table.size) and bool((table == "–").all(axis=None))
    if empty:
        print(f"{name}: no run yet, and no table")
    return empty
