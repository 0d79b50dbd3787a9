"""The thread that completes submitted calls."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from runkit.wire.streams import spawn

Step = tuple[Callable[[Any], None], Any]


class Finisher:
    """Prints the output of submitted calls and completes them, in the order things arrived.

    Not the connection's reader: user code runs here (callbacks, `__setstate__`), and may make calls of its own.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start afresh; also in a forked child, where the thread did not come along."""
        self._queue: queue.SimpleQueue[list[Step]] = queue.SimpleQueue()
        self._collected = threading.local()
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def collect(self, take: Callable[[Any], None], frame: Any) -> None:
        """Note a step; `release` hands over what this thread has noted, so that a burst costs one handover."""
        steps = getattr(self._collected, "steps", None)
        if steps is None:
            steps = self._collected.steps = []
        steps.append((take, frame))

    def release(self) -> None:
        """Hand over the steps that this thread has collected."""
        steps = getattr(self._collected, "steps", None)
        if not steps:
            return
        self._collected.steps = []
        self.start()
        self._queue.put(steps)

    def start(self) -> None:
        """Have the thread run."""
        if self.thread is None:
            with self._lock:
                if self.thread is None:
                    self.thread = spawn("finisher", self._run)

    def post(self, take: Callable[[Any], None], value: Any) -> None:
        """Have something done by the thread, which runs already; takes no locks, so that `__del__` may call it anywhere."""
        self._queue.put([(take, value)])

    def _run(self) -> None:
        while True:
            for take, frame in self._queue.get():
                try:
                    take(frame)
                except BaseException:  # a broken callback of the user must not stop the others, nor sys.exit() in one
                    sys.excepthook(*sys.exc_info())
            del take, frame  # the wait for the next ones must not keep a result alive


finisher = Finisher()
os.register_at_fork(after_in_child=finisher.forget)
