"""Synced code: which folders are on `sys.path`, and which of their modules are still the current ones.

A root is a mirror of a folder of some client. A call names the roots it needs. Before it runs, these are put in place: modules of a
root whose mirror was synced again are dropped, so helpers that were imported transitively are fresh as well, while third-party
imports stay; modules of roots that the call does not name are set aside, so two projects with modules of the same name never see
each other's.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from runkit.wire import codec
from runkit.worker.task import Interrupted, current
from runkit.worker.warmth import warm_up_before

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Root = tuple[str, tuple[str, ...]]
"""(root id, folders below the root that are on sys.path in order)"""

Version = tuple[int, int, int]
"""The stat of a mirror's manifest, which every sync writes anew, last."""


_UNSHARE_FOLDER = 0x200
"""CLONE_FS of unshare(2): a thread's current folder becomes its own."""


def as_roots(given: Sequence[dict]) -> tuple[Root, ...]:
    return _same(tuple((root["id"], tuple(root.get("paths") or [""])) for root in given))


@functools.lru_cache(maxsize=256)
def _same(roots: tuple[Root, ...]) -> tuple[Root, ...]:
    """Equal roots as one object: it is told at a glance whether they are in place already."""
    return roots


def as_meta(roots: Sequence[Root]) -> list[dict]:
    """Roots as calls name them, for a call to another worker; the other way round of `as_roots`."""
    return [{"id": root, "paths": list(paths)} for root, paths in roots]


class Code:
    """The roots of this worker.

    Args:
        home: the folder that holds the mirrors (`<id>/tree`).
        always: roots of the env itself: its working dir and the local folders among its requirements.
        working_dir: id of the root that is the current folder, or None for the first root of each call.
    """

    def __init__(self, home: str, always: Sequence[dict], working_dir: str | None):
        self._home = home
        self._base = list(sys.path)
        self._always: tuple[Root, ...] = as_roots(always)
        self.working_dir = working_dir
        self._exported: list[str] = []
        self._lock = threading.RLock()
        self._holder: Any = None  # the call whose roots are held in place
        self._asked: Sequence[Root] | None = None
        self._active: tuple[Root, ...] = ()
        self._versions: tuple[Version, ...] = ()  # of the active ones, in the same order
        self._loaded: dict[str, Version] = {}  # root -> the version its imported modules are of
        self._aside: dict[str, dict[str, Any]] = {}
        self._contexts: set[frozenset[str]] = set()
        self._switching = 0  # the thread that is putting roots in place
        self._switches = 0
        self._threads = threading.local()
        self.changes = 0  # counts refreshed roots: stored objects look here whether their class may be stale

    def tree(self, root: str) -> str:
        return f"{self._home}/{root}/tree"

    def switch(self, always: Sequence[dict], working_dir: str | None, added: Sequence[str] = ()) -> None:
        """The env was sent again: other roots of its own, or folders added to the path."""
        with self._lock:
            self._always = as_roots(always)
            self.working_dir = working_dir
            self._base += [path for path in added if path not in self._base]
            asked, self._asked = self._asked, None
            wanted = self._with_always(asked or ())
            self._enter(wanted, self._versions_of(wanted))
            self._asked = asked

    def _export(self, roots: Sequence[Root]) -> None:
        """Let programs that are started from here import what this process can, as commands of editable installs have to."""
        rest = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        rest = [path for path in rest if path not in self._exported]
        # A root itself only where nothing in it is named: beside `src` lies what is not meant to be imported.
        below = [(root, [path for path in paths if path] or [""]) for root, paths in roots]
        self._exported = [os.path.join(self.tree(root), path).rstrip("/") for root, paths in below for path in paths]
        if self._exported or rest:
            os.environ["PYTHONPATH"] = os.pathsep.join([*self._exported, *rest])
        else:
            os.environ.pop("PYTHONPATH", None)

    def _with_always(self, roots: Sequence[Root]) -> tuple[Root, ...]:
        """These roots, and the env's own behind them."""
        named = {root for root, _ in roots}
        return (*roots, *(root for root in self._always if root[0] not in named))

    def activate(self, roots: Sequence[Root]) -> None:
        """Put these roots, and the env's own behind them, in place, as they were synced last.

        Raises:
            Interrupted: the call that asks was cancelled while it waited for others.
        """
        if roots is self._asked and self._versions_of(self._active) == self._versions:
            return
        with self._held(cancellable=True):
            wanted = self._with_always(roots)
            versions = self._versions_of(wanted)
            if wanted != self._active or versions != self._versions:
                self._asked = None  # whoever looks without the lock sees that something changes
                self._switching = threading.get_ident()
                try:
                    self._enter(wanted, versions)
                finally:
                    self._switching = 0
            self._asked = roots

    def _versions_of(self, roots: Sequence[Root]) -> tuple[Version, ...]:
        found = []
        for root, _ in roots:
            try:
                stat = os.stat(f"{self._home}/{root}/manifest.json")
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
            except OSError:  # no sync has been completed yet
                found.append((0, 0, 0))
        return tuple(found)

    def find(self, roots: Sequence[Root], module: str, qualname: str) -> Any:
        """The function or class of that name, with these roots in place.

        Raises:
            ImportError, AttributeError: there is none.
        """
        found = None
        before = self._switches
        if roots is self._asked:
            found = sys.modules.get(module)
            if getattr(getattr(found, "__spec__", None), "_initializing", False):
                found = importlib.import_module(module)  # waits for whoever is importing it
            if before != self._switches or roots is not self._asked:  # another call's roots came in between
                found = None
        if found is None:
            with self._placed(roots):
                found = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
        return found

    def load(self, roots: Sequence[Root], parts: Sequence[Any]) -> Any:
        """An object from its pickle, which may import from these roots."""
        with self._placed(roots):
            return codec.load(parts)

    @contextmanager
    def _held(self, cancellable: bool = False) -> Iterator[None]:
        """The lock. Whoever waits, for a slow import of another project for instance, can be interrupted.

        Args:
            cancellable: no code of the call has begun, so nobody interrupts it: it looks itself whether it is cancelled.
        """
        while not self._lock.acquire(timeout=0.1):
            task = current.get() if cancellable else None
            if task is not None and task.cancelled:
                raise Interrupted
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _placed(self, roots: Sequence[Root]) -> Iterator[None]:
        """Hold these roots in place: calls of other ones wait."""
        with self._held():
            before, self._holder = self._holder, current.get()
            try:
                self.activate(roots)
                yield
            finally:
                self._holder = before

    def _enter(self, wanted: tuple[Root, ...], versions: tuple[Version, ...]) -> None:
        self._switches += 1
        staying = {root for root, _ in wanted}
        if staying and staying not in self._contexts:
            self._contexts.add(frozenset(staying))
            if len(self._contexts) == 2:
                self._guard_imports()
        for root in {root for root, _ in self._active} - staying:
            self._aside[root] = self._take(root)
        for (root, _), version in zip(wanted, versions):
            if self._loaded.get(root, version) != version:
                self._take(root)
                self._aside.pop(root, None)
                self.changes += 1
            elif root in self._aside:
                sys.modules.update(self._aside.pop(root))
            self._loaded[root] = version
        entries = [
            os.path.join(self.tree(root), path) if path else self.tree(root) for root, paths in wanted for path in paths
        ]
        warm_up_before(entries)
        sys.path[:] = entries + [path for path in self._base if path not in entries]
        self._export(wanted)
        importlib.invalidate_caches()
        if "linecache" in sys.modules:
            sys.modules["linecache"].checkcache()
        self._active, self._versions = wanted, versions

    def enter_folder(self, roots: Sequence[Root], apart: bool = False) -> None:
        """Make the working dir, or the mirror of the first root, the current folder of the call on this thread.

        Without either it is where it was; for code that comes from no mirror (`apart`) it is the home folder.

        Each thread has a current folder of its own where the kernel lets it, so overlapping calls of two projects do not pull
        each other's away; where it does not (some containers forbid unshare) they share one.
        """
        folder = self.working_dir or (roots[0][0] if roots else None)
        if folder is None and not apart:
            return
        if not hasattr(self._threads, "own"):
            self._threads.own = True
            if threading.current_thread() is not threading.main_thread():
                import ctypes  # late: a worker's start does not need it

                ctypes.CDLL(None).unshare(_UNSHARE_FOLDER)
        try:
            os.chdir(self.tree(folder) if folder is not None else os.path.expanduser("~"))
        except OSError:  # the mirror was removed by hand: imports will say so
            pass

    def _take(self, root: str) -> dict[str, Any]:
        """Remove the modules of a root from sys.modules; gives them."""
        tree = os.path.join(self.tree(root), "")
        taken = {
            name: module for name, module in list(sys.modules.items()) if name != "__main__" and _lies_in(module, tree)
        }
        for name, module in taken.items():
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules and getattr(sys.modules[parent], child, None) is module:
                try:
                    delattr(sys.modules[parent], child)  # a namespace package shared with others keeps no stale child
                except AttributeError:
                    pass
        return taken

    def _guard_imports(self) -> None:
        """Calls of different roots overlap: an import inside a function first puts its own call's roots in place."""

        def for_call(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def import_for_call(name: str, *args: Any, **kwargs: Any) -> Any:
                task = current.get()
                if task is None or not task.roots or task is self._holder:  # a thread of the call that holds the lock
                    return original(name, *args, **kwargs)
                while not self._lock.acquire(timeout=0.1):
                    if (
                        _importing()
                    ):  # since before imports were guarded: whoever has the lock may wait for that very module
                        return original(name, *args, **kwargs)
                try:
                    with self._placed(task.roots):
                        return original(name, *args, **kwargs)
                finally:
                    self._lock.release()

            return import_for_call

        builtins.__import__ = for_call(builtins.__import__)
        importlib.import_module = for_call(importlib.import_module)

    def origins(self) -> list[str]:
        """The trees in place now."""
        return [self.tree(root) for root, _ in self._active]


def _importing() -> bool:
    """Whether this thread is in the middle of an import, and so holds the lock of a module."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None at the bottom
    return False


def _lies_in(module: Any, tree: str) -> bool:
    try:
        file = getattr(module, "__file__", None)
        if file:
            return os.path.abspath(file).startswith(tree)
        return any(os.path.join(path, "").startswith(tree) for path in getattr(module, "__path__", ()))
    except Exception:  # modules that are objects in disguise raise what they like
        return False
