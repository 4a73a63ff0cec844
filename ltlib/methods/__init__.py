"""PF-loss, ARConvL with its rivals among distance losses, and GBG: more than one image's logits.

They follow the interface of :class:`ltlib.losses.base.Loss`, and :func:`ltlib.losses.build_loss`
builds them. Notation as in :mod:`ltlib.losses`; further f (B, D) features, C_j (D,) the centre of
class j, d^2_ij = |f_i - C_j|^2 = -z_ij, the distances of a "distance" head.
"""

from ltlib.methods.arconvl import ARConvL
from ltlib.methods.contrastive import balanced_contrastive
from ltlib.methods.distance import GCPL, Affinity, squared_distances
from ltlib.methods.gbg import GBG
from ltlib.methods.grouping import class_gradients, cosine_matrix, group_by_gradient
from ltlib.methods.min_norm import gbg_weights, min_norm_weights
from ltlib.methods.pf import PF

__all__ = [
    "GBG",
    "GCPL",
    "PF",
    "ARConvL",
    "Affinity",
    "balanced_contrastive",
    "class_gradients",
    "cosine_matrix",
    "gbg_weights",
    "group_by_gradient",
    "min_norm_weights",
    "squared_distances",
]
