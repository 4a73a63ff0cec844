"""Whatever stands in a profile, a record or a folder of photographs: an error of ours or a result.

Never another exception, never a file outside LTLIB_OUT, and never longer than ten seconds.
``FUZZ=2000`` in the environment tries so many faults of each kind; the tests try some.
"""

import copy
import json
import math
import os
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ltlib.errors import ConfigError, DataError
from ltlib.files import results_dir
from ltlib.report.tables import summarise
from ltlib.runs.profiles import PROFILES, load_profile, tomllib
from ltlib.runs.records import Record, RecordError, load_record, load_records, record_path
from ltlib.runs.run import run_or_load
from workbook.photographs import import_images

ONE = {"backbones": ["resnetv2_small32"], "losses": ["softmax"], "train_sets": ["longtailed"]}
TRIES = int(os.environ.get("FUZZ", "30"))
fuzzed = settings(
    max_examples=TRIES,
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

odd_texts = st.sampled_from(
    [
        "",
        "../x",
        "/etc/passwd",
        "own\\input{y}%",
        "=cmd|x",
        "$(touch x)",
        "nan",
        "1",
        "softmax",
        "ä",
    ]
)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 10**6, 10**9, 10**18]),
    st.floats(allow_nan=True, allow_infinity=True),
)
scalars = st.one_of(odd_texts, st.text(max_size=8), numbers, st.booleans())
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.text(min_size=1, max_size=8), scalars, max_size=3),
)


def places(table, path=()):
    """Every place in nested tables and lists."""
    items = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutated(draw, table):
    """The table with one to three of its values replaced, removed or put elsewhere."""
    table = copy.deepcopy(table)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(table))
        if not found:
            return table
        *way, key = draw(st.sampled_from(found))
        part = table
        for step in way:
            part = part[step]
        if draw(st.booleans()) or isinstance(part, list):
            part[key] = draw(values)
        elif draw(st.booleans()):
            del part[key]
        else:
            part[draw(st.text(min_size=1, max_size=8))] = draw(values)
    return table


def toml(value) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def files_below(folder):
    return {path for path in folder.rglob("*") if not path.is_dir()}


@given(data=st.data())
@fuzzed
def test_any_profile_is_an_error_of_ours_or_runs_with_places_of_their_own(out, tmp_path, data):
    name = data.draw(st.sampled_from(["smoke", "light", "arconvl", "probe", "gbg_cifar100"]))
    table = mutated(data.draw, tomllib.loads((PROFILES / f"{name}.toml").read_text()))
    path = tmp_path / "mine.toml"
    lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in table.items()]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        profile = load_profile(str(path))
    except ConfigError:
        return
    top = results_dir("")
    assert all(record_path(run).resolve().is_relative_to(top) for run in profile.configs())
    load_records(profile)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The record of a run, as JSON."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTLIB_OUT", str(folder))
        (run,) = load_profile("smoke", **ONE).configs()
        run_or_load(run, "cpu")
        return json.loads(record_path(run).read_text())


@given(data=st.data())
@fuzzed
def test_any_record_is_an_error_of_ours_or_makes_a_table(out, finished, data):
    profile = load_profile("smoke", **ONE)
    (run,) = profile.configs()
    path = record_path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mutated(data.draw, finished)))
    try:
        found = load_record(run)
    except RecordError:
        return
    assert isinstance(found, Record)
    table = summarise(load_records(profile))
    assert table["mean"].between(0, 1).all()


def png(seed):
    file = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


contents = st.one_of(
    st.integers(0, 30).map(png),
    st.integers(0, 30).flatmap(lambda seed: st.integers(1, 200).map(lambda n: png(seed)[:n])),
    st.binary(max_size=60),
    st.just(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
)
names = st.one_of(
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
    ),
    st.binary(min_size=1, max_size=6).map(lambda b: os.fsdecode(b.replace(b"/", b"").strip(b"\0"))),
    st.sampled_from(["a.png", "b.jpg", "=x.png", "train", "test", "val", "-", "ä.png"]),
).filter(lambda name: name.strip(".") and "\0" not in name and len(os.fsencode(name)) < 200)
kinds = st.sampled_from(["file", "file", "file", "file", "pipe", "loop", "nowhere"])
trees = st.dictionaries(
    names, st.dictionaries(names, st.tuples(kinds, contents), max_size=6), max_size=5
)


def write_tree(top, tree):
    for label, files in tree.items():
        (top / label).mkdir(parents=True, exist_ok=True)
        for name, (kind, content) in files.items():
            path = top / label / name
            match kind:
                case "file":
                    path.write_bytes(content)
                case "pipe":
                    os.mkfifo(path)
                case "loop":
                    path.symlink_to(path)
                case "nowhere":
                    path.symlink_to(top / "nowhere")


@given(tree=trees, size=st.sampled_from([8, 8, 8, 0, 10**9]))
@fuzzed
def test_any_folder_of_photographs_is_an_error_of_ours_or_a_data_set(out, tmp_path, tree, size):
    top = Path(tmp_path, "photographs")
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    write_tree(top, tree)
    before = files_below(tmp_path) - files_below(out / "build")
    try:
        made = import_images(top, size=size, say=lambda line: None)
    except (ConfigError, DataError) as error:
        shown = str(error).encode()
    else:
        shown = made.report().encode()
        assert len(made.class_names) >= 2
        assert min(made.train) >= 1
    assert shown
    assert files_below(tmp_path) - files_below(out / "build") == before
