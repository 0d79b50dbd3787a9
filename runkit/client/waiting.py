"""Waiting for a call in the thread that made it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from runkit.client.printing import Printer
from runkit.client.request import GRACE, Cost, Options, Request, replace_worker, stopped, tell_stopped
from runkit.client.session import Session
from runkit.errors import CallTimeout
from runkit.wire import frames


class Waiting:
    """A call somebody waits for in this thread. Frames are taken from a queue, so output is printed by the waiting thread."""

    def __init__(self, request: Request):
        self.request = request
        self.frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.session: Session | None = None
        self.number = 0
        self.notify: Callable[[], Any] | None = None  # called when something has arrived
        self._printer = Printer()

    def send(self) -> None:
        """Send the call."""
        self.request.send(self._sink, self._begun)

    def _sink(self, frame: Any) -> None:
        self.frames.put(frame)
        if self.notify is not None:
            self.notify()

    def _begun(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number

    def next(self, deadline: float | None) -> frames.Frame:
        """The next frame that is not output.

        Raises:
            CallTimeout: the deadline has passed; the call has been stopped.
            RunkitError: it ended without an answer.
        """
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            try:
                found = self._take(self.frames.get(timeout=None if left is None else max(left, 0)))
            except queue.Empty:
                raise self.timed_out() from None
            if found is not None:
                return found
            if left is not None and left < 0:  # it never stops talking
                raise self.timed_out()

    def poll(self) -> frames.Frame | None:
        """The next frame that is not output, if it is here."""
        while True:
            try:
                found = self._take(self.frames.get_nowait())
            except queue.Empty:
                return None
            if found is not None:
                return found

    def _take(self, frame: Any) -> frames.Frame | None:
        if not isinstance(frame, frames.Frame):
            raise frame
        if frame.kind != frames.LOG:
            return frame
        self._printer.show(frame)
        return None

    def timed_out(self) -> CallTimeout:
        """Stop the call, and say how that went."""
        how = self.stop("timeout")
        where = f"{self.request.label} on {self.request.caller.name!r}, env {self.request.env!r}"
        return CallTimeout(f"{where} took longer than its timeout of {self.request.options.timeout:g} s; {how}")

    def interrupted(self) -> None:
        """Stop the call, because somebody has pressed Ctrl-C."""
        how = self.stop("cancel")
        tell_stopped(self.request, "interrupted", how)

    def stop(self, why: str) -> str:
        """Stop the remote work and wait until that is settled; says in words how it went."""
        session = self.session
        if session is None:
            return "it had not been sent"
        session.stop(self.number, why)
        how = ""  # once the end of the process has been announced
        unsettled = Cost("its code does not react, and the env's process is being replaced")
        while True:
            if not session.lane.connected:
                return unsettled if how else "the connection is down; it will be stopped when that is back"
            try:
                frame = self.frames.get(timeout=GRACE)
            except queue.Empty:
                return unsettled if how else replace_worker(self.request, session, self.number)
            if not isinstance(frame, frames.Frame):  # the session has ended
                return how or f"its work ended: {frame}"
            if frame.kind == frames.LOG:
                self._printer.show(frame)
            elif frame.kind in (frames.RESULT, frames.ERROR):
                return "it ended by itself while it was being stopped"
            elif frame.kind == frames.CANCELLED:
                how = stopped(frame)
                if not frame.meta.get("replaced"):  # otherwise wait for the old process to be gone
                    return how

    def close(self) -> None:
        """Nothing more is wanted for it."""
        if self.session is not None:
            self.session.done(self.number)


def deadline_of(options: Options) -> float | None:
    return None if options.timeout is None else time.monotonic() + options.timeout
