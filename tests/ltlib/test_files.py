import os
import subprocess
import sys

import pytest

from ltlib import files
from ltlib import files as files_module
from ltlib.files import (
    HOST,
    ROOT,
    Busy,
    atomic_path,
    build_dir,
    data_dir,
    exclusive,
    figures_dir,
    output_root,
    results_dir,
    sweep,
)


@pytest.mark.parametrize(
    ("variable", "place"), [("LTLIB_OUT", output_root), ("LTLIB_DATA", data_dir)]
)
def test_places_follow_the_environment_and_an_empty_variable_is_none(
    monkeypatch, tmp_path, variable, place
):
    monkeypatch.setenv(variable, str(tmp_path))
    assert place() == tmp_path
    monkeypatch.setenv(variable, "")
    assert place().is_relative_to(ROOT)


def test_what_a_profile_makes_lies_in_folders_of_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    places = [place("mine") for place in (results_dir, figures_dir, build_dir)]
    assert places == [tmp_path / "results/mine", tmp_path / "figures/mine", tmp_path / "build/mine"]


def test_atomic_path_replaces_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "file.json"
    for text in ("one", "two"):
        with atomic_path(path) as partial:
            partial.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_atomic_path_leaves_the_old_file_alone_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"


@pytest.mark.parametrize("before", [["file"], []], ids=["old file", "no file"])
def test_an_error_leaves_the_old_file_or_none_and_no_temporary_one(tmp_path, before):
    path = tmp_path / "file"
    for name in before:
        (tmp_path / name).write_text("old")

    def fail_half_way():
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert [p.name for p in tmp_path.iterdir()] == before
    assert not before or path.read_text() == "old"


def test_the_temporary_file_keeps_the_suffix(tmp_path):
    """Writers such as NumPy's and matplotlib's go by the suffix."""
    with atomic_path(tmp_path / "a.npz") as partial:
        partial.write_text("")
        assert partial.suffix == ".npz"


def test_what_killed_processes_of_this_machine_left_is_swept_away(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    monkeypatch.setattr(files_module, "HOST", "here")
    dead, alive = 4194399, os.getpid()
    names = [
        f".id.json.here.{dead}.1.tmp.json",
        f".id.json.here.{alive}.1.tmp.json",
        f".id.json.there.{dead}.1.tmp.json",
        "id.json",
    ]
    for name in names:
        path = results_dir("smoke") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    folders = [
        build_dir("smoke") / "notebooks" / f".01_a.here.{pid}.x.tmp" for pid in (dead, alive)
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "notebook.ipynb").write_text("half")
    sweep("smoke")
    assert sorted(p.name for p in results_dir("smoke").iterdir()) == sorted(names[1:])
    assert [folder.exists() for folder in folders] == [False, True]


def test_a_sweep_passes_over_what_it_may_not_remove(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    path = results_dir("smoke") / f".a.json.{HOST}.4194399.1.tmp.json"
    path.parent.mkdir(parents=True)
    path.write_text("half")

    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(files.os, "unlink", refuse)
    sweep("smoke")
    assert path.exists()


def test_temporary_files_are_those_that_a_sweep_knows(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))

    def gone(pid, signal):
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    writing = atomic_path(results_dir("smoke") / "a.json")
    partial = writing.__enter__()
    partial.write_text("half")
    sweep("smoke")
    assert not partial.exists()


def test_one_process_at_a_time_makes_a_file(tmp_path):
    said = []
    with exclusive(tmp_path / "deep" / "file", "it is being made", said.append):
        with (
            pytest.raises(Busy, match="it is being made"),
            exclusive(tmp_path / "deep" / "file", "it is being made", wait=False),
        ):
            pytest.fail("both at once")
        with exclusive(tmp_path / "deep" / "another", "that too", wait=False):
            pass
    with exclusive(tmp_path / "deep" / "file", "it is being made", wait=False):
        pass
    assert said == []


def test_a_process_that_waits_says_so_and_goes_on_when_the_other_is_killed(tmp_path):
    hold = (
        "from pathlib import Path; from ltlib.files import exclusive; import time\nwith"
        f" exclusive(Path({str(tmp_path / 'file')!r}), ''): print('held', flush=True);"
        " time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    said = []

    def say(line):
        said.append(line)
        other.kill()

    with exclusive(tmp_path / "file", "it is being made", say):
        assert said == ["it is being made: waiting for it"]
    other.communicate()
