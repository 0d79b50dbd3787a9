"""How a handle among a call's arguments becomes the object it stands for, in the worker."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


resolver: Callable[[str], Any] | None = None
"""Set by the worker: gives the object under a key."""


def itself(value: Any) -> Any:
    """What a pickled wrapper of a function or class turns into."""
    return value


def resolve(key: str) -> Any:
    """What a pickled handle turns into; only a worker can tell."""
    if resolver is None:
        raise RuntimeError(
            f"a handle of {key!r} is an argument for calls on its cluster; use .fetch() to have the object here"
        )
    return resolver(key)
