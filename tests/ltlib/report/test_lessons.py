"""The notebooks' helpers: gradients by class, the small model."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltlib.errors import ConfigError
from ltlib.longtail import groups
from ltlib.losses import build_loss, class_balanced_weights
from ltlib.registry import LOSS_NAMES
from ltlib.report.lessons import (
    Epoch,
    ResampledBatches,
    central_differences,
    class_gradients,
    epoch_of_run,
    over_seeds,
    small_data,
    train_small,
    value_and_gradient,
)
from ltlib.runs.records import logits_path
from ltlib.runs.run import run_or_load

COUNTS = np.array([40, 12, 3, 1])


def epoch(counts=COUNTS, tests=(2, 3, 1, 5), seed=0, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(tests))
    logits = size * torch.randn(len(labels), len(counts), dtype=torch.float64, generator=generator)
    return Epoch(
        logits, labels, np.asarray(counts), groups("thesis", np.asarray(counts)), "made up"
    )


def test_central_differences_find_the_gradient_of_a_cubic():
    z = np.array([[1.0, -2.0], [0.5, 3.0]])
    np.testing.assert_allclose(
        central_differences(lambda z: float((z**3).sum()), z), 3 * z**2, atol=1e-8
    )


def test_value_and_gradient_of_softmax():
    z, y = np.zeros((2, 4)), np.array([1, 3])
    value, gradient = value_and_gradient(build_loss("softmax", COUNTS), z, y)
    assert value == pytest.approx(np.log(4))
    np.testing.assert_allclose(gradient, (0.25 - np.eye(4)[y]) / 2)


# gradients by class


def test_an_undecided_network_gives_the_closed_form():
    received = class_gradients(build_loss("softmax", COUNTS), epoch(size=0))
    np.testing.assert_allclose(received["label"], COUNTS * (1 - 1 / 4))
    np.testing.assert_allclose(received["negative"], (COUNTS.sum() - COUNTS) / 4)
    assert received["count"].tolist() == COUNTS.tolist()
    assert received["group"].tolist() == ["head", "middle", "tail", "tail"]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([name for name in LOSS_NAMES if name != "ldam"]), st.integers(0, 10**6))
def test_what_labels_gain_negatives_lose(name, seed):
    received = class_gradients(build_loss(name, COUNTS), epoch(seed=seed))
    assert received["label"].sum() == pytest.approx(received["negative"].sum())


def test_gradients_are_those_of_n_times_the_mean_loss():
    """Test images as many as training images: then an epoch is the batch itself."""
    whole = epoch(tests=COUNTS.tolist())
    for name, options in (
        ("weighted_softmax", {}),
        ("weighted_softmax", {"normalize": "batch"}),
        ("balanced_softmax", {}),
        ("ldam", {}),
    ):
        loss = build_loss(name, COUNTS, **options)
        z = whole.logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(len(whole.labels) * loss(z, whole.labels), z)
        own = torch.nn.functional.one_hot(whole.labels, 4).bool()
        received = class_gradients(loss, whole)
        np.testing.assert_allclose(received["label"], gradient.abs().where(own, 0).sum(0))
        np.testing.assert_allclose(received["negative"], gradient.abs().where(~own, 0).sum(0))


def test_equalization_at_gamma_one_pushes_no_rare_class():
    received = class_gradients(build_loss("equalization", COUNTS, threshold=0.1, gamma=1), epoch())
    assert (received["negative"][2:] == 0).all()
    assert (received["negative"][:2] > 0).all()


def test_without_a_run_a_small_model_stands_in(smoke, out):
    made = epoch_of_run(smoke, "softmax", 110)
    assert made.source.startswith(
        "a linear model of Digits-LT (110 to 1 images per class), trained here with Softmax"
    )


def test_a_finished_run_is_read_at_its_imbalance_factor(smoke, out):
    config = smoke.config(
        smoke.backbones[0], "softmax", "longtailed", smoke.seeds[0], smoke.protocols[0]
    )
    record, factor = run_or_load(config), config.protocol.imbalance_factor
    made = epoch_of_run(smoke, "softmax", factor)
    hits = (made.logits.argmax(1) == made.labels).sum().item()
    assert hits == record.results["evaluations"]["last"]["sets"]["balanced"]["hits"]
    assert "trained with softmax" in made.source
    assert made.counts.sum() == record.results["train_images"]
    assert epoch_of_run(smoke, "softmax", factor + 1).source.startswith("a linear model")
    logits_path(config).unlink()
    assert epoch_of_run(smoke, "softmax", factor).source.startswith("a linear model")


# the small model


@pytest.fixture(scope="module")
def data():
    return small_data(100)


def test_digits_lt_is_long_tailed_and_standardised(data):
    assert (data.counts[0], data.counts[-1], len(data.labels)) == (110, 1, data.counts.sum())
    assert data.labels.bincount().tolist() == data.counts.tolist()
    assert data.test_labels.bincount().tolist() == [50] * 100
    torch.testing.assert_close(data.x.mean(0), torch.zeros(160), atol=1e-4, rtol=0)
    torch.testing.assert_close(data.x.std(0, correction=0), torch.ones(160), atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor", [0, 0.5, -3, 111, float("nan"), float("inf"), "a", None])
def test_an_impossible_imbalance_factor_is_refused(factor):
    with pytest.raises(ConfigError, match=r"imbalance_factor = .*expected a number from 1 to 110"):
        small_data(factor)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_are_drawn_by_a_power_of_their_counts_and_anew_every_epoch(data, power):
    batches = ResampledBatches(data.x, data.labels, 128, power)
    drawn = [torch.cat([y for _, y in batches.epoch(0, epoch)]) for epoch in range(20)]
    assert all(len(labels) == len(data.labels) for labels in drawn)
    assert not torch.equal(drawn[0], drawn[1])
    expected = data.counts**power / (data.counts**power).sum()
    shares = torch.cat(drawn).bincount(minlength=100) / (20 * len(data.labels))
    for ids in data.groups.values():
        assert shares.numpy()[ids].sum() == pytest.approx(expected[ids].sum(), abs=0.01)


def test_a_power_that_is_no_number_from_0_is_refused(data):
    with pytest.raises(ConfigError, match="power = -1"):
        train_small(build_loss("softmax", data.counts), data, sampling=-1)


def test_a_small_model_learns_and_is_the_same_every_time(data):
    first, second = (train_small(build_loss("softmax", data.counts), data) for _ in range(2))
    assert torch.equal(first.epoch.logits, second.epoch.logits)
    accuracy = first.accuracy()
    assert accuracy["head"] > 0.5 > 0.1 > accuracy["tail"]
    assert first.curve[-1]["train_loss"] < 0.5
    assert torch.equal(first.training.labels, data.labels)
    other = train_small(build_loss("softmax", data.counts), data, seed=1)
    assert not torch.equal(first.epoch.logits, other.epoch.logits)


def test_a_shift_changes_what_is_predicted(data):
    model = train_small(build_loss("softmax", data.counts), data, epochs=1)
    only_99 = np.where(np.arange(100) == 99, 1e6, 0)
    assert model.accuracy(only_99) == {
        "head": 0.0,
        "middle": 0.0,
        "tail": pytest.approx(1 / 34),
        "all": 0.01,
    }


def test_deferred_reweighting_is_weights_from_its_epoch_on(data):
    def final(drw, weights=None):
        return train_small(
            build_loss("ldam", data.counts, class_weights=weights),
            data,
            head="cosine",
            epochs=2,
            drw=drw,
        ).epoch.logits

    always = final(None, class_balanced_weights(data.counts))
    torch.testing.assert_close(final(0.0), always, rtol=0, atol=0)
    assert not torch.equal(final(0.5), always)
    assert not torch.equal(final(0.5), final(None))


def test_seeds_are_rows(data):
    table = over_seeds(lambda: build_loss("softmax", data.counts), data, 2, epochs=1)
    assert table.columns.tolist() == ["head", "middle", "tail", "all"]
    expected = train_small(build_loss("softmax", data.counts), data, seed=1, epochs=1).accuracy()
    assert table.loc[1].to_dict() == expected


def test_an_interval_needs_two_seeds(data):
    with pytest.raises(ConfigError, match="seeds = 1: expected a whole number"):
        over_seeds(lambda: build_loss("softmax", data.counts), data, 1)


@pytest.mark.parametrize("drw", [-0.5, 0.99, 1])
def test_a_switch_outside_of_training_is_refused(data, drw):
    with pytest.raises(ConfigError, match=f"drw = {drw}: expected a fraction"):
        train_small(build_loss("ldam", data.counts), data, head="cosine", drw=drw)


def test_no_epochs_are_refused(data):
    with pytest.raises(ConfigError, match="epochs = 0"):
        train_small(build_loss("softmax", data.counts), data, epochs=0)


def test_a_model_without_images_learns_the_class_frequencies(data):
    """The claim of notebook 05: a constant predictor ends at the frequencies it is shown."""
    blank = dataclasses.replace(
        data, x=torch.zeros_like(data.x), test_x=torch.zeros_like(data.test_x)
    )
    log_p = train_small(
        build_loss("softmax", data.counts), blank, epochs=100
    ).epoch.logits.log_softmax(1)[0]
    slope = np.polyfit(np.log(data.counts), log_p, 1)[0]
    assert slope == pytest.approx(1, abs=0.25)
