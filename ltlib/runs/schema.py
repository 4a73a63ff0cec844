"""What the results of a finished run look like: a record that says something else is named."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

SHARES = ("acc1", "f1", "f1_macro", "class_acc", "gmean", "auc_hard", "auc")  # 0 to 1


def _judge_set(metrics: dict[str, float]) -> dict[str, float]:
    """n images of which acc1 are hits, and shares that are shares."""
    n, hits, acc1 = (metrics.get(name, -1) for name in ("n", "hits", "acc1"))
    wrong = [name for name in SHARES if not 0 <= metrics.get(name, 0) <= 1]
    if wrong or not 0 <= hits <= n or n < 1 or abs(hits - acc1 * n) > 1e-6 * n:
        raise ValueError(f"n, hits and acc1 do not go together, or {wrong} are not from 0 to 1")
    return metrics


class _Hits(TypedDict):
    images: list[NonNegativeInt]
    hits: list[NonNegativeInt]


class _Evaluation(TypedDict):
    epoch: PositiveInt
    sets: dict[str, Annotated[dict[str, FiniteFloat], AfterValidator(_judge_set)]]
    per_class: dict[Literal["balanced", "longtailed"], _Hits]


def _judge_evaluation(evaluation: _Evaluation) -> _Evaluation:
    """The hits of the classes are those of their set."""
    for name, seen in evaluation["per_class"].items():
        images, hits = seen["images"], seen["hits"]
        whole = evaluation["sets"].get(name, {"n": -1.0, "hits": -1.0})
        each = len(images) == len(hits) and all(map(int.__le__, hits, images))
        if not each or (sum(images), sum(hits)) != (whole["n"], whole["hits"]):
            raise ValueError(f"{name}: images and hits of the classes are not those of the set")
    return evaluation


Evaluation = Annotated[_Evaluation, AfterValidator(_judge_evaluation)]


class _Evaluations(TypedDict):
    last: Evaluation
    picked: NotRequired[Evaluation]


class _Epoch(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    train_loss: FiniteFloat
    val_acc: NotRequired[Annotated[float, Field(ge=0, le=1)]]


class _Results(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    curve: list[_Epoch]
    evaluations: _Evaluations


_RESULTS = TypeAdapter(_Results)


def fault_of(results) -> str:
    """What cannot be in the results that a run writes, or ""."""
    try:
        _RESULTS.validate_python(results, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("results", *first["loc"])))
        return f"{place}: {first['msg']}, got {str(first['input'])[:60]}"
    return ""
