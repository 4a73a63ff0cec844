import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltlib.augment import (
    HUES,
    OPERATIONS,
    auto_augment,
    auto_augment_policies,
    rand_augment,
    simclr_view,
)
from ltlib.batches import FeatureBatches, ImageBatches, stream

N = 23
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
AS_STORED = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
LABELS = np.arange(N)  # the label is the index, so that a batch says which images it holds
PLAIN = dict(batch_size=5, resolution=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
examples = settings(deadline=None, max_examples=50)


def image_batches(images=IMAGES, labels=LABELS, **changes):
    return ImageBatches(images, labels, **{**PLAIN, **changes})


def whole_epoch(seed=0, epoch=0, **changes):
    """All images of an epoch and their labels, in its order."""
    batches = image_batches(**changes).epoch(seed, epoch)
    return map(torch.cat, zip(*batches, strict=True))


def augmented(seed=0, epoch=0, **changes):
    """The images of an epoch in the stored order."""
    x, index = whole_epoch(seed, epoch, crop_padding=3, flip=True, **changes)
    return x[index.argsort()]


def order(seed=0, epoch=0, **changes):
    _, labels = whole_epoch(seed, epoch, **changes)
    return labels.tolist()


# order and sizes


@given(
    n=st.integers(1, 200),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 1000),
)
@examples
def test_an_epoch_is_a_permutation_in_batches_that_differ_by_one_at_most(
    n, batch_size, seed, epoch
):
    batches = FeatureBatches(torch.arange(n)[:, None].float(), torch.arange(n), batch_size)
    drawn = list(batches.epoch(seed, epoch))
    sizes = [len(labels) for _, labels in drawn]
    assert sorted(torch.cat([labels for _, labels in drawn]).tolist()) == list(range(n))
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(drawn) == len(batches) == math.ceil(n / batch_size)


def test_rows_and_labels_stay_together():
    batches = FeatureBatches(torch.arange(10.0)[:, None] * 3, torch.arange(10), batch_size=4)
    for x, labels in batches.epoch(0, 0):
        assert torch.equal(x[:, 0], 3.0 * labels)


def test_the_order_depends_on_seed_and_epoch_and_not_on_the_batch_size():
    assert order(seed=1, epoch=2) == order(seed=1, epoch=2, batch_size=7)
    places = itertools.product(range(3), range(3))
    assert len({tuple(order(seed, epoch)) for seed, epoch in places}) == 9


def test_the_order_is_the_same_with_and_without_augmentation():
    assert order() == order(crop_padding=3, flip=True)


@pytest.mark.parametrize("batch_size", [1, 7, N])
def test_the_augmentation_of_an_image_does_not_depend_on_the_batch_it_is_in(batch_size):
    torch.testing.assert_close(augmented(batch_size=batch_size), augmented(), rtol=0, atol=0)


def test_the_augmentation_changes_with_seed_and_epoch_and_comes_back():
    first = augmented(seed=0, epoch=0)
    assert torch.equal(first, augmented(seed=0, epoch=0))
    assert not torch.equal(first, augmented(seed=0, epoch=1))
    assert not torch.equal(first, augmented(seed=1, epoch=0))


def test_an_epoch_does_not_depend_on_the_epochs_before_it():
    batches, fresh = (image_batches(crop_padding=3, flip=True) for _ in range(2))
    for epoch in (0, 1):
        list(batches.epoch(0, epoch))
    pairs = zip(batches.epoch(0, 2), fresh.epoch(0, 2), strict=True)
    assert all(torch.equal(x, y) for (x, _), (y, _) in pairs)


def test_an_epoch_leaves_the_global_random_state_alone_and_does_not_depend_on_it():
    state = torch.get_rng_state()
    first = augmented()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12345)
    assert torch.equal(augmented(), first)


def test_streams_of_different_purposes_differ():
    draws = {
        tuple(torch.rand(3, generator=stream(0, 0, purpose)).tolist())
        for purpose in ("order", "augment", "loss")
    }
    assert len(draws) == 3


# augmentation


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (3, False), (3, True)])
def test_crop_and_flip_are_those_of_a_slow_reference(padding, flip):
    batches = image_batches(crop_padding=padding, flip=flip)
    offsets, flips = (batches._draw(4, 2)[name] for name in ("offsets", "flips"))
    for x, index in batches.epoch(4, 2):
        for image, i in zip(x, index.tolist(), strict=True):
            top, left = offsets[:, i].tolist()
            padded = np.pad(IMAGES[i], ((padding, padding), (padding, padding), (0, 0)))
            expected = padded[top : top + 8, left : left + 8]
            if flip and flips[i]:
                expected = expected[:, ::-1]
            np.testing.assert_allclose(image.permute(1, 2, 0) * 255, expected, atol=1e-3)


def test_crops_reach_every_offset_and_half_of_the_images_are_flipped():
    n, images = 4000, np.zeros((4000, 2, 2, 3), np.uint8)
    batches = image_batches(images, np.arange(n), resolution=2, crop_padding=2, flip=True)
    offsets, flips = (batches._draw(0, 0)[name] for name in ("offsets", "flips"))
    shares = torch.stack([torch.bincount(row, minlength=5) for row in offsets]) / n
    assert shares.shape == (2, 5)
    assert (shares - 0.2).abs().max() < 0.03
    assert abs(flips.float().mean().item() - 0.5) < 0.04


def test_without_augmentation_an_epoch_shows_the_images_as_they_are():
    for x, index in image_batches().epoch(0, 0):
        np.testing.assert_allclose(x.permute(0, 2, 3, 1) * 255, IMAGES[index.numpy()], atol=1e-3)


def test_evaluation_is_in_the_stored_order_and_never_augmented():
    x = torch.cat(list(image_batches(crop_padding=3, flip=True).in_order()))
    np.testing.assert_allclose(x.permute(0, 2, 3, 1) * 255, IMAGES, atol=1e-3)


def test_evaluation_batches_are_full_but_the_last():
    assert [len(x) for x in image_batches().in_order()] == [5, 5, 5, 5, 3]


# what the model gets


def test_pixels_are_normalised_channel_by_channel():
    x = torch.cat(list(image_batches(mean=MEAN, std=STD).in_order()))
    expected = (IMAGES / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(x.permute(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resolution", [4, 16])
def test_images_are_resized_before_they_are_normalised(resolution, interpolation):
    scaled = {"resolution": resolution, "interpolation": interpolation}
    (x,) = image_batches(batch_size=N, mean=MEAN, std=STD, **scaled).in_order()
    nchw, size = torch.tensor(IMAGES).permute(0, 3, 1, 2).double(), (resolution, resolution)
    resized = torch.nn.functional.interpolate(nchw, size, mode=interpolation, antialias=True)
    expected = (resized / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert x.shape == (N, 3, resolution, resolution)
    torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_a_constant_image_keeps_its_value_at_any_resolution(resolution):
    grey = np.full((2, 8, 8, 3), 128, np.uint8)
    (x,) = image_batches(grey, np.arange(2), resolution=resolution).in_order()
    torch.testing.assert_close(x, torch.full_like(x, 128 / 255))


def test_images_that_are_not_square_are_made_square():
    (x,) = image_batches(IMAGES[:, :6], batch_size=N).in_order()
    assert x.shape == (N, 3, 8, 8)


@pytest.mark.parametrize(
    "changes", [{}, {"resolution": 16}, {"crop_padding": 3, "flip": True}], ids=repr
)
def test_batches_are_float32_channels_last_with_int64_labels(changes):
    x, labels = next(image_batches(**changes).epoch(0, 0))
    assert (x.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_the_callers_arrays_may_be_read_only_and_are_not_changed():
    images = IMAGES.copy()
    images.setflags(write=False)
    list(image_batches(images, crop_padding=3, flip=True).epoch(0, 0))
    np.testing.assert_array_equal(images, IMAGES)


# refusals


NO_IMAGES = [IMAGES / 255, IMAGES.astype(np.int64), IMAGES[0], IMAGES.transpose(0, 3, 1, 2)]


@pytest.mark.parametrize("images", [*NO_IMAGES, IMAGES[..., :1]])
def test_images_of_another_dtype_or_shape_are_refused(images):
    with pytest.raises(ValueError, match=r"images: expected uint8 \(N, H, W, 3\)"):
        image_batches(images)


@pytest.mark.parametrize(("rows", "labels"), [(N, N - 1), (0, 0)])
def test_unequal_or_empty_rows_and_labels_are_refused(rows, labels):
    with pytest.raises(ValueError, match=f"got {labels} and {rows}"):
        image_batches(IMAGES[:rows], LABELS[:labels])


def test_two_epochs_under_way_at_once_do_not_disturb_each_other():
    batches = image_batches(crop_padding=2, flip=True)
    alone = [x for x, _ in batches.epoch(0, 0)]
    first = batches.epoch(0, 0)
    mixed = [next(first)[0]]
    next(batches.epoch(0, 1))
    mixed += [x for x, _ in first]
    assert all(torch.equal(a, b) for a, b in zip(alone, mixed, strict=True))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5])
def test_an_epoch_can_begin_in_its_middle(start):
    whole = list(image_batches(crop_padding=2, flip=True, rand_augment=9).epoch(1, 2))
    rest = list(image_batches(crop_padding=2, flip=True, rand_augment=9).epoch(1, 2, start))
    assert len(rest) == len(whole) - start
    for (x, index), (y, other) in zip(rest, whole[start:], strict=True):
        assert torch.equal(x, y)
        assert torch.equal(index, other)


# RandAugment


@pytest.mark.parametrize("batch_size", [1, 7, N])
def test_rand_augment_of_an_image_does_not_depend_on_the_batch_it_is_in(batch_size):
    assert torch.equal(augmented(rand_augment=9, batch_size=batch_size), augmented(rand_augment=9))


def test_rand_augment_changes_images_with_seed_and_epoch_and_stays_in_range():
    plain, once = augmented(), augmented(rand_augment=15)
    changed = (plain != once).flatten(1).any(1).float().mean()
    assert changed > 0.6  # two draws out of fourteen, one of which is the identity
    assert not torch.equal(once, augmented(epoch=1, rand_augment=15))
    assert torch.equal(once, augmented(rand_augment=15))
    assert once.min() >= 0
    assert once.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_torchvisions_own(name):
    """At full strength, image by image, as torchvision's RandAugment applies it."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    images = AS_STORED.repeat_interleave(4, 2).repeat_interleave(4, 3)  # 32 px
    strength, signed = OPERATIONS[name]
    theirs = "".join(word.capitalize() for word in name.split("_"))
    theirs = {"Autocontrast": "AutoContrast"}.get(theirs, theirs)
    for sign in (-1, 1) if signed else (1,):
        operations = torch.full((N,), list(OPERATIONS).index(name))
        ours = rand_augment(images, operations, torch.full((N,), sign), 30)
        magnitude = sign * strength
        magnitude = {
            "translate_x": round(magnitude * 32),
            "translate_y": round(magnitude * 32),
            "posterize": 8 - round(strength),
            "solarize": 255 - strength,
        }.get(name, magnitude)
        how = theirs, magnitude, InterpolationMode.NEAREST, None
        assert torch.equal(ours, torch.stack([_apply_op(image, *how) for image in images]))


def test_images_with_other_operations_are_left_alone():
    images = AS_STORED
    operations = torch.zeros(N, dtype=torch.int64)
    operations[3] = list(OPERATIONS).index("solarize")
    out = rand_augment(images, operations, torch.ones(N, dtype=torch.int64), 30)
    rest = torch.arange(N) != 3
    assert torch.equal(out[rest], images[rest])
    assert not torch.equal(out[3], images[3])


# Cutout


@pytest.mark.parametrize("side", [1, 4, 5, 20])
def test_cutout_blanks_a_square_around_a_random_pixel_after_normalising(side):
    """Against a slow reference; what the square has outside of the image is lost."""
    changes = dict(mean=MEAN, std=STD, cutout=side)
    holes = image_batches(**changes)._draw(4, 2)["holes"]
    plain, index = whole_epoch(4, 2, mean=MEAN, std=STD)
    blanked, again = whole_epoch(4, 2, **changes)
    assert torch.equal(index, again)
    for before, after, i in zip(plain, blanked, index.tolist(), strict=True):
        (row, column), expected = holes[:, i].tolist(), before.clone()
        for r, c in itertools.product(range(8), range(8)):
            if all(-(side // 2) <= d < side - side // 2 for d in (r - row, c - column)):
                expected[:, r, c] = 0
        assert torch.equal(after, expected)


def test_the_holes_of_cutout_are_everywhere_and_depend_on_seed_epoch_and_image():
    n = 2000
    batches = image_batches(np.zeros((n, 3, 5, 3), np.uint8), np.arange(n), resolution=3, cutout=2)
    rows, columns = holes = batches._draw(0, 0)["holes"]
    assert (rows.bincount() / n - 1 / 3).abs().max() < 0.05
    assert (columns.bincount() / n - 1 / 5).abs().max() < 0.05
    assert rows.bincount().numel() == 3
    assert columns.bincount().numel() == 5
    assert torch.equal(batches._draw(0, 0)["holes"], holes)
    assert not torch.equal(batches._draw(0, 1)["holes"], holes)
    assert not torch.equal(batches._draw(1, 0)["holes"], holes)


@pytest.mark.parametrize("batch_size", [1, 7, N])
def test_cutout_of_an_image_does_not_depend_on_the_batch_it_is_in(batch_size):
    assert torch.equal(augmented(cutout=3, batch_size=batch_size), augmented(cutout=3))


def test_evaluation_has_no_holes_and_one_view():
    x = torch.cat(list(image_batches(cutout=5, views="contrastive").in_order()))
    np.testing.assert_allclose(x.permute(0, 2, 3, 1) * 255, IMAGES, atol=1e-3)
    cropped = image_batches(cutout=5, views="contrastive", crop_padding=2, flip=True)
    assert torch.equal(cropped.take(torch.tensor([7, 3])), x[[7, 3]])


# contrastive views


def contrastive(seed=0, epoch=0, **changes):
    """The three views of an epoch's images, (3, N, 3, R, R), in the stored order."""
    views, indices = [], []
    for x, index in image_batches(views="contrastive", **changes).epoch(seed, epoch):
        assert len(x) == 3 * len(index)
        views.append(x.unflatten(0, (3, -1)))
        indices.append(index)
    return torch.cat(views, 1)[:, torch.cat(indices).argsort()]


def test_the_first_view_is_auto_augments_of_the_crop_and_the_others_are_simclrs_of_the_whole():
    changes = dict(crop_padding=3, flip=True)
    first, *others = contrastive(2, 1, **changes)
    drawn = image_batches(views="contrastive", **changes)._draw(2, 1)
    cropped = (augmented(2, 1) * 255).round().to(torch.uint8)
    expected = auto_augment(cropped, drawn["policies"], drawn["chances"], drawn["signs"])
    torch.testing.assert_close(first * 255, expected.float(), rtol=0, atol=1e-3)
    for view, u in zip(others, drawn["simclr"], strict=True):
        torch.testing.assert_close(view * 255, simclr_view(AS_STORED, u), rtol=0, atol=2e-3)
    assert not torch.equal(*others)


def test_cutout_is_the_first_views_alone():
    grey = np.full((N, 8, 8, 3), 200, np.uint8)
    batches = image_batches(grey, cutout=3, views="contrastive")
    for x, index in batches.epoch(0, 0):
        rows, columns = batches._draw(0, 0)["holes"][:, index]
        black = (x == 0).all(1)[torch.arange(len(x)), rows.repeat(3), columns.repeat(3)]
        assert black[: len(index)].all()
        assert not black[len(index) :].any()


@pytest.mark.parametrize("batch_size", [1, 7, N])
def test_the_views_of_an_image_do_not_depend_on_the_batch_it_is_in(batch_size):
    torch.testing.assert_close(contrastive(batch_size=batch_size), contrastive(), rtol=0, atol=1e-5)


def test_views_change_with_seed_and_epoch_come_back_and_stay_in_range():
    views = contrastive(crop_padding=3, flip=True)
    assert torch.equal(views, contrastive(crop_padding=3, flip=True))
    for place in ({"epoch": 1}, {"seed": 1}):
        other = contrastive(crop_padding=3, flip=True, **place)
        for a, b in zip(views, other, strict=True):
            assert (a != b).flatten(1).any(1).float().mean() > 0.6
    assert views.isfinite().all()
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6


def test_views_are_scaled_and_normalised_like_any_image():
    grey = np.full((N, 8, 8, 3), 128, np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    batches = image_batches(grey, views="contrastive", resolution=12, mean=MEAN, std=STD)
    for x, _ in batches.epoch(0, 0):
        assert x.shape[1:] == (3, 12, 12)
        assert x.is_contiguous(memory_format=torch.channels_last)
        plain = x * std + mean  # 0 to 1, and what bicubic scaling adds at edges
        assert -0.2 < plain.min() < plain.max() < 1.2


def test_views_that_nobody_knows_are_refused():
    with pytest.raises(ValueError, match="views = 'two': expected one, contrastive"):
        image_batches(views="two")


# AutoAugment


def run_policy(images, policy, first=True, second=True, sign=1):
    """The operations of one policy: those that are asked for, whatever their probability, unless
    that is 0."""
    n = len(images)
    chances = torch.tensor([[0.0 if first else 1.0], [0.0 if second else 1.0]]).expand(2, n)
    return auto_augment(images, torch.full((n,), policy), chances, torch.full((2, n), sign))


@pytest.mark.parametrize("policy", range(len(auto_augment_policies())))
def test_each_operation_of_a_policy_is_torchvisions_own(policy):
    """Image by image, as torchvision's AutoAugment applies it, whose magnitudes are rounded to
    float32: a grey value more or less."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    images = AS_STORED.repeat_interleave(4, 2).repeat_interleave(4, 3)[:6]  # 32 px
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10)
    for step, (operation, probability, number) in enumerate(theirs.policies[policy]):
        magnitudes, signed = theirs._augmentation_space(10, (32, 32))[operation]
        for sign in (-1, 1) if signed else (1,):
            magnitude = sign * float(magnitudes[number]) if number is not None else 0.0
            if operation.startswith("Translate"):
                magnitude = round(magnitude)  # theirs cuts the fraction of a pixel off
            how = operation, magnitude, InterpolationMode.NEAREST, None
            expected = torch.stack([_apply_op(image, *how) for image in images])
            ours = run_policy(images, policy, step == 0, step == 1, sign)
            difference = (ours.int() - (expected if probability else images).int()).abs()
            assert difference.max() <= 1


@pytest.mark.parametrize("policy", range(len(auto_augment_policies())))
def test_the_second_operation_of_a_policy_comes_after_the_first(policy):
    both, first = run_policy(AS_STORED, policy), run_policy(AS_STORED, policy, second=False)
    assert torch.equal(both, run_policy(first, policy, first=False))
    assert torch.equal(run_policy(AS_STORED, policy, False, False), AS_STORED)


def test_an_operation_happens_with_its_probability():
    chances = torch.linspace(0, 0.999, 101)
    images, ones = AS_STORED[:1].expand(101, -1, -1, -1), torch.ones(2, 101)
    inverting = 0
    for policy, ((operation, probability, *_), _) in enumerate(auto_augment_policies()):
        if operation == "Invert":  # which leaves no image as it is
            given = torch.full((101,), policy), torch.stack([chances, ones[0]]), ones.long()
            changed = (auto_augment(images, *given) != images).flatten(1).any(1)
            assert torch.equal(changed, chances < probability)
            inverting += 1
    assert inverting


def test_images_with_different_policies_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    policies = torch.randint(len(auto_augment_policies()), (N,), generator=generator)
    chances = torch.rand(2, N, generator=generator)
    signs = torch.randint(0, 2, (2, N), generator=generator) * 2 - 1
    together, alone = auto_augment(AS_STORED, policies, chances, signs), []
    for i in range(N):
        one = slice(i, i + 1)
        alone.append(auto_augment(AS_STORED[one], policies[one], chances[:, one], signs[:, one]))
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(auto_augment(AS_STORED, policies, torch.ones(2, N), signs), AS_STORED)
    assert together.dtype == torch.uint8


# SimCLR's view

# area 1, as wide as high, in the middle; no flip; brightness, contrast, saturation and hue as they
# are; no jitter; no grey
SAME = [1.0, 0.5, 0.5, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9]


def view(images=AS_STORED, **changes):
    """What simclr_view makes of the images with ``SAME`` but for u1=..., u10=..."""
    u = torch.tensor([changes.get(f"u{i}", same) for i, same in enumerate(SAME)])
    return simclr_view(images, u[:, None].expand(11, len(images)))


def test_a_view_of_everything_without_flip_or_jitter_is_the_image():
    torch.testing.assert_close(view(), AS_STORED.float(), rtol=0, atol=1e-2)
    jittered = view(u9=0.1)  # which changes nothing
    torch.testing.assert_close(jittered, AS_STORED.float(), rtol=0, atol=0.1)


def test_a_view_is_flipped_jittered_and_grey_where_it_is_drawn():
    x = AS_STORED.float()
    torch.testing.assert_close(view(u4=0.1), x.flip(3), rtol=0, atol=1e-2)
    grey = (0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]
    torch.testing.assert_close(view(u10=0.1), grey.expand(-1, 3, -1, -1), rtol=0, atol=1e-2)
    assert torch.equal(view(u9=0.85, u5=0.0), view()), "jitter has the probability 0.8"
    torch.testing.assert_close(view(u9=0.1, u5=0.0), 0.6 * x, rtol=0, atol=0.1)
    mean = grey.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(view(u9=0.1, u6=0.0), 0.6 * x + 0.4 * mean, rtol=0, atol=0.1)
    torch.testing.assert_close(view(u9=0.1, u7=0.0), 0.6 * x + 0.4 * grey, rtol=0, atol=0.1)
    torch.testing.assert_close(view(u9=0.1, u5=1.0), (1.4 * x).clamp(0, 255), rtol=0, atol=0.1)


@pytest.mark.parametrize("turn", range(HUES))
def test_hue_turns_by_a_tenth_at_most(turn):
    from torchvision.transforms.functional import adjust_hue

    expected = 255 * adjust_hue(AS_STORED.float() / 255, -0.1 + 0.2 * turn / (HUES - 1))
    torch.testing.assert_close(view(u9=0.1, u8=(turn + 0.5) / HUES), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("area", "ratio", "x", "y"), [(0.0, 0.5, 0.0, 0.0), (0.3, 0.0, 1.0, 0.5), (0.5, 0.9, 0.2, 0.8)]
)
def test_a_crop_shows_the_part_that_is_drawn(area, ratio, x, y):
    """On a ramp of pixel coordinates, which linear interpolation keeps."""
    ramp = torch.arange(20.0).expand(1, 20, 20)
    image = torch.stack([10 * ramp, 10 * ramp.mT, 0 * ramp], 1).to(torch.uint8)
    share, wide = 0.2 + 0.8 * area, math.exp(math.log(3 / 4) + ratio * math.log(16 / 9))
    width, height = 20 * math.sqrt(share * wide), 20 * math.sqrt(share / wide)
    out = view(image, u0=area, u1=ratio, u2=x, u3=y)[0] / 10
    columns = (20 - width) * x + (torch.arange(20) + 0.5) * width / 20 - 0.5
    rows = (20 - height) * y + (torch.arange(20) + 0.5) * height / 20 - 0.5
    torch.testing.assert_close(out[0], columns.clamp(0, 19).expand(20, 20), rtol=0, atol=1e-3)
    torch.testing.assert_close(out[1], rows.clamp(0, 19)[:, None].expand(20, 20), rtol=0, atol=1e-3)


@given(seed=st.integers(0, 10**6))
@examples
def test_any_view_is_within_the_range_of_pixels(seed):
    out = simclr_view(AS_STORED, torch.rand(11, N, generator=torch.Generator().manual_seed(seed)))
    assert out.shape == AS_STORED.shape
    assert out.min() >= 0
    assert out.max() <= 255 + 1e-3
