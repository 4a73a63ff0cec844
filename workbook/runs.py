"""Compute the missing runs of a profile, in processes of this machine or on a SLURM cluster.

A run is under way while a process holds its lock; where it is stands in a small file beside its
checkpoint (:class:`ltlib.runs.progress.Progress`). So several ``make`` may share the work, and
whoever follows runs reads those files. The processes are those of ``concurrent.futures``; ours
is only how they end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError

from ltlib import checkpoints
from ltlib.checkpoints import CheckpointError, Stopped
from ltlib.errors import ConfigError, DataError
from ltlib.files import ROOT, Busy, build_dir, results_dir, silent, sweep
from ltlib.hooks import Diverged
from ltlib.models import MissingWeights
from ltlib.runs.config import RunConfig
from ltlib.runs.devices import cpu_count, pick_device
from ltlib.runs.profiles import Profile
from ltlib.runs.progress import outcome_line, unique_runs
from ltlib.runs.records import RecordError, load_record
from ltlib.runs.run import features, prepare, run_or_load
from workbook import RunsFailed, say
from workbook.display import Display

# what a run can end with that its message explains: no traceback
EXPECTED = (ConfigError, DataError, MissingWeights, RecordError, RunsFailed)
EXPECTED += (CheckpointError, SafetensorError, OSError)
GRACE = 8  # seconds that a run may take for the step under way, after Ctrl-C
SAVING = 60  # and then for its checkpoint


def compute_runs(
    profile: Profile,
    jobs: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] = print,
    launcher: str = "local",
    runs: list[RunConfig] | None = None,
) -> None:
    """Compute the missing runs of a profile; those begun go on from their checkpoint.

    launcher  "local": ``jobs`` processes, by default one per core or GPU; "slurm": one array job
    runs      instead of those that the profile unfolds into, others of its name, data and backbones

    A run that fails does not stop the others: RunsFailed is raised at the end, with the reasons.
    ConfigError, DataError or MissingWeights come before the first run starts.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"JOBS = {jobs}: expected at least 1")
    if launcher not in ("local", "slurm"):
        raise ConfigError(f"LAUNCHER = {launcher!r}: expected local or slurm")
    here = pick_device(device) if launcher == "local" else None
    runs = unique_runs(profile) if runs is None else runs
    missing = [run for run in runs if load_record(run) is None]
    done = len(runs) - len(missing)
    say(f"{profile.name}: {done} of {len(runs)} runs are done, {len(missing)} to go")
    if not missing:
        return
    prepare(profile, say, runs)
    for folder in (results_dir(profile.name), build_dir(profile.name)):
        _require_writable(folder)
    sweep(profile.name)
    if here is None:
        from workbook.slurm import compute_on_slurm

        compute_on_slurm(profile, missing, say)
    else:
        _compute_here(
            missing, min(jobs or default_jobs(here, missing, say), len(missing)), here, say
        )


def default_jobs(device: torch.device, runs: list[RunConfig], say=silent) -> int:
    """How many of these runs are computed at a time where nobody says it.

    On a CPU one per core, as a run uses one thread, but no more than fit into free memory; on a GPU
    one, or four small ones (mode "probe", or images of 32 px), for which one has room and time.
    """
    if device.type == "cpu":
        cores, need, free = cpu_count(), max(map(memory_needed, runs)), free_memory()
        if (fitting := max(1, int(free // need))) < min(cores, len(runs)):
            say(
                f"{fitting} at a time on {cores} cores: a run may need {need:.1f} GiB of memory,"
                f" and {free:.1f} are free; JOBS= decides otherwise"
            )
        return min(cores, fitting)
    devices = torch.cuda.device_count() if device.index is None else 1
    small = all(run.mode == "probe" or run.recipe.resolution <= 32 for run in runs)
    return devices * (min(4, max(1, cpu_count() // devices)) if small else 1)


def memory_needed(run: RunConfig) -> float:
    """GiB that a run may take on a CPU, by estimate: 2 for a head on features; otherwise 1 and 2.2
    KiB for each pixel of a batch, what MobileNetV2 takes, which of the backbones takes most."""
    if run.mode == "probe":
        return 2.0
    recipe = run.recipe
    return 1.0 + recipe.batch_size * recipe.resolution**2 * 2.2 / 2**20


def free_memory() -> float:
    """GiB that this process may still have: of the machine, and of its container where it has a
    limit."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no limit, or another system
        limit, used = (
            int((Path("/sys/fs/cgroup") / f"memory.{name}").read_text())
            for name in ("max", "current")
        )
        free = min(free, limit - used)
    return free / 2**30


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}): make room, or take the write "
            "protection away, or name another place by LTLIB_OUT. Nothing was computed."
        ) from None


def _compute_here(missing: list[RunConfig], jobs: int, device: torch.device, say) -> None:
    # the first of each backbone go first: each pretrains a backbone of its own, if that is wanted
    firsts = list({run.backbone: run for run in reversed(missing)}.values())
    todo = sorted(missing, key=lambda run: run not in firsts)
    for run in firsts:
        if run.mode == "probe":
            features(run, device, say)
    with _workers(jobs, device) as pool, Display(missing, jobs, say) as display:
        try:
            failures = _follow(pool, todo, display)
        except BrokenExecutor:
            raise RunsFailed(
                "a worker process was killed (out of memory?). What is finished is kept, and runs "
                "under way have checkpoints: run the same command again, with a smaller JOBS if "
                "memory was short."
            ) from None
        except (KeyboardInterrupt, Stopped):  # a worker may hear of Ctrl-C before this process
            done = f"{display.done} of {len(missing)} runs are done"
            say(f"\nstopping: {done}, those under way write a checkpoint ...")
            _stop(pool)
            raise KeyboardInterrupt from None
    if failures:
        lines = "\n  ".join(failures)
        raise RunsFailed(f"{len(failures)} of {len(missing)} runs failed:\n  {lines}")


def _follow(pool: ProcessPoolExecutor, todo: list[RunConfig], display: Display) -> list[str]:
    """Compute runs and show how they end; return what went wrong with those that failed."""
    failures = []
    waiting = {pool.submit(compute_one, run, wait=False): run for run in todo}
    while waiting:
        finished, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
        display.refresh()
        for future in finished:
            run, error = waiting.pop(future), future.exception()
            if isinstance(error, Busy):  # another make is at it: first those that are free
                waiting[pool.submit(compute_one, run, wait=True)] = run
            elif isinstance(error, BrokenExecutor | Stopped):
                raise error
            elif error is not None:
                failures.append(f"{run.describe()}: {type(error).__name__}: {error}")
                display.finished(run, "failed")
                if not isinstance(error, EXPECTED):
                    traceback.print_exception(error)
            else:
                display.finished(run, future.result())
    return failures


def compute_one(run: RunConfig, wait: bool) -> str:
    """What a worker does with a run; how it ended. Raises Busy at once, without ``wait``."""
    try:
        return outcome_line(run_or_load(run, None, say, wait=wait, say_progress=False))
    except Diverged as error:  # a run that diverges has a record: this was what it starts from
        fault = f"pretraining {run.backbone}: {error}; lower lr in [pretraining.recipe]"
        raise RunsFailed(fault) from None


def _workers(jobs: int, device: torch.device) -> ProcessPoolExecutor:
    """Processes that each take a device: a GPU each where there are several and none was named."""
    context = _context(device)
    devices, names = context.SimpleQueue(), [str(device)]
    if device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    for number in range(jobs):
        devices.put(names[number % len(names)])
    given = (devices, dict(os.environ))
    return ProcessPoolExecutor(jobs, context, initializer=start_worker, initargs=given)


def _context(device: torch.device):
    """How processes start: on a CPU forked off one that has loaded torch, which takes seconds.

    That one is itself started anew and computes nothing, so no thread and no lock is forked. With
    CUDA, which must not be there before a fork, and on other systems every process loads its own.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ltlib.runs.run", "torch._dynamo", "sklearn.metrics"])
    return context


def _stop(pool: ProcessPoolExecutor) -> None:
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.join(GRACE + SAVING + 2)


def start_worker(devices, environment: dict[str, str]) -> None:
    """Take this environment and a device; arrange how this process ends, at a signal or with its
    parent.

    At SIGINT and SIGTERM the run under way writes a checkpoint after its step and stops; where the
    step takes longer than GRACE seconds, the process ends without it. With its parent it ends at
    once, also if that was killed.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.environ["DEVICE"] = devices.get()  # read by run_or_load
    device = torch.device(os.environ["DEVICE"])
    if device.type == "cuda" and device.index is not None:  # "cuda" alone is the first one
        torch.cuda.set_device(device)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop_soon)
    parent = multiprocessing.parent_process()
    if parent:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _stop_soon(*_) -> None:
    checkpoints.request_stop()
    threading.Thread(target=_end, daemon=True).start()


def _end() -> None:
    time.sleep(GRACE)
    checkpoints.wait_for_save(SAVING)
    os._exit(130)


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)


# settings of this process that a command for another one names, too
PASSED_ON = "LTLIB_DATA LTLIB_WEIGHTS LTLIB_OUT DEVICE CHECKPOINT_MINUTES THREADS"
PASSED_ON += " HF_HOME PYTHONPATH GOMP_SPINCOUNT"


def run_commands(profile: Profile) -> list[str]:
    """A shell command for each missing run, which computes it and nothing else, from any folder."""
    settings = [f"{name}={os.environ[name]}" for name in PASSED_ON.split() if os.environ.get(name)]
    begin = ["env", "-C", str(ROOT), *settings, sys.executable, "-m", "workbook", "runs"]
    commands = []
    for run in unique_runs(profile):
        if load_record(run) is None:
            options = ["--profile", profile.path, "--jobs", "1", "--launcher", "local"]
            options += ["--backbones", run.backbone, "--protocols", run.protocol.name]
            options += ["--train-sets", run.train_set, "--losses", run.variant]
            commands.append(shlex.join([*begin, *options, "--seeds", str(run.seed)]))
    return commands
