"""Models: a backbone that gives features, and a head that turns them into logits."""

from ltlib.models.backbones import build_backbone
from ltlib.models.heads import (
    Classifier,
    CosineHead,
    DistanceHead,
    build_classifier,
    build_head,
    start_at_class_means,
)
from ltlib.models.light import lighten, trained_share
from ltlib.models.names import backbone_title, check_name, is_small
from ltlib.models.weights import (
    MissingWeights,
    Weights,
    find_weights,
    fresh_weights,
    require_weights,
)

__all__ = [
    "Classifier",
    "CosineHead",
    "DistanceHead",
    "MissingWeights",
    "Weights",
    "backbone_title",
    "build_backbone",
    "build_classifier",
    "build_head",
    "check_name",
    "find_weights",
    "fresh_weights",
    "is_small",
    "lighten",
    "require_weights",
    "start_at_class_means",
    "trained_share",
]
