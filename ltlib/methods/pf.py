"""PF-loss, a loss of the batch's classes that has no parameter: notebook 17."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltlib.errors import require_flag, require_one_of
from ltlib.losses.base import Loss, cross_entropy, whole_batch_only


class PF(Loss):
    """Parameter-free loss: L = -(1/C) sum_j log q_j, q_j the mean p_y of the batch's images of j.

    d L / d z_ic = -(1/C) (p_i / sum of p over the class of i) (1[c = y_i] - P_ic), P = softmax(z),
    p_i = P_i,y_i. A class that the batch does not hold adds 0, and the divisor stays C.

    form  "logsumexp": log q_j = logsumexp of log p - log N_j, exact however small p is;
          "eps", as printed: (sum p + eps) / (N_j + eps), eps = 1e-7: no gradient where p << eps
    hard  p > 0.5 counts as the constant 1 (PFH-loss)
    Raises ConfigError for other options, and ValueError for reduction "none": the batch's loss is
    no mean of images' losses. Shapes and further errors: see :class:`Loss`.
    Source: Du et al. 2021, Parameter-Free Loss for Class-Imbalanced Deep Learning in Image
    Classification, Eqs. 9 and 10.
    """

    EPS = 1e-7

    def __init__(self, class_counts, form: str = "logsumexp", hard: bool = False):
        super().__init__(class_counts)
        require_one_of("form", form, ("logsumexp", "eps"))
        require_flag("hard", hard)
        self.form, self.hard = form, hard

    def criterion(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        whole_batch_only(reduction)
        log_p = -cross_entropy(logits, labels)  # (B,)
        if self.hard:
            log_p = torch.where(log_p > math.log(0.5), torch.zeros_like(log_p), log_p)
        zeros = log_p.new_zeros(self.num_classes)  # (C,), as all that follow
        images = zeros.scatter_add(0, labels, torch.ones_like(log_p))
        present = images > 0
        if self.form == "eps":
            q = (zeros.scatter_add(0, labels, log_p.exp()) + self.EPS) / (images + self.EPS)
            return -torch.where(present, q, 1).log().sum() / self.num_classes
        top = zeros.scatter_reduce(0, labels, log_p.detach(), "amax", include_self=False)
        total = zeros.scatter_add(0, labels, (log_p - top[labels]).exp())
        log_q = top + torch.where(present, total, 1).log() - images.clamp_min(1).log()
        return -log_q.sum() / self.num_classes
