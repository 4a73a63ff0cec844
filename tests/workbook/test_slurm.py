"""``LAUNCHER=slurm``: in parts, and on a real SLURM of one node, started for these tests alone."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from ltlib.errors import ConfigError
from ltlib.files import ROOT
from ltlib.runs.profiles import load_profile
from ltlib.runs.progress import live_path, unique_runs
from ltlib.runs.records import load_record
from ltlib.runs.run import run_or_load
from workbook.display import Display
from workbook.runs import compute_runs
from workbook.slurm import (
    ASK_EVERY,
    LATE,
    Task,
    follow,
    jobs_of,
    jobs_path,
    last_words,
    queue,
    submit_once,
)

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
ASKED = "gpus=0 memory_gb=0 cpus=1 concurrency=2 minutes=10"


def missing_for_slurm() -> str:
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        return f"not found: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "a SLURM node can only be started by root"


needs_slurm = pytest.mark.skipif(bool(missing_for_slurm()), reason=missing_for_slurm())


def tiny():
    """Two runs of a small backbone from scratch."""
    profile = load_profile("smoke", backbones=["resnetv2_small32"], losses=["softmax"])
    return dataclasses.replace(profile, mode="scratch")


def jobs_for(profile, runs):
    """What submitting answers: the job of each run."""
    return {run.id: f"1_{i}" for i, run in enumerate(runs)}


class Clock:
    """Time that passes only where somebody sleeps; ``at`` is called with every new now."""

    def __init__(self, at=lambda now: None):
        self.now, self.at = 0.0, at

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.at(self.now)


def test_without_slurm_the_error_names_the_other_ways(out, monkeypatch):
    monkeypatch.setenv("PATH", str(out))
    with pytest.raises(ConfigError, match=r"squeue was not found.*make runs-list"):
        compute_runs(tiny(), say=lambda line: None, launcher="slurm")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_list_of_jobs_is_named(out, text):
    jobs_path(tiny()).parent.mkdir(parents=True)
    jobs_path(tiny()).write_text(text)
    fault = r"jobs.json: expected the SLURM job of each run.*remove the file"
    with pytest.raises(ConfigError, match=fault):
        jobs_of(tiny())


@pytest.mark.parametrize(
    ("gpus", "wanted", "device"),
    [(1, "", "cuda"), (1, "auto", "cuda"), (0, "", "auto"), (1, "cpu", "cpu"), (1, "cuda", "cuda")],
)
def test_a_task_that_asked_for_a_gpu_never_falls_back_to_the_cpu(monkeypatch, gpus, wanted, device):
    monkeypatch.setenv("DEVICE", wanted)
    assert Task(gpus).device() == device


def test_two_at_once_submit_a_run_once(out):
    profile, submitted, queued = tiny(), [], {}
    runs = unique_runs(profile)

    def send(profile, runs):
        time.sleep(0.5)
        submitted.extend(run.id for run in runs)
        queued.update(dict.fromkeys(jobs_for(profile, runs).values(), "PENDING"))
        return jobs_for(profile, runs)

    said = []
    arguments = (profile, runs, said.append, lambda: dict(queued), send)
    threads = [threading.Thread(target=submit_once, args=arguments) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert submitted == [run.id for run in runs]
    assert jobs_of(profile) == jobs_for(profile, runs)
    assert sorted(line[:25] for line in said if line.startswith("SLURM: ")) == [
        "SLURM: 0 runs submitted, ",
        "SLURM: 2 runs submitted, ",
    ]


def test_while_the_queue_does_not_answer_records_still_count_and_it_is_said_once(out):
    profile, said = tiny(), []
    runs = unique_runs(profile)
    moments = {ASK_EVERY * 4: runs[0], ASK_EVERY * 8: runs[1]}

    def ask():
        raise ConfigError("squeue does not answer")

    clock = Clock(lambda now: run_or_load(moments[now], "cpu") if now in moments else None)
    with Display(runs, 2, said.append) as display:
        assert follow(profile, jobs_for(profile, runs), display, ask, clock) == []
    assert [line for line in said if "does not answer" in line] == [
        f"squeue does not answer; asking again every {ASK_EVERY} s"
    ]
    assert "[2/2]" in said[-1]
    assert clock.now == ASK_EVERY * 8


@pytest.mark.parametrize("returns", [True, False])
def test_a_requeued_task_is_not_given_up_and_a_lost_one_is(out, returns):
    """It leaves the queue for a moment and comes back: the time that it was gone starts anew."""
    profile, said = tiny(), []
    run = unique_runs(profile)[1]

    def ask():
        there = clock.now < ASK_EVERY * 2 or (returns and clock.now // ASK_EVERY % 2)
        return {"1_0": "PENDING"} if there else {}

    clock = Clock(lambda now: run_or_load(run, "cpu") if now == ASK_EVERY * 9 else None)
    with Display([run], 1, said.append) as display:
        lost = follow(profile, {run.id: "1_0"}, display, ask, clock)
    assert lost == ([] if returns else [run])
    assert (clock.now == ASK_EVERY * 9) == returns
    assert ("ended without a record" in said[-1]) != returns
    assert clock.now >= ASK_EVERY * 2 + LATE


def test_the_last_words_of_a_task_are_its_own_and_not_sruns(out):
    folder = jobs_path(tiny()).parent / "7"
    folder.mkdir(parents=True)
    assert last_words(tiny(), "7_1") == f"(no log in {folder})"
    log = folder / "7_1_0_log.err"
    own = "ConfigError: DEVICE = 'cuda': no"
    log.write_text(f"Traceback ...\n{own}\nsrun: error: node: task 0: Exited with exit code 1\n")
    assert last_words(tiny(), "7_1") == f"({own}; {log})"
    log.write_text("slurmstepd: error: *** STEP CANCELLED ***\n")
    assert "STEP CANCELLED" in last_words(tiny(), "7_1")


# a real cluster


CONFIGURATION = """
ClusterName=workbook
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running cluster of one node; the environment that its commands need."""
    folder = tmp_path_factory.mktemp("slurm")
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    patch.setenv("PYTHONPATH", str(ROOT))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2))
    )
    munged = [
        "munged",
        "--force",
        *(
            f"--{option}={folder}/munge.{end}"
            for option, end in (
                ("socket", "sock"),
                ("key-file", "key"),
                ("pid-file", "pid"),
                ("log-file", "log"),
                ("seed-file", "seed"),
            )
        ),
    ]
    try:
        for command in (munged, ["slurmctld"], ["slurmd", "-N", host]):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        deadline = time.monotonic() + 30
        while (
            "idle"
            not in subprocess.run(
                ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True
            ).stdout
        ):
            assert time.monotonic() < deadline, "\n".join(
                p.read_text() for p in folder.glob("slurm*.log")
            )
            time.sleep(0.2)
        yield folder
    finally:
        subprocess.run(["scancel", "--me"], capture_output=True)
        for name in ("slurmd", "slurmctld", "munge"):
            if (folder / f"{name}.pid").exists():
                subprocess.run(["kill", (folder / f"{name}.pid").read_text().strip()])
        patch.undo()


def workbook(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "workbook", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


@pytest.mark.slow
@needs_slurm
def test_the_smoke_profile_with_a_cancelled_task_ends_with_complete_records(slurm, out):
    losses = ["softmax", "gbg"]
    profile = load_profile("smoke", backbones=["resnetv2_small32"], losses=losses)
    runs = unique_runs(profile)
    arguments = [
        "runs",
        "--profile",
        "smoke",
        "--backbones",
        "resnetv2_small32",
        "--losses",
        " ".join(losses),
        "--launcher",
        "slurm",
        "--slurm",
        ASKED,
    ]
    command = [sys.executable, "-m", "workbook", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_until(lambda: any(load_record(run) for run in runs))
    assert "queued" in workbook("status", "--profile", "smoke").stdout
    victims = []

    def just_begun():
        states, jobs = queue(), jobs_of(profile)
        victims[:] = [
            jobs[run.id]
            for run in runs
            if states.get(jobs[run.id]) == "RUNNING" and not live_path(run, ".lock").exists()
        ]
        return victims

    wait_until(just_begun)
    victim = victims[-1]
    subprocess.run(["scancel", victim], check=True)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert f"1 of {len(runs)} runs ended without a record" in said
    assert f"job {victim}" in said
    assert sum(load_record(run) is not None for run in runs) == len(runs) - 1
    again = workbook(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "SLURM: 1 runs submitted" in again.stdout
    assert all(load_record(run).status == "done" for run in runs)


LONG = """
title = "long enough to be preempted half way"
dataset = "digits"
mode = "scratch"
backbones = ["resnetv2_small32"]
losses = ["ldam_drw"]
seeds = [0]
train_sets = ["longtailed"]
[protocols.thesis]
max_count = 40
balanced_count = 4
val_per_class = 2
test_per_class = 4
longtailed_test = true
groups = "thesis"
imbalance_factor = 40.0
[recipe]
epochs = 12
batch_size = 16
optimizer = "sgd"
lr = 0.05
resolution = 32
[slurm]
gpus = 0
memory_gb = 0
cpus = 1
minutes = 10
"""


@pytest.mark.slow
@needs_slurm
def test_a_preempted_task_goes_on_from_its_checkpoint_to_the_same_results(
    slurm, out, tmp_path, monkeypatch
):
    (tmp_path / "long.toml").write_text(LONG)
    profile = load_profile(str(tmp_path / "long.toml"))
    (run,) = unique_runs(profile)
    command = [
        sys.executable,
        "-m",
        "workbook",
        "runs",
        "--profile",
        profile.path,
        "--launcher",
        "slurm",
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"CHECKPOINT_MINUTES": "0.02"},
    )
    path = live_path(run, ".json")
    wait_until(
        lambda: (
            live_path(run, ".pt").exists()
            and path.exists()
            and json.loads(path.read_text())["done"] > 0.1
        )
    )
    job = jobs_of(profile)[run.id]
    assert load_record(run) is None
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true"]
    subprocess.run(urgent, check=True, capture_output=True)
    wait_until(lambda: queue().get(job) == "PENDING")
    subprocess.run(
        ["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True
    )  # SLURM itself would wait two minutes
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    requeued = load_record(run)
    assert len(requeued.provenance["starts"]) == 2
    assert requeued.provenance["starts"][1]["epoch"] >= 1
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "undisturbed"))
    assert run_or_load(run, "cpu").results == requeued.results


@pytest.mark.slow
@needs_slurm
def test_what_slurm_refuses_is_an_error_that_says_so(slurm, out):
    refused = workbook(
        "runs", "--profile", "smoke", "--launcher", "slurm", "--slurm", f"{ASKED} partition=nowhere"
    )
    assert refused.returncode == 1
    assert "SLURM refused the job" in refused.stderr
    assert "nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr
