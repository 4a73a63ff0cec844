"""``LAUNCHER=slurm`` on a real SLURM of one node, started for these tests alone and stopped after them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from ltlib.config import ROOT, load_profile
from ltlib.launch import compute_runs, slurm_jobs, slurm_states, unique_runs
from ltlib.records import load_record
from ltlib.training import live_path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
ASKED = "gpus=0 memory_gb=0 cpus=1 concurrency=2 minutes=10"


def missing_for_slurm() -> str:
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        return f"SLURM is not installed: {', '.join(missing)} not found (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "a SLURM node can only be started by root"


pytestmark = pytest.mark.skipif(bool(missing_for_slurm()), reason=missing_for_slurm())

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
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2)))
    munged = ["munged", "--force", *(f"--{option}={folder}/munge.{end}" for option, end in (
        ("socket", "sock"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed")))]
    try:
        for command in (munged, ["slurmctld"], ["slurmd", "-N", host]):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        deadline = time.monotonic() + 30
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline, "\n".join(p.read_text() for p in folder.glob("slurm*.log"))
            time.sleep(0.2)
        yield folder
    finally:
        subprocess.run(["scancel", "--me"], capture_output=True)
        for name in ("slurmd", "slurmctld", "munge"):
            if (folder / f"{name}.pid").exists():
                subprocess.run(["kill", (folder / f"{name}.pid").read_text().strip()])
        patch.undo()


def ltlib(*arguments):
    return subprocess.run([sys.executable, "-m", "ltlib", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


def test_the_smoke_profile_with_a_cancelled_task_ends_with_complete_records(slurm, out):
    losses = ["softmax", "focal", "balanced_softmax", "gbg"]
    profile = load_profile("smoke", losses=losses)
    runs = unique_runs(profile)
    arguments = ["runs", "--profile", "smoke", "--losses", " ".join(losses), "--launcher", "slurm", "--slurm", ASKED]
    command = [sys.executable, "-m", "ltlib", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: sum(load_record(run) is not None for run in runs) >= 6)
    assert "queued" in ltlib("status", "--profile", "smoke").stdout
    victims = []

    def just_begun():
        states, jobs = slurm_states(), slurm_jobs(profile)
        victims[:] = [jobs[run.id] for run in runs if states.get(jobs[run.id]) == "RUNNING" and not live_path(run, ".lock").exists()]
        return victims

    wait_until(just_begun)
    victim = victims[-1]
    subprocess.run(["scancel", victim], check=True)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert f"1 of {len(runs)} runs ended without a record" in said
    assert f"job {victim}" in said
    assert sum(load_record(run) is not None for run in runs) == len(runs) - 1
    again = ltlib(*arguments)
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
epochs = 20
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


def test_a_preempted_task_goes_on_from_its_checkpoint_to_the_same_results(slurm, out, tmp_path, monkeypatch):
    (tmp_path / "long.toml").write_text(LONG)
    profile = load_profile(str(tmp_path / "long.toml"))
    run, = unique_runs(profile)
    command = [sys.executable, "-m", "ltlib", "runs", "--profile", profile.path, "--launcher", "slurm"]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=os.environ | {"CHECKPOINT_MINUTES": "0.02"})
    path = live_path(run, ".json")
    wait_until(lambda: live_path(run, ".pt").exists() and path.exists() and json.loads(path.read_text())["done"] > 0.1)
    job = slurm_jobs(profile)[run.id]
    assert load_record(run) is None
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true"]
    subprocess.run(urgent, check=True, capture_output=True)
    wait_until(lambda: slurm_states()[job] == "PENDING")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)  # SLURM itself would wait two minutes
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    requeued = load_record(run)
    assert len(requeued.provenance["starts"]) == 2
    assert requeued.provenance["starts"][1]["epoch"] >= 1
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "undisturbed"))
    compute_runs(profile, jobs=1, device="cpu", say=lambda line: None)
    assert load_record(run).results == requeued.results


def test_what_slurm_refuses_is_an_error_that_says_so(slurm, out):
    refused = ltlib("runs", "--profile", "smoke", "--launcher", "slurm", "--slurm", f"{ASKED} partition=nowhere")
    assert refused.returncode == 1
    assert "SLURM refused the job" in refused.stderr
    assert "nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr
