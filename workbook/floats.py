"""Figures and tables of the executed notebooks: their captions and numbers, the same everywhere.

A figure's number is that of its notebook and its place in it, "6.1"; pages of the same number are
counted on.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from ltlib.files import figures_dir
from ltlib.runs.profiles import Profile
from workbook.notebooks import captions_path, pages


@dataclass(frozen=True)
class Float:
    """A figure or table: its path below figures/<profile>, its caption in Markdown, the page that
    made it, and its number."""

    name: str
    caption: str
    page: str
    number: str

    @property
    def kind(self) -> str:
        """ "Table" or "Figure"."""
        return "Table" if self.name.startswith("tables/") else "Figure"

    @property
    def anchor(self) -> str:
        """What links name it by: "figure-features", "table-groups"."""
        return f"{self.kind.lower()}-{self.name.removeprefix('tables/')}"

    @property
    def title(self) -> str:
        """ "Figure 10.1"."""
        return f"{self.kind} {self.number}".strip()


def floats(profile: Profile) -> dict[str, Float]:
    """By name, in the order of the book, those of the pages that have been executed."""
    found, counts = {}, Counter()
    for page in pages(profile):
        path = figures_dir(profile.name) / captions_path(page.name)
        captions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for name, caption in captions.items():
            number = int(page.name[:2])
            counts[number, name.startswith("tables/")] += 1
            place = counts[number, name.startswith("tables/")]
            found[name] = Float(name, caption, page.name, f"{number}.{place}")
    return found
