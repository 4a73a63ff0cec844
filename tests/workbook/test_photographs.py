"""Photographs of one's own: three layouts, every fault by name, the cache, and notebook 16 from
images to the table and a prediction."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ltlib.data import IMPORTED, load_dataset
from ltlib.data import photographs as reading
from ltlib.data.photographs import image_files, read_image
from ltlib.data.sizes import dataset_size
from ltlib.errors import ConfigError, DataError
from ltlib.files import ROOT, imported_dir
from ltlib.protocol import longtailed_counts, make_splits
from ltlib.runs.profiles import load_profile
from workbook.notebooks import NOTEBOOKS, pages
from workbook.photographs import (
    Imported,
    import_images,
    imported,
    importing,
    write_demonstration,
    write_profile,
)
from workbook.photographs.importing import assign_parts
from workbook.photographs.listing import Photograph

SIZE = 16


def quiet(line):
    pass


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An LTLIB_OUT of each test's own: imported data sets are known by their content."""
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "out"))
    return tmp_path


def photograph(path, seed, shape=(20, 24)):
    """A file with a picture that only this seed has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folder(top, counts, start=0):
    """<top>/<class>/<number>.png; every photograph is another one."""
    for label, count in counts.items():
        (top / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            start += 1
            photograph(top / label / f"{number}.png", start)
    return top


COUNTS = {"luna": 10, "atlas moth": 20, "io": 3, "owl": 1, "hawk": 2}


@pytest.fixture
def moths(place):
    return folder(place / "moths", COUNTS)


def get(source, *parts, **options):
    return import_images(source, *parts, **{"size": SIZE, "say": quiet, **options})


# from others


@pytest.mark.parametrize("name", ["luna/x.jpg", "luna/x.eps"])
def test_no_other_program_reads_a_photograph(place, moths, monkeypatch, name):
    """Pillow would have Ghostscript run what a PostScript file says, whatever it is called."""
    (moths / name).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\nshowpage\n")
    monkeypatch.setattr(subprocess, "Popen", None)
    faults = get(moths).faults
    assert faults["left out, no whole image"] == [f"{name} (not an image)"]


@pytest.mark.parametrize("where", ["file", "class"])
def test_names_that_are_no_text_are_named(moths, where):
    odd = os.fsdecode(b"caf\xe9")
    if where == "class":
        folder(moths, {odd: 3}, start=900)
    else:
        photograph(moths / "luna" / f"{odd}.png", 900)
    with pytest.raises(DataError, match=r"(?s)expected names in UTF-8.*caf\\udce9.*Rename them"):
        get(moths)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "luna/../../secret.png"])
@pytest.mark.parametrize("kind", ["list", "json"])
def test_a_list_reads_nothing_outside_its_root(place, moths, name, kind):
    photograph(place / "secret.png", 900)
    path = place / "moths" / f"theirs.{'json' if kind == 'json' else 'txt'}"
    if kind == "list":
        path.write_text(f"luna/0.png luna\n{name} luna\n")
    else:
        files = ["luna/0.png", name]
        images = [{"id": i, "file_name": file} for i, file in enumerate(files)]
        annotations = [{"image_id": i, "category_id": 0} for i in range(2)]
        table = {"images": images, "annotations": annotations}
        path.write_text(json.dumps(table | {"categories": [{"id": 0, "name": "luna"}]}))
    message = rf"(?s)expected files below .*1 lie outside.*{re.escape(name)}.*as root"
    with pytest.raises(DataError, match=message):
        get(path)


# one image


def stripes():
    """Red above green above blue, 30 x 60: what is left when the middle is cut out has the three in
    equal parts."""
    pixels = np.zeros((30, 60, 3), np.uint8)
    for band, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        pixels[10 * band : 10 * band + 10] = colour
    return Image.fromarray(pixels)


def bands(pixels):
    """The colours of three rows of pixels, away from the edges of bands."""
    return [pixels[row, pixels.shape[1] // 2].tolist() for row in (1, pixels.shape[0] // 2, -2)]


COLOURS = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_the_middle_is_cut_out_and_scaled(place):
    image = Image.open(photograph(place / "a.png", 0, (30, 60)))
    scaled = np.asarray(image.resize((32, 16), Image.Resampling.BICUBIC))
    assert (read_image(place / "a.png", 16) == scaled[:, 8:24]).all()
    stripes().save(place / "b.png")
    assert bands(read_image(place / "b.png", 30)) == COLOURS


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_it_upright(place, orientation):
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright, exif = stripes(), Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(turned[orientation]) if turned[orientation] is not None else upright
    stored.save(place / "a.png", exif=exif)
    assert bands(read_image(place / "a.png", 30)) == COLOURS


def test_a_camera_jpeg_is_read_upright_and_whole(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    stripes().resize((1200, 600)).rotate(90, expand=True).save(
        place / "a.jpg", exif=exif, quality=95
    )
    assert np.abs(np.array(bands(read_image(place / "a.jpg", 30))) - COLOURS).max() < 30


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_the_colours_that_it_shows(place, mode):
    grey = Image.fromarray(np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 8, 0), 4, 1))
    image = {
        "I;16": lambda: Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "I": lambda: Image.fromarray(np.asarray(grey).astype(np.int32) * 257),
    }.get(mode, lambda: grey.convert("RGB").convert(mode))()
    path = place / ("a.tif" if mode in ("CMYK", "I") else "a.png")
    image.save(path)
    found = read_image(path, 8)
    assert (found[:, :4] <= 1).all()
    assert (found[:, 4:] >= 254).all()


def test_sixteen_bits_keep_their_shades(place):
    exif = Image.Exif()
    exif[0x0112] = 6  # the left column is the top row
    stored = np.full((8, 8), 100 * 257, np.uint16)
    stored[:, 0] = 200 * 257
    Image.fromarray(stored).save(place / "a.png", exif=exif)
    found = read_image(place / "a.png", 8)
    assert (found[0] == 200).all()
    assert (found[1:] == 100).all()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(place, kind):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    if kind == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([0, 0, 0] * 256)
        image.save(place / "a.png", transparency=0)
    else:
        image.convert(kind).save(place / "a.png")
    assert (read_image(place / "a.png", 8) == 255).all()


def test_numbers_without_a_range_are_no_image(place):
    Image.fromarray(np.ones((8, 8), np.float32)).save(place / "a.tif")
    with pytest.raises(ValueError, match="range is not known"):
        read_image(place / "a.tif", 8)


# three layouts


def as_list(source, path, label=lambda name: name, root=None):
    lines = [
        f"{file.relative_to(root or path.parent)}\t{label(file.parent.name)}"
        for file in image_files(source)
    ]
    path.write_text("# path and label\n\n" + "\n".join(reversed(lines)) + "\n")
    return path


def as_json(source, path):
    names = sorted({file.parent.name for file in image_files(source)})
    files = image_files(source)
    table = {
        "images": [
            {"id": 100 + i, "file_name": str(file.relative_to(path.parent))}
            for i, file in enumerate(files)
        ],
        "annotations": [
            {"image_id": 100 + i, "category_id": 7 * names.index(file.parent.name)}
            for i, file in enumerate(files)
        ],
        "categories": [{"id": 7 * i, "name": name} for i, name in enumerate(names)],
    }
    path.write_text(json.dumps(table))
    return path


def test_three_layouts_give_the_same_data_set(place, moths):
    found = [
        get(moths, name="m"),
        get(as_list(moths, place / "list.txt"), name="m"),
        get(as_json(moths, place / "train.json"), name="m"),
    ]
    assert len({own.dataset for own in found}) == 1
    assert re.fullmatch("m-[0-9a-f]{10}", found[0].dataset)
    own = found[0]
    # by training images, then by name
    assert own.class_names == ("atlas moth", "luna", "hawk", "io", "owl")
    assert (own.train, own.val) == ((14, 7, 2, 2, 1), (2, 1, 0, 0, 0))
    assert own.test == (4, 2, 0, 1, 0)


def test_three_layouts_with_parts_give_the_same_data_set(place):
    for start, (part, count) in enumerate({"train": 3, "val": 1, "test": 2}.items()):
        folder(place / "m" / part, {"a": count + 1, "b": count}, 100 * start)
    parts = [place / "m" / part for part in ("train", "test", "val")]
    found = [
        get(place / "m"),
        get(*(as_list(part, place / f"{part.name}.txt") for part in parts), name="m"),
        get(*(as_json(part, place / f"{part.name}.json") for part in parts), name="m"),
    ]
    assert len({own.dataset for own in found}) == 1
    assert (found[0].train, found[0].val, found[0].test) == ((4, 3), (2, 1), (3, 2))


def test_a_list_with_numbers_spaces_and_a_root(place, moths):
    lines = [
        f"{file.relative_to(moths)} {'12' if file.parent.name == 'luna' else '3'}"
        for file in image_files(moths)
    ]
    (place / "lists").mkdir()
    (place / "lists" / "train.txt").write_text("\n".join(lines))
    own = get(place / "lists" / "train.txt", root=moths)
    assert own.class_names == ("3", "12")  # of "atlas moth/0.png 3" the last word is the label


def test_val_without_test_is_the_test_set(place):
    folder(place / "m" / "train", {"a": 3, "b": 2})
    folder(place / "m" / "val", {"a": 2, "b": 1}, 50)
    own = get(place / "m")
    assert (own.train, own.val, own.test) == ((3, 2), (0, 0), (2, 1))
    assert "val is the test set, as is usual with iNaturalist" in own.report()


def test_test_without_val_has_no_validation_images(place):
    folder(place / "m" / "train", {"a": 20, "b": 20})
    folder(place / "m" / "test", {"a": 2, "b": 1}, 50)
    assert get(place / "m").val == (0, 0)


def test_a_class_called_train_among_others(place):
    folder(place / "vehicles", {"train": 3, "car": 3})
    assert get(place / "vehicles").class_names == ("car", "train")


def test_folders_in_the_folder_of_a_class_belong_to_it(place, moths):
    photograph(moths / "owl" / "2019" / "may" / "x.png", 999)
    assert "owl (1 for training)" not in get(moths).report()


# every fault


def faulty(moths):
    """The fault of each kind that is left out or named."""
    whole = photograph(moths / "luna" / "broken off.jpg", 900, (200, 200)).read_bytes()
    (moths / "luna" / "broken off.jpg").write_bytes(whole[: len(whole) // 2])
    (moths / "luna" / "notes.txt").write_text("seen at the lamp")
    (moths / "io" / "nothing.png").write_bytes(b"")
    (moths / "empty").mkdir()
    (moths / "only notes").mkdir()
    (moths / "only notes" / "a.jpg").write_text("no image")
    (moths / "lost.png").write_bytes((moths / "io" / "0.png").read_bytes())
    # the same pixels in another file
    Image.open(moths / "atlas moth" / "0.png").save(moths / "atlas moth" / "again.tif")
    for hidden in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (moths / "luna" / hidden).write_text("no image")
    (moths / ".thumbnails").mkdir()
    return moths


def test_every_fault_is_named_and_nothing_of_the_folder_is_changed(moths):
    def content():
        files = [path for path in moths.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    clean = get(moths)
    faulty(moths)
    before, said = content(), []
    own = get(moths, say=said.append)
    assert content() == before
    assert own.dataset == clean.dataset, "nothing else has come in"
    assert own.faults == {
        "left out, not in the folder of a class": ["lost.png"],
        "left out, no whole image": [
            "io/nothing.png (an empty file)",
            own.faults["left out, no whole image"][1],
            "luna/notes.txt (not an image)",
            "only notes/a.jpg (not an image)",
        ],
        "left out, there twice": ["atlas moth/again.tif is atlas moth/0.png"],
        "left out, classes without an image": ["empty", "only notes"],
        "trained but not tested, classes without a test image": [
            "hawk (2 for training)",
            "owl (1 for training)",
        ],
    }
    assert re.match(
        r"luna/broken off.jpg \(image file is truncated", own.faults["left out, no whole image"][1]
    )
    assert all(line in said[0] for lines in own.faults.values() for line in lines)
    assert "hidden" not in said[0]
    assert "Thumbs" not in said[0]


def test_copies_across_parts_stay_in_test(place):
    folder(place / "m" / "train", {"a": 4, "b": 4})
    folder(place / "m" / "val", {"a": 2, "b": 2}, 50)
    folder(place / "m" / "test", {"a": 2, "b": 2}, 100)
    for source, target in (
        ("test/a/0.png", "train/a/x.png"),
        ("val/b/0.png", "train/b/y.png"),
        ("test/b/1.png", "val/b/z.png"),
    ):
        (place / "m" / target).write_bytes((place / "m" / source).read_bytes())
    own = get(place / "m")
    assert (own.train, own.val, own.test) == ((4, 4), (2, 2), (2, 2))
    assert own.faults == {
        "left out of train, also in test": ["train/a/x.png is test/a/0.png"],
        "left out of train, also in val": ["train/b/y.png is val/b/0.png"],
        "left out of val, also in test": ["val/b/z.png is test/b/1.png"],
    }


def test_one_photograph_under_two_labels_is_refused_by_name_with_all_other_faults(moths):
    faulty(moths)
    (moths / "io" / "x.png").write_bytes((moths / "luna" / "3.png").read_bytes())
    with pytest.raises(
        DataError,
        match=r"(?s)two labels: 1\n  io/x.png \(io\), luna/3.png \(luna\)\nBeside that:.*notes.txt",
    ) as error:
        get(moths)
    assert "Mend this and run again" in str(error.value)
    assert not list(imported_dir().glob("*.npz"))


def test_a_class_that_is_only_in_test_is_refused_by_name(place):
    folder(place / "m" / "train", {"a": 2, "b": 2, "c": 0})
    folder(place / "m" / "test", {"a": 2, "c": 1}, 50)
    with pytest.raises(DataError, match=r"classes without a training image: 1\n  c"):
        get(place / "m")


def test_ten_are_named_and_the_others_counted(place):
    folder(place / "m", {"a": 5, "b": 5})
    for number in range(13):
        (place / "m" / "a" / f"note {number:02}.txt").write_text("no image")
    assert "no whole image: 13\n  a/note 00.txt" in get(place / "m").report()
    assert "a/note 09.txt (not an image)\n  ... and 3 more" in get(place / "m").report()


def test_what_telephones_write_is_named_with_what_to_do(moths):
    (moths / "luna" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    assert get(moths).faults["left out, no whole image"] == [
        "luna/IMG_1.HEIC (HEIC, which is not read here: export it as JPEG)"
    ]


def test_fewer_than_two_classes_are_refused(place):
    with pytest.raises(DataError, match="expected at least 2 with a training image, found 1: a"):
        get(folder(place / "m", {"a": 5, "b": 0}))


def test_no_test_image_at_all_is_refused(place):
    with pytest.raises(
        DataError,
        match="test images: 1\n  expected at least one; without a test part, a class of 3",
    ):
        get(folder(place / "m", {"a": 2, "b": 1}))


def test_a_folder_without_photographs_is_refused(place):
    (place / "m").mkdir()
    with pytest.raises(DataError, match=r"expected a folder for each class.*found nothing"):
        get(place / "m")
    (place / "m" / "a").mkdir()
    with pytest.raises(DataError, match="expected photographs; there is not one"):
        get(place / "m")


def test_what_is_not_there_is_refused(place):
    with pytest.raises(
        DataError,
        match=(
            r"images = '.*nowhere': expected a folder of photographs, a list file .*there is"
            r" nothing at"
        ),
    ):
        get(place / "nowhere")
    (place / "list.txt").write_text("")
    with pytest.raises(DataError, match=r"test = '.*nowhere.txt': expected"):
        get(place / "list.txt", place / "nowhere.txt")


def test_folders_are_not_given_one_by_one(moths):
    with pytest.raises(DataError, match="a single folder may hold train/, val/ and test/"):
        get(moths, moths)


def test_lines_that_are_malformed_are_named(place, moths):
    path = as_list(moths, place / "list.txt")
    path.write_text("alone.jpg\n" + path.read_text())
    with pytest.raises(
        DataError,
        match=r"(?s)expected 'path label' in each line; 1 are not so:\n  list.txt:1: 'alone.jpg'",
    ):
        get(path)


def test_a_list_that_is_no_text_is_refused(place):
    (place / "list.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match="expected a text file in UTF-8"):
        get(place / "list.txt")


def test_files_of_a_list_that_are_not_there_are_named(place, moths):
    path = as_list(moths, place / "list.txt")
    path.write_text(path.read_text() + "".join(f"gone/{i}.jpg luna\n" for i in range(12)))
    message = (
        r"(?s)12 of 48 files are not below .*list.txt:39: gone/0.jpg\n.*gone/9.jpg\n  \.\.\. and 2"
        r" more.*root ="
    )
    with pytest.raises(DataError, match=message):
        get(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("annotations"), "'annotations' is missing"),
        (lambda t: t["images"][0].pop("file_name"), "'file_name' is missing"),
        (lambda t: t["annotations"][0].update(category_id=999), "999 is missing"),
        (
            lambda t: t["annotations"][0].update(image_id=999),
            r"1 annotations are of images that are not listed, image_id:\n  999",
        ),
        (
            lambda t: t["annotations"].append({"image_id": 100, "category_id": 7}),
            r"for each image; 1 have several:\n  .*a/0.png: a, b",
        ),
        (
            lambda t: t["categories"][1].update(name="a"),
            r"another name for each category; 1 stand there twice:\n  a",
        ),
        (
            lambda t: t["images"][0].update(file_name="gone.jpg"),
            r"1 of 7 files are not below .*\n  gone.jpg",
        ),
    ],
)
def test_a_json_that_is_not_as_it_should_be_is_refused(place, change, message):
    path = as_json(folder(place / "m", {"a": 4, "b": 3}), place / "train.json")
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match=message):
        get(path)


def test_a_json_that_is_none_is_refused(place):
    (place / "train.json").write_text("{")
    with pytest.raises(DataError, match="expected JSON as iNaturalist has it"):
        get(place / "train.json")


def test_images_of_a_json_without_a_class_are_left_out_by_name(place):
    path = as_json(folder(place / "m", {"a": 4, "b": 3}), place / "train.json")
    table = json.loads(path.read_text())
    table["annotations"].pop(0)
    path.write_text(json.dumps(table))
    assert get(path).faults == {"left out, without a class": ["m/a/0.png"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size = 4: expected a whole number of pixels"),
        ({"size": 10**6}, "size = 1000000: 36 images of 1000000 px need .* GB of memory"),
        ({"name": "!"}, "name = '!': expected letters or digits"),
    ],
)
def test_impossible_arguments_are_refused(moths, options, message):
    with pytest.raises(ConfigError, match=message):
        get(moths, **options)


# splits


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=8))
@settings(deadline=None, max_examples=100)
def test_every_class_keeps_a_training_image_and_has_its_shares(counts):
    def parts_of(numbers):
        images = [
            Photograph(Path(), str(c), "", "", 1000 * c + i, f"{c}-{i}")
            for c, n in enumerate(counts)
            for i in numbers(n)
        ]
        assign_parts(images)
        return {image.row: image.part for image in images}

    made = parts_of(range)
    for c, n in enumerate(counts):
        parts = [made[1000 * c + i] for i in range(n)]
        test, val = min(int(0.2 * n + 0.5), n - 1), int(0.1 * n + 0.5)
        expected = {"test": test, "val": val, "train": n - test - val}
        assert {part: parts.count(part) for part in expected} == expected
        assert "train" in parts
    assert parts_of(lambda n: reversed(range(n))) == made


def test_renaming_does_not_change_the_split(place, moths):
    own = get(moths)
    for number, file in enumerate(image_files(moths)):
        file.rename(file.with_name(f"renamed {number}.png"))
    assert get(moths).dataset == own.dataset


def test_adding_photographs_moves_few_others(place, moths):
    load = {
        name: load_dataset(get(source).dataset)
        for name, source in (("old", moths), ("new", folder(moths, {"luna": 11}, 500)))
    }
    seen = {name: {image.tobytes() for image in data.test_images} for name, data in load.items()}
    assert len(seen["old"] - seen["new"]) <= 1


# the cache


def test_the_arrays_are_the_photographs_of_their_class(moths):
    own = get(moths)
    with np.load(imported_dir() / f"{own.dataset}.npz", allow_pickle=False) as stored:
        assert set(stored) == set(IMPORTED)
        arrays = dict(stored)
    of_class = {read_image(file, SIZE).tobytes(): file.parent.name for file in image_files(moths)}
    for part in ("train", "val", "test"):
        labels = [own.class_names[c] for c in arrays[f"y_{part}"]]
        assert [of_class.pop(image.tobytes()) for image in arrays[f"x_{part}"]] == labels
    assert not of_class
    assert (np.bincount(arrays["y_train"]) == own.train).all()
    data = load_dataset(own.dataset)
    assert (data.train_images == np.concatenate([arrays["x_train"], arrays["x_val"]])).all()
    assert data.class_names == own.class_names


def test_an_unchanged_source_is_not_read_again(moths, monkeypatch):
    own = get(moths)
    monkeypatch.setattr(reading, "read_image", lambda *_: pytest.fail("read again"))
    said = []
    assert get(moths, say=said.append) == own
    assert said == [own.report()]


def test_a_touched_file_is_read_again_and_is_the_same(moths):
    own = get(moths)
    os.utime(moths / "luna" / "0.png", (1, 1))
    assert get(moths).dataset == own.dataset


def test_another_photograph_makes_another_data_set_and_leaves_the_old_one(moths):
    own = get(moths)
    photograph(moths / "luna" / "new.png", 1000)
    new = get(moths)
    assert new.dataset != own.dataset
    assert imported(own.dataset) == own
    assert len(load_dataset(own.dataset).train_images) + 1 == len(
        load_dataset(new.dataset).train_images
    )


def test_it_is_imported_again_where_the_copy_is_gone_or_damaged(moths):
    own = get(moths)
    (imported_dir() / f"{own.dataset}.npz").unlink()
    assert get(moths) == own
    for known in (imported_dir() / "sources").glob("*.json"):
        known.write_text("{")
    assert get(moths) == own
    assert (imported_dir() / f"{own.dataset}.npz").exists()


def test_an_import_that_is_broken_off_leaves_nothing(moths, monkeypatch):
    def broken(path, **_):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(importing.np, "savez", broken)
    with pytest.raises(KeyboardInterrupt):
        get(moths)
    left = [path for path in imported_dir().rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix != ".lock"] == []


def test_a_changed_copy_is_refused(moths, fresh_caches):
    own = get(moths)
    path = imported_dir() / f"{own.dataset}.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["y_train"][0] = 1
    np.savez(path, **arrays)
    with pytest.raises(
        DataError, match=r"its content is not what its name says.*import the photographs again"
    ):
        load_dataset(own.dataset)
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(own.dataset)


def test_another_process_loads_it_by_its_name(moths):
    own = get(moths)
    code = (
        "from ltlib.data import load_dataset;"
        f" print(load_dataset({own.dataset!r}).checksums['x_train'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    assert found == load_dataset(own.dataset).checksums["x_train"]


# profiles and protocols


SMALL = {"backbones": ["resnetv2_small32"], "losses": ["softmax", "ldam"]}
SMALL |= {"epochs": 1, "flip": False}


@pytest.fixture
def own(moths):
    return get(moths)


@pytest.fixture
def profile(own, place):
    return write_profile(place / "my_moths.toml", own, **SMALL)


def test_a_profile_is_written_and_loaded(profile, own, place):
    assert (profile.name, profile.dataset) == ("my_moths", own.dataset)
    assert profile.train_sets == ("longtailed",)
    assert profile.protocols[0].counts == own.train
    recipe = profile.recipe
    assert (recipe.epochs, recipe.resolution, recipe.crop_padding) == (1, SIZE, 2)
    assert len(profile.configs()) == 2
    assert longtailed_counts(profile.protocols[0], 5).tolist() == list(own.train)
    assert load_profile(str(place / "my_moths.toml")) == profile


def test_the_runs_know_the_content_and_no_path(profile, moths, place):
    run = profile.configs()[0]
    text = json.dumps(run.to_dict())
    assert str(place) not in text
    assert run.to_dict()["protocol"]["counts"] == list(profile.protocols[0].counts)
    photograph(moths / "luna" / "new.png", 1000)
    changed = write_profile(place / "my_moths.toml", get(moths), **SMALL)
    assert not {c.id for c in changed.configs()} & {c.id for c in profile.configs()}


def test_real_backbones_get_the_recipe_of_their_family(own, place):
    backbones = ["convnext_tiny", "vit_small_patch16_224", "resnet18"]
    profile = write_profile(place / "real.toml", own, backbones=backbones, precision="bfloat16")
    assert profile.mode == "finetune"
    recipes = {c.backbone: c.recipe for c in profile.configs()}
    finetune = load_profile("finetune")
    own_of = finetune.recipe_by_backbone
    convnext, vit, resnet = (recipes[name] for name in backbones)
    assert convnext.layer_decay == own_of["convnext_base"]["layer_decay"]
    assert vit.lr == own_of["vit_base_patch16_224"]["lr"]
    assert (resnet.lr, resnet.layer_decay) == (finetune.recipe.lr, 1.0)
    assert resnet.precision == "bfloat16"
    assert profile.tune["lr"]
    with pytest.raises(ConfigError, match="expected either small ones"):
        write_profile(place / "both.toml", own, backbones=["convnext_tiny", "vit_small32"])


def test_transformers_are_fine_tuned_lightly_and_others_on_request(own, place):
    alone = write_profile(place / "vit.toml", own, backbones=["vit_tiny_patch16_224"])
    assert (alone.mode, alone.head) == ("light", "scaled_cosine")
    assert alone.recipe.head_init == "class_means"
    asked = write_profile(place / "asked.toml", own, backbones=["mobilenetv2_100"], way="light")
    kinds = {run.backbone: run.recipe.light for p in (alone, asked) for run in p.configs()}
    assert kinds == {"vit_tiny_patch16_224": "adaptformer", "mobilenetv2_100": "bias_norm"}
    whole = write_profile(place / "moved.toml", own, backbones=["deit_tiny"], way="finetune")
    assert whole.mode == "finetune"
    with pytest.raises(ConfigError, match="way = 'frozen': expected one of finetune, light"):
        write_profile(place / "frozen.toml", own, way="frozen")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'train_sets = ["longtailed"]',
            'train_sets = ["balanced"]',
            "train_set = 'balanced': expected 'longtailed': moths-",
        ),
        (
            "[protocols.own]",
            "[protocols.own]\nmax_count = 7",
            "the key 'max_count' is not to be set: moths-.* has its own class counts",
        ),
        ('dataset = "moths-', 'dataset = "moths-0123456789', "dataset = 'moths-0123456789"),
        ("[protocols.own]\ngroups", "[protocols.own]\nkinds", "the key 'kinds' is not to be set"),
    ],
)
def test_a_mistake_in_such_a_profile_is_named(profile, place, old, new, message):
    text = (place / "my_moths.toml").read_text()
    assert old in text
    (place / "other.toml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_profile(str(place / "other.toml"))


def test_another_imbalance_factor_is_refused(profile, place):
    with pytest.raises(
        ConfigError, match=r"imbalance_factor = 50.0: expected 14, that of the imported photographs"
    ):
        load_profile(str(place / "my_moths.toml"), protocols=["own_if50"])


def test_protocols_of_built_in_data_have_no_counts_and_imported_ones_their_own(profile):
    run = load_profile("smoke").configs()[0]
    natural = profile.protocols[0]
    with pytest.raises(
        ConfigError, match=r"expected the class counts of digits \(none: its sets are cut\)"
    ):
        dataclasses.replace(run, protocol=natural, train_set="longtailed")
    with pytest.raises(
        ConfigError, match=r"expected the class counts of moths-.* \(its own\), got none"
    ):
        dataclasses.replace(profile.configs()[0], protocol=run.protocol)
    with pytest.raises(ConfigError, match="at least one training image of every class"):
        dataclasses.replace(natural, counts=(3, 0))


def test_an_import_that_is_not_here_is_named_with_the_way_to_get_it(own):
    with pytest.raises(
        ConfigError,
        match=(
            rf"'gone-0123456789': expected one of cifar100, digits, .*, {own.dataset}.*import them"
            r" again"
        ),
    ):
        dataset_size("gone-0123456789")
    with pytest.raises(ConfigError, match="dataset = 'digits': expected one that was imported"):
        imported("digits")


def test_a_damaged_description_is_refused(own):
    (imported_dir() / f"{own.dataset}.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected what an import wrote there"):
        dataset_size(own.dataset)


def test_the_sets_are_the_imported_parts(profile, own):
    data = load_dataset(own.dataset)
    splits = make_splits(data, profile.protocols[0], "longtailed")
    with np.load(imported_dir() / f"{own.dataset}.npz") as stored:
        assert (data.train_images[splits.train] == stored["x_train"]).all()
        assert (data.train_images[splits.val] == stored["x_val"]).all()
        assert (data.test_images[splits.tests["longtailed"]] == stored["x_test"]).all()
    assert set(splits.tests) == {"longtailed", "head", "middle", "tail"}
    assert own.groups() == profile.protocols[0].groups == "thesis"
    parts = np.concatenate([splits.tests[name] for name in ("head", "middle", "tail")])
    assert sorted(parts) == splits.tests["longtailed"].tolist()


def test_equal_numbers_of_test_images_are_a_balanced_test(place):
    folder(place / "m" / "train", {"a": 5, "b": 2, "c": 1})
    folder(place / "m" / "test", {"a": 2, "b": 2, "c": 2}, 50)
    own = get(place / "m")
    protocol = write_profile(place / "mm.toml", own).protocols[0]
    tests = make_splits(load_dataset(own.dataset), protocol, "longtailed").tests
    assert list(tests) == ["balanced", "balanced_head", "balanced_middle", "balanced_tail"]


def test_survey_groups_where_all_three_occur():
    sizes = {"class_names": tuple("abc"), "val": (0, 0, 0), "test": (1, 1, 1), "faults": {}}
    made = [
        Imported("m-0", "m", "", 8, train=train, **sizes)
        for train in ((101, 20, 19), (100, 20, 19))
    ]
    assert [own.groups() for own in made] == ["survey", "thesis"]


def test_pages_of_such_a_profile_are_those_that_hold_for_any_data(profile):
    assert [page.name[:2] for page in pages(profile)] == ["11", "12", "13", "14", "16"]


def test_the_demonstration_has_its_faults_and_is_written_once(place):
    (place / "d").mkdir()
    write_demonstration(place / "d" / "demo")
    before = {path: path.stat().st_mtime_ns for path in (place / "d").rglob("*")}
    write_demonstration(place / "d" / "demo")
    assert {path: path.stat().st_mtime_ns for path in (place / "d").rglob("*")} == before
    own = get(place / "d" / "demo" / "photographs", size=32)
    assert len(own.class_names) == 100
    assert {heading: len(lines) for heading, lines in own.faults.items()} == {
        "left out, no whole image": 2,
        "left out, there twice": 1,
        "left out, classes without an image": 1,
        "trained but not tested, classes without a test image": 24,
    }
    assert len(image_files(place / "d" / "demo" / "new")) == 6


# the whole way


def species(label, number):
    """A picture with a colour and stripes that belong to its class, and noise of its own."""
    rng = np.random.default_rng([label, number])
    colours = np.random.default_rng(label).integers(0, 256, (2, 3))
    stripes = (np.arange(40) // (1 + label % 5)) % 2
    return (colours[stripes][None] + rng.normal(0, 20, (40, 40, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def drawer(place):
    """3,000 photographs would take longer: 120 species with 16 to 1 photographs in train/, one or
    two in test/, and every fault."""
    top, rotated = place / "drawer", Image.Exif()
    rotated[0x0112] = 6
    for label in range(120):
        for part, count in (("train", max(1, int(16 * 0.97**label))), ("test", 1 + label % 2)):
            (top / part / f"species {label:03}").mkdir(parents=True)
            for number in range(count):
                file = top / part / f"species {label:03}" / f"{number}.png"
                Image.fromarray(species(label, number + 100 * (part == "test"))).save(file)
    first, second = top / "train" / "species 000", top / "train" / "species 001"
    Image.open(first / "0.png").rotate(90).save(first / "0.png", exif=rotated)
    Image.open(first / "1.png").convert("L").save(first / "1.png")
    Image.open(first / "2.png").convert("RGBA").save(first / "2.png")
    (first / "3.png").write_bytes((first / "3.png").read_bytes()[:700])
    (first / "4.jpg").write_text("no image")
    (second / "copy.png").write_bytes((second / "0.png").read_bytes())
    (second / "also in test.png").write_bytes((top / "test" / "species 001" / "0.png").read_bytes())
    (top / "train" / "never seen").mkdir()
    (top / "test" / "species 119" / "1.png").unlink()
    (top / "test" / "species 119" / "0.png").unlink()
    (top / "train" / "Thumbs.db").write_text("")
    (place / "tonight").mkdir()
    for label in (0, 50, 118):
        Image.fromarray(species(label, 500)).save(place / "tonight" / f"{label:03}.jpg")
    return top


def test_120_folders_become_a_table_and_a_prediction(drawer, place, monkeypatch):
    import papermill

    monkeypatch.setenv("LTLIB_FIGURES", str(place / "figures"))
    parameters = {
        "profile": "smoke",
        "images": str(drawer),
        "new_images": str(place / "tonight"),
        "size": 32,
        "epochs": 6,
        "own_backbones": ["resnetv2_small32"],
        "own_losses": ["softmax", "balanced_softmax"],
    }
    source, done = NOTEBOOKS / "16_your_own_dataset.ipynb", place / "done.ipynb"
    options = {"kernel_name": "python3", "cwd": str(NOTEBOOKS), "progress_bar": False}
    papermill.execute_notebook(source, done, parameters, **options)
    cells = nbformat.read(done, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    for fault in (
        "drawer-",
        "120 classes",
        "species 000/3.png (",
        "species 000/4.jpg (not an image)",
        "never seen",
        "copy.png is train/species 001/0.png",
        "also in test.png is test/species 001/0.png",
        "species 119 (1 for training)",
    ):
        assert fault in said
    tables = place / "figures" / "tables"
    made = {"own_groups.tex", "own_confused.tex", "own_classes.csv", "own_new.csv"}
    assert {path.name for path in tables.iterdir()} == made
    figures = {"own_counts", "own_images", "own_accuracy", "own_new"}
    assert {path.stem for path in (place / "figures").glob("*.pdf")} == figures
    table = (tables / "own_groups.tex").read_text()
    assert re.search(r"Balanced softmax & .*\d+\.\d \[\d+\.\d, \d+\.\d\]", table)
    classes = pd.read_csv(tables / "own_classes.csv")
    assert (len(classes), classes["training images"].min()) == (120, 1)
    assert classes["test images"].sum() == 178
    assert classes["Softmax"].mean() > 10 / 120, "far above chance"
    new = pd.read_csv(tables / "own_new.csv")
    assert new["file"].tolist() == ["000.jpg"] * 5 + ["050.jpg"] * 5 + ["118.jpg"] * 5
    assert new["rank"].tolist() == [1, 2, 3, 4, 5] * 3
    assert (new.groupby("file")["probability"].sum() <= 1 + 1e-3).all()
    assert "species 000" in new[new["file"] == "000.jpg"]["class"].tolist()
