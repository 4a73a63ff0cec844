"""GBG: its step, its report, its contrastive term."""

import math

import numpy as np
import pytest
import torch
from small_models import X, Y, cosine_model, flat
from torch import nn
from torch.nn import functional as F

from ltlib.methods import (
    GBG,
    balanced_contrastive,
    min_norm_weights,
)
from ltlib.models import Classifier, CosineHead


def gbg_step(loss, model, x, labels):
    """One backward pass as the engine makes it: what it returns, gradients of backbone and head."""
    model.zero_grad()
    torch.manual_seed(0)  # the dropout
    logits, features = model.train()(x, return_features=True)
    value = loss.backward(loss(logits, labels, features=features, head=model.head), model)
    return (
        value,
        [p.grad.clone() for p in model.backbone.parameters()],
        [p.grad.clone() for p in model.head.parameters()],
    )


def forward(model, x):
    torch.manual_seed(0)
    return model.train()(x, return_features=True)


def grouped(groups=3, labels=None, **options):
    loss = GBG([9, 8, 7, 3, 2, 1], groups=groups, **options)
    loss.group_of.copy_(torch.arange(6) % groups)
    return loss


def test_one_group_is_softmax_with_a_cosine_head_times_alpha():
    model, loss = cosine_model(), grouped(1, alpha=2.0, scale=30.0)
    value, backbone, head = gbg_step(loss, model, X, Y)
    ce = F.cross_entropy(30 * forward(model, X)[0], Y)
    torch.testing.assert_close(value, 2 * ce.detach())
    expected = torch.autograd.grad(2 * ce, list(model.parameters()))
    torch.testing.assert_close([*backbone, *head], list(expected))
    assert loss.report(model.head)["group_weights"] == [1.0]


@pytest.mark.parametrize("absent", [False, True])
def test_the_step_is_alpha_times_the_weighted_sum_of_the_groups_losses_in_backbone_and_head(absent):
    model, loss = cosine_model(), grouped(3, alpha=1.7, scale=6.0)
    rows = loss.group_of[Y] != 1 if absent else torch.ones(len(Y), dtype=bool)
    x, labels = X[rows], Y[rows]
    value, backbone, head = gbg_step(loss, model, x, labels)
    told = loss.report(model.head)["group_weights"]
    present = [0, 2] if absent else [0, 1, 2]
    assert [w > 0 for w in told] == [g in present for g in range(3)]

    ce = F.cross_entropy(6.0 * forward(model, x)[0], labels, reduction="none")
    losses = torch.stack([ce[loss.group_of[labels] == g].mean() for g in present])
    shared = list(model.backbone.parameters())
    gradients = torch.stack(
        [flat(torch.autograd.grad(one, shared, retain_graph=True)) for one in losses]
    ).double()
    v = gradients / (losses.detach().double() * gradients.norm(dim=1))[:, None]
    weights = torch.as_tensor(min_norm_weights(v @ v.T))
    torch.testing.assert_close(
        torch.tensor(told, dtype=torch.float64)[present], weights, rtol=0, atol=2e-5
    )
    total = 1.7 * (weights.float() * losses).sum()
    torch.testing.assert_close(value, total.detach(), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(total, [*shared, *model.head.parameters()])
    torch.testing.assert_close([*backbone, *head], list(expected), rtol=1e-3, atol=1e-4)


def test_equal_weights_are_the_mean_of_the_groups_losses():
    model, loss = cosine_model(), grouped(3, weights="equal", alpha=1.0, scale=6.0)
    value, backbone, head = gbg_step(loss, model, X, Y)
    ce = F.cross_entropy(6.0 * forward(model, X)[0], Y, reduction="none")
    total = sum(ce[loss.group_of[Y] == g].mean() for g in range(3)) / 3
    torch.testing.assert_close(value, total.detach())
    torch.testing.assert_close(
        [*backbone, *head],
        list(torch.autograd.grad(total, list(model.parameters()))),
        rtol=1e-4,
        atol=1e-5,
    )
    assert loss.report(model.head)["group_weights"] == pytest.approx([1 / 3] * 3, abs=1e-6)


@pytest.mark.parametrize("labels", [[4], [2, 2, 2], [0, 3]])
def test_a_batch_of_one_image_or_one_group_is_finite_and_its_group_has_all_the_weight(labels):
    model, loss = cosine_model(), grouped(3)
    model.backbone[1].eval()
    model.backbone[1].train = lambda mode=True: model.backbone[1]  # a batch of one has no variance
    value, backbone, head = gbg_step(loss, model, X[: len(labels)], torch.tensor(labels))
    assert value.isfinite()
    assert all(g.isfinite().all() for g in [*backbone, *head])
    assert sorted(loss.report(model.head)["group_weights"]) == [0, 0, 1]


def test_a_report_is_the_mean_over_the_steps_of_the_epoch_that_held_the_group():
    model, loss = cosine_model(), grouped(3)
    steps = []
    for rows in (slice(0, 20), slice(0, 10), loss.group_of[Y] != 2):
        gbg_step(loss, model, X[rows], Y[rows])
        steps.append((loss.weight_sum / loss.weight_steps.clamp_min(1)).tolist())
    weights, held = loss.weight_sum.clone(), loss.weight_steps.clone()
    assert held.tolist() == [3, 3, 2]
    told = loss.report(model.head)
    assert told["group_weights"] == pytest.approx((weights / held).tolist(), abs=1e-6)
    assert told["group_of"] == [0, 1, 2, 0, 1, 2]
    assert loss.report(model.head) == told, (
        "it can be asked again, as a run that was stopped while it validated does"
    )
    loss.start_epoch(7, model, None)
    gbg_step(loss, model, X, Y)
    assert loss.report(model.head)["group_weights"] == pytest.approx(steps[0], abs=1e-6)


def test_a_gradient_that_is_no_number_makes_the_loss_none():
    """So that the engine says that the run diverged, and the solver does not fall over it."""
    model, loss = cosine_model(), grouped(3)
    logits, features = forward(model, X)
    value = loss(logits, Y, features=features, head=model.head)
    assert loss.backward(
        value + (0 * model.backbone[0].bias).sqrt().sum(), model
    ).isnan()  # 0 in value, without a derivative
    logits, features = forward(model, X)
    value = loss(logits, Y, features=features, head=model.head)
    assert loss.backward(value + torch.tensor([0, math.nan, 0]), model).isnan()


def contrastive_model_and_batch():
    """Two more views of each image: rows of other images, so that they differ."""
    return cosine_model(), torch.cat([X, X.roll(1, 0) + 0.3, X.roll(2, 0) - 0.3])


def test_the_contrastive_term_adds_its_own_gradient_everywhere():
    model, views = contrastive_model_and_batch()
    steps = []
    for beta in (0.0, 1.6):
        loss = grouped(3, beta=beta, alpha=2.0, projection=3, temperature=0.2)
        torch.manual_seed(5)
        loss.attach(model)
        assert bool(list(loss.parameters())) == bool(beta)
        steps.append(gbg_step(loss, model, views, Y))
    _, features = forward(model, views)
    a, b = loss.project(features[20:]), loss.project_centres(model.head.weight)
    term = 1.6 * balanced_contrastive(F.normalize(a, dim=1), Y, F.normalize(b, dim=1), 0.2)
    gradients = torch.autograd.grad(term, [*model.parameters(), *loss.parameters()])
    without, together = steps
    torch.testing.assert_close(together[0], without[0] + term.detach())
    expected = [g + more for g, more in zip([*without[1], *without[2]], gradients, strict=False)]
    torch.testing.assert_close([*together[1], *together[2]], expected, rtol=1e-3, atol=1e-5)
    own = [p.grad for p in loss.parameters()]
    torch.testing.assert_close(own, list(gradients[len(expected) :]), rtol=1e-4, atol=1e-6)
    assert len(loss.param_groups(0.3)) == 1
    assert loss.param_groups(0.3)[0]["lr"] == 0.3


def test_cross_entropy_looks_at_the_first_view_alone():
    model, views = contrastive_model_and_batch()
    logits, features = forward(model, views)
    loss = grouped(3)
    others = logits.clone()
    others[20:] = 7.0
    assert torch.equal(
        loss(logits, Y, features=features, head=model.head),
        loss(others, Y, features=features, head=model.head),
    )


def test_a_contrastive_term_without_views_is_refused():
    model, loss = cosine_model(), grouped(3, beta=1.0)
    loss.attach(model)
    with pytest.raises(
        ValueError,
        match=r'beta = 1\.0: expected more than one view of each image; set views = "contrastive"',
    ):
        gbg_step(loss, model, X, Y)


# groups apart


class Alone(nn.Sequential):
    """A backbone whose images do not see each other."""

    num_features = 4

    def __init__(self):
        super().__init__(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4))
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return super().forward(x)


@pytest.mark.parametrize("labels", [Y, Y.clamp(max=0)])
def test_without_batch_normalisation_each_group_has_a_pass_of_its_own(labels):
    torch.manual_seed(0)
    model, loss = Classifier(Alone(), CosineHead(4, 6)), grouped(3, scale=6.0)
    x, steps = X, []
    loss.attach(model)
    for apart in (False, True):
        loss._apart = apart
        model.zero_grad()
        model.backbone.rows = 0
        logits, features = loss.outputs(lambda x: model(x, return_features=True), x, labels)
        assert model.backbone.rows == len(x)
        assert len(loss._parts) == (len(loss.group_of[labels].unique()) if apart else 0)
        value = loss.backward(loss(logits, labels, features=features, head=model.head), model)
        steps.append([value, logits, features, *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*steps)


def test_with_batch_normalisation_or_views_the_batch_stays_whole():
    for model, options in ((cosine_model(), {}), (Classifier(Alone(), CosineHead(4, 6)), VIEWS)):
        loss = grouped(3, **options)
        loss.attach(model)
        loss.outputs(lambda x: model(x, return_features=True), X, Y)  # noqa: B023
        assert not loss._parts


VIEWS = {"beta": 1.6, "projection": 8}


# what a group's loss is the mean of


def reference(z, labels, group_of, counts, ce, within):
    """The losses of the groups, class by class, in NumPy."""
    z = np.asarray(z, np.float64) + (np.log(counts) if ce == "balanced" else 0)
    losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(labels)), labels]
    result = []
    for group in np.unique(group_of[labels]):
        of_classes = [losses[labels == c] for c in np.flatnonzero(group_of == group)]
        of_classes = [part for part in of_classes if len(part)]
        parts = [part.mean() for part in of_classes] if within == "classes" else of_classes
        result.append(np.mean(np.hstack(parts)))
    return result


@pytest.mark.parametrize("ce", ["plain", "balanced"])
@pytest.mark.parametrize("within", ["images", "classes"])
def test_the_losses_of_groups_equal_a_reference(ce, within):
    counts = np.array([9, 8, 7, 3, 2, 1])
    loss, model = grouped(3, ce=ce, within=within, scale=5.0), cosine_model()
    logits, features = forward(model, X)
    found = loss(logits, Y, features=features, head=model.head).detach()
    z, labels = 5 * logits.detach().numpy(), Y.numpy()
    expected = reference(z, labels, loss.group_of.numpy(), counts, ce, within)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_predicted_and_evaluated_knows_nothing_of_the_two():
    model = cosine_model()
    logits = forward(model, X)[0].detach()
    for ce, within in (("balanced", "images"), ("plain", "classes")):
        loss = grouped(3, ce=ce, within=within)
        assert torch.equal(loss.prediction_logits(logits), 30 * logits)
        assert torch.equal(loss.eval()(logits, Y), grouped(3).eval()(logits, Y))


def test_a_projection_is_that_of_the_code():
    loss, model = grouped(3, beta=1.6), cosine_model()
    loss.attach(model)
    for project in (loss.project, loss.project_centres):
        kinds = [type(layer).__name__ for layer in project]
        assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
        shapes = [tuple(layer.weight.shape) for layer in project if hasattr(layer, "weight")]
        assert shapes == [(512, 4), (512,), (128, 512)]
