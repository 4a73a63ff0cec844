"""What a source of photographs names: files, their classes and parts, and what is wrong with it."""

from __future__ import annotations

import collections
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ltlib.data.photographs import hidden, image_files
from ltlib.errors import DataError

PARTS = ("train", "val", "test")


@dataclass
class Photograph:
    """A file, its class, its part ("": we choose), and what messages call it; once it is read, its
    row among the pixels and their hash."""

    path: Path
    label: str
    part: str
    title: str
    row: int = -1
    digest: str = ""


@dataclass
class Listing:
    """What a source names: photographs, classes (also those without any), and faults by heading."""

    photographs: list[Photograph] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    faults: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))

    def add(self, path: Path, label: str, part: str, title: str) -> None:
        self.photographs.append(Photograph(path, label, part, title))
        self.classes.add(label)


def some(lines: list[str]) -> str:
    """The first ten, each on a line of its own, and how many more there are."""
    more = [f"... and {len(lines) - 10} more"] * (len(lines) > 10)
    return "".join(f"\n  {line}" for line in lines[:10] + more)


def list_source(source: str, test: str, val: str, root: str) -> Listing:
    """What these folders, list files or JSON files name. Raises DataError for what cannot be
    read."""
    listing = Listing()
    for part, text in {"train": source, "val": val, "test": test}.items():
        if text or part == "train":
            _list_part(part, text, part == "train" and not (test or val), root, listing)
    if not listing.photographs:
        raise DataError(f"images = {source!r}: expected photographs; there is not one")
    _require_readable_names(source, listing)
    found = {photograph.part for photograph in listing.photographs}
    if found == {"train"}:
        _rename_part(listing, "train", "")
    elif "val" in found and "test" not in found:  # iNaturalist keeps the labels of its test images
        _rename_part(listing, "val", "test")
        listing.faults["no test part"].append(
            "val is the test set, as is usual with iNaturalist, and there are no validation images"
        )
    return listing


def _require_readable_names(source: str, listing: Listing) -> None:
    """Names of files and classes that no table could print."""
    names = {str(photograph.path) for photograph in listing.photographs} | listing.classes
    wrong = sorted(ascii(name) for name in names if not _is_text(name))
    _refuse(Path(source), wrong, "expected names in UTF-8; ", "are not", "\nRename them.")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_inside(source: Path, names: list[str], root: Path) -> None:
    """The files of a list or JSON lie in its root: one of somebody else's is to read no others."""
    top = Path(os.path.abspath(root))
    paths = {name: Path(os.path.abspath(top / name)) for name in names}
    outside = [name for name, path in paths.items() if not path.is_relative_to(top)]
    expected = f"expected files below {top}; "
    mend = "\nName the folder that holds them all as root."
    _refuse(source, outside, expected, "lie outside", mend)


def _rename_part(listing: Listing, old: str, new: str) -> None:
    for photograph in listing.photographs:
        if photograph.part == old:
            photograph.part = new


def _list_part(part: str, text: str, alone: bool, root: str, listing: Listing) -> None:
    """One of train, val and test; ``alone``: the only source, whose parts are its own or ours."""
    path = Path(text).expanduser()
    if not text or not path.exists():
        raise DataError(
            f"{'images' if part == 'train' else part} = {text!r}: expected a folder of photographs,"
            " a list file with 'path label' lines or an iNaturalist JSON; there is nothing at"
            f" {path.absolute()}"
        )
    if path.is_dir() and not alone:
        raise DataError(
            f"{part} = {text!r}: expected a list file or a JSON where parts are given one by one; a"
            " single folder may hold train/, val/ and test/"
        )
    if path.is_dir():
        _list_folder(path, listing)
        return
    read = _list_json if path.suffix.lower() == ".json" else _list_lines
    read(path, "" if alone else part, Path(root).expanduser() if root else path.parent, listing)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not hidden(path.name))


def _list_folder(source: Path, listing: Listing) -> None:
    """train/<class>/*, with val/ and test/ where they are; or <class>/*."""
    train, tops, outside = source / "train", {"": source}, []
    if train.is_dir() and any(path.is_dir() for path in _visible(train)):
        tops = {part: source / part for part in PARTS if (source / part).is_dir()}
        outside = [path.name for path in _visible(source) if path.name not in PARTS]
    for part, top in tops.items():
        for folder in _visible(top):
            if not folder.is_dir():
                outside.append(folder.relative_to(source).as_posix())
                continue
            listing.classes.add(folder.name)
            for path in image_files(folder):
                listing.add(path, folder.name, part, path.relative_to(source).as_posix())
    listing.faults["left out, not in the folder of a class"] += outside
    if not listing.classes:
        found = ", ".join(path.name for path in _visible(source)[:5]) or "nothing"
        raise DataError(
            f"{source}: expected a folder for each class with its photographs in it (moths/Actias"
            f" luna/1.jpg), or train/, val/ and test/ with such folders; found {found}"
        )


def _list_lines(source: Path, part: str, root: Path, listing: Listing) -> None:
    """``path label`` lines as ImageNet-LT has them: the label is the last word, or what follows a
    tab."""
    wrong, missing, names = [], [], []
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            f"{source}: expected a text file in UTF-8 with a line 'path label' for each image, a"
            " folder, or a .json file by that name"
        ) from None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or line.startswith("#"):
            continue
        name, *label = (word.strip() for word in text.rsplit("\t" if "\t" in text else None, 1))
        if not label:
            wrong.append(f"{source.name}:{number}: {text!r}")
            continue
        if not (root / name).is_file():
            missing.append(f"{source.name}:{number}: {name}")
        names.append(name)
        listing.add(root / name, *label, part, name)
    _refuse(source, wrong, "expected 'path label' in each line; ", "are not so")
    _require_inside(source, names, root)
    _require_files(missing, len(listing.photographs), source, root)


def _refuse(source: Path, lines: list[str], expected: str, fault: str, mend: str = "") -> None:
    if lines:
        raise DataError(f"{source}: {expected}{len(lines)} {fault}:{some(lines)}{mend}")


def _require_files(missing: list[str], total: int, source: Path, root: Path) -> None:
    mend = '\nPaths are taken from the folder of the list; root = "..." names another one.'
    _refuse(source, missing, "", f"of {total} files are not below {root}", mend)


def _list_json(source: Path, part: str, root: Path, listing: Listing) -> None:
    """images, annotations and categories as iNaturalist and COCO have them."""
    names, files, labels = _read_json(source)
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    _refuse(source, twice, "expected another name for each category; ", "stand there twice")
    unknown = [str(image) for image in labels if image not in files]
    _refuse(source, unknown, "", "annotations are of images that are not listed, image_id")
    several = [(files[image], sorted(found)) for image, found in labels.items() if len(found) > 1]
    several = [f"{file}: {', '.join(found)}" for file, found in several]
    mend = "\nCrop them to one object each, or take their annotations out."
    _refuse(source, several, "expected one class for each image; ", "have several", mend)
    _require_inside(source, [files[image] for image in labels], root)
    missing = [files[image] for image in labels if not (root / files[image]).is_file()]
    _require_files(missing, len(files), source, root)
    unlabelled = [name for image, name in files.items() if image not in labels]
    listing.faults["left out, without a class"] += unlabelled
    listing.classes |= set(names)
    for image, (label,) in labels.items():
        listing.add(root / files[image], label, part, files[image])


def _read_json(source: Path) -> tuple[list[str], dict, dict]:
    """Names of the categories, the file of each image, and the set of names of each annotated
    one."""
    try:
        table = json.loads(source.read_text(encoding="utf-8"))
        names = {row["id"]: str(row["name"]) for row in table["categories"]}
        files = {row["id"]: str(row["file_name"]) for row in table["images"]}
        labels = collections.defaultdict(set)
        for row in table["annotations"]:
            labels[row["image_id"]].add(names[row["category_id"]])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(
            f"{source}: expected JSON as iNaturalist has it: images (id, file_name), annotations"
            f" (image_id, category_id), categories (id, name); {what}"
        ) from None
    return list(names.values()), files, labels
