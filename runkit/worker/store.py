"""The env's object store: Python objects under keys, in this process's memory."""

from __future__ import annotations

import threading

from runkit.errors import KeyExists
from runkit.wire.names import check_name
from runkit.worker.control import Control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Entry:
    """A stored object and what its methods need: the roots its class came from, and when they were last looked at."""

    __slots__ = ("changes", "roots", "value")

    def __init__(self, value: Any, roots: Any = (), changes: int = 0):
        self.value = value
        self.roots = roots
        self.changes = changes


class Store:
    """Keys belong to one env of the cluster: storing one here takes it from the env that had it."""

    def __init__(self, env: str, control: Control):
        self._env = env
        self._control = control
        self._entries: dict[str, Entry] = {}
        self._claiming: dict[str, Entry] = {}  # whose claim has not been answered
        self._lock = threading.Lock()

    def put(self, key: str, value: Any, roots: Any = (), changes: int = 0) -> None:
        """Store `value`; replaces what the key held."""
        check_name("key", key)
        self._take(key, Entry(value, roots, changes))

    def _take(self, key: str, entry: Entry) -> None:
        with self._lock:
            known = key in self._entries
            self._entries[key] = entry  # there before the others are told that it is here
            if not known:
                self._claiming[key] = entry
        if not known:
            try:
                self._control.request("claim", then=lambda: self._claimed(key, entry), env=self._env, key=key)
            except BaseException:
                self._claimed(key, entry)
                self.drop(key)
                raise

    def _claimed(self, key: str, entry: Entry) -> None:
        with self._lock:
            if self._claiming.get(key) is entry:  # else it was deleted and claimed again meanwhile
                del self._claiming[key]

    def entry(self, key: str) -> Entry:
        """The entry under `key`; KeyError if this env has none."""
        try:
            return self._entries[key]
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def keys(self) -> list[str]:
        return list(self._entries)

    def delete(self, keys: list[str]) -> list[str]:
        """Remove what is there of `keys`; gives the ones removed."""
        with self._lock:
            gone = [key for key in keys if self._entries.pop(key, None) is not None]
        if gone:
            self._control.request("release", env=self._env, keys=gone)
        return gone

    def drop(self, key: str) -> None:
        """Another env has taken the key over (an order of the server)."""
        with self._lock:
            if key not in self._claiming:  # else it has just been stored here again, and the claim follows this order
                self._entries.pop(key, None)

    def rename(self, old: str, new: str) -> None:
        """Give an object another key.

        Raises:
            KeyError: `old` is missing. KeyExists: `new` is there already, here or in another env.
        """
        check_name("key", new)
        entry = self.entry(old)
        if old == new:
            return
        if new in self._entries or self._control.request("where", key=new):
            raise KeyExists(f"cannot rename {old!r}: the key {new!r} exists")
        self._take(new, entry)
        self.drop(old)
        self._control.request("release", env=self._env, keys=[old])
