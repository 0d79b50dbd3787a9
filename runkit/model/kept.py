"""Values of this layer (an Env and what it holds) as JSON, and back: what a saved cluster keeps of its default env."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from collections.abc import Mapping
from typing import Any

from runkit.errors import UsageError

_CLASS = "runkit class"
_TUPLE = "runkit tuple"
_PASSWORD = re.compile(
    r"https?://[^/\s@]+@|\w://[^/\s@:]+:[^/\s@]+@|\w://\S+/t/[^/\s]+/"
)  # the last: a token of a conda channel


def kept(value: Any, what: str) -> Any:
    """The value as JSON.

    Args:
        value: a dataclass of `runkit.model`, or plain data.
        what: what it is, for errors.

    Raises:
        UsageError: it holds something that a file cannot: a function, a password in a URL.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: kept(getattr(value, field.name), f"{what}.{field.name}") for field in dataclasses.fields(value)
        }
        return {_CLASS: f"{type(value).__module__}:{type(value).__name__}", **fields}
    if isinstance(value, str):
        if _PASSWORD.search(value):
            raise UsageError(
                f"{what} has a password in a URL, which is not written to a file: use a rk.Secret or netrc"
            )
        return value
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [kept(entry, f"{what}[{number}]") for number, entry in enumerate(value)]}
    if isinstance(value, list):
        return [kept(entry, f"{what}[{number}]") for number, entry in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: kept(entry, f"{what}[{name!r}]") for name, entry in value.items()}
    raise UsageError(f"{what} is {type(value).__name__} {value!r}, which cannot be written to a file")


def _made(kind: Any, values: dict[str, Any]) -> Any:
    type_of: type = kind
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind} is no class of values")
    # Without __init__, which may take what was written by people.
    made: Any = object.__new__(type_of)
    for field in dataclasses.fields(kind):
        if field.name in values:
            value = values.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise ValueError(f"{field.name} is missing")
        object.__setattr__(made, field.name, value)
    if values:
        raise ValueError(f"{', '.join(values)} is unknown")
    return made


def restored(value: Any) -> Any:
    """The value that `kept` made JSON of.

    Raises:
        UsageError: another version of runkit wrote it, or it is damaged.
    """
    if isinstance(value, list):
        return [restored(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if _TUPLE in value:
        return tuple(restored(entry) for entry in value[_TUPLE])
    fields = {name: restored(entry) for name, entry in value.items() if name != _CLASS}
    if _CLASS not in value:
        return fields
    module, _, name = str(value[_CLASS]).partition(":")
    try:
        if not module.startswith("runkit.model."):
            raise ValueError(f"{module} is none of runkit's")
        return _made(getattr(importlib.import_module(module), name), fields)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"it was saved by another runkit, or is damaged ({error})") from None
