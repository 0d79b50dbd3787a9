"""One set-up of an env, from the scan of its code to its worker: what it is at, how long it may take, what ends with it.

Whatever takes time on the way (a program, a download, an answer of the server) asks `current()` how long it may go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, Token, copy_context
from threading import Event
from typing import Any, TypeVar

from runkit.client.progress import Report
from runkit.errors import DiskFull, InstallFailed, InstallTimeout
from runkit.wire.installers import is_disk_full, took_too_long

ENDING = 5.0
"""Seconds that the host has beyond the deadline, to end what it is at and say so."""

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class SetUp:
    """What is told of a set-up, and its deadline. Call it with events, as a Report; used as a context it is the current one.

    One inside another is a part of it, and ends with it at the latest.

    Args:
        env: the env's name; "" where nothing particular is being set up.
        seconds: how long all of it may take; None for no limit.
        report: told what happens.
    """

    def __init__(self, env: str = "", seconds: float | None = None, report: Report = lambda event: None):
        self._env = env
        self._seconds = seconds
        self._report = report
        self._began = self._since = time.monotonic()
        self._phase = "start"
        self._tokens: list[Token[SetUp | None]] = []
        self._outer: SetUp | None = None

    def __enter__(self) -> SetUp:
        outer = _current.get()
        if not self._tokens:
            self._outer = outer
        if outer is not None and outer._seconds is not None:
            left, mine = outer._began + outer._seconds, self._began + (self._seconds or float("inf"))
            if left < mine:
                self._began, self._seconds = outer._began, outer._seconds
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        _current.reset(self._tokens.pop())
        if error is not None and is_disk_full(error):
            raise DiskFull(f"no space is left on this machine: {error}") from error

    def __call__(self, event: Mapping[str, Any]) -> None:
        if "phase" in event and event["phase"] != self._phase:
            self._phase, self._since = event["phase"], time.monotonic()
        self._report(event)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done meanwhile is no part of the set-up, and does not count: setting up a server, say."""
        token, began = _current.set(None), time.monotonic()
        try:
            yield
        finally:
            _current.reset(token)
            whole: SetUp | None = self
            while whole is not None:
                whole._began += time.monotonic() - began
                whole = whole._outer

    def left(self, most: float | None = None) -> float | None:
        """How many seconds there are, or `most` if that is less; None for no limit.

        Raises:
            InstallTimeout: there are none. InstallFailed: it is not wanted any more.
        """
        self.go_on()
        left = self.remaining
        return most if left is None else left if most is None else min(left, most)

    @property
    def remaining(self) -> float | None:
        """How many seconds there are, at least a hundredth of one; None for no limit."""
        return None if self._seconds is None else max(0.01, self._began + self._seconds - time.monotonic())

    def go_on(self) -> None:
        """Raise what `left` raises."""
        if any(event.is_set() for event in _stops.get()):
            raise InstallFailed("it was ended because something beside it failed")
        if self._seconds is not None and time.monotonic() - self._began >= self._seconds:
            raise self.expired()

    def expired(self) -> InstallTimeout:
        """The error for a set-up that has taken too long."""
        return took_too_long(self._env, self._seconds or 0, self._phase, time.monotonic() - self._since)

    def deadline(self) -> dict[str, float] | None:
        """The deadline as the host is told of it, {seconds, left}; None for no limit."""
        left = self.left()
        return None if left is None or self._seconds is None else {"seconds": self._seconds, "left": left}


_current: ContextVar[SetUp | None] = ContextVar("runkit_set_up", default=None)
_stops: ContextVar[tuple[Event, ...]] = ContextVar("runkit_stops", default=())


def current() -> SetUp:
    """The set-up that this thread works for; one without a limit if there is none."""
    return _current.get() or SetUp()


def together(work: Callable[[_Given], _Made], given: Iterable[_Given], threads: int) -> list[_Made]:
    """Do the same with several things at once, for the current set-up; if one fails, or this is interrupted, all are ended.

    Args:
        work: called with each of `given`, in a thread; what it runs or fetches asks `current().go_on()`.
        threads: how many at once.
    """
    stop = Event()
    before = _stops.set((*_stops.get(), stop))
    pool = ThreadPoolExecutor(threads, "runkit-set-up")
    jobs: list[Future[_Made]] = []
    try:
        jobs += (pool.submit(copy_context().run, work, one) for one in given)
        done, going = wait(jobs, current().remaining, FIRST_EXCEPTION)
        for job in jobs:
            if job in done:
                job.result()
        if going:
            raise current().expired()
        return [job.result() for job in jobs]
    except BaseException:
        stop.set()
        for job in jobs:
            job.cancel()
        wait(jobs, ENDING)  # a silent server may hold one up for longer; it ends by itself
        raise
    finally:
        pool.shutdown(wait=False)
        _stops.reset(before)
