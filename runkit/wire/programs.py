"""Programs that one side or the other runs to make an env: what they print is heard as it comes, and they end as a whole."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

PATIENCE = 2.0
"""How long (seconds) a program that is to end may take for that by itself."""

MARK = "RUNKIT_SET_UP"
"""Environment variable of what is run for a set-up, so that all of it can be found, in whatever session it is by then."""

ROUND = 0.1
"""How often (seconds) whoever listens looks whether it is to go on."""


def lines(process: subprocess.Popen[bytes], stream: IO[bytes], go_on: Callable[[], None]) -> Iterator[str]:
    """What a program prints, line by line as it comes, until the program itself has ended.

    A background process that it left behind may hold the pipe open for ever, so the end of the pipe is not waited for.

    Args:
        process: the program.
        stream: its output, a pipe; closed at the end.
        go_on: called all the time while it runs; what it raises ends the listening.
    """
    fd, rest, more = stream.fileno(), b"", True
    with stream:
        while True:
            ended = process.poll() is not None  # asked before reading: what it wrote is read in this round
            ready = more and bool(select.select([fd], [], [], 0 if ended else ROUND)[0])
            chunk = os.read(fd, 1 << 16) if ready else b""
            more = more and (bool(chunk) or not ready)
            *whole, rest = re.split(rb"\r\n|\n|\r(?!$)", rest + chunk)
            for line in whole:
                yield line.decode(errors="replace")
            if ended and not chunk:
                break
            if not ended:
                go_on()
            if not ended and not more:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(ROUND)
    if rest:
        yield rest.decode(errors="replace")


def new_mark() -> str:
    """A value for the variable `MARK` that no other process has."""
    return os.urandom(16).hex()


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a program that has a session of its own, and what it started: first gently, then by force.

    Args:
        process: the program.
        mark: the value of `MARK` in its environment; of `new_mark`.
    """
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    _sweep(mark)


def _sweep(mark: str) -> None:
    """End what has left the program's session, as daemons do."""
    told: set[int] = set()
    forced_at = time.monotonic() + PATIENCE
    while (found := _marked(mark)) and (now := time.monotonic()) < forced_at + 5.0:
        for pid in found:
            if pid not in told or now > forced_at:
                told.add(pid)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if now > forced_at else signal.SIGTERM)
        time.sleep(0.02)


def _marked(mark: str) -> list[int]:
    """Processes that were started with that mark; none are found on a system without /proc."""
    found = []
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdigit():
                    with open(f"/proc/{name}/environ", "rb") as file:
                        if f"{MARK}={mark}".encode() in file.read().split(b"\0"):
                            found.append(int(name))
    return found
