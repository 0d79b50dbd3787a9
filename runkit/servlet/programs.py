"""Programs that make an env: their output goes out line by line, and what they started ends with them."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runkit.errors import DiskFull, InstallFailed
from runkit.model.foreign import FOREIGN
from runkit.wire.installers import failure_kind

LAST_LINES = 60
"""How many of the installer's last lines an error carries."""

Emit = Callable[[dict[str, Any]], None]


class Runner:
    """Runs programs for one build: their output goes out line by line, their failure becomes an InstallFailed."""

    def __init__(
        self, home: Path, uv: Path, environment: Mapping[str, str], emit: Emit, given_up: threading.Event
    ) -> None:
        self.home = home
        self.uv_path = uv
        self.environment = {name: value for name, value in environment.items() if name not in FOREIGN}
        self.emit = emit
        self.given_up = given_up

    def uv(self, *arguments: str) -> None:
        try:
            self.command([str(self.uv_path), *arguments], {}, self.home, f"uv {' '.join(arguments[:2])}")
        except InstallFailed as error:
            if self.given_up.is_set():
                raise
            raise failure_kind(error.output)(str(error), error.output) from None

    def command(self, arguments: Sequence[str], variables: Mapping[str, str], cwd: Path, title: str) -> None:
        lines: deque[str] = deque(maxlen=LAST_LINES)
        # A session of its own, so that what a build started can be ended with it.
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**self.environment, "NO_COLOR": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for line in _lines(process, self.given_up, title):
                lines.append(line)
                self.emit({"log": line})
        except InstallFailed as error:
            _end(process)
            raise InstallFailed(f"{error}\n" + "\n".join(lines), "\n".join(lines)) from None
        except BaseException:
            _end(process)
            raise
        if process.returncode:
            output = "\n".join(lines)
            code = process.returncode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            # What a command of the user's own prints says nothing more for certain than that there was no room.
            kind = DiskFull if failure_kind(output) is DiskFull else InstallFailed
            raise kind(f"{title} failed ({how}):\n{output}", output)


def _lines(process: subprocess.Popen[bytes], given_up: threading.Event, title: str) -> Iterator[str]:
    """The program's output as it comes, until the program itself has ended.

    A background process that it left behind may hold the pipe open for ever, so the end of the pipe is not waited for.
    """
    assert process.stdout is not None  # asked for by the caller
    fd, rest, more = process.stdout.fileno(), b"", True
    with process.stdout:
        while True:
            ended = process.poll() is not None  # asked before reading: what it wrote is read in this round
            ready = more and bool(select.select([fd], [], [], 0 if ended else 0.1)[0])
            chunk = os.read(fd, 1 << 16) if ready else b""
            more = more and (bool(chunk) or not ready)
            *whole, rest = re.split(rb"\r\n|\n|\r(?!$)", rest + chunk)
            for line in whole:
                yield line.decode(errors="replace")
            if ended and not chunk:
                break
            if not ended and given_up.is_set():
                raise InstallFailed(f"{title} was ended: nobody waits for it any more")
            if not ended and not more:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
    if rest:
        yield rest.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started: first gently, after two seconds by force."""
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.stdout:
        process.stdout.close()


@contextmanager
def locked(path: Path, emit: Emit, given_up: threading.Event) -> Iterator[None]:
    """Hold the lock of the build in `path`; it ends with this process, however that ends.

    Raises:
        InstallFailed: it was given up before it could begin.
    """
    told = False
    with open(path.with_name(f".{path.name}.lock"), "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    emit({"phase": "wait for another install of the same env"})
                    told = True
                if given_up.wait(0.05):
                    raise InstallFailed("it was given up before another install of the same env had ended") from None
        yield
