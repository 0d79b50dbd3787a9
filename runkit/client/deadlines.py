"""The thread that ends submitted calls whose time is up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from runkit.wire.streams import spawn


class Deadlines:
    """When which call has to be ended; one thread for all of them, started by the first.

    What has ended is dropped at once. The thread looks at what is left when the earliest time it knew of has come.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start afresh; also in a forked child, where the thread did not come along."""
        self._changed = threading.Condition(threading.Lock())
        self._ends: dict[Any, tuple[float, Callable[[], Any]]] = {}
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    def set(self, call: Any, seconds: float, expired: Callable[[], Any]) -> None:
        """Have `expired` called so many seconds from now, in a thread of its own, unless the call is dropped before."""
        end = time.monotonic() + seconds
        with self._changed:
            self._ends[call] = (end, expired)
            if self._thread is None:
                self._wakes = end
                self._thread = spawn("deadlines", self._run)
            elif end < self._wakes:
                self._wakes = end
                self._changed.notify()

    def drop(self, call: Any) -> None:
        """The call has ended."""
        with self._changed:
            self._ends.pop(call, None)

    def _run(self) -> None:
        while True:
            for expired in self._wait():
                spawn("timeout", expired)

    def _wait(self) -> list[Callable[[], Any]]:
        # In a function of its own, so that the thread keeps no call alive while it waits.
        with self._changed:
            while (left := self._wakes - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            now = time.monotonic()
            due = [(call, expired) for call, (end, expired) in self._ends.items() if end <= now]
            for call, _ in due:
                del self._ends[call]
            self._wakes = min((end for end, _ in self._ends.values()), default=float("inf"))
        return [expired for _, expired in due]


deadlines = Deadlines()
os.register_at_fork(after_in_child=deadlines.forget)
