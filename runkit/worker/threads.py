"""Which thread runs a call: the main one if it is free, else one of a pool that grows as calls need it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable

from runkit.wire.pulse import pulse
from runkit.wire.streams import spawn
from runkit.worker.task import Task

MAX_THREADS = 512
PATIENCE = 4
"""Heartbeats that a call waits for the main thread to come back from the call before it."""


class Seat:
    """Where a thread waits for work."""

    def __init__(self) -> None:
        self.idle = False
        self.token: queue.SimpleQueue[None] = queue.SimpleQueue()


class Threads:
    """Hands tasks to threads.

    A call that is alone runs on the main thread, where signals work. Where calls come faster than threads wake up, short ones are
    run one after the other by a thread that is awake, without a handover for each; a heartbeat later more threads are woken, so
    a long call holds none up.

    Args:
        run: runs a task; the second argument is whether it is on the main thread.
    """

    def __init__(self, run: Callable[[Task, bool], None]):
        self._run = run
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._main = Seat()
        self._for_main: Task | None = None
        self._finishing = False
        self._patience = 0
        self._idle: list[Seat] = []
        self._count = 0
        self._burst = 1
        self._taken = 0  # tasks that threads came for, and threads that were woken, since the last heartbeat
        self._woken = 0

    @property
    def pressed(self) -> bool:
        """Whether tasks wait for a thread."""
        return bool(self._waiting)

    def submit(self, task: Task) -> None:
        """Have a task run soon."""
        with self._lock:
            if self._for_main is None and not self._waiting and (self._main.idle or self._finishing):
                self._for_main = task
                self._main.token.put(None)
                if not self._main.idle:
                    self._patience = PATIENCE
                    pulse.ask(self._beat)
                return
            self._waiting.append(task)
            if len(self._waiting) == 1:
                self._burst = 1
                if self._for_main is not None or not self._wake():
                    pulse.ask(self._beat)
            elif len(self._waiting) == 2:
                pulse.ask(self._beat)

    def take_back(self, task: Task) -> bool:
        """Forget a task that has not begun; False if it has."""
        with self._lock:
            try:
                self._waiting.remove(task)
            except ValueError:
                return False
            return True

    def finishing(self) -> None:
        """The main thread's call has its result: the next call need not look for another thread."""
        self._finishing = True

    def serve_main(self) -> None:
        """Run tasks on this thread, the main one, for ever."""
        while True:
            try:
                self._run(self._next_for_main(), True)
            except KeyboardInterrupt:  # arrived between two calls
                pass

    def _serve(self, seat: Seat) -> None:
        while True:
            try:
                self._run(self._next(seat), False)
            except KeyboardInterrupt:
                pass

    def _next_for_main(self) -> Task:
        while True:
            with self._lock:
                self._finishing = False
                task, self._for_main = self._for_main, None
                if task is None and self._waiting:
                    task = self._waiting.popleft()
                    self._taken += 1
                self._main.idle = task is None
            if task is not None:
                return task
            self._main.token.get()

    def _next(self, seat: Seat) -> Task:
        while True:
            with self._lock:
                if self._waiting:
                    self._taken += 1
                    return self._waiting.popleft()
                self._idle.append(seat)
            seat.token.get()

    def _wake(self) -> bool:
        """Have one more thread look for work; False if no more can be started now, so that work waits for those there are."""
        if self._idle:
            self._idle.pop().token.put(None)
        elif self._count < MAX_THREADS:
            try:
                spawn(f"call-{self._count + 1}", self._serve, Seat())
            except RuntimeError:
                return False
            self._count += 1
        self._woken += 1
        return True

    def _beat(self) -> bool:
        with self._lock:
            if self._for_main is not None and not self._main.idle:
                self._patience -= 1
                if self._patience <= 0:  # it is not coming back soon: what looked like the end was none
                    self._waiting.appendleft(self._for_main)
                    self._for_main = None
                    self._finishing = False
            if self._taken > self._woken:  # threads come back for more: many would only get into each other's way
                self._burst = 1
            self._taken = self._woken = 0
            for _ in range(min(len(self._waiting), self._burst)):
                self._wake()
            self._burst = min(self._burst * 2, MAX_THREADS)
            return bool(self._waiting) or (self._for_main is not None and not self._main.idle)
