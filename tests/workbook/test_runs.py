import dataclasses
import errno
import multiprocessing
import os
import pty
import queue
import shlex
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time

import psutil
import pytest
import torch

from ltlib.checkpoints import Checkpoints
from ltlib.errors import ConfigError
from ltlib.files import ROOT
from ltlib.runs.devices import cpu_count
from ltlib.runs.profiles import load_profile, profile_names
from ltlib.runs.progress import live_path, run_state, unique_runs
from ltlib.runs.records import load_record, logits_path
from ltlib.runs.run import run_or_load
from workbook import RunsFailed
from workbook import runs as workbook_runs
from workbook.__main__ import parse
from workbook.runs import (
    compute_runs,
    default_jobs,
    free_memory,
    memory_needed,
    run_commands,
    start_worker,
)


def tiny(*losses, epochs=1):
    """Runs of one small backbone from scratch: softmax on balanced data, all on the long tail."""
    profile = load_profile("smoke", backbones=["resnetv2_small32"], losses=losses or ["softmax"])
    recipe = dataclasses.replace(profile.recipe, epochs=epochs)
    return dataclasses.replace(profile, mode="scratch", recipe=recipe)


def quiet(line):
    pass


def meanwhile(do):
    """Do something in a thread, while this one computes."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def wait_until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


@pytest.mark.slow
def test_records_do_not_depend_on_who_computes_them_and_what_is_done_stays(
    out, tmp_path, monkeypatch
):
    profile, said = tiny("softmax", "balanced_softmax"), []
    runs = unique_runs(profile)
    one = [run_or_load(run, "cpu") for run in runs]
    compute_runs(profile, jobs=1, device="cpu", say=said.append)
    assert said == ["smoke: 3 of 3 runs are done, 0 to go"]
    assert [load_record(run) for run in runs] == one
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "second"))
    compute_runs(profile, jobs=2, device="cpu", say=said.append)
    assert [load_record(run).results for run in runs] == [record.results for record in one]
    assert any("[3/3]" in line for line in said)


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(out, capfd):
    profile = tiny("softmax", "balanced_softmax")
    runs = unique_runs(profile)
    logits_path(runs[1]).mkdir(parents=True)  # a folder where its logits should be: writing fails
    with pytest.raises(RunsFailed, match=r"1 of 3 runs failed:\n.*IsADirectoryError"):
        compute_runs(profile, jobs=1, device="cpu", say=quiet)
    assert "Traceback" not in capfd.readouterr().err, "the message says it all"
    assert [run_state(run) for run in runs] == ["done", "interrupted", "done"]


@pytest.mark.slow
def test_pretraining_that_diverges_is_a_failure_that_names_the_recipe(out):
    profile = load_profile("smoke", backbones=["resnetv2_small32"], losses=["softmax"])
    recipe = dataclasses.replace(profile.pretraining.recipe, lr=1.0e30, epochs=3)
    pretraining = dataclasses.replace(profile.pretraining, recipe=recipe)
    with pytest.raises(RunsFailed, match=r"pretraining resnetv2_small32: .*\[pretraining.recipe\]"):
        compute_runs(dataclasses.replace(profile, pretraining=pretraining), 1, "cpu", quiet)


def test_a_killed_worker_is_explained(out):
    profile, before = tiny(epochs=100), set(multiprocessing.active_children())

    def kill():
        wait_until(lambda: any(live_path(run, ".json").exists() for run in unique_runs(profile)))
        (worker,) = set(multiprocessing.active_children()) - before
        os.kill(worker.pid, signal.SIGKILL)

    meanwhile(kill)
    with pytest.raises(RunsFailed, match=r"a worker process was killed.*smaller JOBS"):
        compute_runs(profile, jobs=1, device="cpu", say=quiet)


@pytest.mark.slow
def test_a_stopped_worker_stops_the_others_and_each_has_its_checkpoint(out):
    """Ctrl-C goes to all processes of a terminal; whichever hears of it first, it is one end."""
    profile, said = tiny(epochs=5000), []
    runs = unique_runs(profile)

    def stop():
        wait_until(lambda: all(live_path(run, ".json").exists() for run in runs))
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGTERM)

    meanwhile(stop)
    with pytest.raises(KeyboardInterrupt):
        compute_runs(profile, jobs=2, device="cpu", say=said.append)
    assert any("stopping: 0 of 2 runs are done" in line for line in said)
    assert [run_state(run) for run in runs] == ["interrupted", "interrupted"]


LONG = """
import sys
sys.path.insert(0, "tests/workbook")
from test_runs import compute_runs, quiet, tiny
if __name__ == "__main__":
    compute_runs(tiny(epochs=5000), 2, "cpu", quiet)
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(out, tmp_path):
    (tmp_path / "long.py").write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "long.py")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    runs = unique_runs(tiny(epochs=5000))
    wait_until(lambda: all(live_path(run, ".json").exists() for run in runs))
    os.kill(process.pid, signal.SIGKILL)  # the parent alone
    process.wait()
    group = ["pgrep", "-g", str(process.pid)]
    wait_until(lambda: subprocess.run(group, capture_output=True).returncode, 20)


SLOW_SAVE = """
import os, queue, signal, sys, time, torch
from pathlib import Path

from ltlib.checkpoints import Checkpoints
from workbook import runs

runs.GRACE = 0.1
devices = queue.SimpleQueue()
devices.put("cpu")
runs.start_worker(devices, dict(os.environ))
original = torch.save

def slow(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    original(*arguments)

torch.save = slow
Checkpoints(Path(sys.argv[1]), {}).save({"epoch": 1, "step": 0})
time.sleep(60)
"""


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_ends_after_the_checkpoint_that_it_is_writing(tmp_path):
    path = tmp_path / "run.pt"
    done = subprocess.run([sys.executable, "-c", SLOW_SAVE, str(path)], cwd=ROOT, timeout=50)
    assert done.returncode == 130
    assert Checkpoints(path, {}).load()["epoch"] == 1


# devices


def test_jobs_must_be_positive(out):
    with pytest.raises(ConfigError, match="JOBS = 0"):
        compute_runs(tiny(), jobs=0)


@pytest.mark.parametrize(("device", "jobs"), [("cpu", cpu_count()), ("cuda", 4), ("cuda:2", 1)])
def test_a_job_per_core_or_gpu_and_one_for_a_gpu_that_was_named(monkeypatch, device, jobs):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    runs = load_profile("whole").configs()
    monkeypatch.setattr(workbook_runs, "free_memory", lambda: 1e6)
    assert default_jobs(torch.device(device), runs) == jobs


def test_small_runs_share_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(workbook_runs, "cpu_count", lambda: 16)
    for name in ("scratch", "probe"):
        assert default_jobs(torch.device("cuda"), load_profile(name).configs()) == 8


@pytest.mark.parametrize(("free", "jobs"), [(1e3, 8), (16.0, 2), (3.0, 1)])
def test_no_more_runs_at_a_time_than_fit_into_memory(monkeypatch, free, jobs):
    """A run of MobileNetV2 at 128 px takes 5.0 to 5.5 GB at its peak."""
    said = []
    monkeypatch.setattr(workbook_runs, "cpu_count", lambda: 8)
    monkeypatch.setattr(workbook_runs, "free_memory", lambda: free)
    runs = load_profile("whole", backbones=["mobilenetv2_100"]).configs()
    assert 5.0 < memory_needed(runs[0]) < 6.0
    assert default_jobs(torch.device("cpu"), runs, said.append) == jobs
    assert bool(said) == (jobs < 8)


def test_memory_is_that_of_the_machine_or_of_its_container():
    assert 0 < free_memory() <= psutil.virtual_memory().total / 2**30


@pytest.fixture
def signals_kept():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("device", "chosen"), [("cpu", []), ("cpu:0", []), ("cuda", []), ("cuda:1", ["cuda:1"])]
)
def test_a_worker_takes_the_gpu_that_it_is_given(monkeypatch, signals_kept, device, chosen):
    """ "cuda" alone is the first GPU: torch.cuda.set_device would refuse it without a number."""
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.append(str(device)))
    monkeypatch.setenv("DEVICE", "auto")
    devices = queue.SimpleQueue()
    devices.put(device)
    start_worker(devices, dict(os.environ))
    assert taken == chosen
    assert os.environ["DEVICE"] == device


# other places


@pytest.mark.slow
def test_a_command_for_other_schedulers_computes_its_run_from_any_folder(out, tmp_path):
    profile = tiny()
    first, second = unique_runs(load_profile("smoke", profile.backbones, profile.losses))
    run_or_load(first, "cpu")
    narrowed = load_profile("smoke", profile.backbones, profile.losses)
    (command,) = run_commands(narrowed)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
    assert load_record(second).status == "done"
    assert run_commands(narrowed) == []


@pytest.mark.parametrize("name", ["smoke", "arconvl", "pf_loss_full", "gbg_cifar100", "probe"])
def test_each_command_stands_for_one_missing_run(out, name, monkeypatch):
    monkeypatch.setenv("LAUNCHER", "slurm")
    profile = load_profile(name)
    assert name in profile_names()
    runs, commands = unique_runs(profile), run_commands(profile)
    assert len(commands) == len(runs)
    for command, run in list(zip(commands, runs, strict=True))[:: max(1, len(runs) // 20)]:
        words = shlex.split(command)
        choices = parse(words[words.index("workbook") + 1 :])
        assert choices.jobs == 1
        assert choices.launcher == "local"
        assert unique_runs(choices.profile) == [run]
        assert f"LTLIB_OUT={out}" in words


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_folder_without_room_or_rights_is_named_before_anything_is_computed(
    out, monkeypatch, code
):
    def refuse(**_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    fault = rf"results/smoke cannot be written \({os.strerror(code)}\): make room, or take"
    with pytest.raises(ConfigError, match=fault):
        compute_runs(tiny(), jobs=1, device="cpu", say=quiet)


def test_another_launcher_is_refused(out):
    with pytest.raises(ConfigError, match="LAUNCHER = 'pbs': expected local or slurm"):
        compute_runs(tiny(), launcher="pbs")


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_and_a_live_line_per_run(out):
    """The real command on a pseudo-terminal: the bar of all; epoch, loss and time left of a run."""
    text = (ROOT / "profiles" / "smoke.toml").read_text()
    text = text.replace("epochs = 1\nbatch_size = 256", "epochs = 8\nbatch_size = 16")
    (out / "longer.toml").write_text(text.replace('"finetune"', '"scratch"'))
    command = [sys.executable, "-m", "workbook", "runs", "--profile", str(out / "longer.toml")]
    command += ["--backbones", "resnetv2_small32", "--losses", "softmax", "--jobs", "1"]
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 160))
    process = subprocess.Popen(
        [*command, "--train-sets", "longtailed"], cwd=ROOT, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    drawn = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # the other end is closed
            break
        drawn += part
    assert process.wait() == 0
    drawn = drawn.decode()
    assert "resnetv2_small32, thesis longtailed, softmax, seed 0: epoch" in drawn
    assert "s left" in drawn
    assert "1/1 [" in drawn
