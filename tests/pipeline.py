"""The program started as its users start it, and the files that it makes."""

import os
import subprocess
import sys

from ltlib.files import ROOT

COMMAND = [sys.executable, "-m", "workbook"]


def figures(out):
    """Every figure, table, derivation and macro, byte by byte."""
    folder = out / "figures" / "smoke"
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def run(out, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments, "--profile", "smoke"],
        cwd=ROOT,
        env=os.environ | {"LTLIB_OUT": str(out)},
        capture_output=True,
        text=True,
    )
