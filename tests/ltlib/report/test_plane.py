import matplotlib.pyplot as plt
import numpy as np
import torch

from ltlib.losses import build_loss
from ltlib.report.plane import CLASSES, accuracy_by_group, fit_plane, plane, regions_figure


def test_the_points_are_a_long_tail_and_always_the_same():
    data = plane()
    assert data.counts.tolist() == [500, 199, 79, 31, 12, 5]
    assert data.labels.bincount().tolist() == data.counts.tolist()
    assert data.test_labels.bincount().tolist() == [1000] * CLASSES
    assert data.equal[1].bincount().tolist() == [137] * CLASSES
    assert np.linalg.norm(data.centres, axis=1).std() < 1e-12
    means = torch.stack([data.test_x[data.test_labels == c].mean(0) for c in range(CLASSES)])
    assert np.abs(means.numpy() - data.centres).max() < 0.15
    neighbours = np.linalg.norm(data.centres[:, None] - data.centres, axis=-1).argsort(1)[:, 1:3]
    assert all(set(neighbours[c]) & {0, 1, 2} for c in (4, 5))  # a frequent class beside each rare


def test_balanced_softmax_is_better_in_the_plane_and_softmax_better_for_the_head():
    models = {n: fit_plane(build_loss(n, plane().counts)) for n in ("softmax", "balanced_softmax")}
    softmax, balanced = (accuracy_by_group(model) for model in models.values())
    assert balanced["all"] > softmax["all"] + 0.1
    assert balanced["tail"] > softmax["tail"] + 0.3
    assert softmax["head"] > balanced["head"]
    equal = accuracy_by_group(fit_plane(build_loss("softmax", [137] * CLASSES), balanced=True))
    assert equal["all"] > balanced["all"]
    figure = regions_figure(models, columns=3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "softmax\n" + " / ".join(
        f"{100 * softmax[group]:.0f}" for group in ("head", "middle", "tail")
    )
    assert not figure.axes[2].axison  # an empty place
    plt.close(figure)
