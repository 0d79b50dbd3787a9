"""What a call calls: a function of a synced root, a function sent by value, a stored object's method, a built-in operation."""

from __future__ import annotations

import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Sequence

from runkit.worker.code import Code, as_roots
from runkit.worker.store import Entry, Store
from runkit.worker.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEPT_VALUES = 256


class Targets:
    """Finds the callable of a call and puts its code in place."""

    def __init__(self, code: Code, store: Store, operations: dict[str, Callable[..., Any]]):
        self._code = code
        self._store = store
        self._operations = operations
        self._values: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, task: Task) -> Callable[..., Any]:
        """The callable of `task`; the roots it needs are active afterwards.

        Raises:
            KeyError: a stored object that is not there (any more).
            ImportError, AttributeError: the module or name is not in the synced code.
        """
        operation = task.meta.get("op")
        if operation is not None:
            if "roots" in task.meta:
                self._activate(task, as_roots(task.meta["roots"]))
            return self._operations[operation]
        target = task.meta.get("target") or task.session.targets[task.meta["t"]]
        if "key" in target:
            return self._method(task, target["key"], target.get("method"))
        roots = target.get("_roots")
        if roots is None:
            roots = target["_roots"] = as_roots(target.get("roots", ()))
        self._activate(task, roots, bool(target.get("apart")))
        task.interruptible = True  # an import may take long
        if "ref" in target:
            return self._code.find(roots, *target["ref"])
        return self._value(target, roots)

    def _activate(self, task: Task, roots: Sequence[Any], apart: bool = False) -> None:
        task.roots = roots
        self._code.activate(roots)
        self._code.enter_folder(roots, apart)

    def _value(self, target: dict, roots: Sequence[Any]) -> Any:
        # What it refers to are modules of these roots, as they were when it was loaded.
        name = target["value"], roots, self._code.changes
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
                return self._values[name]
        value = self._code.load(roots, target["parts"])
        with self._lock:
            self._values[name] = value
            while len(self._values) > KEPT_VALUES:
                self._values.popitem(last=False)
        return value

    def _method(self, task: Task, key: str, method: str | None) -> Any:
        entry = self._store.entry(key)
        self._activate(task, entry.roots)
        self.freshen(entry)
        return entry.value if method is None else getattr(entry.value, method)

    def freshen(self, entry: Entry) -> None:
        """Give a stored object the new version of its class after its code was synced again; its state stays."""
        if entry.changes == self._code.changes:
            return
        entry.changes = self._code.changes
        named = isinstance(entry.value, (type, types.FunctionType))  # stored itself: a function under a name, a class
        old = entry.value if named else type(entry.value)
        module, name = getattr(old, "__module__", "builtins"), getattr(old, "__qualname__", "")
        if not entry.roots or module in ("builtins", "__main__") or "<" in name:
            return
        try:
            fresh = self._code.find(entry.roots, module, name)
            if named:
                entry.value = fresh
            elif fresh is not old and isinstance(fresh, type):
                entry.value.__class__ = fresh
        except (ImportError, AttributeError, TypeError):  # renamed, or of another layout: it stays what it was
            pass
