"""What calling something gives: a value, an awaitable, a stream of items. Both sides look at classes and functions with this."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_FLAGS = (("asyncgen", 0x200), ("async", 0x80 | 0x100), ("gen", 0x20))
"""The code flags of the inspect module (CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR), which is too heavy to import for them."""


def kind_of(function: Any) -> str:
    """What calling `function` gives: "call" a value, "async" an awaitable, "gen" or "asyncgen" a stream of items."""
    for candidate in (function, vars(type(function)).get("__call__")):
        code = getattr(getattr(candidate, "__func__", candidate), "__code__", None)
        if code is not None:
            return next((name for name, bit in _FLAGS if code.co_flags & bit), "call")
    return "call"


def methods(kind: type) -> dict[str, str]:
    """The public methods of a class (and `__call__`, where it has one), each with its kind."""
    found = {}
    for name in dir(kind):
        if name.startswith("_") and name != "__call__":
            continue
        attribute = getattr(kind, name, None)
        if callable(attribute) and not (isinstance(attribute, type) and name == "__class__"):
            found[name] = kind_of(attribute)
    if not any("__call__" in vars(base) for base in getattr(kind, "__mro__", ())):
        found.pop("__call__", None)
    return found
