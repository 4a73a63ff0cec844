"""Photographs of your own as a long-tailed data set: read, checked and scaled once, and kept as
arrays."""

from __future__ import annotations

import collections
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import psutil
from pydantic import TypeAdapter

from ltlib.data import imported_name
from ltlib.data.photographs import read_images
from ltlib.data.sizes import dataset_size
from ltlib.errors import ConfigError, DataError
from ltlib.files import atomic_path, exclusive, imported_dir
from ltlib.longtail import groups
from workbook.photographs.listing import PARTS, Listing, Photograph, list_source, some


@dataclass(frozen=True)
class Imported:
    """What an import made.

    dataset           its name for profiles, "<name>-<hash of its content>"
    class_names       by falling number of training images; equal ones by name
    train, val, test  images of each class
    faults            what was left out or is worth knowing, lines by heading
    """

    dataset: str
    name: str
    origin: str
    size: int
    class_names: tuple[str, ...]
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    faults: dict[str, list[str]]

    def report(self) -> str:
        """What was imported, and every fault by name (ten of each kind)."""
        classes = f"{len(self.class_names)} classes of {self.train[0]} to {self.train[-1]}"
        train, val, test = sum(self.train), sum(self.val), sum(self.test)
        sizes = f"{train:,} images for training, {val:,} for validation, {test:,} for testing"
        made = f"{self.dataset}: {classes} training images; {sizes}; {self.size} px"
        return made + _faults_text(self.faults)

    def groups(self) -> str:
        """The grouping that suits these counts: "survey" where none of its three groups is empty,
        otherwise "thesis", thirds."""
        survey = groups("survey", self.train).values()
        return "survey" if all(len(ids) for ids in survey) else "thesis"


def _faults_text(faults: dict[str, list[str]]) -> str:
    return "".join(f"\n{heading}: {len(lines)}{some(lines)}" for heading, lines in faults.items())


def import_images(
    source: str | Path,
    test: str | Path = "",
    val: str | Path = "",
    *,
    root: str | Path = "",
    name: str = "",
    size: int = 224,
    say: Callable[[str], None] = print,
) -> Imported:
    """Make a data set of photographs; say what was found wrong with them.

    source  a folder with train/<class>/*, val/<class>/* and test/<class>/* (the latter two need not
            be), or with <class>/*; or a list file with a line ``path label`` for each image; or a
            JSON as iNaturalist has it. With a list or a JSON for training, ``test`` and ``val`` are
            those of the other parts
    root    folder of the relative paths in lists and JSON; that of the file by default
    name    of the data set; the source's by default
    size    in pixels: what is kept of each photograph (:func:`read_image`)

    Without test and val, a fifth of the photographs of each class are for testing, a tenth for
    validation (:func:`assign_parts`). With val and no test, val is the test set.

    Left out and named: what is no whole image; classes without one; a photograph that is there
    twice, equal pixel by pixel as the model will see it (a copy in another part is kept in test
    rather than val, in val rather than train). Classes without a test image are named and trained.
    Raises DataError, naming all of them, for a photograph under two labels and a class without a
    training image; and for what cannot be read at all. Raises ConfigError for impossible arguments.

    The arrays lie in ``imported_dir()``: <dataset>.npz (``IMPORTED``) and <dataset>.json
    (:class:`Imported`). They are held in memory whole: 0.15 MB an image of 224 px. Importing an
    unchanged source again (paths, sizes and times of its files) takes no time.
    """
    if not (isinstance(size, int) and size >= 8):
        raise ConfigError(f"size = {size!r}: expected a whole number of pixels, 8 or more")
    listing = list_source(*map(str, (source, test, val, root)))
    place = Path(source).expanduser().resolve()
    given, name = name, re.sub(r"\W+", "_", name or place.stem).strip("_").lower()
    if not name:
        raise ConfigError(f"name = {given!r}: expected letters or digits, such as moths")
    how = [name, str(place), size]
    known = imported_dir() / "sources" / f"{_key(how, listing)}.json"
    with exclusive(known, f"{place} is being imported by another process", say):
        result = _load(known)
        if result is None or not all(path.exists() for path in _files(result.dataset)):
            result = _import(listing, *how)
            _save(result, known)
    say(result.report())
    return result


def _key(how: list, listing: Listing) -> str:
    """What an import depends on: how it is done, and paths, sizes and times of the files."""
    stats = [(str(p.path), p.label, p.part, *_stat(p.path)) for p in listing.photographs]
    values = [*how, PIL.__version__, sorted(listing.classes), listing.faults, stats]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:20]


def _stat(path: Path) -> tuple[int, int]:
    """Size and time; nothing of a link that leads nowhere, which is named when it is read."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _files(dataset: str) -> tuple[Path, Path]:
    """Its arrays and its description."""
    return imported_dir() / f"{dataset}.npz", imported_dir() / f"{dataset}.json"


def imported(dataset: str) -> Imported:
    """What is known of an imported data set. Raises ConfigError for one that is not there, or is
    built in."""
    _, path = _files(dataset)
    found = _load(path) if dataset_size(dataset).counts else None
    if found is None:
        raise ConfigError(
            f"dataset = {dataset!r}: expected one that was imported, described in {path}"
        )
    return found


JSON = TypeAdapter(Imported)


def _load(path: Path) -> Imported | None:
    try:
        return JSON.validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _save(result: Imported, path: Path) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(JSON.dump_json(result, indent=1))


def _import(listing: Listing, name: str, place: str, size: int) -> Imported:
    faults, refused = listing.faults, collections.defaultdict(list)
    pixels = _read(listing, size)
    chosen = _without_copies(listing.photographs, faults, refused)
    assign_parts(chosen)
    images = {
        part: collections.Counter(p.label for p in chosen if p.part == part) for part in PARTS
    }
    names = sorted(images["train"], key=lambda label: (-images["train"][label], label))
    _judge(listing, images, names, refused)
    faults = {heading: lines for heading, lines in faults.items() if lines}
    if refused := {heading: lines for heading, lines in refused.items() if lines}:
        also = f"\nBeside that:{_faults_text(faults)}" if faults else ""
        raise DataError(
            f"{place}: these photographs make no data set as they are. Mend this and run"
            f" again:{_faults_text(refused)}{also}"
        )
    arrays = _arrays(chosen, names, pixels)
    counts = {part: tuple(images[part][label] for label in names) for part in PARTS}
    dataset = imported_name(name, arrays)
    result = Imported(dataset, name, place, size, tuple(names), **counts, faults=faults)
    array_file, description = _files(dataset)
    with atomic_path(array_file) as partial:
        np.savez(partial, **arrays)
    _save(result, description)  # last: it makes the data set known
    return result


def _read(listing: Listing, size: int) -> np.ndarray:
    """Pixels (N, size, size, 3); only whole images stay in the listing, each with its row."""
    photographs = listing.photographs
    need, free = 2 * len(photographs) * 3 * size**2, psutil.virtual_memory().available
    if need > free:
        raise ConfigError(
            f"size = {size}: {len(photographs)} images of {size} px need {need / 1e9:.1f} GB of"
            f" memory, expected at most {free / 1e9:.1f} GB; make size smaller, or import fewer"
        )
    pixels, wrong = read_images([p.path for p in photographs], size)
    listing.photographs = []
    for row, (photograph, fault) in enumerate(zip(photographs, wrong, strict=True)):
        if fault:
            listing.faults["left out, no whole image"].append(f"{photograph.title} ({fault})")
        else:
            photograph.row = row
            photograph.digest = hashlib.sha256(pixels[row]).hexdigest()
            listing.photographs.append(photograph)
    return pixels


def _without_copies(whole: list[Photograph], faults: dict, refused: dict) -> list[Photograph]:
    """One of each photograph that the model would see as the same, by content; test before val
    before train."""
    by_content = collections.defaultdict(list)
    for photograph in whole:
        by_content[photograph.digest].append(photograph)
    chosen = []
    for copies in by_content.values():
        copies.sort(key=lambda copy: (-PARTS.index(copy.part or "train"), copy.title))
        kept = {}
        for photograph in copies:
            first = kept.setdefault(photograph.label, photograph)
            if first is photograph:
                chosen.append(photograph)
                continue
            heading = "left out, there twice"
            if photograph.part != first.part:
                heading = f"left out of {photograph.part}, also in {first.part}"
            faults[heading].append(f"{photograph.title} is {first.title}")
        if len(kept) > 1:
            named = ", ".join(f"{copy.title} ({copy.label})" for copy in copies)
            refused["one photograph under two labels"].append(named)
    return chosen


def assign_parts(chosen: list[Photograph]) -> None:
    """Give every photograph without a part one: of the n of a class, the integer part of
    0.2 n + 1/2 are for testing, of 0.1 n + 1/2 for validation, and at least one for training.

    Which ones depends on their content alone: renaming changes nothing, adding some changes little.
    """
    by_class = collections.defaultdict(list)
    for photograph in chosen:
        by_class[photograph.label].append(photograph)
    for images in by_class.values():
        images.sort(key=lambda image: hashlib.sha256(f"0 {image.digest}".encode()).digest())
        test = min(int(0.2 * len(images) + 0.5), len(images) - 1)
        val = min(int(0.1 * len(images) + 0.5), len(images) - 1 - test)
        parts = ["test"] * test + ["val"] * val + ["train"] * (len(images) - test - val)
        for image, part in zip(images, parts, strict=True):
            image.part = image.part or part


def _judge(listing: Listing, images: dict, names: list[str], refused: dict) -> None:
    """Classes without images: named among the faults, or refused where nothing could be trained."""
    faults, train, test = listing.faults, images["train"], images["test"]
    seen = set().union(*images.values())
    faults["left out, classes without an image"] += sorted(listing.classes - seen)
    refused["classes without a training image"] += sorted(seen - set(train))
    faults["trained but not tested, classes without a test image"] += [
        f"{label} ({train[label]} for training)" for label in names if not test[label]
    ]
    if len(names) < 2:
        found = f"{len(names)}: {', '.join(names)}"
        refused["classes"].append(f"expected at least 2 with a training image, found {found}")
    if not test:
        refused["test images"].append(
            "expected at least one; without a test part, a class of 3 photographs has one"
        )


def _arrays(chosen: list[Photograph], names: list[str], pixels: np.ndarray) -> dict:
    """The arrays of the data set, in an order that does not depend on what the files are called."""
    number = {label: index for index, label in enumerate(names)}
    chosen = sorted(chosen, key=lambda image: (number[image.label], image.digest))
    arrays = {"class_names": np.array(names)}
    for part in PARTS:
        of_part = [image for image in chosen if image.part == part]
        arrays[f"x_{part}"] = pixels[[image.row for image in of_part]]
        arrays[f"y_{part}"] = np.array([number[image.label] for image in of_part], np.int64)
    return arrays
