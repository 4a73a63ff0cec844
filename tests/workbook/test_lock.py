from collections import Counter

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workbook.lock import ENVIRONMENT, LOCK, environment_text, fingerprint, lock_text, requirements

TEXT = LOCK.read_text()
LINES = [line for line in TEXT.replace("\\\n", "").splitlines() if not line.startswith("#")]
PINS = [Requirement(line.partition(" --hash")[0]) for line in LINES]
HERE = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate()]


def test_the_lock_was_made_from_the_dependencies_of_today():
    assert TEXT.splitlines()[0].endswith(
        f"sha256 of its dependencies: {fingerprint(requirements())}"
    )


def test_environment_yml_was_made_from_the_dependencies_of_today():
    assert ENVIRONMENT.read_text() == environment_text()


def test_every_requirement_has_exactly_one_pin_here_that_satisfies_it():
    for wanted in map(Requirement, requirements()):
        (pin,) = [p for p in HERE if canonicalize_name(p.name) == canonicalize_name(wanted.name)]
        (specifier,) = pin.specifier
        assert wanted.specifier.contains(specifier.version), wanted


def test_every_line_of_the_lock_pins_one_version_and_no_package_has_two_here():
    assert all([s.operator for s in pin.specifier] == ["=="] for pin in PINS)
    assert max(Counter(canonicalize_name(pin.name) for pin in HERE).values()) == 1


def test_every_pin_has_the_checksums_of_its_files():
    assert all("--hash=sha256:" in line for line in LINES)


def test_the_lock_holds_no_address():
    assert "://" not in TEXT
    assert "@" not in TEXT


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_packages_for_linux_alone_are_conditional(system):
    elsewhere = {
        "platform_system": system,
        "sys_platform": {"Windows": "win32", "Darwin": "darwin"}[system],
    }
    linux = [pin for pin in PINS if pin.name.startswith(("nvidia-", "cuda-", "triton"))]
    assert linux
    assert not [pin.name for pin in linux if pin.marker is None or pin.marker.evaluate(elsewhere)]


def test_the_lock_begins_with_the_fingerprint_and_keeps_the_pins():
    head, *pins = lock_text("numpy==2.4.0\n").splitlines()
    assert head.startswith("#")
    assert head.split()[-1] == fingerprint(requirements())
    assert pins == ["numpy==2.4.0"]


def test_the_fingerprint_changes_with_the_dependencies():
    assert fingerprint(["numpy>=2.0"]) != fingerprint(["numpy>=2.1"])


def test_environment_text_lists_every_requirement_in_quotes():
    text = environment_text()
    assert all(f'      - "{line}"\n' in text for line in requirements())
