"""Groups of classes: by the gradients that they ask for, by count, or at random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.losses.base import Loss

MOST_BYTES = 2**32  # that a table of gradients may take in float32


def class_gradients(model: nn.Module, batches, loss: Loss) -> Tensor:
    """The gradient, over the backbone's P parameters, of each class's mean cross-entropy: (C, P)
    on the CPU, float32, or bfloat16 where that would take more than 4 GiB.

    batches: the training images (``labels``, ``batch_size``, ``take``). In eval mode and without
    augmentation; the head is left out. The model is put back into training mode.
    """
    shared = [p for p in model.backbone.parameters() if p.requires_grad]
    model.eval()
    size = sum(p.numel() for p in shared)
    kind = torch.float32 if 4 * loss.num_classes * size <= MOST_BYTES else torch.bfloat16
    rows = torch.empty(loss.num_classes, size, dtype=kind)
    for label in range(loss.num_classes):
        index = (batches.labels == label).nonzero()[:, 0]
        total = [torch.zeros_like(p) for p in shared]
        for part in index.split(batches.batch_size):
            z = loss.prediction_logits(model(batches.take(part)).float())  # (b, C)
            ce = F.cross_entropy(z, batches.labels[part], reduction="sum") / len(index)
            gradients = torch.autograd.grad(ce, shared, materialize_grads=True)
            for into, gradient in zip(total, gradients, strict=True):
                into += gradient
        rows[label] = torch.cat([g.flatten() for g in total]).cpu()
    model.train()
    return rows


def cosine_matrix(gradients: Tensor) -> np.ndarray:
    """(C, P) -> (C, C) float64 cosines between rows; a row of zeros has cosine 0 to all others."""
    # in parts that need little memory
    gram = sum(part @ part.T for part in map(Tensor.double, gradients.split(2**20, 1)))
    norms = gram.diagonal().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return (gram / norms[:, None] / norms).clamp(-1, 1).numpy()


def group_by_gradient(cosines: np.ndarray, groups: int) -> np.ndarray:
    """(C,) group numbers, 0 to K - 1: spectral clustering with the affinity cosine + 1.

    cosines (C, C); 1 <= groups <= C. Source: scikit-learn's
    ``spectral_clustering(assign_labels="cluster_qr")``, as GBG's code has it.
    """
    from sklearn.cluster import spectral_clustering  # here, because it takes a second to import

    if groups == len(cosines):
        return np.arange(groups)
    affinity = np.asarray(cosines) + 1
    found = spectral_clustering(
        affinity, n_clusters=groups, assign_labels="cluster_qr", random_state=0
    )
    return found.astype(np.int64)


def equal_parts(order: np.ndarray, groups: int) -> np.ndarray:
    """(C,) group numbers of classes in this order (C,), cut into K parts as equal as can be."""
    found = np.empty(len(order), np.int64)
    for number, part in enumerate(np.array_split(order, groups)):
        found[part] = number
    return found
