"""LaTeX documents of a profile: its results in some pages, and the whole book in print.

``results`` is chapter 5 of a thesis to start from: what RESULTS names, in its order. ``book`` has
the prose of every executed notebook, what its cells print, and all its figures and tables. Both
take captions and numbers from :mod:`workbook.floats`, as the HTML book does.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ltlib.files import build_dir, figures_dir, write_changed
from ltlib.models import backbone_title
from ltlib.report.grids import group_sets
from ltlib.report.latex import TIGHTLIST, latex_escape, latex_signs
from ltlib.report.tables import TRAIN_TITLES, missing_runs, summarise
from ltlib.runs.profiles import Profile
from ltlib.runs.progress import run_state, unique_runs
from ltlib.runs.records import load_records
from workbook.floats import Float, floats
from workbook.links import as_latex
from workbook.notebooks import NOTEBOOKS, pages, read_notebook, told_of


class ThesisFailed(RuntimeError):
    """There is no PDF. The message holds LaTeX's first error, or what is not installed."""


class NoLatex(ThesisFailed):
    """latexmk is not installed."""


RESULTS = {  # sections of the short document, and patterns of what stands in them
    "The data": ["class_counts", "tables/groups"],
    "Accuracy": ["tables/groups_*", "head_middle_tail*"],
    "Comparison of the losses": ["tables/gains", "trade_off", "critical_difference"],
    "How much of the backbone should move": ["tables/how_much_all_tail", "how_much_trade_off"],
    "Class by class": ["accuracy_by_count"],
}
HEAD = Path(__file__).with_name("document.tex").read_text()  # up to the first section
FIGURE = r"""\begin{figure}[htbp]\centering
\includegraphics[max width=\textwidth,max totalheight=0.85\textheight]{\figures/((path))}
\renewcommand{\thefigure}{((number))}\caption{((caption))}\label{((label))}
\end{figure}
"""
TABLE = r"""\begin{table}[htbp]\centering
\renewcommand{\thetable}{((number))}\caption{((caption))}\label{((label))}
\footnotesize\begin{adjustbox}{((box))}((input))\end{adjustbox}
\end{table}
"""
PRINTED = r"""\begin{Verbatim}[breaklines,fontsize=\scriptsize,xleftmargin=1em]
((text))
\end{Verbatim}"""
DISCUSSION = r"""\section{Discussion}
% To be written: what the tables say, what they do not, and what should be done next.
"""
BIBLIOGRAPHY = "\\bibliographystyle{plainnat}\n\\bibliography{\\references}\n"
MISSING = r"""\section{Runs that are missing}
\begin{itemize}\setlength{\itemsep}{0pt}\footnotesize
((items))\end{itemize}
"""
QUOTE = (
    r"Trained on the long tail with softmax, ((backbone)) has an accuracy of "
    r"\ltresult{((key))/((head))}\,\% on the head and \ltresult{((key))/((tail))}\,\% on the tail "
    r"of the ((set)) test (protocol ((protocol)))."
)
BOX = r"max width=\textwidth,max totalheight=0.9\textheight"
BARRIER = "\\FloatBarrier\n"


def _fill(template: str, **values: str) -> str:
    """Put values in place of their ((name)): LaTeX has braces of its own."""
    return re.sub(r"\(\((\w+)\)\)", lambda found: values[found[1]], template)


def _escape(text: str) -> str:
    return latex_signs(latex_escape(text))


def results(profile: Profile) -> str:
    """The LaTeX source of the short document, which inputs ``figures/<profile>``; what is not there
    is not in it."""
    made = floats(profile)
    shown = {
        title: [made[name] for name in made if any(fnmatch.fnmatch(name, p) for p in patterns)]
        for title, patterns in RESULTS.items()
    }
    captions = _captions(itertools.chain(*shown.values()))
    parts = [_head(profile, "results"), "\\chapter{Results}\n"]
    for title, entries in shown.items():
        prose = _quotes(profile) if entries and title == "Accuracy" else ""
        parts.append(_section(title, prose, _floats(profile, entries, captions)))
    for title, name in (("Which loss to take", "advice"), ("Answers", "answers")):
        there = (figures_dir(profile.name) / f"{name}.tex").exists()
        parts.append(_section(title, f"\\input{{\\figures/{name}}}\n" * there, ""))
    parts.append(DISCUSSION)
    if missing := missing_runs(profile):
        items = "".join(f"\\item {_escape(line)}\n" for line in missing)
        parts.append(_fill(MISSING, items=items))
    text = "".join(parts)
    return text + BIBLIOGRAPHY * ("\\cite" in text) + "\\end{document}\n"


def book(profile: Profile) -> str:
    """The LaTeX source of the whole book: of each executed notebook the prose, what its cells
    print, and its figures and tables."""
    made = floats(profile)
    captions = _captions(made.values())
    parts = [_head(profile, "book"), TIGHTLIST, "\\tableofcontents\n"]
    for page in pages(profile):
        if page.executed.exists():
            parts += [f"\\renewcommand{{\\thechapter}}{{{int(page.name[:2])}}}\n"]
            parts += [_prose(profile, read_notebook(page.executed)["cells"], made, captions)]
    return "".join(parts) + BIBLIOGRAPHY + "\\end{document}\n"


def _head(profile: Profile, kind: str) -> str:
    count = sum(run_state(run) != "done" for run in unique_runs(profile))
    missing = "1 run is" if count == 1 else f"{count} runs are"
    state = f"{missing} missing: dashes stand for them."
    folder = build_dir(profile.name) / "thesis"
    return _fill(
        HEAD,
        figures=os.path.relpath(figures_dir(profile.name), folder),
        references=os.path.relpath(NOTEBOOKS / "references", folder),
        kind="results of" if kind == "results" else "all notebooks, with",
        name=_escape(profile.name),
        about=_escape(" ".join([f"{profile.title}.", *profile.deviations])),
        seeds=profile.seeds_in_words,
        state=state if count else "Every run is there.",
    )


def _section(title: str, prose: str, shown: str) -> str:
    there = prose or shown
    return f"\\section{{{title}}}\n{prose}{shown}{BARRIER}" if there else ""


def _latex(markdown: str) -> str:
    import pypandoc

    how = ["--wrap=none", "--top-level-division=chapter"]
    return pypandoc.convert_text(markdown, "latex", "markdown-auto_identifiers", extra_args=how)


def _captions(made: Iterable[Float]) -> dict[str, str]:
    """Captions as LaTeX, by name; pandoc is started once."""
    made, mark = list(made), "ltlib-next-caption"
    if not made:
        return {}
    there = {one.anchor for one in made}
    found = _latex(f"\n\n{mark}\n\n".join(as_latex(one.caption, there) for one in made))
    texts = [latex_signs(text.strip()) for text in found.split(mark)]
    return dict(zip([one.name for one in made], texts, strict=True))


def _floats(profile: Profile, made: Iterable[Float], captions: dict[str, str]) -> str:
    return "".join(_float(profile, one, captions[one.name]) for one in made)


def _float(profile: Profile, made: Float, caption: str) -> str:
    """A LaTeX float with the number that the book has; nothing where its file is not there."""
    path = f"{made.name}.{'tex' if made.kind == 'Table' else 'pdf'}"
    if not (figures_dir(profile.name) / path).exists():
        return ""
    put = f"\\input{{\\figures/{path}}}"
    template = FIGURE if made.kind == "Figure" else TABLE
    values = {"path": path, "caption": caption, "label": made.anchor, "number": made.number}
    return _fill(template, **values, box=BOX, input=put)


def _prose(
    profile: Profile, cells: list[dict], made: dict[str, Float], captions: dict[str, str]
) -> str:
    """A notebook's cells as LaTeX: one document in Markdown, in which what is printed and what
    floats is LaTeX already."""
    parts, there = [], {one.anchor for one in made.values()}
    for cell in cells:
        if cell["cell_type"] == "markdown":
            parts.append(as_latex(cell["source"], there))
            continue
        for output in cell.get("outputs", []):
            told = told_of(output)
            if told and told["name"] in made:
                name = told["name"]
                parts.append(_raw(_float(profile, made[name], captions[name])))
            elif output["output_type"] == "stream" and output.get("name") == "stdout":
                parts.append(_raw(_fill(PRINTED, text="".join(output["text"]).rstrip())))
            elif text := output.get("data", {}).get("text/markdown"):
                parts.append("" if told else as_latex("".join(text), there))
    return latex_signs(_latex("\n\n".join(parts))) + "\n\\FloatBarrier\n"


def _raw(latex: str) -> str:
    return f"```{{=latex}}\n{latex}\n```" if latex else ""


def _quotes(profile: Profile) -> str:
    """A sentence for each backbone, its numbers by the macros of numbers.tex."""
    sentences, records = [], load_records(profile)
    there = summarise(records).index
    for protocol, backbone in itertools.product(profile.protocols, profile.backbones):
        sets = group_sets(protocol, records)
        key = (protocol.name, "longtailed", backbone, "softmax")
        if (*key, sets["tail"]) not in there:
            continue
        names = {"backbone": backbone_title(backbone), "protocol": protocol.name}
        names = {name: _escape(value) for name, value in names.items()}
        names |= {"head": sets["head"], "tail": sets["tail"], "set": TRAIN_TITLES[sets["all"]]}
        sentences.append(_fill(QUOTE, key="/".join((profile.name, *key)), **names))
    return " ".join(sentences) + "\n\n"


def compile_thesis(profile: Profile, kind: str = "results") -> Path:
    """Write ``build/<profile>/thesis/<kind>.tex``, "results" or "book", and compile it with
    latexmk; return the PDF.

    The same inputs give the same bytes. Raises NoLatex where latexmk is not installed, ThesisFailed
    with LaTeX's own first error.
    """
    folder = build_dir(profile.name) / "thesis"
    here = os.path.relpath(folder)
    write_changed(folder / f"{kind}.tex", {"results": results, "book": book}[kind](profile))
    if shutil.which("latexmk") is None:
        raise NoLatex(
            f"latexmk is not installed, so there is no PDF; the source is {here}/{kind}.tex. "
            "Debian: apt install latexmk texlive-latex-extra texlive-fonts-recommended lmodern; "
            "otherwise https://tug.org/texlive"
        )
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-silent"]
    fixed = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
    options = {"cwd": folder, "env": os.environ | fixed, "text": True, "errors": "replace"}
    result = subprocess.run([*command, f"{kind}.tex"], capture_output=True, **options)
    if result.returncode:
        path, log = folder / f"{kind}.log", result.stdout + result.stderr
        log = path.read_text(errors="replace") if path.exists() else log
        first = re.search(r"^!.*?(?=\n\n|\Z)", log, re.MULTILINE | re.DOTALL)
        what = first[0] if first else log[-500:]
        raise ThesisFailed(f"LaTeX failed: {what}\nThe whole log: {here}/{kind}.log")
    return folder / f"{kind}.pdf"
