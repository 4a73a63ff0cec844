"""The commands behind make: ``python -m ltlib runs --profile demo``."""

from __future__ import annotations

import argparse
import collections
import functools
import os
import shlex
import signal
import sys
import threading

from ltlib import book, launch
from ltlib.backbones import check_name
from ltlib.config import ConfigError, Profile, figures_dir, load_profile, results_dir, with_slurm
from ltlib.export import write_readme, write_results
from ltlib.html import write_html
from ltlib.thesis import NoLatex, ThesisFailed, compile_thesis
from ltlib.training import prepare, progress_line
from ltlib.tune import tune

say = functools.partial(print, flush=True)


def status(profile: Profile) -> None:
    """Say what is done, under way, missing and stale."""
    states = {run: launch.run_state(run) for run in launch.unique_runs(profile)}
    jobs, queue = launch.slurm_jobs(profile), {}
    if jobs:
        try:
            queue = launch.slurm_states()
        except ConfigError as error:
            say(f"SLURM's queue is not known here: {error}")
    for run, state in states.items():
        if state in ("missing", "interrupted") and jobs.get(run.id) in queue:
            states[run] = "queued"
    counts = collections.Counter(states.values())
    say(f"runs:      {counts['done']} of {len(states)} done" + "".join(f", {n} {s}" for s, n in sorted(counts.items()) if s != "done"))
    for run, state in states.items():
        progress = launch.run_progress(run)
        if state in ("diverged", "unreadable"):
            say(f"           {state}: {run.describe()} ({run.id}.json)")
        elif state in ("running", "interrupted") and progress:
            say(f"           {state}: {run.describe()}: {progress_line(progress)}")
        elif state == "queued" and queue[jobs[run.id]] != "PENDING":
            say(f"           {queue[jobs[run.id]].lower()}: {run.describe()}: SLURM job {jobs[run.id]}")
    made = {page.name: page.state() for page in book.pages(profile)}
    for state in ("fresh", "stale", "missing"):
        names = [name for name, found in made.items() if found == state]
        say(f"notebooks: {len(names)} {state}" + (f": {', '.join(names)}" if names and state != "fresh" else ""))


def notebooks(profile: Profile, jobs: int | None, strict: bool = True) -> None:
    """Notebooks, figures and tables, and the results as files, from the records that are there: nothing is trained."""
    book.execute_stale(profile, say, jobs, strict)
    write_results(profile)


def thesis(profile: Profile) -> str:
    """Compile the document; return where it lies."""
    document = compile_thesis(profile)
    if (book.build_dir(profile.name) / "html").exists():
        write_html(profile, lambda line: None)  # the book's index links it
    return os.path.relpath(document)


def everything(profile: Profile, jobs: int | None, launcher: str) -> None:
    launch.compute_runs(profile, jobs, say=say, launcher=launcher)
    notebooks(profile, jobs)
    try:
        document = os.path.relpath(compile_thesis(profile))
    except NoLatex as error:
        document = f"none: {error}"
    except ThesisFailed:
        write_html(profile, say)  # a fault of LaTeX takes nothing else away
        raise
    index = write_html(profile, say)  # after the document, which it links
    say(f"\nMade for profile {profile.name}:")
    say(f"  records             {os.path.relpath(results_dir(profile.name))}/*.json")
    say(f"  executed notebooks  {os.path.relpath(book.build_dir(profile.name))}/notebooks/*.ipynb")
    say(f"  the same as pages   {os.path.relpath(index)}")
    say(f"  figures             {os.path.relpath(figures_dir(profile.name))}/*.pdf")
    say(f"  LaTeX tables        {os.path.relpath(figures_dir(profile.name))}/tables/*.tex, numbers.tex")
    say(f"  results as a table  {os.path.relpath(results_dir(profile.name))}.csv")
    say(f"  a document of all   {document}")


def papers(profiles: list[Profile], jobs: int | None, launcher: str) -> None:
    """The runs of these profiles, then their notebooks, pages and results; what is to be had is looked for before anything is trained."""
    for profile in profiles:
        prepare(profile, lambda line: None)
    for profile in profiles:
        launch.compute_runs(profile, jobs, say=say, launcher=launcher)
    for profile in profiles:
        notebooks(profile, jobs)
        say(os.path.relpath(write_html(profile, say)))


def lab(options: list[str]) -> None:
    """Become JupyterLab on this machine alone, with the index of the notebooks open; its kernel is this Python."""
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={book.NOTEBOOKS}",
                              "--LabApp.default_url=/lab/tree/index.ipynb", *options])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ltlib", description=__doc__)
    parser.add_argument("command", choices=["data", "runs", "runs-list", "tune", "notebooks", "html", "thesis", "all", "papers", "status",
                                            "bench", "lab", "readme"])
    parser.add_argument("--profile", default="demo")
    for name in ("backbones", "losses", "seeds", "protocols", "train-sets"):
        parser.add_argument(f"--{name}", default="", help="separated by spaces; default: those of the profile")
    parser.add_argument("--jobs", default="", help="runs at a time; default: one per core or GPU")
    parser.add_argument("--launcher", default="local", help="local (default) or slurm")
    parser.add_argument("--slurm", default="", help="for LAUNCHER=slurm, instead of the profile's: partition=... minutes=... gpus=...")
    parser.add_argument("--papers", default="pf_loss arconvl gbg", help="for papers: their profiles, in this order")
    parser.add_argument("--lab", default="", help="for lab: further options of JupyterLab, as --lab='--no-browser --port=9999'")
    chosen = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt) if threading.current_thread() is threading.main_thread() else None
    for name in ("LTLIB_DATA", "LTLIB_WEIGHTS", "LTLIB_OUT"):
        if os.environ.get(name):  # kernels run in another folder
            os.environ[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
    try:
        profile = load_profile(chosen.profile, chosen.backbones.split(), chosen.losses.split(), _numbers("SEEDS", chosen.seeds),
                               chosen.protocols.split(), chosen.train_sets.split())
        profile = with_slurm(profile, chosen.slurm)
        for backbone in profile.backbones:
            check_name(backbone)
        jobs = _numbers("JOBS", chosen.jobs)
        if len(jobs) > 1:
            raise ConfigError(f"JOBS = {chosen.jobs!r}: expected one whole number")
        jobs = jobs[0] if jobs else None
        match chosen.command:
            case "data":
                prepare(profile, say)
            case "runs":
                launch.compute_runs(profile, jobs, say=say, launcher=chosen.launcher)
            case "runs-list":
                for command in launch.run_commands(profile):
                    say(command)
            case "tune":
                tune(profile, jobs, say, chosen.launcher)
            case "notebooks":
                launch.compute_runs(profile, jobs, say=say, launcher=chosen.launcher)
                notebooks(profile, jobs)
            case "html":
                notebooks(profile, jobs, strict=False)
                say(os.path.relpath(write_html(profile, say)))
            case "thesis":
                notebooks(profile, jobs, strict=False)
                say(thesis(profile))
            case "readme":
                write_readme()
            case "papers":
                papers([with_slurm(load_profile(name), chosen.slurm) for name in chosen.papers.split()], jobs, chosen.launcher)
            case "all":
                everything(profile, jobs, chosen.launcher)
            case "status":
                status(profile)
            case "bench":
                from ltlib import bench  # takes seconds to load

                bench.report(say)
            case "lab":
                lab(shlex.split(chosen.lab))
    except (*launch.EXPECTED, launch.RunsFailed, book.NotebookFailed, ThesisFailed) as error:
        mend = "\nA file could not be read or written: is there room, and are the folders yours?" if isinstance(error, OSError) else ""
        print(f"\n{type(error).__name__}: {error}{mend}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return 130
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def _interrupt(*_) -> None:
    """A polite end, as SLURM and docker ask for it, is the same as Ctrl-C."""
    raise KeyboardInterrupt


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        raise ConfigError(f"{name} = {text!r}: expected whole numbers separated by spaces") from None


if __name__ == "__main__":
    sys.exit(main())
