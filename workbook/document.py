"""A LaTeX document of all tables and figures of a profile.

Chapter 5 and appendix A of the thesis rebuilt, and what the losses are. What stands where, and
under which caption, is in captions.toml.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ltlib.files import build_dir, figures_dir, write_changed
from ltlib.models import backbone_title
from ltlib.report.grids import group_sets
from ltlib.report.latex import latex_escape, latex_signs
from ltlib.report.tables import TRAIN_TITLES, missing_runs, summarise
from ltlib.runs.profiles import Profile
from ltlib.runs.progress import run_state, unique_runs
from ltlib.runs.records import load_records


class ThesisFailed(RuntimeError):
    """There is no PDF. The message holds LaTeX's first error, or what is not installed."""


class NoLatex(ThesisFailed):
    """latexmk is not installed."""


CONTENTS = tomllib.loads(Path(__file__).with_name("captions.toml").read_text())
HEAD = Path(__file__).with_name("document.tex").read_text()  # up to the first section
FIGURE = r"""\begin{figure}[htbp]\centering
\includegraphics[max width=\textwidth,max totalheight=0.85\textheight]{\figures/((path))}
\caption{((caption))}\label{((label))}
\end{figure}
"""
TABLE = r"""\begin{table}[htbp]\centering
\caption{((caption))}\label{((label))}
\footnotesize\begin{adjustbox}{((box))}((input))\end{adjustbox}
\end{table}
"""
MISSING = r"""\chapter{Runs that are missing}
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


def _seeds(profile: Profile) -> str:
    word = "seed" if len(profile.seeds) == 1 else "seeds"
    return f"{word} {', '.join(map(str, profile.seeds))}"


def document(profile: Profile) -> str:
    """The LaTeX source, which inputs ``figures/<profile>``; what is not there is not in it."""
    parts = [_head(profile)]
    for title, entries in CONTENTS["results"].items():
        floats = _floats(profile, entries)
        quotes = _quotes(profile) if floats and title == "Accuracy" else ""
        parts.append(_section(title, quotes, floats))
    parts.append("\\appendix\n\\chapter{The thesis's tables}\n")
    parts.append(_floats(profile, CONTENTS["appendix"]) + BARRIER + "\\chapter{The losses}\n")
    for title, entries in CONTENTS["losses"].items():
        shown = dict(entries)
        derivation = _derivation(profile, shown.pop("derivation"))
        parts.append(_section(title, derivation, _floats(profile, shown)))
    if missing := missing_runs(profile):
        items = "".join(f"\\item {_escape(line)}\n" for line in missing)
        parts.append(_fill(MISSING, items=items))
    return "".join(parts) + "\\end{document}\n"


def _head(profile: Profile) -> str:
    count = sum(run_state(run) != "done" for run in unique_runs(profile))
    state = f"{count} runs are missing: dashes stand for them, the last chapter lists them."
    folder = build_dir(profile.name) / "thesis"
    return _fill(
        HEAD,
        figures=os.path.relpath(figures_dir(profile.name), folder),
        name=_escape(profile.name),
        about=_escape(" ".join([f"{profile.title}.", *profile.deviations])),
        seeds=_seeds(profile),
        state=state if count else "Every run is there.",
    )


def _section(title: str, prose: str, floats: str) -> str:
    there = prose or floats
    return f"\\section{{{title}}}\n{prose}{floats}{BARRIER}" if there else ""


def _derivation(profile: Profile, name: str) -> str:
    path = f"derivations/{name}"
    there = (figures_dir(profile.name) / f"{path}.tex").exists()
    return f"\\input{{\\figures/{path}}}\n" if there else ""


def _floats(profile: Profile, entries: dict[str, str]) -> str:
    """A float of everything that is there. entries: pattern below figures/<profile>, caption."""
    folder, words, floats = figures_dir(profile.name), _words(profile), ""
    for pattern, caption in entries.items():
        ending = ".tex" if pattern.startswith("tables/") else ".pdf"
        ending = "" if pattern.endswith(".tex") else ending
        for chosen, shown in _choices(profile, pattern):
            for path in sorted(folder.glob(pattern.format(**chosen) + ending)):
                text = caption.format(**words, **shown)
                floats += _float(path.relative_to(folder).as_posix(), text)
    return floats


def _words(profile: Profile) -> dict[str, str]:
    """What the captions share: seeds, which test, and the phrases of captions.toml."""
    own = any(protocol.counts for protocol in profile.protocols)
    seeds, phrases = _seeds(profile), CONTENTS["phrases"]
    words = {
        "seeds": seeds,
        "first": f"seed {profile.seeds[0]}",
        "small": phrases["small"],
        "tested": "its test" if own else "the balanced test",
        "own": "A demonstration: photographs made from digits; one run each, seed 0",
    }
    if own:
        words["own"] = f"{_escape(profile.title)}; {seeds}"
    return words | {name: phrases[name].format(**words) for name in ("accuracy", "gradients")}


def _choices(profile: Profile, pattern: str) -> Iterator[tuple[dict, dict]]:
    """Every {protocol}, {train_set}, {backbone} of a pattern: names, and as captions say them."""
    values = {
        "protocol": {protocol.name: protocol.name for protocol in profile.protocols},
        "train_set": {name: TRAIN_TITLES.get(name) for name in profile.train_sets},
        "backbone": {name: backbone_title(name) for name in profile.backbones},
    }
    fields = [name for name in values if f"{{{name}}}" in pattern]
    for choice in itertools.product(*(values[name] for name in fields)):
        chosen = dict(zip(fields, choice, strict=True))
        yield chosen, {name: _escape(values[name][value]) for name, value in chosen.items()}


def _float(path: str, caption: str) -> str:
    put = f"\\input{{\\figures/{path}}}"
    if not caption:
        return f"{put}\n"
    label = path.rsplit(".", 1)[0].replace("/", ":")
    template = FIGURE if path.endswith(".pdf") else TABLE
    return _fill(template, path=path, caption=caption, label=label, box=BOX, input=put)


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


def compile_thesis(profile: Profile) -> Path:
    """Write ``build/<profile>/thesis/thesis.tex`` and compile it with latexmk; return the PDF.

    The same inputs give the same bytes. Raises NoLatex where latexmk is not installed, ThesisFailed
    with LaTeX's own first error.
    """
    folder = build_dir(profile.name) / "thesis"
    here = os.path.relpath(folder)
    write_changed(folder / "thesis.tex", document(profile))
    if shutil.which("latexmk") is None:
        raise NoLatex(
            f"latexmk is not installed, so there is no PDF; the source is {here}/thesis.tex. "
            "Debian: apt install latexmk texlive-latex-extra texlive-fonts-recommended lmodern; "
            "otherwise https://tug.org/texlive"
        )
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-silent"]
    fixed = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
    options = {"cwd": folder, "env": os.environ | fixed, "text": True, "errors": "replace"}
    result = subprocess.run([*command, "thesis.tex"], capture_output=True, **options)
    if result.returncode:
        path, log = folder / "thesis.log", result.stdout + result.stderr
        log = path.read_text(errors="replace") if path.exists() else log
        first = re.search(r"^!.*?(?=\n\n|\Z)", log, re.MULTILINE | re.DOTALL)
        what = first[0] if first else log[-500:]
        raise ThesisFailed(f"LaTeX failed: {what}\nThe whole log: {here}/thesis.log")
    return folder / "thesis.pdf"
