"""Runs that are killed, stopped, started twice or have nowhere to write: each ends in its one clear
way, and nothing is lost.
"""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import save_file

from ltlib.files import ROOT, output_root
from ltlib.runs import load_profile, load_record, run_or_load
from ltlib.runs.progress import live_path, unique_runs
from ltlib.runs.records import record_path
from ltlib.runs.run import model_path
from workbook.__main__ import main

pytestmark = pytest.mark.slow
PROFILE = """
title = "to be killed"
dataset = "digits"
mode = "{mode}"
backbones = ["{backbone}"]
losses = ["{loss}"]
seeds = [0]
train_sets = ["longtailed"]
[protocols.thesis]
max_count = 10
balanced_count = 4
val_per_class = 2
test_per_class = 4
longtailed_test = true
groups = "thesis"
imbalance_factor = 10.0
[recipe]
epochs = {epochs}
batch_size = 16
optimizer = "adamw"
lr = 1.0e-3
weight_decay = 0.05
warmup_epochs = 1.0
clip_grad = 1.0
crop_padding = 2
flip = true
resolution = 32
{more}
"""
KINDS = {
    "finetune": {
        "mode": "finetune",
        "backbone": "mobilenetv2_035",
        "loss": "equalization",
        "epochs": 3,
    },
    "light, ldam and drw": {
        "mode": "light",
        "backbone": "mobilenetv2_035",
        "loss": "ldam_drw",
        "epochs": 3,
        "more": 'light = "bias_norm"\nhead_init = "class_means"',
    },
    "probe": {"mode": "probe", "backbone": "mobilenetv2_035", "loss": "softmax", "epochs": 10},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of a small timm model."""
    import timm
    import torch

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(
        timm.create_model("mobilenetv2_035").state_dict(), folder / "mobilenetv2_035.safetensors"
    )
    (folder / "mobilenetv2_035.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3}))
    return folder


@pytest.fixture
def make(tmp_path, weights, monkeypatch, fresh_caches):
    """A profile of the kind asked for, and the command that computes its runs."""
    monkeypatch.setenv("LTLIB_WEIGHTS", str(weights))
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "out"))

    def profile(kind, **changes):
        path = tmp_path / "killed.toml"
        path.write_text(PROFILE.format(**({"more": ""} | KINDS[kind] | changes)))
        return load_profile(str(path))

    return profile


def start(profile, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "workbook", "runs", "--profile", profile.path, "--jobs", "1"],
        cwd=ROOT,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


# processes that have everything loaded already: only what is to be killed is waited for
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.loaded"])


def train(profile):
    """A process that trains the one run of this profile."""
    process = FORKS.Process(target=_train, args=(profile.path, dict(os.environ)))
    process.start()
    return process


def _train(path, environment):
    os.environ.clear()
    os.environ.update(environment)
    run_or_load(*load_profile(path).configs(), "cpu")


def finish(process, timeout=300):
    said, _ = process.communicate(timeout=timeout)
    return process.returncode, said


def wait_until(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_five_random_moments_it_ends_with_the_same_bytes(
    kind, make, monkeypatch, tmp_path
):
    profile = make(kind)
    (run,) = unique_runs(profile)
    run_or_load(run, "cpu")
    undisturbed, undisturbed_weights = load_record(run), model_path(run).read_bytes()
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "killed"))
    (tmp_path / "killed" / "build").mkdir(parents=True)
    (tmp_path / "killed" / "build" / "cache").symlink_to(tmp_path / "out" / "build" / "cache")
    monkeypatch.setenv("CHECKPOINT_MINUTES", "0")
    seed = random.randrange(1000)
    moments = random.Random(seed)
    for _ in range(5):
        before = live_path(run, ".pt").stat().st_mtime_ns if live_path(run, ".pt").exists() else 0
        process = train(profile)
        deadline = time.monotonic() + 300
        while (
            not live_path(run, ".pt").exists() or live_path(run, ".pt").stat().st_mtime_ns == before
        ):
            assert process.is_alive(), f"it ended before it wrote a checkpoint (seed {seed})"
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.join()
        assert load_record(run) is None, f"it was over before it was killed (seed {seed})"
    process = train(profile)
    process.join(300)
    assert process.exitcode == 0
    record = load_record(run)
    assert len(record.provenance["starts"]) == 6, f"seed {seed}"
    positions = [(s["epoch"], s["step"]) for s in record.provenance["starts"]]
    assert positions == sorted(set(positions)), "every start goes on from a later step"
    assert (record.config, record.status, record.results) == (
        undisturbed.config,
        undisturbed.status,
        undisturbed.results,
    ), f"seed {seed}"
    assert model_path(run).read_bytes() == undisturbed_weights, f"seed {seed}"
    assert not live_path(run, ".pt").exists()
    assert not live_path(run, ".json").exists()


def test_ctrl_c_stops_within_seconds_writes_a_checkpoint_and_says_how_to_go_on(make, capsys):
    profile = make("finetune", epochs=500)
    (run,) = unique_runs(profile)
    process = start(profile)
    wait_until(lambda: live_path(run, ".json").exists(), process)
    time.sleep(1)
    before = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    code, said = finish(process, timeout=30)
    assert time.monotonic() - before < 12
    assert code == 130, said
    assert "stopped; the same command goes on from there" in said
    assert "Traceback" not in said
    process = start(profile)
    wait_until(lambda: json.loads(live_path(run, ".json").read_text())["done"] > 0.01, process)
    main(["status", "--profile", profile.path])
    said = capsys.readouterr().out
    assert "1 running" in said
    assert "running: mobilenetv2_035, thesis longtailed, equalization, seed 0: epoch" in said
    os.kill(process.pid, signal.SIGTERM)  # to the parent alone, as SLURM and docker do
    code, said = finish(process, timeout=30)
    assert code == 130, said
    assert live_path(run, ".pt").exists()
    main(["status", "--profile", profile.path])
    assert "1 interrupted" in capsys.readouterr().out


def test_two_at_once_share_the_work_and_compute_nothing_twice(make):
    profile = make("finetune", epochs=2, loss='softmax", "focal", "ldam')
    processes = [start(profile), start(profile)]
    said = [finish(process) for process in processes]
    assert [code for code, _ in said] == [0, 0], said
    runs = unique_runs(profile)
    assert all(load_record(run) for run in runs)
    first, second = (text for _, text in said)
    assert "[3/3]" in first
    assert "[3/3]" in second
    starts = [load_record(run).provenance.get("starts") for run in runs]
    assert starts == [None] * 3


def test_a_full_disk_is_named_and_a_later_start_goes_on(make):
    """The system refuses every file above 1 MB, as a full disk would; results that fit are kept."""
    profile = make("finetune", epochs=2)
    (run,) = unique_runs(profile)
    command = [sys.executable, "-m", "workbook", "runs", "--profile", profile.path, "--jobs", "1"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))  # noqa: E731
    full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    said = full.stdout + full.stderr
    assert full.returncode == 1
    assert "checkpoint not written" in said
    assert "Training goes on" in said
    assert "1 of 1 runs failed" in said
    assert load_record(run) is None
    assert not [p for p in output_root().rglob("*.tmp*") if p.is_file()], "half a file is left"
    code, said = finish(start(profile))
    assert code == 0, said
    assert load_record(run).status == "done"


def test_a_folder_that_cannot_be_written_stops_before_anything_is_computed(
    make, tmp_path, monkeypatch
):
    profile = make("finetune")
    (tmp_path / "file").write_text("")
    code, said = finish(start(profile, LTLIB_OUT=str(tmp_path / "file")))
    assert code == 1
    assert "cannot be written (Not a directory)" in said
    assert "LTLIB_OUT" in said
    assert "Nothing was computed" in said
    assert "Traceback" not in said


def test_a_record_of_another_schema_stops_everything_and_is_kept(make):
    profile = make("probe")
    (run,) = unique_runs(profile)
    record_path(run).parent.mkdir(parents=True)
    parts = {"id": run.id, "status": "done", "config": {}, "results": {}, "provenance": {}}
    record_path(run).write_text(json.dumps({"schema": 99} | parts))
    code, said = finish(start(profile))
    assert code == 1
    assert "has schema 99, expected 1. Remove the file to run it again." in said
    assert '"schema": 99' in record_path(run).read_text()
