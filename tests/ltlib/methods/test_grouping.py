"""Groups of classes by gradient and by the controls."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import cosine_model, feature_batches, flat, seeds
from torch.nn import functional as F

from ltlib.methods import (
    GBG,
    class_gradients,
    cosine_matrix,
    group_by_gradient,
    grouping,
)


def partition(groups):
    """The index of the first member of each one's group."""
    groups = list(groups)
    return [groups.index(g) for g in groups]


@given(sizes=st.lists(st.integers(2, 5), min_size=2, max_size=4), seed=seeds)
@settings(deadline=None, max_examples=20)
def test_classes_whose_gradients_point_the_same_way_are_one_group(sizes, seed):
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = np.eye(8)[member] + 0.05 * rng.normal(size=(len(member), 8))
    assert partition(
        group_by_gradient(cosine_matrix(torch.as_tensor(vectors)), len(sizes))
    ) == partition(member)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_any_number_of_groups_up_to_that_of_the_classes(groups):
    found = group_by_gradient(
        cosine_matrix(torch.randn(5, 9, generator=torch.Generator().manual_seed(0))), groups
    )
    assert found.dtype == np.int64
    assert set(found.tolist()) == set(range(groups))


def test_a_class_without_a_gradient_is_unlike_all_others_and_grouped_all_the_same():
    vectors = torch.eye(6)
    vectors[2] = 0
    cosines = cosine_matrix(vectors)
    assert (cosines[2] == 0).all()
    assert len(group_by_gradient(cosines, 3)) == 6


def test_class_gradients_are_those_of_each_class_alone_in_eval_mode():
    model, batches, loss = cosine_model(), feature_batches(), GBG([1] * 6, groups=2, scale=5.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = class_gradients(model, batches, loss)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    for c in range(6):
        of_class = batches.labels == c
        ce = F.cross_entropy(5.0 * model(batches.x[of_class]), batches.labels[of_class])
        expected = flat(torch.autograd.grad(ce, list(model.backbone.parameters())))
        torch.testing.assert_close(found[c], expected, rtol=1e-4, atol=1e-6)
    assert (found.norm(dim=1) > 0).all()


def test_a_class_without_images_has_no_gradient():
    batches = feature_batches()
    batches.labels[batches.labels == 3] = 2
    found = class_gradients(cosine_model(), batches, GBG([1] * 6))
    assert (found[3] == 0).all()
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0]),
        ({"warmup": 2}, [2]),
        ({"refresh_every": 4}, [0, 4, 8]),
        ({"warmup": 2, "refresh_every": 3}, [2, 5, 8]),
        ({"groups": 1}, []),
    ],
)
def test_groups_are_made_after_the_warm_up_and_again_as_often_as_is_asked(options, expected):
    made = []

    class Watched(GBG):
        def make_groups(self, model, batches):
            made.append(epoch)
            return super().make_groups(model, batches)

    loss = Watched([1] * 6, **{"groups": 3, "grouping": "count", **options})
    for epoch in range(10):
        if epoch < options.get("warmup", 0):
            assert (loss.group_of == 0).all(), "one group until then"
        loss.start_epoch(epoch, None, None)
    assert made == expected
    assert len(loss.group_of.unique()) == options.get("groups", 3)


def test_groups_by_gradient_are_those_of_the_spectral_clustering_of_the_class_gradients():
    model, batches, loss = cosine_model(), feature_batches(), GBG([1] * 6, groups=3)
    loss.start_epoch(0, model, batches)
    assert (
        loss.group_of.tolist()
        == group_by_gradient(cosine_matrix(class_gradients(model, batches, loss)), 3).tolist()
    )
    assert loss.group_of.unique().numel() == 3


def test_the_controls_of_the_grouping():
    counts = [5, 100, 1, 30, 60, 2]
    by_count = GBG(counts, groups=3, grouping="count")
    by_count.start_epoch(0, None, None)
    assert by_count.group_of.tolist() == [1, 0, 2, 1, 0, 2]
    found = []
    for seed in range(4):
        loss = GBG(counts, groups=3, grouping="random", seed=seed)
        loss.start_epoch(0, None, None)
        assert loss.group_of.bincount().tolist() == [2, 2, 2]
        found.append(tuple(loss.group_of.tolist()))
    assert len(set(found)) > 1
    uneven = GBG([1] * 7, groups=3, grouping="random")
    uneven.start_epoch(0, None, None)
    assert sorted(uneven.group_of.bincount().tolist()) == [2, 2, 3]


def test_cosines_need_no_second_copy_of_the_gradients_and_take_bfloat16():
    vectors = torch.randn(4, 2**20 + 3, generator=torch.Generator().manual_seed(0))
    exact = F.normalize(vectors.double(), dim=1)
    np.testing.assert_allclose(cosine_matrix(vectors), exact @ exact.T, atol=1e-12)
    np.testing.assert_allclose(cosine_matrix(vectors.bfloat16()), exact @ exact.T, atol=1e-4)


def test_class_gradients_that_would_take_much_memory_are_kept_in_bfloat16(monkeypatch):
    model, batches, loss = cosine_model(), feature_batches(), GBG([9, 8, 7, 3, 2, 1])
    usual = class_gradients(model, batches, loss)
    monkeypatch.setattr(grouping, "MOST_BYTES", usual.nbytes - 1)
    kept = class_gradients(model, batches, loss)
    assert (usual.dtype, kept.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(kept, usual.bfloat16())
