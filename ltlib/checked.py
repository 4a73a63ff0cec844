"""Configurations that are checked when they are built: pydantic's dataclasses, with messages that
name the value, what was expected, and the mend."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ltlib.errors import ConfigError, one_of

T = TypeVar("T")
# TOML and JSON have lists where a frozen value has tuples
Several = Annotated[
    tuple[T, ...], BeforeValidator(lambda value: tuple(value) if type(value) is list else value)
]

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]

# of protocols, methods and profiles: they become file names and LaTeX
NAME = "a name of letters, digits, '_', '-' and '.', which begins with one of the first three"
NAME_PATTERN = r"\w[\w.-]*"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", description=NAME)]

WORDS = {
    "int": "a whole number",
    "float": "a number (write 1.0e-4, not 1e-4 in quotes)",
    "string": "a string in quotes",
    "bool": "true or false",
    "tuple": "a list",
    "dict": "a table",
    "dataclass": "a table",
}
BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "finite_number": "a finite number",
}


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """A frozen dataclass, built by keywords, whose fields are checked strictly whenever one is
    built; nan and inf are no numbers here.

    Raises ConfigError for an unknown key, a missing one, a value of another type or out of its
    range; the ``description`` of a field, where it has one, says what was expected of a value out
    of range.
    """
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    made = pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)
    build = made.__init__

    def __init__(self, **values):
        try:
            build(self, **values)
        except ValidationError as error:
            raise ConfigError(_message(made, error)) from None

    made.__init__ = __init__  # type: ignore[method-assign]
    return made


def bounds(expected: str, **limits) -> Any:
    """Limits of a number (ge, gt, le, lt), which ``expected`` says in words."""
    return Field(description=expected, **limits)


def table(cls: type) -> BeforeValidator:
    """Lets a field that is a ``checked`` class be given as the table that it is built from."""
    return BeforeValidator(lambda value: cls(**value) if isinstance(value, dict) else value)


def value_of(cls: type, name: str, value, place: str):
    """``value`` as the field ``name`` of a ``checked`` class has it; its type alone is checked."""
    field = cls.__pydantic_fields__[name]
    try:
        return TypeAdapter(field.annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        raise ConfigError(f"{place} = {value!r}: expected {_words(field.annotation)}") from None


@contextlib.contextmanager
def within(place: str):
    """Whatever is wrong inside is a ConfigError that begins with its place."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def later(default):
    """A field that came after the first records: left out of :func:`to_dict` at its default, so
    that the ids of earlier runs hold."""
    return dataclasses.field(default=default, metadata={"later": True})


def to_dict(value):
    """Plain JSON values of a ``checked`` class, without what is ``later`` and has its default."""
    if isinstance(value, list | tuple):
        return [to_dict(one) for one in value]
    if not dataclasses.is_dataclass(value):
        return value
    return {
        field.name: to_dict(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if not (field.metadata.get("later") and getattr(value, field.name) == field.default)
    }


def _message(cls: type, error: ValidationError) -> str:
    """The first fault in our words; an unknown key before what is missing because of it."""
    found = error.errors()
    fault = next((f for f in found if f["type"] == "unexpected_keyword_argument"), found[0])
    kind, value, (name, *inside) = fault["type"], fault["input"], fault["loc"] or ("",)
    field = cls.__pydantic_fields__.get(name)
    place = name + "".join(f"[{i}]" if isinstance(i, int) else f".{i}" for i in inside)
    if kind == "value_error":  # a message of ours
        return f"{place}: {fault['ctx']['error']}" if place else str(fault["ctx"]["error"])
    if kind == "unexpected_keyword_argument":
        return one_of("key", name, list(cls.__pydantic_fields__))
    if kind == "missing":
        return f"the key {name!r} is missing ({_words(field.annotation)})"
    if kind == "literal_error":
        return one_of(place, value, typing.get_args(field.annotation))
    if kind == "string_pattern_mismatch":
        expected = field.description
    elif kind in BOUNDS:
        expected = field.description or BOUNDS[kind].format(**fault.get("ctx", {}))
    else:
        expected = WORDS.get(kind.split("_")[0], fault["msg"])
    return f"{place} = {value!r}: expected {expected}"


def _words(annotation) -> str:
    kind = typing.get_origin(annotation) or annotation
    kinds = {int: "int", float: "float", str: "string", bool: "bool", tuple: "tuple"}
    if kind is typing.Literal:
        return WORDS["string"]
    return WORDS[kinds.get(kind, "dict")]
