"""The commands behind make: ``python -m workbook runs --profile demo``.

A choice that the command line leaves out is taken from the environment variable of its name in
capitals, which is how make hands its variables over. What takes long to load is imported by the
command that needs it.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import shlex
import signal
import sys

from ltlib.errors import ConfigError
from ltlib.files import build_dir, figures_dir, results_dir, silent
from ltlib.runs.profiles import Profile, load_profile, with_slurm
from workbook import say

OPTIONS = {
    "profile": ("demo", "a profile's name, or a TOML file of yours"),
    "backbones": ("", "separated by spaces; default: those of the profile"),
    "losses": ("", "the same"),
    "seeds": ("", "the same"),
    "protocols": ("", "the same"),
    "train-sets": ("", "the same"),
    "jobs": ("", "runs at a time; default: one per core or GPU"),
    "launcher": ("local", "local or slurm"),
    "slurm": ("", "instead of the profile's: partition=... minutes=... gpus=..."),
    "papers": ("pf_loss arconvl gbg", "for papers: their profiles, in this order"),
    "lab": ("", "for lab: further options of JupyterLab, as --lab='--no-browser --port=9999'"),
}


class Choices:
    """What was chosen; the profile and numbers are looked at when a command asks for them."""

    def __init__(self, chosen: argparse.Namespace):
        self.text, self.launcher = chosen, chosen.launcher

    @functools.cached_property
    def profile(self) -> Profile:
        from ltlib.models import check_name

        names = ("backbones", "losses", "seeds", "protocols", "train_sets")
        lists = {name: getattr(self.text, name).split() for name in names}
        lists["seeds"] = _numbers("SEEDS", lists["seeds"])
        profile = load_profile(self.text.profile, **lists)
        for backbone in profile.backbones:
            check_name(backbone)
        return with_slurm(profile, self.text.slurm)

    @functools.cached_property
    def jobs(self) -> int | None:
        numbers = _numbers("JOBS", self.text.jobs.split())
        if len(numbers) > 1:
            raise ConfigError(f"JOBS = {self.text.jobs!r}: expected one whole number")
        return numbers[0] if numbers else None

    @property
    def papers(self) -> list[Profile]:
        names = self.text.papers.split()
        return [with_slurm(load_profile(name), self.text.slurm) for name in names]


def _numbers(name: str, words: list[str]) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError:
        fault = f"{name} = {' '.join(words)!r}: expected whole numbers separated by spaces"
        raise ConfigError(fault) from None


def data(choices: Choices) -> None:
    from ltlib.runs.run import prepare

    prepare(choices.profile, say)


def runs(choices: Choices) -> None:
    from workbook.runs import compute_runs

    compute_runs(choices.profile, choices.jobs, say=say, launcher=choices.launcher)


def runs_list(choices: Choices) -> None:
    from workbook.runs import run_commands

    for command in run_commands(choices.profile):
        say(command)


def tune(choices: Choices) -> None:
    from workbook.tune import tune

    tune(choices.profile, choices.jobs, say, choices.launcher)


def logits(choices: Choices) -> None:
    from ltlib.runs.progress import unique_runs
    from ltlib.runs.trained import keep_logits

    for run in unique_runs(choices.profile):
        say(os.path.relpath(keep_logits(run)))


def notebooks(choices: Choices) -> None:
    """Compute the missing runs, then execute the notebooks that are not fresh."""
    runs(choices)
    make_notebooks(choices.profile, choices.jobs)


def html(choices: Choices) -> None:
    make_notebooks(choices.profile, choices.jobs, strict=False)
    say(os.path.relpath(make_book(choices.profile)))


def thesis(choices: Choices) -> None:
    _print(choices, "results")


def book_pdf(choices: Choices) -> None:
    _print(choices, "book")


def _print(choices: Choices, kind: str) -> None:
    from workbook.document import compile_thesis

    profile = choices.profile
    make_notebooks(profile, choices.jobs, strict=False)
    document = compile_thesis(profile, kind)
    if (build_dir(profile.name) / "html").exists():
        make_book(profile, silent)  # its index links what is printed
    say(os.path.relpath(document))


def everything(choices: Choices) -> None:
    """Runs, notebooks, document; then the book, which links it, whatever LaTeX says."""
    from workbook.document import NoLatex, ThesisFailed, compile_thesis

    notebooks(choices)
    profile = choices.profile
    try:
        document = os.path.relpath(compile_thesis(profile))
    except NoLatex as error:
        document = f"none: {error}"
    except ThesisFailed:
        make_book(profile)
        raise
    index, name = make_book(profile), profile.name
    folders = (build_dir(name), figures_dir(name), results_dir(name))
    build, figures, results = map(os.path.relpath, folders)
    say(f"\nMade for profile {name}:")
    say(f"  records             {results}/*.json")
    say(f"  executed notebooks  {build}/notebooks/*.ipynb")
    say(f"  the same as pages   {os.path.relpath(index)}")
    say(f"  figures             {figures}/*.pdf")
    say(f"  LaTeX tables        {figures}/tables/*.tex, numbers.tex")
    say(f"  results as a table  {results}.csv")
    say(f"  a document of all   {document}")


def papers(choices: Choices) -> None:
    """The runs of the papers' profiles, then their notebooks, pages and results."""
    from ltlib.runs.run import prepare
    from workbook.runs import compute_runs

    profiles = choices.papers
    for profile in profiles:  # what cannot be had is said before anything is trained
        prepare(profile, silent)
    for profile in profiles:
        compute_runs(profile, choices.jobs, say=say, launcher=choices.launcher)
    for profile in profiles:
        make_notebooks(profile, choices.jobs)
        say(os.path.relpath(make_book(profile)))


def make_notebooks(profile: Profile, jobs: int | None, strict: bool = True) -> None:
    """Notebooks with figures and tables, and results as files; nothing is trained."""
    from workbook.notebooks import execute_stale
    from workbook.results import write_results

    execute_stale(profile, say, jobs, strict)
    write_results(profile)


def make_book(profile: Profile, say=say):
    from workbook.book import write_html

    return write_html(profile, say)


def status(choices: Choices) -> None:
    from workbook.notebooks import pages

    _say_runs(choices.profile)
    states = {page.name: page.state() for page in pages(choices.profile)}
    for state in ("fresh", "stale", "missing"):
        names = [name for name, found in states.items() if found == state]
        listed = f": {', '.join(names)}" if names and state != "fresh" else ""
        say(f"notebooks: {len(names)} {state}{listed}")


def _say_runs(profile: Profile) -> None:
    from ltlib.runs.progress import progress_line, run_progress, run_state, unique_runs

    states = {run: run_state(run) for run in unique_runs(profile)}
    queued = _queued(profile)
    for run, state in states.items():
        if state in ("missing", "interrupted") and run.id in queued:
            states[run] = "queued"
    counts = collections.Counter(states.values())
    others = "".join(f", {n} {state}" for state, n in sorted(counts.items()) if state != "done")
    say(f"runs:      {counts['done']} of {len(states)} done{others}")
    for run, state in states.items():
        line, progress = f"{run.describe()}: ", run_progress(run)
        if state in ("diverged", "unreadable"):
            say(f"           {state}: {run.describe()} ({run.id}.json)")
        elif state in ("running", "interrupted") and progress:
            say(f"           {state}: {line}{progress_line(progress)}")
        elif state == "queued" and queued[run.id][1] != "PENDING":
            job, there = queued[run.id]
            say(f"           {there.lower()}: {line}SLURM job {job}")


def _queued(profile: Profile) -> dict[str, tuple[str, str]]:
    """SLURM's job, and what it says of it, of each run that SLURM has."""
    from workbook.slurm import jobs_of, queue

    jobs = jobs_of(profile)
    try:
        there = queue() if jobs else {}
    except ConfigError as error:
        say(f"SLURM's queue is not known here: {error}")
        return {}
    return {run: (job, there[job]) for run, job in jobs.items() if job in there}


def bench(choices: Choices) -> None:
    from workbook.bench import report

    report(say)


def readme(choices: Choices) -> None:
    from workbook.results import write_readme

    write_readme()


def lab(choices: Choices) -> None:
    """Become JupyterLab on this machine alone, at the notebooks' index; its kernel is ours."""
    from workbook.notebooks import NOTEBOOKS

    try:
        further = shlex.split(choices.text.lab)
    except ValueError as error:
        expected = "options of JupyterLab, each quotation mark with its other one"
        raise ConfigError(f"LAB = {choices.text.lab!r}: expected {expected} ({error})") from None
    options = [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={NOTEBOOKS}",
        "--LabApp.default_url=/lab/tree/index.ipynb",
        *further,
    ]
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *options])


NAMED = (
    *(data, runs, runs_list, tune, logits, notebooks, html, thesis),
    *(book_pdf, papers, status, bench, readme, lab),
)
COMMANDS = {command.__name__.replace("_", "-"): command for command in NAMED} | {"all": everything}


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command: 0; 1 after an error that explains itself; 130 where it was stopped."""
    choices = parse(arguments)
    for name in ("LTLIB_DATA", "LTLIB_WEIGHTS", "LTLIB_OUT"):
        if os.environ.get(name):  # kernels run in another folder
            os.environ[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
    try:
        COMMANDS[choices.text.command](choices)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return 130
    except Exception as error:
        if not isinstance(error, _expected()):
            raise
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        if isinstance(error, OSError):
            mend = "A file could not be read or written: is there room, and are the folders yours?"
            print(mend, file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str] | None = None) -> Choices:
    """The choices of a command line (None: of this process)."""
    parser = argparse.ArgumentParser(prog="workbook", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    for name, (default, meaning) in OPTIONS.items():
        given = os.environ.get(name.upper().replace("-", "_"))
        parser.add_argument(f"--{name}", default=given or default, help=meaning)
    return Choices(parser.parse_args(arguments))


def _expected() -> tuple:
    """The errors that say by themselves what is wrong and what to do: no traceback."""
    from workbook.document import ThesisFailed
    from workbook.notebooks import NotebookFailed
    from workbook.runs import EXPECTED

    return (*EXPECTED, NotebookFailed, ThesisFailed)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # a polite end, as SLURM and docker ask for it, is the same as Ctrl-C
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
