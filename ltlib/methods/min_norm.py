"""The point of a convex hull that is nearest to 0: how GBG weighs the gradients of its groups."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def min_norm_weights(gram) -> np.ndarray:
    """The w >= 0, sum w = 1, that minimises |sum_g w_g v_g|^2 = w' A w, A_gh = v_g . v_h.

    gram A (K, K), symmetric and positive semidefinite -> (K,) float64 with
    w' A w - min(A w) <= 1e-10 max A. Where several w are best, one of them. The point of the convex
    hull nearest to 0 is the solution u >= 0 of the least squares problem V u = 0, 1' u = 1, scaled
    to sum 1: along t w the objective is t^2 w' A w + (t - 1)^2, whose minimum over t rises with
    w' A w.
    Raises ValueError for a matrix that is not square, symmetric and finite.
    Source: Desideri 2012 (MGDA); Lawson and Hanson's active sets.
    """
    from scipy.optimize import nnls  # here, because losses are imported without SciPy

    gram = _checked_gram(gram)
    norms = np.sqrt(np.diag(gram).clip(0))
    if norms.min() == 0:  # a vector of length 0 is the nearest point
        return (norms == 0) / np.count_nonzero(norms == 0)
    # in units of each vector's own length: beside a long vector the digits of a short one, which
    # decides, would be lost
    values, vectors = np.linalg.eigh(gram / np.outer(norms, norms))
    root, relative = np.sqrt(values.clip(0))[:, None] * vectors.T, norms.min() / norms
    target = np.r_[np.zeros(len(gram)), 1.0]
    # SciPy's own limit, 3 K iterations, is too low for some gradients of very different lengths
    solution, _ = nnls(np.vstack([root, relative]), target, maxiter=1000 * len(gram))
    weights = solution * relative
    return weights / weights.sum()


def _checked_gram(gram) -> np.ndarray:
    gram = np.asarray(gram, np.float64)
    square = gram.ndim == 2 and gram.shape[0] == gram.shape[1] and gram.size > 0
    if not square or not np.all(np.isfinite(gram)):
        raise ValueError(f"gram: expected finite (K, K), K >= 1, got {gram} of shape {gram.shape}")
    if not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-12 * np.abs(gram).max()):
        raise ValueError(f"gram: expected a symmetric matrix of scalar products, got {gram}")
    return gram


def gbg_weights(gradients: Tensor, losses: Tensor) -> np.ndarray:
    """Min-norm weights of g / (L |g|): gradients (K, P), losses (K,) -> (K,) float64.

    L below 1e-12 counts as 1e-12. The smaller a group's loss, the longer its vector and the smaller
    its weight; a group whose gradient is 0, because its loss is in float32, has the limit of that,
    weight 0, unless all are 0.
    """
    # in float64, in parts that need little memory: a Gram matrix of float32 products is not
    # semidefinite
    parts = map(Tensor.double, gradients.split(2**20, 1))
    gram = sum(part @ part.T for part in parts).cpu().numpy()
    norms = np.sqrt(np.diag(gram).clip(0))
    moving, weights = norms > 0, np.zeros(len(norms))
    if not moving.any():
        return np.full(len(norms), 1 / len(norms))
    scale = 1 / norms[moving] / np.maximum(losses.double().cpu().numpy()[moving], 1e-12)
    weights[moving] = min_norm_weights(scale[:, None] * gram[np.ix_(moving, moving)] * scale)
    return weights
