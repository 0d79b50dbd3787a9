"""How the code of a function or class gets to a cluster: synced with its package root, by value, or installed there from git."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal

from runkit.client.by_value import along, large_parts, modules_below
from runkit.client.cluster import Cluster
from runkit.client.connected import PlacedCode
from runkit.client.envs import HERE, EnvLike
from runkit.client.git_source import check_importable, from_git
from runkit.client.progress import Progress, Report
from runkit.client.roots import Location, importable, locate
from runkit.client.session import Target
from runkit.errors import RootError, UsageError
from runkit.model.git_package import GitPackage
from runkit.wire import codec

Source = Literal["sync", "inline"] | GitPackage
"""What a `source=` argument takes."""


@dataclass(frozen=True)
class Described:
    """Code that is about to be sent.

    Attributes:
        location: where it is here, and what has to be synced for it.
        target: how the worker is told of it.
        python: the minor version of Python it needs, if it goes by value.
        along: the modules whose functions and classes go by value with it, and with its arguments.
        large: variables that make it large, with their sizes in bytes.
        size: of what travels by value, in bytes.
    """

    location: Location
    target: Target
    python: str | None = None
    along: tuple[ModuleType, ...] = ()
    large: tuple[tuple[str, int], ...] = ()
    size: int = 0

    def warn(self, label: str, report: Report) -> None:
        """Say what makes the code large."""
        if self.large:
            named = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in self.large)
            report(
                {
                    "warning": f"{label} travels by value and takes {self.size / 1e6:.1f} MB along: {named}. Give such data as an "
                    "argument, or store it over there once with cluster.put"
                }
            )


def prepared(
    cluster: Cluster, thing: Any, source: Source, env: EnvLike, label: str
) -> tuple[Described, Callable[..., PlacedCode]]:
    """Code made ready to be sent, and what sends it: as often as it is called, `force=` as for `Cluster.place`."""
    if isinstance(source, GitPackage):
        target, send = from_git(cluster, thing, source, env, label)
        return Described(Location(None), target), send
    code = describe(thing, source)
    code.warn(label, Progress(cluster.name))
    return code, partial(cluster.place, env, code.location, by_value=label if code.python else None)


def check_source(source: Any, thing: Any) -> None:
    """Whether `source` can be one of `thing`.

    Raises:
        UsageError: it cannot.
    """
    if isinstance(source, GitPackage):
        check_importable(thing, source)
    elif not isinstance(source, str) or source not in ("sync", "inline"):
        hint = ": write rk.GitPackage(...)" if isinstance(source, str) and "git" in source else ""
        raise UsageError(f'source is "sync", "inline" or a GitPackage, not {source!r}{hint}')


def describe(thing: Any, source: Literal["sync", "inline"] = "sync") -> Described:
    """Where the code of a function or class is, and how it is named, or itself put, for the worker.

    Args:
        thing: a function, a class or a callable object.
        source: "inline" has it, and what it uses of its own root, travel by value.

    Raises:
        RootError: its package root cannot be synced. NotPicklable: it cannot travel by value.
    """
    if source == "inline":
        return _inline(thing)
    location = locate(thing)
    if location.by_value_reason is None and location.module and location.qualname:
        return Described(location, Target({"ref": [location.module, location.qualname]}))
    module = sys.modules.get(location.module or "")
    # Of a module that cannot be imported over there its other functions go by value, too.
    whole = (module,) if module and module.__name__ != "__main__" and not importable(module) else ()
    return _by_value(thing, location, whole)


def _inline(thing: Any) -> Described:
    try:
        found = locate(thing)
    except RootError:  # nothing of it is synced, so it may be what it is
        found = Location(None, getattr(thing, "__module__", None))
    own = sys.modules.get(found.module or "")
    if own is not None and own.__name__.partition(".")[0] in sys.stdlib_module_names:
        own = None  # it is over there, and has parts that cannot travel
    whole = modules_below(found.root.path) if found.root is not None else ()
    if own is not None and own.__name__ != "__main__" and own not in whole:
        whole = (*whole, own)
    code = _by_value(thing, Location(None, found.module, found.qualname, 'source="inline" was asked for'), whole)
    code.target.meta["apart"] = True
    return code


def _by_value(thing: Any, location: Location, whole: tuple[ModuleType, ...]) -> Described:
    label = getattr(thing, "__name__", repr(thing))
    with along(whole):
        parts = codec.dump(thing, f"{label}, which travels by value because {location.by_value_reason},")
        large = large_parts(thing, parts)
    digest = hashlib.sha256(b"".join(bytes(part) for part in parts)).hexdigest()
    size = sum(memoryview(part).nbytes for part in parts)
    return Described(location, Target({"value": digest}, parts), HERE, whole, tuple(large), size)
