"""What the user sees while a long step runs: phases with elapsed time, bytes, and the installer's lines as they come.

`RUNKIT_LOG` chooses how much: "info" (default), "debug" (also how long each step took, and errors with all of runkit's own frames),
"warning" (warnings alone), "quiet" (nothing).
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

LEVELS = {"debug": 0, "info": 1, "warning": 2, "quiet": 3}

Report = Callable[[Mapping[str, Any]], None]
"""Told what happens: {"phase": text}, {"phase": text, "done": bytes, "total": bytes}, {"log": line} or {"warning": text}."""


def level() -> int:
    """The level that RUNKIT_LOG asks for."""
    return _named(os.environ.get("RUNKIT_LOG") or "info")


@functools.cache  # said once
def _named(name: str) -> int:
    if name.lower() not in LEVELS and sys.stderr is not None:
        sys.stderr.write(f"runkit: RUNKIT_LOG={name} is none of {', '.join(LEVELS)}; taken for info\n")
    return LEVELS.get(name.lower(), LEVELS["info"])


BEAT = 10.0
"""After so many seconds without a line, where there is no terminal, a line says what is still going on."""

TOLD = 5.0
"""A step that took so many seconds or more is told of when it is over."""


class Progress:
    """Shows the steps of one action on standard error. Call it with events, from any thread; use it as a context.

    Events are {"phase": text}, with "done" and "total" bytes where they are known, {"log": line} and {"warning": text}.
    """

    def __init__(self, title: str):
        self._title = title
        self._level = level()
        self._status: Any = None
        self._console: Any = None
        self._phase = self._text = self._bytes = ""
        self._since = self._told = time.monotonic()
        self._shown = ""
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._over.set()  # what is not used as a context has no end to go on to
        self._beating = False

    def __enter__(self) -> Progress:
        self._over.clear()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        with self._lock:
            self._leave()
            if self._status is not None:
                self._status.stop()
                self._status = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            if "warning" in event:
                if self._level <= LEVELS["warning"]:
                    self._print(f"{self._title}: {event['warning']}", "yellow")
            elif self._level > LEVELS["info"]:
                return
            elif "phase" in event:
                self._enter(event)
            elif "log" in event:
                self._print(f"  {event['log']}", "dim")

    def _enter(self, event: Mapping[str, Any]) -> None:
        phase = event["phase"]
        if phase != self._phase:
            self._leave()
            self._phase, self._since = phase, time.monotonic()
        done, total = (event.get(name) or 0 for name in ("done", "total"))
        self._bytes = (
            f" ({done / 1e6:.0f} of {total / 1e6:.0f} MB)"
            if total >= 1e6
            else f" ({done / 1e6:.0f} MB)"
            if done >= 1e6
            else ""
        )
        text = f"{self._title}: {phase}{self._bytes}"
        if sys.stderr is not None and sys.stderr.isatty():
            self._spin(text)
        else:
            if phase != self._shown:
                self._shown = phase
                self._print(text, "")
            if not self._beating and not self._over.is_set():
                self._beating = True
                threading.Thread(target=self._beat, name="runkit-progress", daemon=True).start()

    def _leave(self) -> None:
        """A step is over."""
        took = time.monotonic() - self._since
        if self._phase and self._level <= LEVELS["debug"]:
            self._print(f"{self._title}: {self._phase} took {took:.2f} s", "dim")
        elif self._phase and took >= TOLD and self._level <= LEVELS["info"]:
            self._print(f"{self._title}: {self._phase} took {took:.0f} s", "dim")
        self._phase = ""

    def _beat(self) -> None:
        """Where no line moves: say now and then what is still going on, until it is over."""
        while not self._over.wait(max(0.01, self._told + BEAT - time.monotonic())):
            with self._lock:
                now = time.monotonic()
                if now - self._told >= BEAT and not self._over.is_set():
                    self._told = now  # also between two steps, of which there is nothing to say
                    if self._phase:
                        text = f"{self._title}: still at: {self._phase}{self._bytes}"
                        self._print(f"{text} ... {now - self._since:.0f} s", "")

    def _spin(self, text: str) -> None:
        self._text = text
        if self._status is None:
            self._status = self._rich().status(self)
            self._status.start()

    def __rich__(self) -> Any:
        """The line behind the spinner, made anew for every picture of it: the seconds go on while nothing happens."""
        from rich.text import Text

        # Not a string with markup: a folder or a command may have brackets in its name.
        line = Text.assemble(self._text, (f" {time.monotonic() - self._since:.0f} s", "dim"))
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def _print(self, text: str, style: str) -> None:
        self._told = time.monotonic()
        if sys.stderr is None:
            return
        if sys.stderr.isatty():
            self._rich().print(text, style=style or None, markup=False, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _rich(self) -> Any:
        if self._console is None:
            from rich.console import Console  # late: it takes longer to import than everything else here

            self._console = Console(stderr=True)
        return self._console
