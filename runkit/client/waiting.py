"""Waiting for a call in the thread that made it."""

from __future__ import annotations

import queue
import time
from typing import Any

from runkit.client.request import GRACE, Options, Request, print_log, stopped
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

    def send(self) -> None:
        self.request.send(self.frames.put, self._begun)

    def _begun(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number

    def next(self, deadline: float | None) -> frames.Frame:
        """The next frame that is not output.

        Raises:
            CallTimeout: the deadline has passed; the call has been stopped.
            KeyboardInterrupt: the call has been stopped.
        """
        try:
            while True:
                try:
                    frame = self.frames.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
                except queue.Empty:
                    how = self.stop("timeout")
                    where = f"{self.request.label} on {self.request.caller.name!r}, env {self.request.env!r}"
                    raise CallTimeout(
                        f"{where} took longer than its timeout of {self.request.options.timeout:g} s; {how}"
                    ) from None
                if not isinstance(frame, frames.Frame):
                    raise frame
                if frame.kind != frames.LOG:
                    return frame
                print_log(frame)
        except KeyboardInterrupt:
            self.stop("cancel")
            raise

    def stop(self, why: str) -> str:
        """Stop the remote work and wait until that is settled; says in words how it went."""
        if self.session is None:
            return "it had not been sent"
        self.session.stop(self.number, why)
        end = time.monotonic() + GRACE
        while True:
            try:
                frame = self.frames.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                return self._force()
            if not isinstance(frame, frames.Frame):
                return f"its work ended: {frame}"
            if frame.kind == frames.LOG:
                print_log(frame)
            elif frame.kind in (frames.RESULT, frames.ERROR):
                return "it ended by itself while it was being stopped"
            elif frame.kind == frames.CANCELLED:
                return stopped(frame)

    def _force(self) -> str:
        assert self.session is not None
        if self.request.caller.replace_worker(
            self.request.env, self.session.generation, True, "a call did not react to being stopped"
        ):
            return "it did not react, so the env's process was replaced; the objects stored in it are gone"
        return "its work could not be stopped and goes on over there"

    def close(self) -> None:
        if self.session is not None:
            self.session.done(self.number)


def deadline_of(options: Options) -> float | None:
    return None if options.timeout is None else time.monotonic() + options.timeout
