"""Files from the web: resumed, checked; and what to do where there is no network."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from ltlib.errors import DataError
from ltlib.files import data_dir


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def from_torchvision(name: str, load) -> tuple:
    """The training and the test part of a data set of torchvision."""
    try:
        train, test = load("train"), load("test")
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} is not in {data_dir()} and could not be downloaded ({first_line(error)}). Put"
            " what torchvision expects of it there, or let LTLIB_DATA name the folder that"
            " holds it."
        ) from error
    return train, test


def check_md5(path: Path, expected: str) -> None:
    """Raise DataError unless the file has this MD5 checksum (the only one that the authors
    publish)."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(
            f"{path}: its MD5 checksum is {found}, expected {expected}. Remove the file and run"
            " again."
        )


def download(url: str, path: Path, md5: str) -> None:
    """Download ``url`` to ``path`` with a progress bar; go on where an earlier attempt stopped;
    check the MD5.

    The unfinished file is ``<path>.part``. Raises OSError if the server is out of reach or breaks
    off (what has come is kept), DataError if the finished file is not the expected one (it is
    removed).
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            _fetch(response, part, have)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to fetch
            raise
    try:
        check_md5(part, md5)
    except DataError:
        part.unlink()
        raise
    part.replace(path)


def _fetch(response, part: Path, have: int) -> None:
    """Append what comes to ``part``, whose first ``have`` bytes are there; write it anew where the
    server does not resume."""
    if response.status != 206:
        have = 0
    total = int(response.headers.get("Content-Length", 0)) + have
    bar = tqdm(total=total or None, initial=have, unit="B", unit_scale=True, desc=part.stem)
    with open(part, "ab" if have else "wb") as file, bar:
        while block := response.read(1 << 18):
            file.write(block)
            bar.update(len(block))
    if part.stat().st_size < total:
        raise OSError(
            f"the server broke off after {part.stat().st_size} of {total} bytes; run again to go on"
        )
