"""The registry: names that runs carry, titles, and how a loss is added."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ltlib import registry
from ltlib.errors import ConfigError
from ltlib.losses import Loss, build_loss

ROOT = Path(__file__).parents[2]


def test_the_names_that_runs_carry_stay():
    """Others come after them."""
    assert registry.LOSS_NAMES[:7] == (
        "softmax",
        "weighted_softmax",
        "focal",
        "class_balanced",
        "balanced_softmax",
        "ldam",
        "equalization",
    )
    assert registry.METHOD_NAMES == ("pf", "gcpl", "affinity", "arconvl", "gbg")
    assert registry.VARIANTS == (
        "weighted_softmax_drw",
        "focal_drw",
        "class_balanced_drw",
        "ldam_drw",
        "logit_adjusted",
    )


@pytest.mark.parametrize("name", registry.ENTRIES)
def test_an_entry_says_what_everything_else_needs(name):
    entry = registry.entry(name)
    assert entry.name == name
    assert issubclass(registry.loss_class(name), Loss)
    assert set(registry.heads_of(name)) <= set(registry.HEADS)
    assert registry.heads_of(name)
    assert registry.version(name) >= 1


def test_titles_and_colours_are_told_apart():
    names = [*registry.ENTRIES, *registry.VARIANTS]
    for of in (registry.title, registry.short_title):
        assert len({of(name) for name in names}) == len(names)
    assert len({registry.color(name) for name in registry.ENTRIES}) == len(registry.ENTRIES)
    assert all(re.fullmatch("#[0-9a-f]{6}", registry.color(name)) for name in names)


@pytest.mark.parametrize(
    ("name", "title", "short"),
    [
        ("class_balanced", "Class-balanced", "CB"),
        ("class_balanced_drw", "Class-balanced, DRW", "CB-D"),
        ("ldam_drw", "LDAM-DRW", "LDAM-D"),
        ("logit_adjusted", "Logit adjustment", "LA"),
        ("of_my_profile", "of_my_profile", "of_my_profile"),
        ("softmax_drw", "softmax_drw", "softmax_drw"),
    ],
)
def test_titles_of_losses_variants_and_other_names(name, title, short):
    assert (registry.title(name), registry.short_title(name)) == (title, short)


def test_a_variant_is_drawn_in_the_colour_of_its_loss():
    assert registry.color("ldam_drw") == registry.color("ldam") != registry.color("logit_adjusted")


def test_a_misspelt_loss_is_refused_with_the_name_that_is_close():
    with pytest.raises(ConfigError, match=r"loss = 'ldm': expected one of softmax.*'ldam'"):
        build_loss("ldm", [3, 2])


# an eighth loss

EIGHTH = '''
from ltlib.losses.base import Loss


class Tempered(Loss):
    """CE(z / t, y)."""

    def __init__(self, class_counts, temperature: float = 2.0):
        super().__init__(class_counts)
        self.temperature = temperature

    def adjusted(self, logits, labels, generator=None):
        return logits / self.temperature
'''
LINE = (
    '    Entry("tempered", "ltlib.losses.tempered:Tempered", "Tempered", "Temp", "#123456", '
    "deferrable=True),\n"
)
USE = """
import torch
from ltlib import registry
from ltlib.losses import build_loss
from ltlib.runs.profiles import load_profile

z, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
loss = build_loss("tempered", [3, 1], temperature=4.0)
assert torch.allclose(loss(z, y), build_loss("softmax", [3, 1])(z / 4, y))
assert registry.title("tempered_drw") == "Tempered, DRW"
profile = load_profile("demo", losses=["softmax", "tempered", "tempered_drw"])
runs = [run for run in profile.configs() if run.loss == "tempered"]
assert {run.head for run in runs} == {"linear"}
assert {run.drw is None for run in runs} == {True, False}
"""


def test_an_eighth_loss_is_one_new_file_and_one_line_of_the_registry(tmp_path):
    skip = shutil.ignore_patterns("__pycache__")
    for folder in ("ltlib", "profiles", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skip)
    (tmp_path / "ltlib" / "losses" / "tempered.py").write_text(EIGHTH)
    path = tmp_path / "ltlib" / "registry.py"
    before, first, after = path.read_text().partition('    Entry("softmax"')
    path.write_text(before + LINE + first + after)
    result = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, env={}
    )
    assert result.returncode == 0, result.stderr


# what it takes to load

LOAD = """
import sys, time
import torch
start = time.perf_counter()
import ltlib.losses, ltlib.longtail
took = time.perf_counter() - start
heavy = ("pandas", "scipy", "sklearn", "timm", "pydantic", "matplotlib", "torchvision")
print(took, [name for name in heavy if name in sys.modules])
"""


def test_losses_load_with_numpy_and_torch_alone_in_little_more_time_than_torch():
    def load():
        printed = subprocess.check_output([sys.executable, "-c", LOAD], cwd=ROOT, text=True)
        took, heavy = printed.strip().split(" ", 1)
        assert heavy == "[]"
        return float(took)

    # at most 0.2 s are promised, and it takes 0.03: tried again where the machine was busy
    assert any(load() < 0.2 for _ in range(3))


# in a loop of your own


def test_the_readmes_loop_of_your_own_runs(capsys):
    section = (ROOT / "README.md").read_text().partition("## A loss of ours in your own loop")[2]
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1), {})
    assert float(capsys.readouterr().out.split()[-1]) < 1  # it starts above 10


def test_every_loss_has_a_colour_and_a_marker_of_its_own():
    names = (*registry.ENTRIES, *registry.VARIANTS)
    markers = [registry.marker(name) for name in names]
    assert len(set(markers)) == len(names)
    colors = {registry.color(name) for name in (*registry.ENTRIES, "logit_adjusted")}
    assert len(colors) == len(registry.ENTRIES) + 1
    assert registry.color("ldam_drw") == registry.color("ldam")
