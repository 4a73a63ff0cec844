import dataclasses
import errno
import itertools
import json
import os
import pty
import queue
import subprocess
import sys
import termios
import threading
import time
import types

import pytest

from ltlib import engine, launch, training
from ltlib.config import ConfigError, load_profile
from ltlib.engine import Stopped
from ltlib.launch import RunsFailed, compute_runs, default_jobs, run_state, unique_runs
from ltlib.records import load_record, logits_path, record_path


def tiny(**changes):
    """Two runs of one small backbone."""
    return load_profile("smoke", backbones=["resnetv2_small32"], losses=changes.pop("losses", ["softmax", "balanced_softmax"]))


def die(*_):
    os._exit(9)


def stop(*_):
    raise Stopped


def results_of(profile):
    return {run.id: load_record(run).results for run in unique_runs(profile)}


def test_identical_runs_are_computed_once():
    assert [(r.train_set, r.loss) for r in unique_runs(tiny())] == [
        ("balanced", "softmax"), ("longtailed", "softmax"), ("longtailed", "balanced_softmax")]


def test_records_do_not_depend_on_the_number_of_jobs(out, monkeypatch, tmp_path):
    profile, said = tiny(), []
    compute_runs(profile, jobs=1, device="cpu", say=said.append)
    one = results_of(profile)
    assert any("[3/3]" in line for line in said)
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "second"))
    compute_runs(profile, jobs=2, device="cpu", say=said.append)
    assert results_of(profile) == one


def test_nothing_is_done_when_all_is_there(out, monkeypatch):
    profile, said = tiny(losses=["softmax"]), []
    compute_runs(profile, jobs=1, device="cpu", say=said.append)
    monkeypatch.setattr(launch, "prepare", lambda *_: pytest.fail("prepared again"))
    compute_runs(profile, jobs=1, device="cpu", say=said.append)
    assert "2 of 2 runs are done, 0 to go" in said[-1]


def test_a_failing_run_does_not_stop_the_others(out, capfd):
    profile = tiny()
    runs = unique_runs(profile)
    logits_path(runs[1]).mkdir(parents=True)  # a folder where its logits should be: writing fails
    with pytest.raises(RunsFailed, match=r"1 of 3 runs failed:\n.*IsADirectoryError"):
        compute_runs(profile, jobs=1, device="cpu", say=lambda line: None)
    assert "Traceback" not in capfd.readouterr().err, "the message says it all"
    assert [run_state(run) for run in runs] == ["done", "interrupted", "done"]


def test_a_killed_worker_is_explained(out, monkeypatch):
    monkeypatch.setattr(launch, "_run", die)
    profile = tiny(losses=["softmax"])
    with pytest.raises(RunsFailed, match="smaller JOBS"):
        compute_runs(profile, jobs=1, device="cpu", say=lambda line: None)


def test_a_stopped_worker_stops_the_others(out, monkeypatch):
    """Ctrl-C goes to all processes of a terminal; whichever hears of it first, it is one and the same end."""
    monkeypatch.setattr(launch, "_run", stop)
    said = []
    with pytest.raises(KeyboardInterrupt):
        compute_runs(tiny(losses=["softmax"]), jobs=1, device="cpu", say=said.append)
    assert any("stopping: 0 of 2 runs are done" in line for line in said)


def test_states_of_a_run(out):
    run = unique_runs(tiny())[0]
    assert run_state(run) == "missing"
    record_path(run).parent.mkdir(parents=True)
    record_path(run).write_text("{")
    assert run_state(run) == "unreadable"
    record_path(run).unlink()
    diverging = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, lr=1.0e30, epochs=2))
    assert "diverged" in launch._run(diverging, "cpu")
    assert run_state(diverging) == "diverged"


def test_a_run_whose_lock_is_not_ours_has_a_state_all_the_same(out, monkeypatch):
    run = unique_runs(tiny())[0]
    training.live_path(run, "").parent.mkdir(parents=True)
    for suffix in (".lock", ".pt"):
        training.live_path(run, suffix).write_text("")

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(launch, "exclusive", refuse)
    assert run_state(run) == "interrupted"


@pytest.mark.parametrize("text", ["", "[]", "7", '{"epoch": 1}', '{"epoch": null}'])
def test_progress_that_is_none_is_no_progress(out, text):
    run = unique_runs(tiny())[0]
    path = training.live_path(run, ".json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert launch.run_progress(run) is None


def test_jobs_must_be_positive_and_default_to_the_cores(out):
    with pytest.raises(ConfigError, match="JOBS = 0"):
        compute_runs(tiny(), jobs=0)
    assert default_jobs(training.torch.device("cpu")) == training.cpu_count() >= 1


def test_each_gpu_gets_a_worker(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 4)
    assert default_jobs(launch.torch.device("cuda")) == 4


def test_a_gpu_that_was_named_gets_one_worker(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 4)
    assert default_jobs(launch.torch.device("cuda:2")) == 1


@pytest.mark.parametrize(("device", "chosen"), [("cpu", []), ("cpu:0", []), ("cuda", []), ("cuda:1", ["cuda:1"])])
def test_a_worker_takes_the_gpu_that_it_is_given(monkeypatch, device, chosen):
    """"cuda" alone is the first GPU: torch.cuda.set_device would refuse a device without a number."""
    taken = []
    monkeypatch.setattr(launch.torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    monkeypatch.setattr(launch.multiprocessing, "parent_process", lambda: types.SimpleNamespace(join=threading.Event().wait))
    devices = queue.SimpleQueue()
    devices.put(device)
    launch._start_worker(devices)
    assert taken == chosen
    assert launch._device == device


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert launch.duration(seconds) == text


# ------------------------------------------------------------------------------------ following, other schedulers


def test_the_commands_for_other_schedulers_compute_what_is_missing_and_nothing_else(out, tmp_path):
    profile = tiny(losses=["softmax", "balanced_softmax", "logit_adjusted"])
    runs = unique_runs(profile)
    compute_runs(dataclasses.replace(profile, losses=("softmax",), train_sets=("balanced",)), jobs=1, device="cpu", say=lambda line: None)
    commands = launch.run_commands(profile)
    assert len(commands) == len(runs) - 1 == 3
    for command, run in zip(commands, runs[1:], strict=True):
        assert load_record(run) is None
        subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
        assert load_record(run).status == "done"
    assert launch.run_commands(profile) == []


def test_make_runs_list_prints_nothing_but_commands(out, capsys):
    from ltlib.__main__ import main

    assert main(["runs-list", "--profile", "smoke", "--losses", "focal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("env -C ") and f"LTLIB_OUT={out}" in line and "--losses focal" in line for line in lines)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_without_room_or_rights_is_named_before_anything_is_computed(out, monkeypatch, code):
    def refuse(**kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(launch.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match=rf"results/smoke cannot be written \({os.strerror(code)}\): make room, or take"):
        compute_runs(tiny(), jobs=1, device="cpu", say=lambda line: None)


def test_another_launcher_is_refused(out):
    with pytest.raises(ConfigError, match="LAUNCHER = 'pbs': expected local or slurm"):
        compute_runs(tiny(), launcher="pbs")


def test_without_slurm_the_error_names_the_other_ways(out, monkeypatch):
    monkeypatch.setenv("PATH", str(out))
    with pytest.raises(ConfigError, match=r"squeue was not found.*make runs-list"):
        compute_runs(tiny(), device="cpu", say=lambda line: None, launcher="slurm")


def test_a_damaged_list_of_slurm_jobs_is_named(out):
    path = launch._jobs_path(tiny())
    path.parent.mkdir(parents=True)
    for text in ("{", "[1]"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"jobs.json: expected the SLURM job of each run.*remove the file"):
            launch.slurm_jobs(tiny())


def task_device(monkeypatch, gpus, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    monkeypatch.setattr(launch, "outcome_line", lambda _: "done")
    monkeypatch.setattr(launch, "run_or_load", lambda config, device, say: asked.append(device))
    assert launch.SlurmTask(gpus)(None) == "done"
    return asked[0]


def test_a_slurm_task_that_asked_for_a_gpu_never_falls_back_to_the_cpu(monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    assert task_device(monkeypatch, 1) == "cuda"
    assert task_device(monkeypatch, 0) == "auto"
    assert task_device(monkeypatch, 1, DEVICE="cpu") == "cpu"


def test_two_at_once_submit_a_run_once(out, monkeypatch):
    profile, submitted, queued = tiny(losses=["softmax"]), [], {}

    def submit(profile, runs):
        time.sleep(0.5)
        submitted.extend(run.id for run in runs)
        jobs = {run.id: f"1_{i}" for i, run in enumerate(runs)}
        queued.update(dict.fromkeys(jobs.values(), "PENDING"))
        return jobs

    monkeypatch.setattr(launch, "slurm_states", lambda: dict(queued))
    monkeypatch.setattr(launch, "_submit", submit)
    runs = unique_runs(profile)
    following = [threading.Thread(target=compute_runs, args=(profile,), kwargs={"say": lambda line: None, "launcher": "slurm"})
                 for _ in range(2)]
    for thread in following:
        thread.start()
    time.sleep(3)
    for run in runs:
        training.run_or_load(run, "cpu")
    for thread in following:
        thread.join()
    assert sorted(submitted) == sorted(run.id for run in runs)


SLOW_SAVE = """
import os, queue, signal, sys, threading, time, torch, types
from pathlib import Path
from ltlib import engine, launch

launch.GRACE = 0.1
devices = queue.SimpleQueue()
devices.put("cpu")
launch.multiprocessing.parent_process = lambda: types.SimpleNamespace(join=threading.Event().wait)
launch._start_worker(devices)
original = torch.save

def slow(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    original(*arguments)

torch.save = slow
engine.Checkpoints(Path(sys.argv[1]), {}).save({"epoch": 1, "step": 0})
time.sleep(60)
"""


def test_a_worker_that_is_told_to_end_ends_after_the_checkpoint_that_it_is_writing(tmp_path):
    path = tmp_path / "run.pt"
    done = subprocess.run([sys.executable, "-c", SLOW_SAVE, str(path)], cwd=launch.ROOT, timeout=50)
    assert done.returncode == 130
    assert engine.Checkpoints(path, {}).load()["epoch"] == 1


def test_the_last_words_of_a_task_are_its_own_and_not_sruns(out):
    folder = launch._jobs_path(tiny()).parent / "7"
    folder.mkdir(parents=True)
    assert launch._last_words(tiny(), "7_1") == f"(no log in {folder})"
    log = folder / "7_1_0_log.err"
    log.write_text("Traceback ...\nConfigError: DEVICE = 'cuda': no\nsrun: error: node: task 0: Exited with exit code 1\n")
    assert launch._last_words(tiny(), "7_1") == f"(ConfigError: DEVICE = 'cuda': no; {log})"
    log.write_text("slurmstepd: error: *** STEP CANCELLED ***\n")
    assert "STEP CANCELLED" in launch._last_words(tiny(), "7_1")


def test_while_the_queue_does_not_answer_records_still_count_and_it_is_said_once(out, monkeypatch):
    """squeue answers when the jobs are submitted and then never again; all records come in."""
    profile, said, answers = tiny(losses=["softmax"]), [], iter([{}])
    runs = unique_runs(profile)

    def states():
        for answer in answers:
            return answer
        raise ConfigError("squeue does not answer")

    def later(_):
        slept.append(1)
        if len(slept) % 3 == 0:
            training.run_or_load(next(run for run in runs if load_record(run) is None), "cpu")

    slept = []
    monkeypatch.setattr(launch, "ASK_EVERY", 0)
    monkeypatch.setattr(launch, "slurm_states", states)
    monkeypatch.setattr(launch, "_submit", lambda profile, runs: {run.id: f"1_{i}" for i, run in enumerate(runs)})
    monkeypatch.setattr(launch.time, "sleep", later)
    compute_runs(profile, say=said.append, launcher="slurm")
    assert [line for line in said if "does not answer" in line] == ["squeue does not answer; asking again every 0 s"]
    assert "[2/2]" in said[-1]


def test_a_requeued_task_is_not_given_up(out, monkeypatch):
    """It leaves the queue for a moment and comes back: the time that it was gone starts anew."""
    profile, now = tiny(losses=["softmax"]), [0.0]
    run = unique_runs(profile)[1]
    profile = dataclasses.replace(profile, train_sets=("longtailed",))
    answers = itertools.chain([{}, {}, {"1_0": "PENDING"}], itertools.repeat({}))
    monkeypatch.setattr(launch, "ASK_EVERY", 0)
    monkeypatch.setattr(launch, "slurm_states", lambda: next(answers))
    monkeypatch.setattr(launch, "_submit", lambda profile, runs: {run.id: "1_0"})
    monkeypatch.setattr(launch.time, "monotonic", lambda: now[0])

    def sleep(_):
        now[0] += launch.LATE - 1
        if now[0] == 4 * (launch.LATE - 1):
            training.run_or_load(run, "cpu")

    monkeypatch.setattr(launch.time, "sleep", sleep)
    compute_runs(profile, say=lambda line: None, launcher="slurm")
    assert load_record(run).status == "done"


def under_way(run, **state):
    path = training.live_path(run, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"epoch": 3, "epochs": 8, "done": 0.3, "loss": 1.25, "seconds_left": 100.0, "updated": time.time()} | state))


def test_in_a_log_each_run_under_way_gets_a_line_about_every_20_s(out, monkeypatch):
    runs, said = unique_runs(tiny()), []
    display = launch._Display(runs, 2, said.append)
    under_way(runs[0], updated=display.start - 5)  # left over from a process that was killed
    display.refresh()
    for second in range(1, 50):
        under_way(runs[1], updated=display.start + second)
        display.refresh()
    assert said == [f"{runs[1].describe()}: epoch 3/8, loss 1.250, 2 min left"] * 2
    display.finished(runs[1], "fine")
    assert said[-1] == f"[1/3] {runs[1].describe()}: fine"
    display.close()


def test_on_a_terminal_there_is_a_bar_and_a_live_line_per_run(out):
    """The real command on a pseudo-terminal: what it draws holds the overall bar, and epoch, loss and time left of a run."""
    command = [sys.executable, "-m", "ltlib", "runs", "--profile", str(out / "longer.toml"), "--jobs", "1"]
    text = (launch.ROOT / "ltlib" / "profiles" / "smoke.toml").read_text()
    text = text.replace("epochs = 1\nbatch_size = 256", "epochs = 40\nbatch_size = 16").replace('mode = "finetune"', 'mode = "scratch"')
    (out / "longer.toml").write_text(text)
    command += ["--backbones", "resnetv2_small32", "--losses", "softmax ldam", "--train-sets", "longtailed"]
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 160))
    process = subprocess.Popen(command, cwd=launch.ROOT, stdout=terminal, stderr=terminal)
    os.close(terminal)
    drawn = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:
            break
        if not part:
            break
        drawn += part
    assert process.wait() == 0
    drawn = drawn.decode()
    assert "resnetv2_small32, thesis longtailed, softmax, seed 0: epoch" in drawn
    assert "s left" in drawn
    assert "2/2 [" in drawn
