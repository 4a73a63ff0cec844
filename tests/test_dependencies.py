from collections import Counter

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ltlib.config import ROOT
from ltlib.dependencies import environment_text, fingerprint, lock_text, requirements, write

LOCK = (ROOT / "requirements.lock").read_text()
PINS = [Requirement(line) for line in LOCK.splitlines() if not line.startswith("#")]

COMPILED = """\
# This file is made by pip-compile
numpy==2.4.0
nvidia-cublas==13.1.0.3
    # via torch
torch==2.12.0
triton==3.7.0
"""


def test_the_lock_was_made_from_the_dependencies_of_today():
    assert LOCK.splitlines()[0].endswith(f"sha256 of its dependencies: {fingerprint()}")


def test_environment_yml_was_made_from_the_dependencies_of_today():
    assert (ROOT / "environment.yml").read_text() == environment_text()


@pytest.mark.parametrize("requirement", requirements())
def test_every_requirement_has_exactly_one_pin_that_satisfies_it(requirement):
    wanted = Requirement(requirement)
    (pin,) = [p for p in PINS if canonicalize_name(p.name) == canonicalize_name(wanted.name)]
    (specifier,) = pin.specifier
    assert wanted.specifier.contains(specifier.version)


def test_every_line_of_the_lock_pins_one_version_of_a_package_of_its_own():
    assert all([s.operator for s in pin.specifier] == ["=="] for pin in PINS)
    assert max(Counter(canonicalize_name(pin.name) for pin in PINS).values()) == 1


def test_the_lock_holds_no_address():
    assert "://" not in LOCK
    assert "@" not in LOCK


def test_packages_for_linux_alone_are_conditional():
    windows = {"platform_system": "Windows"}
    conditional = {pin.name for pin in PINS if pin.marker and not pin.marker.evaluate(windows)}
    assert conditional == {pin.name for pin in PINS if pin.name.startswith(("nvidia-", "cuda-", "triton"))}
    assert conditional


def test_lock_text_keeps_pins_and_makes_linux_packages_conditional():
    assert lock_text(COMPILED).splitlines()[1:] == [
        "numpy==2.4.0",
        'nvidia-cublas==13.1.0.3 ; platform_system == "Linux"',
        "torch==2.12.0",
        'triton==3.7.0 ; platform_system == "Linux"',
    ]


def test_lock_text_begins_with_the_fingerprint():
    head = lock_text(COMPILED).splitlines()[0]
    assert head.startswith("#")
    assert head.split()[-1] == fingerprint()


def test_the_fingerprint_changes_with_the_dependencies(monkeypatch):
    before = fingerprint()
    monkeypatch.setattr("ltlib.dependencies.requirements", lambda: ["numpy>=2.0"])
    assert fingerprint() != before


def test_environment_text_lists_every_requirement_in_quotes():
    text = environment_text()
    assert all(f'      - "{line}"\n' in text for line in requirements())


def test_write_replaces_a_file(tmp_path):
    path = tmp_path / "lock"
    for text in ("one\n", "two\n"):
        write(path, text)
    assert path.read_text() == "two\n"
