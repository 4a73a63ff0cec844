"""requirements.lock and environment.yml out of pyproject.toml: ``python -m ltlib.dependencies`` (make lock)."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

from ltlib.config import ROOT, atomic_path

LINUX_ONLY = ("nvidia-", "cuda-", "triton")  # what torch asks for on Linux alone; a lock has no such conditions by itself


def requirements() -> list[str]:
    """Every dependency of pyproject.toml, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return sorted({*project["dependencies"], *extras}, key=str.lower)


def fingerprint() -> str:
    """sha256 of :func:`requirements`; the lock's first line carries it, so that a test sees drift without a network."""
    return hashlib.sha256("\n".join(requirements()).encode()).hexdigest()


def lock_text(compiled: str) -> str:
    """The text of requirements.lock from pip-compile's output: fingerprint, pins, conditions for Linux-only packages."""
    pins = []
    for line in compiled.splitlines():
        if "==" not in line or line.startswith("#"):
            continue
        pins.append(f'{line} ; platform_system == "Linux"' if line.startswith(LINUX_ONLY) else line)
    head = f"# Made by `make lock` from pyproject.toml. sha256 of its dependencies: {fingerprint()}\n"
    return head + "\n".join(pins) + "\n"


def environment_text() -> str:
    """The text of environment.yml: Python, pip and make from conda-forge, everything else by pip."""
    pip = "".join(f'      - "{line}"\n' for line in requirements())
    return (
        "# Made by `make lock` from pyproject.toml. conda env create -f environment.yml && conda activate longtail-workbook\n"
        "name: longtail-workbook\nchannels:\n  - conda-forge\ndependencies:\n  - python>=3.11\n  - pip\n  - make\n  - pip:\n" + pip
    )


def main() -> None:
    command = [sys.executable, "-m", "piptools", "compile", "--all-extras", "--allow-unsafe", "--strip-extras", "--no-annotate",
               "--no-header", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host", "--quiet", "--upgrade",
               "--output-file", "-", "pyproject.toml"]
    compiled = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    write(ROOT / "requirements.lock", lock_text(compiled))
    write(ROOT / "environment.yml", environment_text())


def write(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text)


if __name__ == "__main__":
    main()
