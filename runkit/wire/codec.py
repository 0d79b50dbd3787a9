"""Objects to bytes and back: pickle protocol 5 with out-of-band buffers (PEP 574), by value where cloudpickle is needed."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from runkit.errors import NotPicklable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SMALL = 4096
"""Buffers below this (bytes) stay inside the pickle: a copy costs less than a part of its own."""

MOST_BUFFERS = 10_000

_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})


def _plain(value: Any, depth: int = 2) -> bool:
    """Whether plain pickle gives what cloudpickle would, found at a glance."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind in (tuple, list, dict):
        if not depth or len(value) > 8:
            return False
        if kind is dict:
            return all(type(k) is str and _plain(v, depth - 1) for k, v in value.items())
        return all(_plain(v, depth - 1) for v in value)
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.hasobject is False


def dump(value: Any, what: str = "the value") -> list[Any]:
    """Pickle `value`.

    Returns:
        The pickle stream, then its out-of-band buffers as memoryviews of the very memory of the object: no copy is made.

    Raises:
        NotPicklable: some part of `value` cannot be pickled; names `what`.
    """
    buffers: list[memoryview] = []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SMALL or len(buffers) >= MOST_BUFFERS:
            return True
        buffers.append(raw)
        return False

    try:
        if _plain(value):  # CloudPickler is a Python subclass and costs some 30 microseconds for nothing here
            data = pickle.dumps(value, protocol=5, buffer_callback=apart)
        else:
            import cloudpickle  # late: it takes 20 ms to import, and many callers never need it

            data = cloudpickle.dumps(value, protocol=5, buffer_callback=apart)
        return [data, *buffers]
    except RecursionError:
        raise
    except Exception as error:  # whatever a user's __reduce__ raises
        raise NotPicklable(f"{what} cannot be sent: {type(error).__name__}: {error}") from error


def by_value(parts: Sequence[Any]) -> bool:
    """Whether a pickle holds code that cloudpickle sends by value: bytecode, which another Python would crash on."""
    return bool(parts) and any(name in bytes(parts[0]) for name in (b"_make_function", b"_make_skeleton_class"))


def load(parts: Sequence[Any]) -> Any:
    """The object again; its arrays are writable, and share memory with the received blobs."""
    # Small buffers are slices of a frame, which is immutable; blobs came into memory of their own.
    buffers = [bytearray(part) if memoryview(part).readonly else part for part in parts[1:]]
    return pickle.loads(parts[0], buffers=buffers)
