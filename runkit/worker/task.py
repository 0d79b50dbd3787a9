"""One call, as the worker sees it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

from runkit.wire import frames
from runkit.wire.frames import Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

current: ContextVar[Task | None] = ContextVar("runkit_call", default=None)
"""The call that the running code belongs to; threads that it starts and asyncio tasks inherit it."""

_numbers = itertools.count(1)


class Interrupted(KeyboardInterrupt):
    """What remote code sees when its call is cancelled: as if somebody had pressed Ctrl-C."""


def raise_in(thread: int, kind: type[BaseException] | None = Interrupted) -> None:
    """Raise an exception in a thread, at its next step in Python code; None takes one back that has not been raised yet."""
    import ctypes  # late: only calls on threads that are stopped need it

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind))


class Task:
    """A call from its arrival to its end.

    Attributes:
        cancelled: why it is to end early ("cancel", "timeout", "abandoned"), or "".
        interruptible: an `Interrupted` may be raised into it right now; changed by the call's own thread only.
        guard: held while one is raised into it from another thread, and while the call is declared ended.
        sending: which frame it is sending right now, counted from 1; 0 for none.
        missed: it was interrupted while it was sending.
        ending: its last frame is on the way, or sent.
        pids: the child processes it started through `subprocess`.
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
        self.guard = threading.Lock()
        self.sent = 0
        self.sending = 0
        self.missed = False
        self.ending = False
        self.finished = False
        self.done: threading.Event | None = None  # made by whoever wants to wait
        self.stop_async: Callable[[bool], Any] | None = None  # told whether it is tried again
        self.credit: threading.Condition | None = None
        self.credits = 0
        self.credited: Callable[[], Any] | None = None  # told of new credits
        self.text: dict[tuple[int, int], list[str]] = {}  # unfinished lines, by stream and thread
        self.pipes: dict[int, Any] = {}
        self.pids: set = set()
        self.roots: Any = ()

    def begin(self, on_main: bool) -> None:
        self.thread = threading.get_ident()
        self.on_main = on_main
        self.started = time.time()

    def send(self, kind: int, meta: dict | None = None, parts: Any = (), later: bool = False) -> None:
        """Send a frame of this call, unless the call has ended."""
        if self.finished:
            return
        own = threading.get_ident() == self.thread
        if own:  # half a frame on the wire would tear the connection
            interruptible, self.interruptible = self.interruptible, False
            self.sending = self.sent = self.sent + 1
        self.session.send(kind, self.call, meta, parts, frames.FLAG_JSON if self.json else 0, later)
        if own:
            self.sending = 0
            self.interruptible = interruptible
            if interruptible and self.missed:
                self.missed = False
                raise Interrupted

    def shield(self) -> None:
        """No `Interrupted` is raised into this thread for this call any more, and none is left over. Called by its own thread."""
        while True:
            try:
                self.interruptible = False
                if not self.cancelled:  # whoever interrupts says so first, and then looks whether it may
                    return
                with self.guard:
                    if not self.on_main:
                        raise_in(self.thread, None)
                return
            except Interrupted:
                continue

    def finish(self, kind: int, meta: dict | None = None, parts: Any = (), later: bool = False) -> bool:
        """Send the one frame that ends the call. False if it had ended before."""
        with self.guard:
            if self.ending:
                return False
            self.ending = True
        self.send(kind, meta, parts, later)
        self.finished = True
        if self.done is not None:
            self.done.set()
        return True

    def give_up(self, meta: dict) -> None:
        """Tell the client how the call has ended, whatever of it is still on its way or has been said before."""
        self.ending = self.finished = True
        self.session.send(frames.CANCELLED, self.call, meta, (), 0, False)

    def wait(self, seconds: float) -> bool:
        """Wait until the code of the call has come to its end; False after `seconds`."""
        if self.done is None:
            self.done = threading.Event()
        return self.finished or self.done.wait(seconds)
