"""A call from this side: sent, waited for or handed out as a future; its output printed here as it comes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import html
import threading
import time
from collections.abc import Callable, Collection, Generator
from functools import partial
from typing import Any

from runkit.client.deadlines import deadlines
from runkit.client.finisher import finisher
from runkit.client.generator import RemoteGenerator
from runkit.client.printing import Printer
from runkit.client.request import GRACE, RETRIED, Request, pause_before, replace_worker, stopped, tell_stopped
from runkit.client.session import Session
from runkit.client.waiting import Waiting, deadline_of
from runkit.errors import CallTimeout
from runkit.model.mistakes import plainly
from runkit.wire import frames
from runkit.wire.streams import spawn


def run(request: Request) -> Any:
    """Make a call and wait for its result in this thread."""
    attempt = 0
    while True:
        waiting = Waiting(request)
        try:
            deadline = deadline_of(request.options)
            waiting.send()
            frame = waiting.next(deadline)
        except RETRIED:
            waiting.close()
            attempt += 1
            if attempt > request.options.retries:
                raise
            time.sleep(pause_before(attempt))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                waiting.interrupted()
            waiting.close()
            raise
        else:
            return _outcome(request, waiting, frame)


def _outcome(request: Request, waiting: Waiting, frame: frames.Frame) -> Any:
    handed_over = False
    try:
        if frame.kind == frames.STARTED:  # a plain function that gave a generator
            handed_over = True
            return RemoteGenerator(request, waiting)
        assert waiting.session is not None
        if frame.kind == frames.CANCELLED:
            raise concurrent.futures.CancelledError(stopped(frame))
        return request.value(waiting.session, waiting.number, frame)
    finally:
        if not handed_over:
            waiting.close()


class Call(concurrent.futures.Future[Any]):
    """A call under way: a `concurrent.futures.Future` that can also be awaited.

    Its output is printed here as it comes; `result()` returns after the last of it.
    """

    def __init__(self, request: Request):
        super().__init__()
        self._request = request
        self._session: Session | None = None
        self._number = 0
        self._attempts = 0
        self._why = ""
        self._how = ""
        self._replacing = False
        self._lost: BaseException | None = None  # what ended its session while its process was being replaced
        self._silent = False
        self._came_in_time = False
        self._settling = threading.Lock()
        self._printer = Printer()

    def start(self) -> Call:
        """Send it."""
        try:
            self._request.send(self._sink, self._begun, later=True)
        except BaseException:
            self._end()
            raise
        if self._why and self._session is not None:  # stopped meanwhile, perhaps before it had gone out
            self._session.stop(self._number, self._why)
        return self

    def _begun(self, session: Session, number: int) -> None:
        self._session = session
        self._number = number
        timeout = self._request.options.timeout
        if timeout is not None:
            deadlines.set(self, timeout, self._time_out)

    @property
    def id(self) -> str:
        """The call's id, as notes on remote exceptions show it."""
        return f"{self._session.id[:8]}-{self._number}" if self._session is not None else "unsent"

    # -- what arrives (reader's thread, then the finisher's)

    def _sink(self, frame: Any) -> None:
        finisher.collect(self._take, frame)

    def _take(self, frame: Any) -> None:
        if not isinstance(frame, frames.Frame):
            self._failed(frame)
        elif frame.kind == frames.LOG:
            self._printer.show(frame)
        elif frame.kind == frames.CANCELLED:
            self._came_in_time = True
            self._how = stopped(frame)
            if not frame.meta.get("replaced"):  # otherwise the end of the old process ends the call
                self._end()
                self._finish_stopped(self._how)
        elif frame.kind == frames.STARTED:
            assert self._session is not None
            self._session.stop(self._number, "abandoned")
            self._end()
            self._set(
                None, TypeError(f"{self._request.label} is a generator: iterate over it instead of submitting it")
            )
        else:
            self._end()
            if self._why == "timeout":
                self._finish_stopped("it ended by itself while it was being stopped")
                return
            assert self._session is not None
            try:
                value = self._request.value(self._session, self._number, frame)
            except BaseException as error:
                self._set(None, error)
            else:
                self._set(value, None)

    def _failed(self, error: BaseException) -> None:
        self._end()
        if self._why:
            self._came_in_time = True
            self._lost = error
            if self._replacing:  # `_replace` can tell more
                return
            self._finish_stopped(self._how or f"its work ended: {error}")
        elif isinstance(error, RETRIED) and self._attempts < self._request.options.retries:
            self._attempts += 1
            self._session = None
            spawn("retry", self._retry)
        else:
            self._set(None, error)

    def _retry(self) -> None:
        time.sleep(pause_before(self._attempts))
        if self.done():  # cancelled meanwhile
            return
        try:
            self.start()
        except Exception as error:  # whatever it is: somebody waits for this call
            self._failed(error)

    def _set(self, value: Any, error: BaseException | None) -> None:
        with self._settling:
            if self.done():  # stopped meanwhile
                return
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)

    def running(self) -> bool:
        """Whether it is under way."""
        return not self.done()

    def _finish_stopped(self, how: str) -> None:
        if self._why == "timeout":
            self._set(
                None,
                CallTimeout(
                    f"{self._request.label} took longer than its timeout of {self._request.options.timeout:g} s; {how}"
                ),
            )
            return
        self._how = how
        if not self._silent:
            tell_stopped(self._request, "cancelled", how)
        with self._settling:
            if not self.done():
                super().cancel()
                self.set_running_or_notify_cancel()

    def _end(self) -> None:
        if self._request.options.timeout is not None:
            deadlines.drop(self)
        if self._session is not None:
            self._session.done(self._number)

    # -- stopping

    def _time_out(self) -> None:
        self._stop("timeout", False)

    def cancel(self, force: bool = False) -> bool:
        """Stop the call over there, child processes included.

        Args:
            force: replace the env's process at once; other calls in it end with `WorkerDied` and its stored objects are gone.

        Returns:
            Whether the cancellation came in time; the call then raises `CancelledError`.
        """
        if self.done():
            return self.cancelled()
        return self._stop("cancel", force)

    def _stop(self, why: str, force: bool) -> bool:
        self._why = self._why or why
        session = self._session
        if session is None:  # between two attempts
            self._came_in_time = True
            self._finish_stopped("it was not running")
            return True
        if force:
            return self._force(session)
        session.stop(self._number, why)
        if threading.current_thread() is finisher.thread:  # from a done-callback: the answer can only come later
            return True
        self._await_end(session, time.monotonic() + GRACE)
        return self._came_in_time

    def _await_end(self, session: Session, deadline: float) -> None:
        """Wait for the worker to say how stopping went; what does not react by the deadline is ended from outside."""
        if self._settles(deadline):
            return
        self._replace(partial(replace_worker, self._request, session, self._number))

    def _force(self, session: Session) -> bool:
        def replace() -> str:
            self._request.caller.replace_worker(self._request.env, session.generation, None, "cancel(force=True)")
            return ""

        self._replace(replace)
        return self._came_in_time

    def _replace(self, replace: Callable[[], str]) -> None:
        """End the call with its process; `replace` sees to that, and says how it went."""
        how: str | None = None
        self._replacing = True
        try:
            how = replace()
        finally:
            self._replacing = False
            if how is None and self._lost is not None:
                how = f"its work ended: {self._lost}"
            if how is not None and not self.done():
                self._came_in_time = True
                self._end()
                self._finish_stopped(how)

    def _settles(self, deadline: float) -> bool:
        assert self._session is not None
        while not concurrent.futures.wait([self], min(max(deadline - time.monotonic(), 0.0), 0.25)).done:
            if time.monotonic() > deadline or not self._session.lane.connected:
                return False
        return True

    @plainly
    def result(self, timeout: float | None = None) -> Any:
        """The result, when it is there; as `concurrent.futures.Future.result`."""
        self._hurry()
        return super().result(timeout)

    @plainly
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception, or None; as `concurrent.futures.Future.exception`."""
        self._hurry()
        return super().exception(timeout)

    def _hurry(self) -> None:
        if self._session is not None and not self.done():
            self._session.lane.flush()

    def stop(self) -> None:
        """Begin to stop it; does not wait."""
        if not self.done():
            self._why = self._why or "cancel"
            if self._session is not None:
                self._session.stop(self._number, "cancel")

    def drop(self) -> None:
        """Cancel it if it has not begun to run; does not wait."""
        if not self.done() and self._session is not None:
            self._session.stop(self._number, "unstarted")

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def tell(call: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(arrived.set)

        self.add_done_callback(tell)
        try:
            await arrived.wait()
        except asyncio.CancelledError:
            if not self.done():
                spawn("cancel", self._stop, "cancel", False)
            raise
        return self.result()

    def __repr__(self) -> str:
        state = "running"
        if self.cancelled():
            state = "cancelled"
        elif self.done():
            state = "failed" if self.exception() is not None else "finished"
        return f"<Call {self._request.label} on {self._request.caller.name!r}, env {self._request.env!r}: {state}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self)[1:-1])}</code>"


def stop_all(calls: Collection[Call]) -> None:
    """Stop calls that somebody has started together; comes back when that is settled, and says how it went once for all."""
    for call in calls:
        call._silent = True
        call.stop()
    deadline = time.monotonic() + GRACE
    for call in calls:
        if call._session is None:
            call.cancel()
        elif not call.done():
            call._await_end(call._session, deadline)
    told = {call._how: call for call in calls if call.cancelled()}
    for how, call in told.items():
        tell_stopped(call._request, "interrupted", how)
