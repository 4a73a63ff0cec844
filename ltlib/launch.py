"""Compute every missing run of a profile: in plain processes on this machine, or as an array job of a SLURM cluster.

A run is under way while a process holds its lock; where it is stands in a small file beside its checkpoint
(:class:`ltlib.training.Progress`). Whoever follows runs reads those files, wherever they are computed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from ltlib import engine
from ltlib.backbones import MissingWeights, is_small
from ltlib.config import ROOT, Busy, ConfigError, Profile, RunConfig, atomic_path, build_dir, exclusive, results_dir, sweep
from ltlib.datasets import DataError
from ltlib.engine import CheckpointError, Diverged, Stopped
from ltlib.longtail import base_set
from ltlib.records import RecordError, computed_as, load_record, look_again
from ltlib.training import (
    PROGRESS,
    cpu_count,
    duration,
    features,
    live_path,
    pick_device,
    prepare,
    progress_line,
    run_or_load,
    weights_for,
)


class RunsFailed(RuntimeError):
    """Some runs ended with an error; the others are finished and kept."""


# what a run can end with that its message explains: no traceback
EXPECTED = (ConfigError, DataError, MissingWeights, RecordError, CheckpointError, SafetensorError, OSError)


def unique_runs(profile: Profile) -> list[RunConfig]:
    """The runs to compute: those of the profile, each one that equals softmax replaced by it, every one once."""
    return list({run.id: run for run in map(computed_as, profile.configs())}.values())


def run_state(config: RunConfig) -> str:
    """ "done", "diverged", "running" (somewhere), "interrupted" (it has a checkpoint), "missing" or "unreadable"."""
    try:
        record = load_record(config)
    except RecordError:
        return "unreadable"
    if record:
        return record.status
    if live_path(config, ".lock").exists():
        try:
            with exclusive(live_path(config, ""), "", wait=False):
                pass
        except Busy:
            return "running"
        except OSError:  # a folder of someone else: whether a process is at it cannot be seen
            pass
    return "interrupted" if live_path(config, ".pt").exists() else "missing"


def run_progress(config: RunConfig) -> dict | None:
    """What a run under way has last written of itself (see :class:`ltlib.training.Progress`), or None."""
    try:
        state = json.loads(live_path(config, ".json").read_text())
        return {key: kind(state[key]) for key, kind in PROGRESS.items()}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def default_jobs(device) -> int:
    """One process per core on a CPU (a run uses one thread), one per GPU; one on a GPU that was named (DEVICE=cuda:1)."""
    return cpu_count() if device.type == "cpu" else torch.cuda.device_count() if device.index is None else 1


def compute_runs(profile: Profile, jobs: int | None = None, device: str | None = None, say: Callable[[str], None] = print,
                 launcher: str = "local", runs: list[RunConfig] | None = None) -> None:
    """Compute the missing runs of a profile; finished ones are kept and never repeated, begun ones go on from their checkpoint.

    launcher "local": ``jobs`` processes, by default one per core or GPU; "slurm": one array job, as ``profile.slurm`` says.
    runs: instead of those that the profile unfolds into, others of its name, data and backbones.
    A run that fails does not stop the others. Raises RunsFailed at the end, with the reasons; ConfigError, DataError or
    MissingWeights before the first run starts.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"JOBS = {jobs}: expected at least 1")
    if launcher not in ("local", "slurm"):
        raise ConfigError(f"LAUNCHER = {launcher!r}: expected local or slurm")
    if launcher == "local":
        device = pick_device(device)
    runs = unique_runs(profile) if runs is None else runs
    missing = [run for run in runs if load_record(run) is None]
    say(f"{profile.name}: {len(runs) - len(missing)} of {len(runs)} runs are done, {len(missing)} to go")
    if not missing:
        return
    prepare(profile, say, runs)
    for folder in (results_dir(profile.name), build_dir(profile.name)):
        _require_writable(folder)
    sweep(profile.name)
    if launcher == "slurm":
        _compute_on_slurm(profile, missing, say)
    else:
        _compute_here(profile, missing, min(jobs or default_jobs(device), len(missing)), device, say)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}): make room, or take the write protection away, or name "
                          "another place by LTLIB_OUT. Nothing was computed.") from None


class _Display:
    """How far the runs are: bars on a terminal, otherwise a line per run about every 20 s."""

    def __init__(self, missing: list[RunConfig], rows: int, say: Callable[[str], None]):
        self.missing, self.say, self.done, self.start = list(missing), say, 0, time.time()
        self.said = dict.fromkeys((run.id for run in missing), self.start)
        self.live = sys.stderr.isatty()
        if self.live:
            self.overall = tqdm(total=len(missing), unit="run", position=0, dynamic_ncols=True)
            self.rows = [tqdm(total=0, position=1 + i, bar_format="{desc}", leave=False, dynamic_ncols=True) for i in range(rows)]

    def finished(self, run: RunConfig, outcome: str) -> None:
        self.missing.remove(run)
        self.done += 1
        total = self.done + len(self.missing)
        left = (time.time() - self.start) / self.done * len(self.missing)
        left = f"; about {duration(left)} left" if self.missing and self.done > 1 else ""  # the first one alone would mislead
        line = f"[{self.done}/{total}] {run.describe()}: {outcome}{left}"
        if self.live:
            tqdm.write(line)
            self.overall.update()
        else:
            self.say(line)

    def refresh(self) -> None:
        states = [(run, run_progress(run)) for run in self.missing]
        states = [(run, state) for run, state in states if state and state["updated"] > self.start]
        if self.live:
            lines = [f"  {run.describe()}: {progress_line(state)}" for run, state in states]
            for row, line in zip(self.rows, lines + [""] * len(self.rows), strict=False):
                row.set_description_str(line)
            return
        for run, state in states:
            if state["updated"] - self.said[run.id] > 20:
                self.said[run.id] = state["updated"]
                self.say(f"{run.describe()}: {progress_line(state)}")

    def close(self) -> None:
        if self.live:
            for bar in (*self.rows, self.overall):
                bar.close()


# ------------------------------------------------------------------------------------------ this machine


def _compute_here(profile: Profile, missing: list[RunConfig], jobs: int, device, say) -> None:
    first_of_backbone = {run.backbone: run for run in missing}
    if profile.mode == "probe":
        for run in first_of_backbone.values():
            features(run, device, say)
    small = [run for run in first_of_backbone.values() if is_small(run.backbone) and run.mode != "scratch"]
    context = multiprocessing.get_context("spawn")
    devices = context.SimpleQueue()  # each worker takes one
    for number in range(jobs):
        several = device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1
        devices.put(f"cuda:{number % torch.cuda.device_count()}" if several else str(device))
    display, failures = None, []
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(devices,)) as pool:
        try:
            for run, error in _outcomes(pool, {pool.submit(_pretrain, run): run for run in small}):
                if isinstance(error, Diverged):
                    raise RunsFailed(f"pretraining {run.backbone}: {error}; lower lr in [pretraining.recipe]")
                if isinstance(error, Exception):
                    raise error
            display = _Display(missing, jobs, say)
            todo, wait_for_others = missing, False
            while todo:
                busy = []  # other processes are at these: first those that are free
                for run, outcome in _outcomes(pool, {pool.submit(_run, run, wait_for_others): run for run in todo}, display.refresh):
                    if isinstance(outcome, Busy):
                        busy.append(run)
                    elif isinstance(outcome, Exception):
                        failures.append(f"{run.describe()}: {type(outcome).__name__}: {outcome}")
                        display.finished(run, "failed")
                        if not isinstance(outcome, EXPECTED):
                            traceback.print_exception(outcome)
                    else:
                        display.finished(run, outcome)
                if busy:
                    say(f"{len(busy)} runs are, or wait for one that is, being computed by another process: waiting")
                todo, wait_for_others = busy, True
        except BrokenExecutor:
            raise RunsFailed("a worker process was killed (out of memory?). What is finished is kept, and runs under way have checkpoints: "
                             "run the same command again, with a smaller JOBS if memory was short.") from None
        except KeyboardInterrupt:
            done = display.done if display else 0
            say(f"\nstopping: {done} of {len(missing)} runs are done, those under way write a checkpoint ...")
            _stop_workers(pool)
            raise
        finally:
            if display:
                display.close()
    if failures:
        raise RunsFailed(f"{len(failures)} of {len(missing)} runs failed:\n  " + "\n  ".join(failures))


def _outcomes(pool, futures: dict, refresh: Callable[[], None] = lambda: None):
    """Yield (run, result or exception) as they come; ``refresh`` about every second."""
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
        refresh()
        for future in finished:
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                raise error
            if isinstance(error, Stopped):  # a worker heard of Ctrl-C before this process did
                raise KeyboardInterrupt
            yield futures[future], error if error is not None else future.result()


GRACE = 8  # seconds that a run may take for the step under way, after Ctrl-C
SAVING = 60  # and then for its checkpoint


def _stop_workers(pool) -> None:
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.join(GRACE + SAVING + 2)


_device = ""


def _start_worker(devices) -> None:
    """Take a device; end with the parent, also if it was killed; on Ctrl-C, write a checkpoint and end within seconds."""
    global _device
    _device = devices.get()
    device = torch.device(_device)
    if device.type == "cuda" and device.index is not None:  # "cuda" alone is the first one
        torch.cuda.set_device(_device)

    def end():
        engine.wait_for_save(SAVING)
        os._exit(130)

    def stop(*_):
        engine.request_stop()
        timer = threading.Timer(GRACE, end)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _say(line: str) -> None:
    print(line, flush=True)


def _pretrain(config: RunConfig) -> None:
    weights_for(config, pick_device(_device), _say)


def _run(config: RunConfig, wait_for_others: bool) -> str:
    return outcome_line(run_or_load(config, _device, _say, wait=wait_for_others, say_progress=False))


def outcome_line(record) -> str:
    if record.status == "diverged":
        return f"diverged ({record.note})"
    sets = record.results["evaluations"]["last"]["sets"]
    base = base_set(sets)
    title = "balanced" if base == "balanced" else "long-tailed"
    return f"{title} test {100 * sets[base]['acc1']:.1f} % in {duration(record.provenance['wall_seconds'])}"


# ------------------------------------------------------------------------------------------------- SLURM


@dataclass(frozen=True)
class SlurmTask:
    """One run as a SLURM task, on a GPU where GPUs were asked for. Preempted, out of time or requeued, it goes on from its checkpoint."""

    gpus: int

    def __call__(self, config: RunConfig) -> str:
        signal.signal(signal.SIGTERM, lambda *_: engine.request_stop())  # comes some seconds, or minutes, before SIGKILL
        device = os.environ.get("DEVICE") or "auto"
        try:
            return outcome_line(run_or_load(config, "cuda" if self.gpus and device == "auto" else device, _say))
        except Stopped:
            while True:  # until SLURM ends it: a preempted task that has ended by itself is not requeued
                time.sleep(60)

    def checkpoint(self, config: RunConfig):
        """submitit calls this when the time is nearly over, and queues what it returns: that goes on from the last checkpoint written."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, config)


def _jobs_path(profile: Profile) -> Path:
    return build_dir(profile.name) / "slurm" / "jobs.json"


def slurm_jobs(profile: Profile) -> dict[str, str]:
    """SLURM's job of each run that was ever submitted: run id -> "<job>_<task>". Raises ConfigError if the file that says so is damaged."""
    path = _jobs_path(profile)
    try:
        return {str(run): str(job) for run, job in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: expected the SLURM job of each run, and it cannot be read ({error}). Look with squeue whether jobs "
                          "are still queued, scancel them, and remove the file.") from None


def slurm_states() -> dict[str, str]:
    """Jobs of this user that wait or run now: "<job>_<task>" -> "PENDING", "RUNNING", ... Raises ConfigError without SLURM."""
    command = ["squeue", "--me", "--array", "--noheader", "--states=PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING,REQUEUED,REQUEUE_HOLD",
               "--format=%i %T"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        raise ConfigError("LAUNCHER = 'slurm': squeue was not found. Run this on a machine that submits to a SLURM cluster, or leave "
                          "LAUNCHER out; `make runs-list` prints one command per run for any other scheduler.") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"LAUNCHER = 'slurm': squeue does not answer ({(getattr(error, 'stderr', '') or str(error)).strip()})") from None
    return dict(line.split() for line in found.splitlines() if line.strip())


ASK_EVERY = 30  # seconds between two looks at SLURM's queue, which is everyone's
LATE = 20  # seconds after the end of its task in which a record may still arrive here, over a network file system


def _compute_on_slurm(profile: Profile, missing: list[RunConfig], say) -> None:
    with exclusive(_jobs_path(profile), f"another process submits runs of {profile.name}", say):
        queued, jobs = slurm_states(), slurm_jobs(profile)
        new = [run for run in missing if jobs.get(run.id) not in queued]
        if new:
            jobs |= _submit(profile, new)
            with atomic_path(_jobs_path(profile)) as partial:
                partial.write_text(json.dumps(jobs, indent=1))
    numbers = sorted({jobs[run.id].split("_")[0] for run in missing})
    say(f"SLURM: {len(new)} runs submitted, {len(missing) - len(new)} were queued before (job {', '.join(numbers)}). Ctrl-C leaves them "
        f"to SLURM; `make status` follows them, `scancel {numbers[-1]}` stops them.")
    display, failures = _Display(missing, min(len(missing), profile.slurm.concurrency), say), []
    gone, silent, asked = {}, False, time.monotonic()
    try:
        while display.missing:
            time.sleep(2)
            display.refresh()
            look_again(profile.name)
            for run in list(display.missing):
                if record := load_record(run):
                    display.finished(run, outcome_line(record))
            now = time.monotonic()
            if now - asked < ASK_EVERY:
                continue
            asked = now
            try:
                queued, silent = slurm_states(), False
            except ConfigError as error:  # a busy controller: the next time, perhaps
                if not silent:
                    say(f"{error}; asking again every {ASK_EVERY} s")
                silent = True
                continue
            gone = {run.id: gone.get(run.id, now) for run in display.missing if jobs[run.id] not in queued}
            for run in list(display.missing):
                if now - gone.get(run.id, now) > LATE:
                    display.finished(run, "ended without a record")
                    failures.append(f"{run.describe()}: job {jobs[run.id]} {_last_words(profile, jobs[run.id])}")
    except KeyboardInterrupt:
        say(f"\n{len(display.missing)} runs go on under SLURM; `make status` follows them")
        raise
    finally:
        display.close()
    if failures:
        raise RunsFailed(f"{len(failures)} of {len(missing)} runs ended without a record (cancelled, out of time, or failed). The same "
                         "command goes on from their checkpoints:\n  " + "\n  ".join(failures))


def _submit(profile: Profile, runs: list[RunConfig]) -> dict[str, str]:
    import submitit

    wanted = profile.slurm
    folder = _jobs_path(profile).parent
    executor = submitit.AutoExecutor(folder=folder / "%A", cluster="slurm", slurm_max_num_timeout=1000)
    options = {"name": f"ltlib-{profile.name}", "timeout_min": wanted.minutes, "cpus_per_task": wanted.cpus,
               "slurm_array_parallelism": wanted.concurrency, "slurm_additional_parameters": {"requeue": True}}
    options |= {"slurm_partition": wanted.partition} if wanted.partition else {}
    options |= {"gpus_per_node": wanted.gpus} if wanted.gpus else {}
    options |= {"mem_gb": wanted.memory_gb} if wanted.memory_gb else {}
    executor.update_parameters(**options)
    try:
        jobs = executor.map_array(SlurmTask(wanted.gpus), runs)
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"SLURM refused the job: {error}. Say what the cluster wants by [slurm] in the profile or by "
                          'SLURM="partition=... minutes=... gpus=..."') from None
    return {run.id: job.job_id for run, job in zip(runs, jobs, strict=True)}


def _last_words(profile: Profile, job: str) -> str:
    folder = _jobs_path(profile).parent / job.split("_")[0]
    logs = sorted(folder.glob(f"{job}_*_log.err"))
    lines = logs[-1].read_text(errors="replace").strip().splitlines() if logs else []
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
    return f"({(own or lines)[-1][:200]}; {logs[-1]})" if lines else f"(no log in {folder})"


# ----------------------------------------------------------------------------------------- any scheduler


PASSED_ON = ("LTLIB_DATA", "LTLIB_WEIGHTS", "LTLIB_OUT", "DEVICE", "CHECKPOINT_MINUTES", "HF_HOME", "PYTHONPATH",
             "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GOMP_SPINCOUNT")


def run_commands(profile: Profile) -> list[str]:
    """A shell command for each missing run, which computes it and nothing else, from any folder."""
    settings = [f"{name}={os.environ[name]}" for name in PASSED_ON if os.environ.get(name)]
    commands = []
    for run in unique_runs(profile):
        if load_record(run) is not None:
            continue
        words = ["env", "-C", str(ROOT), *settings, sys.executable, "-m", "ltlib", "runs", "--profile", profile.path, "--jobs", "1",
                 "--backbones", run.backbone, "--protocols", run.protocol.name, "--train-sets", run.train_set, "--losses", run.variant,
                 "--seeds", str(run.seed)]
        commands.append(shlex.join(words))
    return commands
