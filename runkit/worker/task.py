"""One call, as the worker sees it."""

from __future__ import annotations

import itertools
import threading
import time
from contextvars import ContextVar
from typing import Any, Callable

from runkit.wire import frames
from runkit.wire.frames import Frame

current: ContextVar[Task | None] = ContextVar("runkit_call", default=None)
"""The call that the running code belongs to; threads that it starts and asyncio tasks inherit it."""

_numbers = itertools.count(1)


class Interrupted(KeyboardInterrupt):
    """What remote code sees when its call is cancelled: as if somebody had pressed Ctrl-C."""


class Task:
    """A call from its arrival to its end.

    Attributes:
        cancelled: why it is to end early ("cancel", "timeout", "abandoned"), or "".
        interruptible: an `Interrupted` may be raised into it right now.
        tags: the child processes it started, by pid.
    """

    def __init__(self, session: Any, frame: Frame):
        self.number = next(_numbers)
        self.session = session
        self.call = frame.call
        self.meta = frame.meta
        self.parts: list[Any] = frame.parts
        self.json = bool(frame.flags & frames.FLAG_JSON)
        self.stream = frame.meta.get("log", 1) != 0
        self.limit: int = frame.meta.get("conc", 0)
        self.gate: Any = None
        self.started = 0.0
        self.thread = 0
        self.on_main = False
        self.interruptible = False
        self.cancelled = ""
        self.finished = False
        self.done: threading.Event | None = None  # made by whoever wants to wait
        self.stop_async: Callable[[], Any] | None = None
        self.credit: threading.Condition | None = None
        self.credits = 0
        self.text: dict[int, list[str]] = {1: [], 2: []}
        self.pipes: dict[int, Any] = {}
        self.pids: set = set()
        self.roots: Any = ()

    def begin(self, on_main: bool) -> None:
        self.thread = threading.get_ident()
        self.on_main = on_main
        self.started = time.time()

    def send(self, kind: int, meta: dict | None = None, parts: Any = (), later: bool = False) -> None:
        """Send a frame of this call, unless the call has ended."""
        if not self.finished:
            self.session.send(kind, self.call, meta, parts, frames.FLAG_JSON if self.json else 0, later)

    def finish(self, kind: int, meta: dict | None = None, parts: Any = (), later: bool = False) -> bool:
        """Send the one frame that ends the call. False if it had ended before."""
        if self.finished:
            return False
        self.send(kind, meta, parts, later)
        self.finished = True
        if self.done is not None:
            self.done.set()
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until the code of the call has come to its end; False after `seconds`."""
        if self.done is None:
            self.done = threading.Event()
        return self.finished or self.done.wait(seconds)
