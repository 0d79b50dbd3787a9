"""A short heartbeat for work that may wait a moment, so that many small things are done at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from runkit.wire.streams import spawn

PERIOD = 0.0005
"""Seconds between two beats; there are none while nobody asks."""


class Pulse:
    """Calls back what asked for it, at the next beat; again at the one after if it returns True."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start afresh; also in a forked child, where the thread did not come along."""
        self._asked: list[Callable[[], bool]] = []
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._started = False

    def ask(self, action: Callable[[], bool]) -> bool:
        """Have `action` called at the next beat; it must not block. False: it is not going to be, since no thread can be started."""
        with self._lock:
            if not self._started:
                try:
                    spawn("pulse", self._beat)
                except RuntimeError:
                    return False
                self._started = True
            self._asked.append(action)
        self._event.set()
        return True

    def _beat(self) -> None:
        while True:
            self._event.wait()
            time.sleep(PERIOD)
            with self._lock:
                asked, self._asked = self._asked, []
                self._event.clear()
            for action in asked:
                try:
                    again = action()
                except Exception:  # the heartbeat is everybody's: it must not end with one of those who ask
                    sys.excepthook(*sys.exc_info())
                    continue
                if again:
                    self.ask(action)


pulse = Pulse()
"""The heartbeat of this process."""
os.register_at_fork(after_in_child=pulse.forget)
