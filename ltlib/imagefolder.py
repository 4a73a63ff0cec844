"""Photographs of your own as a long-tailed data set: a folder, a list file, or an iNaturalist JSON.

:func:`import_images` reads, checks and scales the photographs once and keeps a copy as arrays, named after its content
("moths-0123456789"). That name is the ``dataset`` of a profile (:func:`write_profile`); from there on everything is as with the
other data sets. Nothing is ever written into the folder of the photographs.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import PIL
import psutil
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ltlib.backbones import is_small
from ltlib.config import HOST, ConfigError, Profile, atomic_path, dataset_size, exclusive, imported_dir, load_profile
from ltlib.datasets import DataError, digit_pairs, imported_name
from ltlib.longtail import class_counts, groups

# ------------------------------------------------------------------------------------------- one image


def read_image(path: Path, size: int) -> np.ndarray:
    """A photograph as uint8 (size, size, 3): turned upright, in colour, scaled and cut as training and evaluation see it.

    Turned as its EXIF data say; transparency laid on white; palettes, grey, CMYK and 16 bits per channel to 8-bit RGB; the
    shorter side scaled to ``size`` (bicubic, antialiased), the middle cut out. Of an animation, the first frame. Raises OSError,
    ValueError and whatever else Pillow raises for a file that is no whole image.
    """
    with Image.open(path) as image:
        image.draft(None, (2 * size, 2 * size))  # a JPEG of a camera: decoded at half, a quarter ... of its size, never below this
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion cuts at 255
            image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("numbers with a fraction, whose range is not known: save it with 8 or 16 bits")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))


def read_images(paths: list[Path], size: int) -> tuple[np.ndarray, list[str]]:
    """:func:`read_image` for many, on all cores: uint8 (N, size, size, 3), and for each what is wrong with it ("": nothing)."""
    pixels = np.zeros((len(paths), size, size, 3), np.uint8)

    def read(number: int) -> str:
        try:
            pixels[number] = read_image(paths[number], size)
        except UnidentifiedImageError:
            if paths[number].suffix.lower() in (".heic", ".heif"):
                return "HEIC, which is not read here: export it as JPEG"
            return "not an image" if paths[number].stat().st_size else "an empty file"
        except Exception as error:  # OSError, ValueError, SyntaxError, struct.error, ...: Pillow has one for each format
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ""

    with warnings.catch_warnings(), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow on odd EXIF data: the pixels are what counts
        # no bar for what takes a second
        faults = list(tqdm(pool.map(read, range(len(paths))), "reading images", len(paths), unit="image", delay=2, leave=False))
    return pixels, faults


def image_files(folder: Path) -> list[Path]:
    """The files below a folder, by name, without hidden ones and what Windows and macOS put beside images."""
    found = []
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        found += [Path(top, name) for name in sorted(files) if not _hidden(name)]
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


# ------------------------------------------------------------------------------------------ three layouts

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class _Photograph:
    """A file, its class, its part ("": we choose), and what messages call it."""

    path: Path
    label: str
    part: str
    title: str


@dataclass
class _Listing:
    """What a source names: photographs, classes (also those without any), and faults by heading."""

    photographs: list[_Photograph] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    faults: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))


def _some(lines: Iterable[str], indent: str = "\n  ") -> str:
    """The first ten, and how many more there are."""
    lines = list(lines)
    return "".join(indent + line for line in lines[:10]) + (f"{indent}... and {len(lines) - 10} more" if len(lines) > 10 else "")


def _list_folder(source: Path, listing: _Listing) -> None:
    """train/<class>/*, with val/ and test/ where they are; or <class>/*."""
    inside = sorted(path for path in source.iterdir() if not _hidden(path.name))
    split = any(path.is_dir() and not _hidden(path.name) for path in (source / "train").glob("*"))
    outside = [path.name for path in inside if path.name not in PARTS] if split else []
    for part, top in [(p, source / p) for p in PARTS if (source / p).is_dir()] if split else [("", source)]:
        for folder in sorted(path for path in top.iterdir() if not _hidden(path.name)):
            if not folder.is_dir():
                outside.append(folder.relative_to(source).as_posix())
                continue
            listing.classes.add(folder.name)
            listing.photographs += [_Photograph(path, folder.name, part, path.relative_to(source).as_posix())
                                    for path in image_files(folder)]
    listing.faults["left out, not in the folder of a class"] += outside
    if not listing.classes:
        raise DataError(f"{source}: expected a folder for each class with its photographs in it (moths/Actias luna/1.jpg), or train/, "
                        f"val/ and test/ with such folders; found {', '.join(path.name for path in inside[:5]) or 'nothing'}")


def _list_lines(source: Path, part: str, root: Path, listing: _Listing) -> None:
    """``path label`` lines as ImageNet-LT has them: the label is the last word, or what follows a tab."""
    wrong, missing = [], []
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{source}: expected a text file in UTF-8 with a line 'path label' for each image, a folder, or a .json file "
                        "by that name") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.strip().rsplit("\t" if "\t" in line.strip() else None, 1)
        if len(words) < 2:
            wrong.append(f"{source.name}:{number}: {line.strip()!r}")
            continue
        path = root / words[0].strip()
        if not path.is_file():
            missing.append(f"{source.name}:{number}: {words[0]}")
        listing.photographs.append(_Photograph(path, words[1].strip(), part, words[0].strip()))
    if wrong:
        raise DataError(f"{source}: expected 'path label' in each line; {len(wrong)} are not so:{_some(wrong)}")
    _require_files(missing, len(listing.photographs), source, root)
    listing.classes |= {photograph.label for photograph in listing.photographs}


def _require_files(missing: list[str], total: int, source: Path, root: Path) -> None:
    if missing:
        raise DataError(f"{source}: {len(missing)} of {total} files are not below {root}:{_some(missing)}\n"
                        "Paths are taken from the folder of the list; root = \"...\" names another one.")


def _list_json(source: Path, part: str, root: Path, listing: _Listing) -> None:
    """images, annotations and categories as iNaturalist and COCO have them."""
    try:
        table = json.loads(source.read_text(encoding="utf-8"))
        names = {row["id"]: str(row["name"]) for row in table["categories"]}
        files = {row["id"]: str(row["file_name"]) for row in table["images"]}
        labels = collections.defaultdict(set)
        for row in table["annotations"]:
            labels[row["image_id"]].add(names[row["category_id"]])
    except (ValueError, TypeError, KeyError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{source}: expected JSON as iNaturalist has it: images (id, file_name), annotations (image_id, category_id), "
                        f"categories (id, name); {what}") from None
    if twice := [name for name, count in collections.Counter(names.values()).items() if count > 1]:
        raise DataError(f"{source}: expected another name for each category; {len(twice)} stand there twice:{_some(twice)}")
    if unknown := [str(image) for image in labels if image not in files]:
        raise DataError(f"{source}: {len(unknown)} annotations are of images that are not listed, image_id:{_some(unknown)}")
    several = [f"{files[image]}: {', '.join(sorted(found))}" for image, found in labels.items() if len(found) > 1]
    if several:
        raise DataError(f"{source}: expected one class for each image; {len(several)} have several:{_some(several)}\nCrop them to one "
                        "object each, or take their annotations out.")
    _require_files([name for image, name in files.items() if image in labels and not (root / name).is_file()], len(files), source, root)
    listing.faults["left out, without a class"] += [name for image, name in files.items() if image not in labels]
    listing.classes |= set(names.values())
    for image, found in labels.items():
        listing.photographs.append(_Photograph(root / files[image], *found, part, files[image]))


def _list(source: str, test: str, val: str, root: str) -> _Listing:
    listing = _Listing()
    given = {"train": source, "val": val, "test": test}
    for part, text in given.items():
        path = Path(text).expanduser()
        if not text and part != "train":
            continue
        if not text or not path.exists():
            raise DataError(f"{'images' if part == 'train' else part} = {text!r}: expected a folder of photographs, a list file with "
                            f"'path label' lines or an iNaturalist JSON; there is nothing at {path.absolute()}")
        alone = part == "train" and not (test or val)
        if path.is_dir():
            if not alone:
                raise DataError(f"{part} = {text!r}: expected a list file or a JSON where parts are given one by one; a single folder may "
                                "hold train/, val/ and test/")
            _list_folder(path, listing)
        else:
            read = _list_json if path.suffix.lower() == ".json" else _list_lines
            read(path, "" if alone else part, Path(root).expanduser() if root else path.parent, listing)
    if not listing.photographs:
        raise DataError(f"images = {source!r}: expected photographs; there is not one")
    found = {photograph.part for photograph in listing.photographs}
    if "val" in found and "test" not in found:  # iNaturalist publishes no labels of its test images
        listing.photographs = [dataclasses.replace(p, part="test") if p.part == "val" else p for p in listing.photographs]
        listing.faults["no test part"].append("val is the test set, as is usual with iNaturalist, and there are no validation images")
    elif found == {"train"}:
        listing.photographs = [dataclasses.replace(p, part="") for p in listing.photographs]
    return listing


# ---------------------------------------------------------------------------------------------- the import


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
        sizes = f"{sum(self.train):,} images for training, {sum(self.val):,} for validation, {sum(self.test):,} for testing"
        each = f"{len(self.class_names)} classes of {self.train[0]} to {self.train[-1]} training images"
        return f"{self.dataset}: {each}; {sizes}; {self.size} px" + _faults_text(self.faults)

    def groups(self) -> str:
        """The grouping that suits these counts: "survey" where none of its three groups is empty, otherwise "thesis", thirds."""
        return "survey" if all(len(ids) for ids in groups("survey", self.train).values()) else "thesis"


def _faults_text(faults: dict[str, list[str]]) -> str:
    return "".join(f"\n{heading}: {len(lines)}{_some(lines)}" for heading, lines in faults.items())


def _stat(path: Path) -> tuple[int, int]:
    """Size and time of a file; nothing of a link that leads nowhere, which is named when it is read."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def import_images(source: str | Path, test: str | Path = "", val: str | Path = "", *, root: str | Path = "", name: str = "",
                  size: int = 224, test_share: float = 0.2, val_share: float = 0.1, seed: int = 0,
                  say: Callable[[str], None] = print) -> Imported:
    """Make a data set of photographs; say what was found wrong with them.

    source     a folder with train/<class>/*, val/<class>/* and test/<class>/* (the latter two need not be), or with <class>/*;
               or a list file with a line ``path label`` for each image; or a JSON as iNaturalist has it. With a list or a JSON for
               training, ``test`` and ``val`` are those of the other parts
    root       folder of the relative paths in lists and JSON; that of the file by default
    name       of the data set; the source's by default
    size       in pixels: what is kept of each photograph (:func:`read_image`)
    test_share, val_share, seed   without test and val, of the n photographs of each class the integer part of
               test_share n + 1/2 are for testing, of val_share n + 1/2 for validation, and at least one is left for training. Which
               ones depends on ``seed`` and their content alone: renaming changes nothing, adding some changes little. With val and
               no test, val is the test set

    Left out and named: what is no whole image; classes without one; a photograph that is there twice, equal pixel by pixel as
    the model will see it (a copy in another part is kept in test rather than val, in val rather than train). Classes without a
    test image are named and trained. Raises DataError, naming all of them, for a photograph under two labels and a class without
    a training image; and for what cannot be read at all. Raises ConfigError for impossible arguments.

    The arrays lie in ``imported_dir()``: <dataset>.npz (``IMPORTED``) and <dataset>.json (:class:`Imported`). They are held in
    memory whole: 0.15 MB an image of 224 px. Importing an unchanged source again (paths, sizes and times of its files) takes no time.
    """
    if not (isinstance(size, int) and size >= 8):
        raise ConfigError(f"size = {size!r}: expected a whole number of pixels, 8 or more")
    if not (0 < test_share < 1 and 0 <= val_share < 1 and test_share + val_share < 1):
        raise ConfigError(f"test_share = {test_share!r}, val_share = {val_share!r}: expected shares above 0 (val_share: or 0) whose sum is "
                          "below 1")
    listing = _list(*map(str, (source, test, val, root)))
    place = Path(source).expanduser().resolve()
    given, name = name, re.sub(r"\W+", "_", name or place.stem).strip("_").lower()
    if not name:
        raise ConfigError(f"name = {given!r}: expected letters or digits, such as moths")
    stats = [(str(p.path), p.label, p.part, *_stat(p.path)) for p in listing.photographs]
    how = [name, str(place), size, test_share, val_share, seed, PIL.__version__, sorted(listing.classes), listing.faults, stats]
    known = imported_dir() / "sources" / f"{hashlib.sha256(json.dumps(how).encode()).hexdigest()[:20]}.json"
    with exclusive(known, f"{place} is being imported by another process", say):
        result = _load(known)
        if result is None or not all((imported_dir() / f"{result.dataset}{suffix}").exists() for suffix in (".npz", ".json")):
            result = _import(listing, name, place, size, test_share, val_share, seed)
            _save(result, known)
    say(result.report())
    return result


def imported(dataset: str) -> Imported:
    """What is known of an imported data set. Raises ConfigError for one that is not there, or is built in."""
    path = imported_dir() / f"{dataset}.json"
    found = _load(path) if dataset_size(dataset).counts else None
    if found is None:
        raise ConfigError(f"dataset = {dataset!r}: expected one that was imported, described in {path}")
    return found


def _load(path: Path) -> Imported | None:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return Imported(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _save(result: Imported, path: Path) -> None:
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(result), ensure_ascii=False, indent=1), encoding="utf-8")


def _import(listing: _Listing, name: str, place: Path, size: int, test_share: float, val_share: float, seed: int) -> Imported:
    photographs, faults = listing.photographs, listing.faults
    need = 2 * len(photographs) * 3 * size**2
    if need > psutil.virtual_memory().available:
        raise ConfigError(f"size = {size}: {len(photographs)} images of {size} px need {need / 1e9:.1f} GB of memory, expected at most "
                          f"{psutil.virtual_memory().available / 1e9:.1f} GB; make size smaller, or import fewer")
    pixels, wrong = read_images([p.path for p in photographs], size)
    faults["left out, no whole image"] += [f"{p.title} ({fault})" for p, fault in zip(photographs, wrong, strict=True) if fault]
    by_content = collections.defaultdict(list)  # what the model sees as one photograph
    for row, (photograph, fault) in enumerate(zip(photographs, wrong, strict=True)):
        if not fault:
            by_content[hashlib.sha256(pixels[row]).hexdigest()].append((photograph, row))
    refused = collections.defaultdict(list)
    chosen = []  # (class, part, digest, row), one for each photograph
    for digest, copies in by_content.items():
        copies.sort(key=lambda copy: (-PARTS.index(copy[0].part or "train"), copy[0].title))
        kept = {}
        for photograph, row in copies:
            first = kept.setdefault(photograph.label, photograph)
            if first is photograph:
                chosen.append((photograph.label, photograph.part, digest, row))
                continue
            there = f"left out of {photograph.part}, also in {first.part}" if photograph.part != first.part else "left out, there twice"
            faults[there].append(f"{photograph.title} is {first.title}")
        if len(kept) > 1:
            refused["one photograph under two labels"].append(", ".join(f"{p.title} ({p.label})" for p, _ in copies))
    chosen = _split(chosen, test_share, val_share, seed)
    images = {part: collections.Counter(label for label, p, _, _ in chosen if p == part) for part in PARTS}
    faults["left out, classes without an image"] += sorted(listing.classes - set().union(*images.values()))
    refused["classes without a training image"] += sorted((set(images["val"]) | set(images["test"])) - set(images["train"]))
    names = sorted(images["train"], key=lambda label: (-images["train"][label], label))
    faults["trained but not tested, classes without a test image"] += [
        f"{label} ({images['train'][label]} for training)" for label in names if not images["test"][label]]
    if len(names) < 2:
        refused["classes"].append(f"expected at least 2 with a training image, found {len(names)}: {', '.join(names)}")
    if not images["test"]:
        refused["test images"].append("expected at least one; without a test part, a class of 3 photographs has one")
    faults = {heading: lines for heading, lines in faults.items() if lines}
    if refused := {heading: lines for heading, lines in refused.items() if lines}:
        also = f"\nBeside that:{_faults_text(faults)}" if faults else ""
        raise DataError(f"{place}: these photographs make no data set as they are. Mend this and run again:{_faults_text(refused)}{also}")
    number = {label: index for index, label in enumerate(names)}
    chosen.sort(key=lambda image: (number[image[0]], image[2]))  # whatever the files are called
    arrays = {"class_names": np.array(names)}
    for part in PARTS:
        arrays[f"x_{part}"] = pixels[[row for _, p, _, row in chosen if p == part]]
        arrays[f"y_{part}"] = np.array([number[label] for label, p, _, _ in chosen if p == part], np.int64)
    counts = {part: tuple(images[part][label] for label in names) for part in PARTS}
    result = Imported(imported_name(name, arrays), name, str(place), size, tuple(names), **counts, faults=faults)
    with atomic_path(imported_dir() / f"{result.dataset}.npz") as partial:
        np.savez(partial, **arrays)
    _save(result, imported_dir() / f"{result.dataset}.json")  # last: it makes the data set known
    return result


def _split(chosen: list, test_share: float, val_share: float, seed: int) -> list:
    """Give every photograph without a part one, class by class, in an order that depends on the seed and the photographs alone."""
    by_class = collections.defaultdict(list)
    for image in chosen:
        by_class[image[0]].append(image)
    result = []
    for label, images in by_class.items():
        images.sort(key=lambda image: hashlib.sha256(f"{seed} {image[2]}".encode()).digest())
        test = min(int(test_share * len(images) + 0.5), len(images) - 1)
        val = min(int(val_share * len(images) + 0.5), len(images) - 1 - test)
        parts = ["test"] * test + ["val"] * val + ["train"] * (len(images) - test - val)
        result += [(label, part or own, digest, row) for (_, part, digest, row), own in zip(images, parts, strict=True)]
    return result


# --------------------------------------------------------------------------------------------- its profile


def write_profile(path: Path, own: Imported, *, backbones=("mobilenetv2_100",), losses=("softmax", "balanced_softmax", "logit_adjusted"),
                  seeds=(0,), mode: str = "finetune", epochs: int = 20, batch_size: int = 64, flip: bool = True, precision: str = "float32",
                  grouping: str = "") -> Profile:
    """Write a whole profile for imported photographs, and load it: ``make runs PROFILE=<path>`` computes the same runs.

    The rates are those of the profile "finetune" for the backbone's family (of "demo" for the small ones), images are those of the
    import, cropped at random after padding by an eighth. ``flip``: mirrored at random, right for all but scripts and the like.
    precision "bfloat16" is for GPUs. grouping "": :meth:`Imported.groups`. Raises ConfigError for what no profile may say.
    """
    small = [name for name in backbones if is_small(name)]
    if small and len(small) < len(backbones):
        raise ConfigError(f"backbones = {list(backbones)}: expected either small ones ({', '.join(small)}) or real ones; "
                          "they need other recipes")
    base = load_profile("demo" if small else "finetune")
    recipe = dataclasses.replace(base.recipe, epochs=epochs, batch_size=batch_size, resolution=own.size, crop_padding=own.size // 8,
                                 flip=flip, precision=precision, warmup_epochs=min(base.recipe.warmup_epochs, epochs / 4))
    untested = sum(not n for n in own.test)
    deviations = [f"Own photographs: {sum(own.test):,} test images of {len(own.test) - untested} classes"
                  + (f"; {untested} classes have none." if untested else "."),
                  f"Rates of the profile {base.name}, not tuned on these images."]
    top = {"title": f"{own.name}: {sum(own.train):,} training images of {len(own.train)} classes", "dataset": own.dataset,
           "mode": mode, "backbones": list(backbones), "losses": list(losses), "seeds": list(seeds), "train_sets": ["longtailed"],
           "deviations": deviations}
    tables = {"protocols.own": {"groups": grouping or own.groups()}, "recipe": vars(recipe)}
    for name in backbones:
        family = [change for other, change in base.recipe_by_backbone.items() if other.split("_")[0] == name.split("_")[0]]
        if family and mode != "probe":
            tables[f"recipe_by_backbone.{name}"] = family[0]
    if small:
        tables["pretraining"] = {"images": 3000}
        tables["pretraining.recipe"] = vars(dataclasses.replace(base.pretraining.recipe, epochs=4))
    else:
        tables["tune"] = {"lr": [recipe.lr / 3, recipe.lr, recipe.lr * 3]}
    lines = ["# Written by notebook 16, and written again when it runs. Copy it to another name to change it by hand."]
    lines += [f"{key} = {_toml(value)}" for key, value in top.items()]
    for heading, table in tables.items():
        lines += ["", f"[{heading}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    with atomic_path(Path(path)) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_profile(str(path))


def _toml(value) -> str:
    """Strings, numbers, truth values and lists are the same in TOML as in JSON."""
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------ a demonstration


def write_demonstration(folder: Path) -> None:
    """Make ``folder``, unless it is there: photographs/<class>/*.png, 110 to 1 images of 100 classes, and new/*.png, six others.

    The images are those of the embedded data set. Among them are the faults that such folders have: a file that is no image, one
    that broke off, an empty class, a photograph that is there twice, hidden files; and images that are turned by EXIF, grey,
    transparent or of 16 bits, with which nothing is wrong.
    """
    data = digit_pairs()
    names = np.random.default_rng(0).permutation(data.class_names)  # which classes are rare does not show in their names
    counts = dict(zip(map(str, names), class_counts(100, 110, 110).tolist(), strict=True))
    with exclusive(folder, f"{folder} is being written by another process"):
        if folder.exists():
            return
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.{HOST}.{os.getpid()}.", suffix=".tmp", dir=folder.parent) as temporary:
            whole = Path(temporary) / folder.name
            place, new = whole / "photographs", whole / "new"
            for label, name in enumerate(data.class_names):
                (place / name).mkdir(parents=True)
                for number, row in enumerate(np.flatnonzero(data.train_labels == label)[: counts[name]]):
                    Image.fromarray(data.train_images[row]).save(place / name / f"{number:03}.png")
            most, more, *_ = names
            first = Image.open(place / most / "000.png")
            turned = Image.Exif()
            turned[0x0112] = 6  # the camera was held upright
            first.rotate(90).save(place / most / "000.png", exif=turned)
            shutil.copy(place / more / "001.png", place / more / "001 (copy).png")
            Image.open(place / most / "002.png").convert("L").save(place / most / "002.png")
            Image.open(place / most / "003.png").convert("RGBA").save(place / most / "003.png")
            grey = np.asarray(Image.open(place / most / "004.png").convert("L"), np.uint16) * 257
            Image.fromarray(grey).save(place / most / "004.png")
            (place / most / "005.png").write_bytes((place / most / "005.png").read_bytes()[:900])
            (place / more / "label.jpg").write_text("not an image")
            (place / more / ".DS_Store").write_bytes(bytes(8))
            (place / "not yet seen").mkdir()
            new.mkdir()
            for number, rank in enumerate((0, 1, 40, 50, 85, 95)):
                row = np.flatnonzero(data.test_labels == int(names[rank]))[0]
                Image.fromarray(data.test_images[row]).save(new / f"new_{number}_{names[rank]}.png")
            os.replace(whole, folder)
