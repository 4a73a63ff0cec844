"""What stays while the code is rebuilt: the names of all runs, and what the committed records say.

A run's name is a hash of all that its result depends on, so a changed name orphans a record.
tests/golden/run_ids.json holds, by profile, how many runs it has, the SHA-256 of their sorted ids,
one a line, and the first three of these. ``python -P tests/test_pins.py`` adds profiles that are
new, ``python -P tests/test_pins.py probe`` renews one whose runs are meant to be others (-P,
because the folder tests/ltlib would be taken for ltlib).
"""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ltlib.data.sizes import dataset_size
from ltlib.files import ROOT
from ltlib.longtail import groups
from ltlib.protocol import longtailed_counts
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import load_profile, profile_names
from ltlib.runs.records import computed_as

KEPT = Path(__file__).parent / "golden" / "run_ids.json"
GOLDEN = json.loads(KEPT.read_text())


def committed():
    """The committed records; beside them lie those of whoever ran something here. Without a
    repository, as in an archive of the project, all that are there."""
    command = ["git", "ls-files", "results/*.json"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    paths = [ROOT / name for name in listed] or (ROOT / "results").rglob("*.json")
    return sorted(path for path in paths if path.exists())


RECORDS = {str(path.relative_to(ROOT)): json.loads(path.read_text()) for path in committed()}


def identities(profile):
    ids = sorted(run.id for run in load_profile(profile).configs())
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    return {"runs": len(ids), "sha256": digest, "first": ids[:3]}


def test_every_profile_has_golden_run_ids():
    assert sorted(profile_names()) == sorted(GOLDEN), "`python -P tests/test_pins.py` adds them"


@pytest.mark.parametrize("profile", GOLDEN)
def test_the_ids_of_a_profile_are_the_golden_ones(profile):
    meant = (
        f"if its runs are meant to be others, `python -P tests/test_pins.py {profile}` renews them"
    )
    assert identities(profile) == GOLDEN[profile], meant


def test_every_committed_record_is_the_run_that_its_name_says():
    """Of options that came after a record was written it has the defaults."""
    assert len(RECORDS) >= 263
    for path, record in RECORDS.items():
        run = RunConfig.from_dict(record["config"])
        assert run.id == record["id"] == Path(path).stem, path
        assert run.to_dict() == record["config"], path


@pytest.mark.parametrize("profile", sorted({path.split("/")[1] for path in RECORDS}))
def test_every_committed_record_is_a_run_of_its_profile(profile):
    """All but trials of other recipes, which lie in the folder tune."""
    runs = {computed_as(run).id for run in load_profile(profile).configs()}
    stored = {path.stem for path in map(Path, RECORDS) if path.parent == Path("results", profile)}
    assert stored <= runs


def hits_by_class(record, result, eval_set):
    """Images and hits of the classes of an evaluation set: all of them, or those of a group."""
    base = "balanced" if eval_set.startswith("balanced") else "longtailed"
    images, hits = (np.array(result["per_class"][base][key]) for key in ("images", "hits"))
    if eval_set != base:
        run = RunConfig.from_dict(record["config"])
        counts = longtailed_counts(run.protocol, dataset_size(run.dataset).num_classes)
        member = groups(run.protocol.groups, counts)[eval_set.removeprefix("balanced_")]
        images, hits = images[member], hits[member]
    return images[images > 0], hits[images > 0]


def test_stored_metrics_agree_with_the_hits_of_each_class():
    """G-mean and mean accuracy over classes are in the records from the time on when they were
    thought of."""
    with_gmean = 0
    for path, record in RECORDS.items():
        for choice, result in record["results"]["evaluations"].items():
            for eval_set, stored in result["sets"].items():
                where = f"{path}, {choice}, {eval_set}"
                images, hits = hits_by_class(record, result, eval_set)
                assert (stored["n"], stored["hits"]) == (images.sum(), hits.sum()), where
                assert stored["acc1"] == hits.sum() / images.sum(), where
                if "gmean" not in stored:
                    continue
                accuracies = hits / images
                gmean = math.exp(np.log(accuracies).mean()) if accuracies.all() else 0.0
                assert stored["gmean"] == pytest.approx(gmean, abs=1e-12), where
                assert stored["class_acc"] == pytest.approx(accuracies.mean(), abs=1e-12), where
                with_gmean += 1
    assert with_gmean >= 976


if __name__ == "__main__":
    new = set(profile_names()) - set(GOLDEN) | set(sys.argv[1:])
    GOLDEN = dict(sorted((GOLDEN | {profile: identities(profile) for profile in new}).items()))
    KEPT.write_text(json.dumps(GOLDEN, indent=1) + "\n")
    print(f"written: {', '.join(sorted(new)) or 'nothing'}")
