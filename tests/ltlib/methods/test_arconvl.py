"""ARConvL: properties."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import examples, seeds
from systems import (
    arconvl,
    distance_head,
    distances,
)
from torch.nn import functional as F

from ltlib.errors import ConfigError
from ltlib.losses import build_loss
from ltlib.methods import (
    ARConvL,
)


class Regions:
    """features (B, D), centres (C, D), radii (C,), labels (B,) and counts (C,)."""

    def __init__(self, classes, batch, held, seed, same, size=2.0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return size * torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.features, self.centres, self.radii = draw(batch, 3), draw(classes, 3), draw(classes)
        if same:
            self.centres[1] = self.centres[0]
        self.labels = torch.randperm(classes, generator=generator)[
            torch.randint(held, (batch,), generator=generator)
        ]
        self.counts = np.asarray(torch.randint(1, 500, (classes,), generator=generator))

    def terms(self, **options):
        """Each term with its gradients by features, centres and a."""
        result = {}
        for name in ("region", "distribution", "points", "centres"):
            tensors = [t.clone().requires_grad_() for t in (self.features, self.centres)]
            loss = arconvl(self.counts, self.radii, **options)
            term = loss.terms(distances(*tensors), self.labels, tensors[1]).get(name)
            if term is not None:
                result[name] = (
                    term.detach(),
                    *torch.autograd.grad(
                        term, [*tensors, loss.a], allow_unused=True, materialize_grads=True
                    ),
                )
        return result


@st.composite
def region_problems(draw):
    classes = draw(st.integers(2, 6))
    return Regions(
        classes,
        draw(st.integers(1, 8)),
        draw(st.integers(1, classes)),
        draw(seeds),
        draw(st.booleans()),
        draw(st.sampled_from([1e-3, 1.0, 30.0])),
    )


@given(p=region_problems(), ld_weight=st.sampled_from(["mean1", "paper"]))
@examples
def test_arconvl_is_finite_whatever_the_batch_holds_and_each_term_moves_its_own(p, ld_weight):
    terms = p.terms(ld_weight=ld_weight)
    assert all(tensor.isfinite().all() for values in terms.values() for tensor in values)
    assert all(values[0] >= 0 for values in terms.values())
    for name, values in terms.items():
        features, centres, radii = (gradient.abs().max() > 0 for gradient in values[1:])
        assert not radii or name == "region", f"{name} is not to move the radii"
        assert not (features or centres) or name != "region", (
            "the region loss is not to move features or centres"
        )
        assert not features or name != "centres"
    absent = np.setdiff1d(np.arange(len(p.counts)), p.labels.numpy())
    assert (terms["region"][3][absent] == 0).all()
    assert (terms["region"][3][p.labels] != 0).all()


@given(p=region_problems())
@examples
def test_beta_is_in_0_to_1_and_the_margin_at_least_0(p):
    found = arconvl(p.counts, p.radii).regions(p.centres)
    smallest = torch.pdist(p.centres).min() / 2
    torch.testing.assert_close(found["ben2"], smallest**2)
    assert found["upp2"] >= torch.maximum(found["ben2"], p.radii.square().max())
    assert 0 <= found["beta"] <= 1
    assert 0 <= found["sigma2"] <= found["ben2"]
    assert found["beta"] == pytest.approx(
        min(1, (found["upp2"] / max(found["ben2"].item(), 1e-12) - 1).item())
    )


@given(p=region_problems())
@examples
def test_two_centres_at_one_place_ask_for_all_of_the_distribution_loss_and_no_margin(p):
    p.centres[-1] = p.centres[0]
    found = arconvl(p.counts, p.radii + 1.0 * (p.radii.abs() < 1)).regions(p.centres)
    assert (found["ben2"], found["beta"], found["sigma2"]) == (0, 1, 0)


def test_regions_that_touch_nowhere_ask_for_neither():
    found = arconvl([5, 5, 5], torch.tensor([0.1, 0.2, 0.3])).regions(2 * torch.eye(3))
    assert (found["beta"], found["sigma2"]) == (0, 0)
    assert found["ben2"] == found["upp2"] == pytest.approx(2)


@given(p=region_problems())
@examples
def test_the_sign_of_a_radius_is_no_matter(p):
    one, other = p.terms(), Regions.terms(type("", (), vars(p) | {"radii": -p.radii})())
    for name in one:
        torch.testing.assert_close(one[name][:3], other[name][:3])
    torch.testing.assert_close(one["region"][3], -other["region"][3])


def test_the_ablations_of_arconvl_take_out_what_they_say():
    p = Regions(4, 8, 4, seed=3, same=False)
    whole, beta0, sigma0, alone = (
        p.terms(**options)
        for options in ({}, {"beta": 0.0}, {"sigma2": 0.0}, {"centre_loss": False})
    )
    assert whole["distribution"][0] > 0
    assert beta0["distribution"][0] == 0
    assert all(beta0[name][0] == whole[name][0] for name in ("region", "points", "centres"))
    prior = torch.as_tensor(np.log(p.counts / p.counts.sum()))
    torch.testing.assert_close(
        sigma0["points"][0], F.cross_entropy(distances(p.features, p.centres) + prior, p.labels)
    )
    assert sigma0["points"][0] < whole["points"][0]
    assert sigma0["distribution"][0] == whole["distribution"][0]
    assert "centres" not in alone
    torch.testing.assert_close(
        p.terms(beta=0.5)["distribution"][0] * 2, p.terms(beta=1.0)["distribution"][0]
    )
    torch.testing.assert_close(p.terms(gamma=0.0)["region"][0], p.terms(gamma=1e-12)["region"][0])


@pytest.mark.parametrize("ld_weight", ["mean1", "paper"])
def test_the_weights_of_the_distribution_loss(ld_weight):
    loss = ARConvL([100, 10, 1], ld_weight=ld_weight)
    alpha = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(loss.ld_alpha, alpha / 37 if ld_weight == "mean1" else alpha)
    torch.testing.assert_close(loss.alpha, alpha)


def test_radii_start_at_a_tenth_and_have_a_rate_of_their_own():
    loss = ARConvL([3, 2, 1])
    (group,) = loss.param_groups(lr=5.0)
    assert torch.equal(loss.radii, torch.full((3,), 0.1))
    assert (group["lr"], group["weight_decay"]) == (0.01, 0)
    assert group["params"][0] is loss.a
    assert [group["factor"](epoch) for epoch in (0, 2.99, 3, 40)] == [0.1, 0.1, 1.0, 1.0]


def test_arconvl_tells_of_its_regions():
    loss, p = ARConvL([3, 2, 1]), Regions(3, 4, 3, seed=0, same=False)
    told, expected = loss.report(distance_head(p.centres))["regions"], loss.regions(p.centres)
    assert told == {name: pytest.approx(value.item()) for name, value in expected.items()} | {
        "radii": [0.1, 0.1, 0.1]
    }
    assert json.loads(json.dumps(told)) == told


def test_arconvl_of_one_class_is_refused():
    with pytest.raises(
        ConfigError,
        match="expected at least two classes: ARConvL measures the distance",
    ):
        build_loss("arconvl", [7])
