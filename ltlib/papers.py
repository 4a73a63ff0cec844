"""The three papers carried out by notebooks 17 to 19: their profiles, their printed numbers, and ours beside them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ltlib import report
from ltlib.config import PROFILES, ROOT, Profile, RunConfig, load_profile, profile_names
from ltlib.metrics import mean_interval
from ltlib.records import Record, computed_as, load_record, load_records


def profiles_of(notebook: str) -> list[Profile]:
    """The profiles that belong to a notebook, by its stem: those that execute it and little else."""
    # loading them all is slow
    naming = [name for name in profile_names() if notebook in (PROFILES / f"{name}.toml").read_text(encoding="utf-8")]
    return [profile for profile in map(load_profile, naming) if notebook in profile.notebooks]


def paper_records(notebook: str) -> pd.DataFrame:
    """All results of a notebook's profiles, as :func:`ltlib.records.load_records` gives them, with a column ``profile``."""
    tables = [load_records(profile).assign(profile=profile.name) for profile in profiles_of(notebook)]
    return pd.concat(tables, ignore_index=True).astype({"value": float})  # which an empty table says nothing of


def printed(paper: str) -> pd.DataFrame:
    """What a paper prints: ``data/reference/<paper>.csv``; ``pf_loss``, ``pf_loss_examples``, ``arconvl``, ``arconvl_tests``, ``gbg``."""
    return pd.read_csv(ROOT / "data" / "reference" / f"{paper}.csv")


def by_seed(records: pd.DataFrame, profile: str, protocol: str, eval_set: str, metric: str, epoch_choice: str = "last") -> pd.DataFrame:
    """One metric of the long-tailed runs of a protocol: a row per seed, a column per method; fractions or nats as recorded."""
    rows = records[(records["profile"] == profile) & (records["protocol"] == protocol) & (records["train_set"] == "longtailed")
                   & (records["eval_set"] == eval_set) & (records["metric"] == metric) & (records["epoch_choice"] == epoch_choice)]
    return rows.pivot_table(index="seed", columns="loss", values="value")


def cell(values: pd.Series | None) -> str:
    """ "82.4 ± 1.0": mean over seeds and half the 95 % t interval, in percent; one seed without the latter; a dash for none."""
    known = np.asarray([] if values is None else values.dropna(), float)
    return report.number(*mean_interval(known)) if len(known) else "–"


def compare(ours: pd.DataFrame, theirs: pd.Series, method: str) -> pd.DataFrame:
    """What a paper claims of ``method`` against its rivals beside what our runs show, a row per rival.

    ours: one metric by seed (:func:`by_seed`), fractions; theirs: the printed values by method, percent. Columns: printed and ours, the
    rival's values; gain printed and gain ours, method minus rival in points, ours paired by seed with half the 95 % t interval; finding:
    "as claimed" or "against the claim" where our interval does not hold 0, otherwise "undecided"; "no claim" where nothing is printed, a
    dash where we have no runs.
    """
    rows = {}
    for rival in [name for name in ours.columns if name != method]:
        differences = 100 * (ours[method] - ours[rival]).dropna() if method in ours else pd.Series(dtype=float)
        claim = theirs.get(method, np.nan) - theirs.get(rival, np.nan)
        mean, half = mean_interval(differences) if len(differences) else (np.nan, np.nan)
        sure = abs(mean) > half
        agrees = "as claimed" if (mean > 0) == (claim > 0) else "against the claim"
        rows[rival] = {
            "printed": report.number(theirs.get(rival, np.nan), scale=1), "ours": cell(ours[rival]),
            "gain printed": report.signed(claim) if np.isfinite(claim) else "–",
            "gain ours": (report.signed(mean) + (f" ± {half:.1f}" if np.isfinite(half) else "")) if np.isfinite(mean) else "–",
            "finding": "–" if not np.isfinite(mean) else "no claim" if not np.isfinite(claim) else agrees if sure else "undecided",
        }
    return pd.DataFrame(rows).T.rename(index=report.LOSS_TITLES)


def deviations(notebook: str) -> str:
    """Every deviation from the paper, by profile, in Markdown."""
    return "\n".join(f"- **{profile.title}** (`{profile.name}`): {' '.join(profile.deviations)}" for profile in profiles_of(notebook))


def finished(profile: str, protocol: str, method: str) -> dict[int, tuple[RunConfig, Record]]:
    """The finished runs of a method on a profile's long tail, by seed: for what no table of results holds, such as curves."""
    chosen = load_profile(profile, losses=[method], protocols=[protocol], train_sets=["longtailed"])
    return {config.seed: (config, record) for _, config, record in _done([chosen])}


def _done(profiles: list[Profile]) -> Iterator[tuple[Profile, RunConfig, Record]]:
    """Every finished run of these profiles."""
    for profile in profiles:
        for config in profile.configs():
            record = load_record(computed_as(config))
            if record is not None and record.status == "done":
                yield profile, config, record


def run_seconds(notebook: str) -> pd.DataFrame:
    """Wall time of every run that went through undisturbed: columns profile, protocol, loss, seed, device, seconds."""
    rows = [[profile.name, config.protocol.name, config.variant, config.seed, *map(record.provenance.get, ("device_name", "wall_seconds"))]
            for profile, config, record in _done(profiles_of(notebook)) if not {"starts", "adjusted"} & set(record.provenance)]
    return pd.DataFrame(rows, columns=["profile", "protocol", "loss", "seed", "device", "seconds"])


def last_falls(notebook: str) -> pd.Series:
    """Training loss of the last tenth of the epochs / of the tenth before it, by profile and method: mean over runs."""
    found = {}
    for profile, config, record in _done(profiles_of(notebook)):
        curve = np.array([entry["train_loss"] for entry in record.results["curve"]])
        tenth = len(curve) // 10
        if tenth and curve[-2 * tenth : -tenth].mean() > 0:
            found.setdefault((profile.name, config.variant), []).append(curve[-tenth:].mean() / curve[-2 * tenth : -tenth].mean())
    return pd.Series({key: float(np.mean(values)) for key, values in found.items()}, dtype=float)
