import dataclasses
import shutil
import subprocess

import pandas as pd
import pytest
from stored import config_of, store

from ltlib.files import ROOT, figures_dir
from ltlib.runs.profiles import load_profile
from workbook import results
from workbook.results import DICTIONARY, numbers_latex, results_table, write_results


def stored(config, acc, **more):
    record = store(config, acc)
    from ltlib.runs.records import save_record

    save_record(
        config,
        dataclasses.replace(
            record, provenance={"wall_seconds": 2.5, "device_name": "a, device"} | more
        ),
    )


def test_the_table_has_a_row_per_run_and_evaluation_set(out, smoke):
    stored(config_of(smoke), 0.6)
    stored(config_of(smoke, "focal", "balanced"), 0.5)
    write_results(smoke)
    table = pd.read_csv(out / "results" / "smoke.csv")
    assert list(table) == list(DICTIONARY)
    row = table.query("loss == 'softmax'").iloc[0]
    assert (row["acc1"], row["hits"], row["n"], row["cross_entropy"], row["wall_seconds"]) == (
        0.6,
        60,
        100,
        1.0,
        2.5,
    )
    factor = smoke.protocols[0].imbalance_factor
    assert (row["device"], row["imbalance_factor"], row["profile"]) == (
        "a, device",
        factor,
        "smoke",
    )
    assert set(table["eval_set"]) == {"balanced"}


def test_no_records_give_an_empty_table_with_its_columns(out, smoke):
    write_results(smoke)
    assert pd.read_csv(out / "results" / "smoke.csv").columns.tolist() == list(DICTIONARY)
    assert results_table(smoke).empty


def test_the_data_dictionary_is_the_committed_one(out, smoke):
    write_results(smoke)
    text = (out / "results" / "README.md").read_text()
    assert text == (ROOT / "results" / "README.md").read_text(), (
        "python -m ltlib html, then commit results/README.md"
    )
    assert all(f"| `{column}` |" in text for column in DICTIONARY)


def test_macros_hold_numbers_dashes_and_seeds(out):
    profile = load_profile("smoke", losses=["softmax", "focal"], seeds=[0, 1])
    for seed, acc in ((0, 0.5), (1, 0.6)):
        stored(dataclasses.replace(config_of(profile), seed=seed), acc)
    text = numbers_latex(profile)
    name = "ltresult@smoke/thesis/longtailed/resnetv2_small32"
    assert f"\\csname {name}/softmax/balanced\\endcsname{{55.0}}" in text
    assert f"\\csname {name}/softmax/balanced/half\\endcsname{{63.5}}" in text
    assert f"\\csname {name}/softmax/balanced/seeds\\endcsname{{2}}" in text
    assert f"\\csname {name}/focal/balanced\\endcsname{{--}}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_macros_in_latex(out, smoke, tmp_path):
    stored(config_of(smoke), 0.6)
    write_results(smoke)
    (tmp_path / "t.tex").write_text(
        f"\\documentclass{{article}}\\input{{{figures_dir('smoke')}/numbers}}\\begin{{document}}\\typeout{{<\\ltresult{{smoke/thesis/longtailed/resnetv2_small32/softmax/balanced}}>}}\\ltresult{{smoke/thesis/longtailed/resnetv2_small32/softmax/balanced}},"
        " \\ltresult{no/such}\\end{document}"
    )
    result = subprocess.run(
        ["pdflatex", "-halt-on-error", "t"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-1000:]
    assert "there is no result no/such" in result.stdout
    assert "60.0" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", results.PLACES)
def test_readme_and_results_page_show_the_committed_results(monkeypatch, name):
    monkeypatch.delenv("LTLIB_OUT", raising=False)
    text = (ROOT / results.PLACES[name][0]).read_text()
    assert results.marked(name) in text, "make readme puts them there"


def test_the_readme_is_short_and_defines_its_words():
    text = (ROOT / "README.md").read_text()
    prose = text.partition("<!-- losses")[0] + text.partition("<!-- end of losses -->")[2]
    assert len(prose.split()) < 1000
    assert all(
        len(line) <= 100 for line in prose.splitlines() if "![" not in line and "<!" not in line
    )
    first_table = text.index("| loss |")
    for word in ("**head**", "**tail**", "**middle**", "**imbalance factor**", "*balanced* test"):
        assert 0 < text.index(word) < first_table


def test_the_table_of_losses_has_what_has_all_seven(out):
    losses = results.LISTED
    for run in load_profile("probe", ["vit_tiny_patch16_224"], losses).configs():
        if (run.protocol.name, run.train_set) == ("standard", "longtailed"):
            store(run, 0.5 + 0.01 * run.seed)
    for run in load_profile("light", ["vit_tiny_patch16_224"], ["softmax"]).configs():
        store(run, 0.7)
    lines = results.losses_table().splitlines()
    assert lines[3] == "| loss | ViT-Ti/16, frozen: all | ViT-Ti/16, frozen: tail |"
    assert lines[5] == "| Softmax | 51.0 ± 2.5 | – |"
    assert len(lines) == 5 + len(losses)


def test_the_first_result_says_what_the_records_say(out):
    for name, accuracy in (("probe", 0.6), ("light", 0.7)):
        for run in load_profile(name, ["vit_tiny_patch16_224"], ["balanced_softmax"]).configs():
            if (run.protocol.name, run.train_set) == ("standard", "longtailed"):
                store(run, accuracy + 0.01 * run.seed)
    said = " ".join(results.finding().split())
    assert "61.0 ± 2.5 % when it stays frozen (tail: – %) and 71.0 ± 2.5 % with small" in said
    assert "the tail ends at – and – %" in said


def test_a_narrowed_command_loses_no_results(out, smoke):
    """All of the profile and of its records: those of an unlisted backbone too, whatever BACKBONES=
    and LOSSES= say this time."""
    stored(config_of(smoke), 0.6)
    stored(config_of(smoke, "focal"), 0.5)
    other = load_profile("smoke", backbones=["vit_small32"], losses=["logit_adjusted"], seeds=[3])
    stored(other.config("vit_small32", "logit_adjusted", "longtailed", 3, "thesis"), 0.7)
    write_results(load_profile("smoke", losses=["focal"]))
    table = pd.read_csv(out / "results" / "smoke.csv")
    assert set(zip(table["backbone"], table["loss"], table["seed"], strict=True)) == {
        ("resnetv2_small32", "softmax", 0),
        ("resnetv2_small32", "focal", 0),
        ("vit_small32", "logit_adjusted", 3),
    }
