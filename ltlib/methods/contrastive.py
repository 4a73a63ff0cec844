"""The balanced contrastive loss, a term of GBG."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_contrastive(
    views: Tensor, labels: Tensor, centres: Tensor, temperature: float = 0.1
) -> Tensor:
    """Supervised contrastive loss in which every class weighs the same in the denominator.

    views (V B, D) and centres (C, D) of length 1, the views of an image B rows apart; labels (B,)
    -> scalar. A class's centre is one of its images. For row i with class y: -mean over the others
    a of class y, and C_y, of log [exp(v_i a / t) / sum_j mean over the others b of class j, and
    C_j, exp(v_i b / t)].
    Source: Zhu et al. 2022, Balanced Contrastive Learning for Long-Tailed Visual Recognition, Eqs.
    7 to 9.
    """
    rows, classes = len(views), len(centres)
    labels = labels.repeat(rows // len(labels))  # (V B,)
    everything = torch.cat([labels, torch.arange(classes, device=labels.device)])  # (V B + C,)
    z = views @ torch.cat([views, centres]).T / temperature  # (V B, V B + C)
    z = z - z.detach().max(1, keepdim=True).values
    other = torch.ones_like(z).fill_diagonal_(0)
    same = (labels[:, None] == everything).to(z)
    # how many others each column's class has, beside row i itself
    images = torch.bincount(everything, minlength=classes).to(z)[everything] - same
    denominator = (z.exp() * other / images.clamp_min(1)).sum(1, keepdim=True)
    positive = same * other
    return -((positive * (z - denominator.log())).sum(1) / positive.sum(1)).mean()
