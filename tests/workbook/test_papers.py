from ltlib.files import results_dir
from ltlib.runs.profiles import load_profile
from workbook.__main__ import main
from workbook.notebooks import pages

TOML = """
title = "A paper in miniature"
dataset = "digits"
mode = "scratch"
backbones = ["resnet32"]
losses = ["plain", "pf"]
train_sets = ["longtailed"]
seeds = [0]
notebooks = ["17_pf_loss_experiments"]

[methods.plain]
loss = "softmax"

[protocols.few]
max_count = 2
balanced_count = 2
val_per_class = 0
test_per_class = 1
longtailed_test = false
groups = "step"
imbalance = "step"
imbalance_factor = 2.0

[recipe]
epochs = 1
batch_size = 100
optimizer = "sgd"
lr = 0.1
resolution = 8
"""


def test_a_paper_profile_executes_its_notebook_alone_and_the_demo_all():
    assert [page.name for page in pages(load_profile("arconvl"))] == [
        "18_arconvl",
        "18_arconvl_experiments",
    ]
    parts = {
        f"{stem}{part}"
        for stem in ("17_pf_loss", "18_arconvl", "19_gbg")
        for part in ("", "_experiments")
    }
    assert parts <= {page.name for page in pages(load_profile("demo"))}


def test_a_notebook_of_a_paper_depends_on_the_records_of_its_profiles(tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    made = {page.name: page for page in pages(load_profile("smoke"))}
    before = {
        name: made[name].key() for name in ("17_pf_loss_experiments", "18_arconvl_experiments")
    }
    run = load_profile("pf_loss").configs()[0]
    results_dir("pf_loss").mkdir(parents=True)
    (results_dir("pf_loss") / f"{run.id}.json").write_text("{}")
    assert made["17_pf_loss_experiments"].key() != before["17_pf_loss_experiments"]
    assert made["18_arconvl_experiments"].key() == before["18_arconvl_experiments"]


def test_data_that_cannot_be_had_stop_the_papers_before_anything_is_trained(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    from torchvision import datasets

    def refuse(*_, **__):
        raise OSError("no network")

    from ltlib.data import load_dataset

    load_dataset.cache_clear()
    monkeypatch.setattr(datasets, "FashionMNIST", type("FashionMNIST", (), {"__new__": refuse}))
    path = tmp_path / "paper.toml"
    path.write_text(TOML)
    assert main(["papers", "--papers", f"{path} gbg"]) == 1
    said = capsys.readouterr().err
    assert "FashionMNIST is not in" in said
    assert "LTLIB_DATA" in said
    assert not (tmp_path / "out" / "results").exists()
