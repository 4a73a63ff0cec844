"""Compute every missing run of a profile, in plain processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed

from ltlib.backbones import is_small
from ltlib.config import ConfigError, Profile, RunConfig
from ltlib.engine import Diverged
from ltlib.records import RecordError, computed_as, load_record
from ltlib.training import cpu_count, duration, features, pick_device, prepare, run_or_load, weights_for


class RunsFailed(RuntimeError):
    """Some runs ended with an error; the others are finished and kept."""


def unique_runs(profile: Profile) -> list[RunConfig]:
    """The runs to compute: those of the profile, each one that equals softmax replaced by it, every one once."""
    return list({run.id: run for run in map(computed_as, profile.configs())}.values())


def run_state(config: RunConfig) -> str:
    """ "done", "diverged", "missing" or "unreadable"."""
    try:
        record = load_record(config)
    except RecordError:
        return "unreadable"
    return record.status if record else "missing"


def default_jobs(device) -> int:
    """One process per core on a CPU (a run uses one thread), one on an accelerator."""
    return cpu_count() if device.type == "cpu" else 1


def compute_runs(profile: Profile, jobs: int | None = None, device: str | None = None, say: Callable[[str], None] = print) -> None:
    """Compute the missing runs of a profile, ``jobs`` at a time; finished ones are kept and never repeated.

    A run that fails does not stop the others. Raises RunsFailed at the end, with the reasons; ConfigError, DataError or
    MissingWeights before the first run starts.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"JOBS = {jobs}: expected at least 1")
    device = pick_device(device)
    runs = unique_runs(profile)
    missing = [run for run in runs if load_record(run) is None]
    say(f"{profile.name}: {len(runs) - len(missing)} of {len(runs)} runs are done, {len(missing)} to go")
    if not missing:
        return
    prepare(profile, device, say)
    jobs = jobs or default_jobs(device)
    failures = []
    first_of_backbone = {run.backbone: run for run in missing}
    if profile.mode == "probe":
        for run in first_of_backbone.values():
            features(run, device, say)
    small = [run for run in first_of_backbone.values() if is_small(run.backbone)]
    done = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        try:
            pretraining = {pool.submit(_pretrain, run, str(device)): run for run in small}
            for future in as_completed(pretraining):
                if isinstance(error := future.exception(), Diverged):
                    raise RunsFailed(f"pretraining {pretraining[future].backbone}: {error}; lower lr in [pretraining.recipe]")
                future.result()
            start = time.monotonic()
            futures = {pool.submit(_run, run, str(device)): run for run in missing}
            for future in as_completed(futures):
                run, done = futures[future], done + 1
                outcome = future.exception()
                if outcome is None:
                    outcome = future.result()
                    left = (time.monotonic() - start) / done * (len(missing) - done)
                    left = f"; about {duration(left)} left" if done >= jobs else ""  # the first ones alone would mislead
                    say(f"[{done}/{len(missing)}] {run.describe()}: {outcome}{left}")
                elif isinstance(outcome, BrokenExecutor):
                    raise outcome
                else:
                    failures.append(f"{run.describe()}: {type(outcome).__name__}: {outcome}")
                    say(f"[{done}/{len(missing)}] {run.describe()}: failed")
                    traceback.print_exception(outcome)
        except BrokenExecutor:
            raise RunsFailed("a worker process was killed (out of memory?). What is finished is kept: run the same command "
                             "again, with a smaller JOBS if memory was short.") from None
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            say(f"stopped after {done} of {len(missing)} runs; the same command goes on from there")
            raise
    if failures:
        raise RunsFailed(f"{len(failures)} of {len(missing)} runs failed:\n  " + "\n  ".join(failures))


def _start_worker() -> None:
    """Workers end with their parent, also if it was killed, and at once on Ctrl-C."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _say(line: str) -> None:
    print(line, flush=True)


def _pretrain(config: RunConfig, device: str) -> None:
    weights_for(config, pick_device(device), _say)


def _run(config: RunConfig, device: str) -> str:
    record = run_or_load(config, device, _say)
    if record.status == "diverged":
        return f"diverged ({record.note})"
    balanced = record.results["evaluations"]["last"]["sets"]["balanced"]
    return f"balanced test {100 * balanced['acc1']:.1f} % in {duration(record.provenance['wall_seconds'])}"
