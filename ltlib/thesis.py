"""A LaTeX document of all tables and figures of a profile: chapter 5 and appendix A of the thesis rebuilt, and what the losses are."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ltlib import report
from ltlib.backbones import backbone_title
from ltlib.config import Profile, build_dir, figures_dir, write_changed
from ltlib.launch import run_state, unique_runs
from ltlib.records import load_records


class ThesisFailed(RuntimeError):
    """The document could not be compiled. The message holds LaTeX's first error, or what is not installed."""


CONTENTS = tomllib.loads(Path(__file__).with_name("thesis.toml").read_text())

PREAMBLE = r"""\documentclass[a4paper,11pt]{report}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{lmodern,microtype}
\usepackage[margin=2.5cm]{geometry}
\usepackage{amsmath,amssymb,array,booktabs,graphicx,xcolor,placeins,textcomp}
\usepackage[export]{adjustbox}
\usepackage[font=small,labelfont=bf]{caption}
\usepackage[hidelinks]{hyperref}
\DeclareUnicodeCharacter{2212}{\ensuremath{-}}
\makeatletter  % a character that the fonts lack prints as ? with a warning
\def\UTFviii@undefined@err#1{?\GenericWarning{}{LaTeX Warning: the fonts have no glyph for #1}}
\makeatother
\extrafloats{300}
\setcounter{topnumber}{4}\setcounter{bottomnumber}{4}\setcounter{totalnumber}{6}
\renewcommand{\topfraction}{0.95}\renewcommand{\bottomfraction}{0.9}\renewcommand{\textfraction}{0.05}\renewcommand{\floatpagefraction}{0.75}
\setlength{\tabcolsep}{3.5pt}
"""


class NoLatex(ThesisFailed):
    """latexmk is not installed."""


def _escape(text: str) -> str:
    return report.latex_signs(report.latex_escape(text))


def _count(seeds: tuple[int, ...]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _floats(profile: Profile, entries: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(path below figures/<profile>, caption) of everything that is there."""
    folder = figures_dir(profile.name)
    shared = {"seeds": _count(profile.seeds), "first": f"seed {profile.seeds[0]}"}
    own = any(protocol.counts for protocol in profile.protocols)
    shared |= {"small": CONTENTS["phrases"]["small"], "tested": "its test" if own else "the balanced test"}
    demonstration = "A demonstration: photographs made from digits; one run each, seed 0"
    shared["own"] = f"{_escape(profile.title)}; {shared['seeds']}" if own else demonstration
    shared |= {name: CONTENTS["phrases"][name].format(**shared) for name in ("accuracy", "gradients")}
    values = {"protocol": [p.name for p in profile.protocols], "train_set": profile.train_sets, "backbone": profile.backbones}
    for pattern, caption in entries.items():
        field = [name for name in values if f"{{{name}}}" in pattern]
        for chosen in (dict(zip(field, choice, strict=True)) for choice in itertools.product(*(values[name] for name in field))):
            titles = {"train_set": report.TRAIN_TITLES.get, "backbone": backbone_title, "protocol": str}
            shown = {name: _escape(titles[name](value)) for name, value in chosen.items()}
            ending = "" if pattern.endswith(".tex") else ".tex" if pattern.startswith("tables/") else ".pdf"
            text = caption.format(**shared, **shown)
            for path in sorted(folder.glob(pattern.format(**chosen) + ending)):
                yield path.relative_to(folder).as_posix(), text


def _float(path: str, caption: str) -> str:
    if not caption:
        return f"\\input{{\\figures/{path}}}\n"
    label = path.rsplit(".", 1)[0].replace("/", ":")
    if path.endswith(".pdf"):
        body, kind = f"\\includegraphics[max width=\\textwidth,max totalheight=0.85\\textheight]{{\\figures/{path}}}", "figure"
    else:
        box = "max width=\\textwidth,max totalheight=0.9\\textheight"
        body, kind = f"\\footnotesize\\begin{{adjustbox}}{{{box}}}\\input{{\\figures/{path}}}\\end{{adjustbox}}", "table"
    words = f"\\caption{{{caption}}}\\label{{{label}}}"
    top, bottom = (words, body) if kind == "table" else (body, words)
    return f"\\begin{{{kind}}}[htbp]\\centering\n{top}\n{bottom}\n\\end{{{kind}}}\n"


def document(profile: Profile) -> str:
    """The LaTeX source. It inputs ``figures/<profile>`` by relative paths; what is not there is not in it."""
    folder = build_dir(profile.name) / "thesis"
    figures = os.path.relpath(figures_dir(profile.name), folder)
    missing = report.missing_runs(profile)
    name, about = _escape(profile.name), _escape(" ".join([f"{profile.title}.", *profile.deviations]))
    count = sum(run_state(run) != "done" for run in unique_runs(profile))
    state = f"{count} runs are missing: dashes stand for them, the last chapter lists them." if count else "Every run is there."
    parts = [
        PREAMBLE, f"\\newcommand{{\\figures}}{{{figures}}}\n\\input{{\\figures/numbers}}\n",
        f"\\title{{The long-tail workbook:\\\\ results of profile {name}}}\n\\author{{}}\\date{{}}\n\\begin{{document}}\n\\maketitle\n",
        f"\\begin{{abstract}}\\noindent {about} Runs: {_count(profile.seeds)}, from their records. {state}\n",
        "\\end{abstract}\n\\tableofcontents\n\\setcounter{chapter}{4}\n\\chapter{Results}\n",
    ]
    for title, entries in CONTENTS["results"].items():
        if floats := list(_floats(profile, entries)):
            prose = _quote(profile) if title == "Accuracy" else ""
            parts += [f"\\section{{{title}}}\n{prose}", *(_float(*f) for f in floats), "\\FloatBarrier\n"]
    parts += ["\\appendix\n\\chapter{The thesis's tables}\n", *(_float(*f) for f in _floats(profile, CONTENTS["appendix"]))]
    parts.append("\\FloatBarrier\n\\chapter{The losses}\n")
    for title, entries in CONTENTS["losses"].items():
        entries = entries.copy()
        derivation = f"derivations/{entries.pop('derivation')}"
        text = f"\\input{{\\figures/{derivation}}}\n" if (figures_dir(profile.name) / f"{derivation}.tex").exists() else ""
        if (floats := list(_floats(profile, entries))) or text:
            parts += [f"\\section{{{title}}}\n{text}", *(_float(*f) for f in floats), "\\FloatBarrier\n"]
    if missing:
        parts += ["\\chapter{Runs that are missing}\n\\begin{itemize}\\setlength{\\itemsep}{0pt}\\footnotesize\n",
                  *(f"\\item {_escape(line)}\n" for line in missing), "\\end{itemize}\n"]
    return "".join(parts) + "\\end{document}\n"


def _quote(profile: Profile) -> str:
    """A sentence for each backbone, its numbers by the macros of numbers.tex."""
    sentences, records = [], load_records(profile)
    there = set(report.summarise(records).index)
    for protocol in profile.protocols:
        sets = report.group_sets(protocol, records)
        for backbone in profile.backbones:
            if (protocol.name, "longtailed", backbone, "softmax", sets["tail"]) not in there:
                continue
            key = f"{profile.name}/{protocol.name}/longtailed/{backbone}/softmax"
            sentences.append(f"Trained on the long tail with softmax, {_escape(backbone_title(backbone))} has an accuracy of "
                             f"\\ltresult{{{key}/{sets['head']}}}\\,\\% on the head and \\ltresult{{{key}/{sets['tail']}}}\\,\\% on the "
                             f"tail of the {report.TRAIN_TITLES[sets['all']]} test (protocol {_escape(protocol.name)}).")
    return " ".join(sentences) + "\n\n"


def compile_thesis(profile: Profile) -> Path:
    """Write ``build/<profile>/thesis/thesis.tex`` and compile it with latexmk; return the PDF, the same bytes for the same inputs.

    Raises NoLatex where latexmk is not installed, ThesisFailed with LaTeX's own first error.
    """
    folder = build_dir(profile.name) / "thesis"
    write_changed(folder / "thesis.tex", document(profile))
    if shutil.which("latexmk") is None:
        raise NoLatex(f"latexmk is not installed, so there is no PDF; the source is {os.path.relpath(folder)}/thesis.tex. Debian: apt "
                           "install latexmk texlive-latex-extra texlive-fonts-recommended lmodern; otherwise https://tug.org/texlive")
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-silent", "thesis.tex"]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
    if result.returncode:
        log = (folder / "thesis.log").read_text(errors="replace") if (folder / "thesis.log").exists() else result.stdout + result.stderr
        first = re.search(r"^!.*?(?=\n\n|\Z)", log, re.MULTILINE | re.DOTALL)
        raise ThesisFailed(f"LaTeX failed: {first[0] if first else log[-500:]}\nThe whole log: {os.path.relpath(folder)}/thesis.log")
    return folder / "thesis.pdf"
