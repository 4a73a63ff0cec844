"""PF-loss, ARConvL with its rivals among distance losses, and GBG: methods that look at more than one image's logits.

They follow the interface of :class:`ltlib.losses.Loss`. Notation as there; further f (B, D) features, C_j (D,) the centre of class j,
d^2_ij = |f_i - C_j|^2 = -z_ij, the distances of a "distance" head.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.backbones import squared_distances
from ltlib.config import ConfigError
from ltlib.losses import _NO_LABEL, Loss, _choice, _counts, _finite_range, _flag, _whole

# ------------------------------------------------------------------------------------------------ PF-loss


class PF(Loss):
    """Parameter-free loss: L = -(1/C) sum_j log q_j, q_j the mean of p_y over the batch's images of class j.

    d L / d z_ic = -(1/C) (p_i / sum of p over the class of i) (1[c = y_i] - P_ic), P = softmax(z), p_i = P_i,y_i. A class that the
    batch does not hold adds 0, and the divisor stays C. form "logsumexp": log q_j = logsumexp of log p - log N_j, exact however small p
    is; "eps", as printed: (sum p + eps) / (N_j + eps), eps = 1e-7, whose gradient dies where p << eps. hard: p > 0.5 counts as the
    constant 1 (PFH-loss). The batch's loss is no mean of images' losses: reduction "none" raises ValueError.
    Source: Du et al. 2021, Parameter-Free Loss for Class-Imbalanced Deep Learning in Image Classification, Eqs. 9 and 10.
    """

    EPS = 1e-7

    def __init__(self, class_counts, form: str = "logsumexp", hard: bool = False):
        super().__init__(class_counts)
        _choice("form", form, ("logsumexp", "eps"))
        _flag("hard", hard)
        self.form, self.hard = form, hard

    def _cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        _whole_batch(reduction)
        log_p = -F.cross_entropy(logits, labels, reduction="none", ignore_index=_NO_LABEL)
        if self.hard:
            log_p = torch.where(log_p > math.log(0.5), torch.zeros_like(log_p), log_p)
        zeros = log_p.new_zeros(self.num_classes)
        images = zeros.scatter_add(0, labels, torch.ones_like(log_p))
        present = images > 0
        if self.form == "eps":
            q = (zeros.scatter_add(0, labels, log_p.exp()) + self.EPS) / (images + self.EPS)
            return -torch.where(present, q, 1).log().sum() / self.num_classes
        top = zeros.scatter_reduce(0, labels, log_p.detach(), "amax", include_self=False)
        total = zeros.scatter_add(0, labels, (log_p - top[labels]).exp())
        log_q = top + torch.where(present, total, 1).log() - images.clamp_min(1).log()
        return -log_q.sum() / self.num_classes


# ------------------------------------------------------------------------------------- losses of distances


class GCPL(Loss):
    """Generalised convolutional prototype learning: mean of CE(z) + weight |f - C_y|^2, z = -d^2. weight >= 0.

    Source: Yang et al. 2018, Robust Classification with Convolutional Prototype Learning. Softmax with a distance head is their CPL.
    """

    def __init__(self, class_counts, weight: float = 0.1):
        super().__init__(class_counts)
        _finite_range("weight", weight, 0, math.inf)
        self.weight = weight

    def _cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        own = logits.gather(1, labels[:, None])[:, 0]
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=_NO_LABEL) - self.weight * own
        return losses.mean() if reduction == "mean" else losses


class Affinity(Loss):
    """mean_i sum_{j != y} max(0, margin + S_ij - S_iy) + mean over pairs of centres of (|C_j - C_k|^2 - mu)^2, S = exp(-d^2 / sigma).

    mu is the pairs' mean squared distance. One centre per class. In eval mode, where no centres are given, the first term alone.
    margin in [0, 1], sigma > 0. ARConvL's authors use margin 0.75 for 28 px images and 0.43 otherwise.
    Source: Hayat et al. 2019, Gaussian Affinity for Max-Margin Class Imbalanced Learning.
    """

    def __init__(self, class_counts, margin: float = 0.75, sigma: float = 10.0):
        super().__init__(class_counts)
        _finite_range("margin", margin, 0, 1)
        _finite_range("sigma", sigma, 0, math.inf, open_low=True)
        self.margin, self.sigma = margin, sigma

    def _value(self, logits: Tensor, labels: Tensor, reduction: str, *, features, head, **draw) -> Tensor:
        value = self._cross_entropy(logits, labels, reduction)
        if head is None or not self.training or reduction == "none" or self.num_classes < 2:
            return value
        return value + torch.pdist(head.weight).square().var(unbiased=False)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        similarity = (logits / self.sigma).exp()
        hinge = (self.margin + similarity - similarity.gather(1, labels[:, None])).clamp_min(0)
        losses = hinge.sum(1) - self.margin  # the label's own term is the margin
        return losses.mean() if reduction == "mean" else losses


class ARConvL(Loss):
    """Adaptive region-based learning: L = L_R + L_D + L_M, with a radius R_j for each class and the head's centres C_j.

    L_R = mean_i alpha_y [max(0, d_iy - R_y)^2 + gamma R_y^2], d constant: its gradient goes to the radii alone;
    L_D = beta mean_i alpha_y d^2_iy;
    L_M = mean_i CE(-d^2_ij + log eta_j + sigma^2 1[j != y]) + mean_j CE(-|C_j - C_j'|^2 + sigma^2 1[j' != j]).
    alpha_j = max n / n_j, eta_j = n_j / sum n. With dmin_j the distance from C_j to its nearest centre: R_ben^2 = min_j dmin_j^2 / 4,
    R_upp^2 = max(max_j R_j^2, max_j dmin_j^2 / 4), beta = min(1, R_upp^2 / R_ben^2 - 1), sigma^2 = min(R_ben^2, R_upp^2 - R_ben^2), all
    constants. Predict with argmin_j d^2. In eval mode: CE(-d^2).

    gamma      >= 0, of L_R
    ld_weight  "mean1" (the official code): alpha / mean(alpha) instead of alpha in L_D; "paper": alpha
    beta, sigma2  a number instead of what the regions say, as in the paper's ablation; None: adaptive
    centre_loss   the second term of L_M
    Radii are |a_j|, a_j = 0.1 at first, with a rate of their own: 0.001 for three epochs, then 0.01, never decayed.
    Raises ConfigError for fewer than two classes. Source: Li et al. 2023, ARConvL, and its code.
    """

    RADIUS_LR, FIRST_EPOCHS, FIRST_FACTOR = 0.01, 3, 0.1

    def __init__(self, class_counts, gamma: float = 0.05, ld_weight: str = "mean1", beta: float | None = None,
                 sigma2: float | None = None, centre_loss: bool = True):
        super().__init__(class_counts)
        counts = _counts(class_counts)
        if len(counts) < 2:
            raise ConfigError("class_counts: expected at least two classes: ARConvL measures the distance between their centres")
        _finite_range("gamma", gamma, 0, math.inf)
        _choice("ld_weight", ld_weight, ("mean1", "paper"))
        for name, value in (("beta", beta), ("sigma2", sigma2)):
            if value is not None:
                _finite_range(name, value, 0, math.inf)
        _flag("centre_loss", centre_loss)
        self.gamma, self.beta, self.sigma2, self.centre_loss = gamma, beta, sigma2, centre_loss
        alpha = counts.max() / counts
        for name, value in (("alpha", alpha), ("ld_alpha", alpha / alpha.mean() if ld_weight == "mean1" else alpha),
                            ("log_eta", np.log(counts / counts.sum()))):
            self.register_buffer(name, torch.as_tensor(value), persistent=False)
        self.a = nn.Parameter(torch.full((len(counts),), 0.1))

    @property
    def radii(self) -> Tensor:
        return self.a.abs()

    def param_groups(self, lr: float) -> list[dict]:
        return [{"params": [self.a], "lr": self.RADIUS_LR, "weight_decay": 0.0,
                 "factor": lambda epoch: self.FIRST_FACTOR if epoch < self.FIRST_EPOCHS else 1.0}]

    def regions(self, centres: Tensor) -> dict[str, Tensor]:
        """R_ben^2, R_upp^2, beta and sigma^2 of these centres (k, D) and the radii: scalars without gradients."""
        with torch.no_grad():
            quarter = squared_distances(centres, centres).fill_diagonal_(math.inf).min(1).values / 4
            ben, upp = quarter.min(), torch.maximum(self.radii.square().max().to(quarter), quarter.max())
            beta = (upp / ben.clamp_min(1e-12) - 1).clamp(0, 1) if self.beta is None else torch.full_like(ben, self.beta)
            sigma2 = torch.minimum(ben, upp - ben) if self.sigma2 is None else torch.full_like(ben, self.sigma2)
        return {"ben2": ben, "upp2": upp, "beta": beta, "sigma2": sigma2}

    def terms(self, logits: Tensor, labels: Tensor, centres: Tensor) -> dict[str, Tensor]:
        """The four terms: region, distribution, points and centres (the two of L_M). logits (B, C) = -d^2, centres (C, D)."""
        region = self.regions(centres)
        alpha, own = self.alpha.to(logits)[labels], -logits.gather(1, labels[:, None])[:, 0]
        radius = self.radii.to(logits)[labels]
        outside = (own.detach().clamp_min(0).sqrt() - radius).clamp_min(0)
        margin = region["sigma2"].to(logits)
        terms = {"region": (alpha * (outside.square() + self.gamma * radius.square())).mean(),
                 "distribution": region["beta"].to(logits) * (self.ld_alpha.to(logits)[labels] * own).mean(),
                 "points": F.cross_entropy(_with_margin(logits + self.log_eta.to(logits), labels, margin), labels, ignore_index=_NO_LABEL)}
        if self.centre_loss:
            classes = torch.arange(len(centres), device=centres.device)
            terms["centres"] = F.cross_entropy(_with_margin(-squared_distances(centres, centres), classes, margin), classes)
        return terms

    def _value(self, logits: Tensor, labels: Tensor, reduction: str, *, features, head, **draw) -> Tensor:
        if head is None or not self.training:
            return self._cross_entropy(logits, labels, reduction)
        _whole_batch(reduction)
        return sum(self.terms(logits, labels, head.weight).values())

    def report(self, head: nn.Module) -> dict:
        """regions: ben2, upp2, beta, sigma2 (:meth:`regions`) and the radii."""
        state = {name: float(value) for name, value in self.regions(head.weight).items()}
        return {"regions": state | {"radii": [round(r, 6) for r in self.radii.tolist()]}}


def _whole_batch(reduction: str) -> None:
    if reduction == "none":
        raise ValueError("reduction = 'none': expected 'mean': in training this loss is a function of a batch, not a mean over its images")


def _with_margin(logits: Tensor, labels: Tensor, margin: Tensor) -> Tensor:
    """z_ij + margin for j != y_i, up to the constant margin: z_iy - margin. (B, C), (B,), scalar -> (B, C)."""
    return logits.scatter_add(1, labels[:, None], (-margin).expand(len(labels), 1).to(logits))


# ---------------------------------------------------------------------------------------------------- GBG


def min_norm_weights(gram) -> np.ndarray:
    """The w >= 0, sum w = 1, that minimises |sum_g w_g v_g|^2 = w' A w, for the Gram matrix A_gh = v_g . v_h of K vectors.

    gram (K, K) symmetric and positive semidefinite -> (K,) float64 with w' A w - min(A w) <= 1e-10 max A. Where several w are best, one
    of them. The point of the convex hull nearest to 0 is the solution u >= 0 of the least squares problem V u = 0, 1' u = 1, scaled to
    sum 1: along t w the objective is t^2 w' A w + (t - 1)^2, whose minimum over t rises with w' A w.
    Raises ValueError for a matrix that is not square, symmetric and finite. Source: Desideri 2012 (MGDA); Lawson and Hanson's active sets.
    """
    gram = np.asarray(gram, np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0 or not np.all(np.isfinite(gram)):
        raise ValueError(f"gram: expected finite (K, K), K >= 1, got {gram} of shape {gram.shape}")
    if not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-12 * np.abs(gram).max()):
        raise ValueError(f"gram: expected a symmetric matrix of scalar products, got {gram}")
    norms = np.sqrt(np.diag(gram).clip(0))
    if norms.min() == 0:  # a vector of length 0 is the nearest point
        return (norms == 0) / np.count_nonzero(norms == 0)
    # in units of each vector's own length: beside a long vector the digits of a short one, which decides, would be lost
    values, vectors = np.linalg.eigh(gram / np.outer(norms, norms))
    root, relative = np.sqrt(values.clip(0))[:, None] * vectors.T, norms.min() / norms
    # SciPy's own limit, 3 K iterations, is too low for some gradients of very different lengths
    solution, _ = nnls(np.vstack([root, relative]), np.r_[np.zeros(len(gram)), 1.0], maxiter=1000 * len(gram))
    weights = solution * relative
    return weights / weights.sum()


class GBG(Loss):
    """Gradient-balancing grouping: L = alpha sum_g w_g L_g + beta BSCL over K groups of classes, z = scale cos.

    L_g is the mean cross-entropy, over all classes, of the batch's images of group g; groups without any are passed over. w are the
    min-norm weights (:func:`min_norm_weights`) of the scaled gradients g_g / (L_g |g_g|) of the groups with respect to the backbone; they
    are constants and apply to the unscaled L_g, so that every step is close to a Pareto descent direction.
    Groups are made once, before training (or after ``warmup`` epochs, one group until then; every ``refresh_every`` epochs again):
    spectral clustering of the classes' mean gradients by cosine + 1 (:func:`class_gradients`).

    groups    K >= 1; at most as many as classes. 1 is softmax with a cosine head
    grouping  "gradient"; the controls "random" (K equal parts of a permutation, by ``seed``) and "count" (K equal parts by class count:
              head, middle and tail for 3)
    weights   "min_norm", or the control "equal": w_g = 1 / K
    beta      of the balanced contrastive term (:func:`balanced_contrastive`), for ``views = "contrastive"``; 0: none. Its features
              pass a two-layer projection of ``projection`` outputs, the centres of its classes another
    In eval mode: CE(scale cos). Source: Li et al. 2023, Long-Tailed Learning as Multi-Objective Optimization, and its code.
    """

    def __init__(self, class_counts, groups: int = 4, grouping: str = "gradient", weights: str = "min_norm", alpha: float = 2.0,
                 beta: float = 0.0, scale: float = 30.0, temperature: float = 0.1, projection: int = 128, warmup: int = 0,
                 refresh_every: int = 0, seed: int = 0):
        super().__init__(class_counts)
        counts = _counts(class_counts)
        _whole("groups", groups, 1, len(counts))
        _choice("grouping", grouping, ("gradient", "random", "count"))
        _choice("weights", weights, ("min_norm", "equal"))
        _finite_range("alpha", alpha, 0, math.inf, open_low=True)
        _finite_range("beta", beta, 0, math.inf)
        for name, value in (("scale", scale), ("temperature", temperature)):
            _finite_range(name, value, 0, math.inf, open_low=True)
        _whole("projection", projection, 1)
        for name, value in (("warmup", warmup), ("refresh_every", refresh_every), ("seed", seed)):
            _whole(name, value, 0)
        self.groups, self.grouping, self.weighting = groups, grouping, weights
        self.alpha, self.beta, self.scale, self.temperature, self.projection = alpha, beta, scale, temperature, projection
        self.warmup, self.refresh_every, self.seed = warmup, refresh_every, seed
        self.counts = counts
        self.project = self.project_centres = None
        # persistent: a checkpoint in the middle of an epoch holds them
        self.register_buffer("group_of", torch.zeros(len(counts), dtype=torch.int64))
        self.register_buffer("weight_sum", torch.zeros(groups, dtype=torch.float64))
        self.register_buffer("weight_steps", torch.zeros(groups, dtype=torch.float64))
        self._present: Tensor | None = None
        self._contrastive: Tensor | None = None

    def prediction_logits(self, logits: Tensor) -> Tensor:
        return self.scale * logits

    def attach(self, model: nn.Module) -> None:
        if self.beta:
            size = model.backbone.num_features
            self.project, self.project_centres = (
                nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, self.projection)) for _ in range(2))

    def param_groups(self, lr: float) -> list[dict]:
        own = list(self.parameters())
        return [{"params": own, "lr": lr}] if own else []

    def start_epoch(self, epoch: int, model: nn.Module, batches) -> None:
        self.weight_sum.zero_(), self.weight_steps.zero_()
        again = self.refresh_every and epoch > self.warmup and (epoch - self.warmup) % self.refresh_every == 0
        if self.groups == 1 or not (epoch == self.warmup or again):
            return
        classes = self.num_classes
        if self.grouping == "gradient":
            found = group_by_gradient(cosine_matrix(class_gradients(model, batches, self)), self.groups)
        else:
            by_count = np.argsort(-self.counts, kind="stable")
            order = by_count if self.grouping == "count" else np.random.default_rng(self.seed).permutation(classes)
            found = np.empty(classes, np.int64)
            for number, part in enumerate(np.array_split(order, self.groups)):
                found[part] = number
        self.group_of.copy_(torch.as_tensor(found))

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean", *, features: Tensor | None = None, head=None,
                **draw) -> Tensor:
        """In training with a head: the losses of the groups that the batch holds (K',), for ``backward``.

        logits (V B, C) and features (V B, D) hold V views of each image, the first B rows the first; labels (B,).
        """
        if head is not None and self.training:
            logits = logits[: len(labels)]
        return super().forward(logits, labels, reduction, features=features, head=head)

    def _value(self, logits: Tensor, labels: Tensor, reduction: str, *, features: Tensor | None, head, **draw) -> Tensor:
        if head is None or not self.training:
            return self._cross_entropy(self.scale * logits, labels, reduction)
        _whole_batch(reduction)
        images = len(labels)
        ce = self._cross_entropy(self.scale * logits, labels, "none")
        member = F.one_hot(self.group_of[labels], self.groups).to(ce)
        self._present = member.any(0).nonzero()[:, 0]
        member = member[:, self._present]
        self._contrastive = None
        if self.beta:
            if features is None or len(features) == images:
                raise ValueError('beta > 0: expected more than one view of each image; set views = "contrastive" in the recipe')
            views = F.normalize(self.project(features[images:]), dim=1)
            centres = F.normalize(self.project_centres(head.weight), dim=1)
            self._contrastive = balanced_contrastive(views, labels, centres, self.temperature)
        return ce @ (member / member.sum(0))

    def backward(self, value: Tensor, model: nn.Module) -> Tensor:
        if value.ndim == 0:
            return super().backward(value, model)
        shared = [p for p in model.backbone.parameters() if p.requires_grad]
        others = [p for p in (*model.head.parameters(), *self.parameters()) if p.requires_grad]
        by_group = [torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True) for loss in value]
        weights = self._weights(by_group, value.detach())
        total = self.alpha * (weights @ value)
        total.backward(inputs=others, retain_graph=self._contrastive is not None)
        for number, parameter in enumerate(shared):
            parameter.grad = sum(self.alpha * w * gradients[number] for w, gradients in zip(weights, by_group, strict=True))
        if self._contrastive is not None:
            (self.beta * self._contrastive).backward(inputs=[*shared, *others])
            total = total + self.beta * self._contrastive
        self.weight_sum[self._present] += weights
        self.weight_steps[self._present] += 1
        return total.detach()

    def _weights(self, by_group: list, losses: Tensor) -> Tensor:
        if self.weighting == "equal" or len(by_group) == 1:
            return torch.full_like(losses, 1 / len(by_group))
        flat = torch.stack([torch.cat([g.flatten().float() for g in gradients]) for gradients in by_group])
        if not bool(flat.isfinite().all() & losses.isfinite().all()):  # the run diverges: the engine says so of a loss that is no number
            return torch.full_like(losses, math.nan)
        return torch.as_tensor(gbg_weights(flat, losses)).to(losses)

    def report(self, head: nn.Module) -> dict:
        """group_weights: mean weight of each group over the epoch's batches that held it; group_of: the group of each class."""
        mean = (self.weight_sum / self.weight_steps.clamp_min(1)).tolist()
        return {"group_weights": [round(w, 6) for w in mean], "group_of": self.group_of.tolist()}


def gbg_weights(gradients: Tensor, losses: Tensor) -> np.ndarray:
    """Min-norm weights of g / (L |g|): gradients (K, P), losses (K,) -> (K,) float64.

    L below 1e-12 counts as 1e-12. The smaller a group's loss, the longer its vector and the smaller its weight; a group whose
    gradient is 0, because its loss is in float32, has the limit of that, weight 0, unless all are 0.
    """
    # in float64, in parts that need little memory: a Gram matrix of float32 products is not semidefinite
    gram = sum(part @ part.T for part in map(Tensor.double, gradients.split(2**20, 1))).cpu().numpy()
    norms = np.sqrt(np.diag(gram).clip(0))
    moving, weights = norms > 0, np.zeros(len(norms))
    if not moving.any():
        return np.full(len(norms), 1 / len(norms))
    scale = 1 / norms[moving] / np.maximum(losses.double().cpu().numpy()[moving], 1e-12)
    weights[moving] = min_norm_weights(scale[:, None] * gram[np.ix_(moving, moving)] * scale)
    return weights


def class_gradients(model: nn.Module, batches, loss: Loss) -> Tensor:
    """For each class the gradient, over the backbone's parameters, of the mean cross-entropy of its training images: (C, P) float32.

    In eval mode and without augmentation; the head is left out. The model is put back into training mode.
    """
    shared = [p for p in model.backbone.parameters() if p.requires_grad]
    model.eval()
    rows = []
    for label in range(loss.num_classes):
        index = (batches.labels == label).nonzero()[:, 0]
        total = [torch.zeros_like(p) for p in shared]
        for part in index.split(batches.batch_size):
            z = loss.prediction_logits(model(batches.take(part)).float())
            ce = F.cross_entropy(z, batches.labels[part], reduction="sum") / len(index)
            for into, gradient in zip(total, torch.autograd.grad(ce, shared, materialize_grads=True), strict=True):
                into += gradient
        rows.append(torch.cat([g.flatten() for g in total]).cpu())
    model.train()
    return torch.stack(rows)


def cosine_matrix(gradients: Tensor) -> np.ndarray:
    """(C, P) -> (C, C) float64 cosines between rows; a row of zeros has cosine 0 to all others."""
    unit = F.normalize(gradients.double(), dim=1)
    return (unit @ unit.T).clamp(-1, 1).numpy()


def group_by_gradient(cosines: np.ndarray, groups: int) -> np.ndarray:
    """(C,) group numbers, 0 to K - 1: spectral clustering with the affinity cosine + 1.

    cosines (C, C); 1 <= groups <= C. Source: scikit-learn's ``spectral_clustering(assign_labels="cluster_qr")``, as GBG's code has it.
    """
    from sklearn.cluster import spectral_clustering

    if groups == len(cosines):
        return np.arange(groups)
    return spectral_clustering(np.asarray(cosines) + 1, n_clusters=groups, assign_labels="cluster_qr", random_state=0).astype(np.int64)


def balanced_contrastive(views: Tensor, labels: Tensor, centres: Tensor, temperature: float = 0.1) -> Tensor:
    """Balanced supervised contrastive loss: every class weighs the same in the denominator, and its centre is one of its images.

    views (V B, D) and centres (C, D) of length 1, the views of an image B rows apart; labels (B,) -> scalar. For row i with class y:
    -mean over the others a of class y, and C_y, of log [exp(v_i a / t) / sum_j mean over the others b of class j, and C_j, exp(v_i b / t)].
    Source: Zhu et al. 2022, Balanced Contrastive Learning for Long-Tailed Visual Recognition, Eqs. 7 to 9.
    """
    rows, classes = len(views), len(centres)
    labels = labels.repeat(rows // len(labels))
    everything = torch.cat([labels, torch.arange(classes, device=labels.device)])
    z = views @ torch.cat([views, centres]).T / temperature  # (V B, V B + C)
    z = z - z.detach().max(1, keepdim=True).values
    other = torch.ones_like(z).fill_diagonal_(0)
    positive = (labels[:, None] == everything).to(z) * other
    images = torch.bincount(everything, minlength=classes).to(z)[everything] - (labels[:, None] == everything).to(z)
    denominator = (z.exp() * other / images.clamp_min(1)).sum(1, keepdim=True)
    return -((positive * (z - denominator.log())).sum(1) / positive.sum(1)).mean()


METHODS: dict[str, type[Loss]] = {"pf": PF, "gcpl": GCPL, "affinity": Affinity, "arconvl": ARConvL, "gbg": GBG}
