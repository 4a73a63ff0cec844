"""The runs of a profile as one array job of a SLURM cluster.

submitit writes the batch script and brings each run to its task. Which job computes which run is
kept in a file, so that two ``make`` submit a run once, and any later one follows it: by its record,
and by squeue, which every cluster has (accounting, as submitit asks for it, not all).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ltlib.errors import ConfigError
from ltlib.files import atomic_path, build_dir, exclusive
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import Profile
from ltlib.runs.progress import outcome_line
from ltlib.runs.records import load_record, look_again
from workbook import RunsFailed, say
from workbook.display import Display

ASK_EVERY = 30  # seconds between two looks at SLURM's queue, which is everyone's
LATE = 20  # seconds in which a record may still arrive over a network file system, after its task
UNDER_WAY = "PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING,REQUEUED,REQUEUE_HOLD"


@dataclass(frozen=True)
class Task:
    """What SLURM computes: one run, from its checkpoint if it has one."""

    gpus: int

    def __call__(self, config: RunConfig) -> str:
        # here, and not above: make status asks after the queue, and trains nothing
        from ltlib import checkpoints
        from ltlib.runs.run import run_or_load

        # comes some seconds, or minutes, before SIGKILL
        signal.signal(signal.SIGTERM, lambda *_: checkpoints.request_stop())
        try:
            return outcome_line(run_or_load(config, self.device(), say))
        except checkpoints.Stopped:
            while True:  # until SLURM ends it: a preempted task that ends by itself is not requeued
                time.sleep(60)

    def device(self) -> str:
        """DEVICE; "auto" never falls back to the CPU where a GPU was asked for."""
        wanted = os.environ.get("DEVICE") or "auto"
        return "cuda" if self.gpus and wanted == "auto" else wanted

    def checkpoint(self, config: RunConfig):
        """submitit calls this when the time is nearly over, and queues what it returns."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, config)


def jobs_path(profile: Profile) -> Path:
    """The file that keeps the job of each run; the logs of the tasks lie in folders beside it."""
    return build_dir(profile.name) / "slurm" / "jobs.json"


def jobs_of(profile: Profile) -> dict[str, str]:
    """SLURM's job of each run that was ever submitted: run id -> "<job>_<task>".

    Raises ConfigError if the file that says so is damaged.
    """
    path = jobs_path(profile)
    try:
        return {str(run): str(job) for run, job in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: expected the SLURM job of each run, and it cannot be read ({error}). Look "
            "with squeue whether jobs are still queued, scancel them, and remove the file."
        ) from None


def queue() -> dict[str, str]:
    """Jobs of this user that wait or run now: "<job>_<task>" -> "PENDING", "RUNNING", ...

    Raises ConfigError without SLURM, or where it does not answer.
    """
    command = ["squeue", "--me", "--array", "--noheader", f"--states={UNDER_WAY}", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        raise ConfigError(
            "LAUNCHER = 'slurm': squeue was not found. Run this on a machine that submits to a "
            "SLURM cluster, or leave LAUNCHER out; `make runs-list` prints one command per run "
            "for any other scheduler."
        ) from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        fault = (getattr(error, "stderr", "") or str(error)).strip()
        raise ConfigError(f"LAUNCHER = 'slurm': squeue does not answer ({fault})") from None
    return dict(line.split() for line in done.stdout.splitlines() if line.strip())


def compute_on_slurm(profile: Profile, missing: list[RunConfig], say) -> None:
    """Submit the runs that are not queued, and follow all. Raises RunsFailed at the end."""
    jobs = submit_once(profile, missing, say)
    rows = min(len(missing), profile.slurm.concurrency)
    with Display(missing, rows, say) as display:
        try:
            lost = follow(profile, jobs, display)
        except KeyboardInterrupt:
            say(f"\n{len(display.missing)} runs go on under SLURM; `make status` follows them")
            raise
    if lost:
        fault = (
            f"{len(lost)} of {len(missing)} runs ended without a record (cancelled, out of time, "
            "or failed). The same command goes on from their checkpoints:"
        )
        for run in lost:
            job = jobs[run.id]
            fault += f"\n  {run.describe()}: job {job} {last_words(profile, job)}"
        raise RunsFailed(fault)


def submit(profile: Profile, runs: list[RunConfig]) -> dict[str, str]:
    """One array job of these runs: the job of each. Raises ConfigError if SLURM refuses it."""
    import submitit

    wanted, folder = profile.slurm, jobs_path(profile).parent / "%A"
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=1000)
    options = {
        "name": f"ltlib-{profile.name}",
        "timeout_min": wanted.minutes,
        "cpus_per_task": wanted.cpus,
        "slurm_array_parallelism": wanted.concurrency,
        "slurm_additional_parameters": {"requeue": True},
        "slurm_partition": wanted.partition,
        "gpus_per_node": wanted.gpus,
        "mem_gb": wanted.memory_gb,
    }
    # "" and 0 mean what the cluster does by itself
    executor.update_parameters(**{name: value for name, value in options.items() if value})
    try:
        jobs = executor.map_array(Task(wanted.gpus), runs)
    except submitit.core.utils.FailedJobError as error:
        mend = '[slurm] in the profile or by SLURM="partition=... minutes=... gpus=..."'
        raise ConfigError(
            f"SLURM refused the job: {error}. Say what the cluster wants by {mend}"
        ) from None
    return {run.id: job.job_id for run, job in zip(runs, jobs, strict=True)}


def submit_once(
    profile: Profile,
    missing: list[RunConfig],
    say: Callable[[str], None],
    ask: Callable = queue,
    send: Callable = submit,
) -> dict[str, str]:
    """Submit the runs that no queued job computes; the job of every run that was ever submitted."""
    path = jobs_path(profile)
    with exclusive(path, f"another process submits runs of {profile.name}", say):
        queued, jobs = ask(), jobs_of(profile)
        new = [run for run in missing if jobs.get(run.id) not in queued]
        if new:
            jobs |= send(profile, new)
            with atomic_path(path) as partial:
                partial.write_text(json.dumps(jobs, indent=1))
    numbers = sorted({jobs[run.id].split("_")[0] for run in missing})
    say(
        f"SLURM: {len(new)} runs submitted, {len(missing) - len(new)} were queued before (job "
        f"{', '.join(numbers)}). Ctrl-C leaves them to SLURM; `make status` follows them, `scancel "
        f"{numbers[-1]}` stops them."
    )
    return jobs


def follow(
    profile: Profile, jobs: dict[str, str], display: Display, ask: Callable = queue, clock=time
) -> list[RunConfig]:
    """Show the runs of ``display`` until each has a record or is lost; return the lost ones.

    Lost: its job left the queue LATE seconds ago and there is no record. A task that is requeued
    leaves the queue for a moment and comes back; a controller that is busy does not answer, and is
    asked again.
    """
    gone, lost, asked, silent = {}, [], clock.monotonic(), False
    while display.missing:
        clock.sleep(2)
        display.refresh()
        look_again(profile.name)
        for run in list(display.missing):
            if record := load_record(run):
                display.finished(run, outcome_line(record))
        now = clock.monotonic()
        if now - asked < ASK_EVERY:
            continue
        asked = now
        try:
            queued, silent = ask(), False
        except ConfigError as error:
            if not silent:
                display.say(f"{error}; asking again every {ASK_EVERY} s")
            silent = True
            continue
        out = [run for run in display.missing if jobs[run.id] not in queued]
        gone = {run.id: gone.get(run.id, now) for run in out}
        for run in out:
            if now - gone[run.id] > LATE:
                display.finished(run, "ended without a record")
                lost.append(run)
    return lost


def last_words(profile: Profile, job: str) -> str:
    """The last line that a task wrote (not srun's, if it can be helped), and its log."""
    folder = jobs_path(profile).parent / job.split("_")[0]
    logs = sorted(folder.glob(f"{job}_*_log.err"))
    lines = logs[-1].read_text(errors="replace").strip().splitlines() if logs else []
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
    return f"({(own or lines)[-1][:200]}; {logs[-1]})" if lines else f"(no log in {folder})"
