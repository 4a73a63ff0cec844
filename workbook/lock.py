"""requirements.lock and environment.yml out of pyproject.toml: ``python -m workbook.lock``."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib

from ltlib.files import ROOT, atomic_path

LOCK, ENVIRONMENT = ROOT / "requirements.lock", ROOT / "environment.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAD = "# Made by `make lock` from pyproject.toml."
CONDA = f"""{HEAD} conda env create -f environment.yml && conda activate longtail-workbook
name: longtail-workbook
channels:
  - conda-forge
dependencies:
  - python{PROJECT["requires-python"]}
  - pip
  - make
  - pip:
"""


def requirements() -> list[str]:
    """Every dependency of pyproject.toml, extras included."""
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    return sorted({*PROJECT["dependencies"], *extras}, key=str.lower)


def fingerprint(lines: list[str]) -> str:
    """sha256 of requirements; the lock carries it, so that a test sees drift without a network."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def compiled() -> str:
    """Pins of the newest versions that go together, by uv, with the checksums of their files: one
    lock for every system and Python."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--all-extras"]
    command += ["--python-version", PROJECT["requires-python"].removeprefix(">=")]
    command += ["--upgrade", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
    command += ["pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def lock_text(pins: str) -> str:
    """The text of requirements.lock from what uv compiled."""
    return f"{HEAD} sha256 of its dependencies: {fingerprint(requirements())}\n{pins}"


def environment_text() -> str:
    """The text of environment.yml: Python, pip and make from conda-forge, all else by pip."""
    return CONDA + "".join(f'      - "{line}"\n' for line in requirements())


def main() -> None:
    for path, text in ((LOCK, lock_text(compiled())), (ENVIRONMENT, environment_text())):
        with atomic_path(path) as partial:
            partial.write_text(text)


if __name__ == "__main__":
    main()
