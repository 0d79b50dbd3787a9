"""Code that travels by value: which modules go along with it, and what makes it large."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cloudpickle

from runkit.errors import NotPicklable
from runkit.wire import codec

LARGE = 1 << 20
"""From this size (bytes) on, the user is told what makes code that travels by value so large."""

_SHARE = 20  # what is less than this part of it is not worth a word

_lock = threading.Lock()
_registered: dict[str, int] = {}


@contextmanager
def along(modules: Iterable[types.ModuleType]) -> Iterator[None]:
    """While something is pickled: functions and classes of these modules, and of those below them, go by value."""
    taken = []
    try:
        for module in modules:
            with _lock:  # cloudpickle's register is one for all threads
                if module.__name__ not in _registered:
                    if module.__name__ in cloudpickle.list_registry_pickle_by_value():
                        continue  # the user has registered it, and that stays
                    cloudpickle.register_pickle_by_value(module)
                _registered[module.__name__] = _registered.get(module.__name__, 0) + 1
            taken.append(module)
        yield
    finally:
        for module in taken:
            with _lock:
                _registered[module.__name__] -= 1
                if not _registered[module.__name__]:
                    del _registered[module.__name__]
                    cloudpickle.unregister_pickle_by_value(module)


def modules_below(folder: str | os.PathLike[str]) -> tuple[types.ModuleType, ...]:
    """The imported modules whose code lies in a folder, installed ones aside; of a package, itself stands for those in it."""
    prefix = os.path.realpath(folder) + os.sep
    found: dict[str, types.ModuleType] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # What is not under its own name is found, and pickled, under that.
        if name in ("__main__", "__mp_main__") or not isinstance(file, str) or getattr(module, "__name__", "") != name:
            continue
        path = os.path.realpath(file)
        if path.startswith(prefix) and not {"site-packages", "dist-packages"} & set(path.split(os.sep)):
            found[name] = module
    return tuple(module for name, module in found.items() if not any(name.startswith(f"{other}.") for other in found))


def large_parts(thing: Any, parts: Sequence[Any]) -> list[tuple[str, int]]:
    """What makes code large that travels by value: names of variables and their sizes (bytes), largest first.

    Args:
        thing: a function, a class or a callable object.
        parts: the pickle of it; nothing is said of a small one.
    """
    total = sum(memoryview(part).nbytes for part in parts)
    if total < LARGE:
        return []
    found: dict[str, int] = {}
    for name, value in _variables(thing, set()):
        if name not in found:
            try:
                found[name] = sum(memoryview(part).nbytes for part in codec.dump(value))
            except (NotPicklable, RecursionError):
                continue
    listed = sorted(found.items(), key=lambda one: -one[1])
    return [(name, size) for name, size in listed if size * _SHARE >= total]


def _variables(thing: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The variables that code takes along, those of functions that it takes along, too."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, types.MethodType):
        yield from _variables(thing.__func__, seen)
        thing = thing.__self__
    if isinstance(thing, type):
        members = [(f"{thing.__name__}.{name}", value) for name, value in vars(thing).items()]
    elif isinstance(thing, types.FunctionType):
        members = _of_function(thing)
    else:
        members = [(f"attribute {name}", value) for name, value in getattr(thing, "__dict__", {}).items()]
    for name, value in members:
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, types.ModuleType) or name.endswith((".__dict__", ".__weakref__")):
            continue
        if isinstance(value, (types.FunctionType, type)):
            if value.__module__ == getattr(thing, "__module__", None):
                yield from _variables(value, seen)
        else:
            yield name, value


def _of_function(function: types.FunctionType) -> list[tuple[str, Any]]:
    code = function.__code__
    members = [(name, function.__globals__[name]) for name in sorted(_names(code)) if name in function.__globals__]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            members.append((f"{name} (of the function around it)", cell.cell_contents))
        except ValueError:  # not set yet
            continue
    members += [("its defaults", value) for value in function.__defaults__ or ()]
    return members + [(f"the default of {name}", value) for name, value in (function.__kwdefaults__ or {}).items()]


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found
