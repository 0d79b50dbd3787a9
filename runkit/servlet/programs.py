"""Programs that make an env: their output goes out line by line, and what they started ends with them."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runkit.errors import DiskFull, InstallFailed
from runkit.model.foreign import FOREIGN
from runkit.wire import programs
from runkit.wire.installers import Tail, failure_kind

Emit = Callable[[dict[str, Any]], None]


class Runner:
    """Runs programs for one build: their output goes out line by line, their failure becomes an InstallFailed."""

    def __init__(
        self, home: Path, uv: Path, environment: Mapping[str, str], emit: Emit, given_up: threading.Event
    ) -> None:
        self.home = home
        self.uv_path = uv
        self.environment = {name: value for name, value in environment.items() if name not in FOREIGN}
        self._mark = self.environment[programs.MARK] = programs.new_mark()
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
        tail = Tail()
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
        assert process.stdout is not None  # asked for

        def go_on() -> None:
            if self.given_up.is_set():
                raise InstallFailed(f"{title} was ended: nobody waits for it any more")

        try:
            for line in programs.lines(process, process.stdout, go_on):
                tail.add(line)
                self.emit({"log": line})
        except InstallFailed as error:
            programs.end(process, self._mark)
            raise InstallFailed(f"{error}\n{tail}", str(tail)) from None
        except BaseException:
            programs.end(process, self._mark)
            raise
        if process.returncode:
            output = str(tail)
            code = process.returncode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            # What a command of the user's own prints says nothing more for certain than that there was no room.
            kind = DiskFull if failure_kind(output) is DiskFull else InstallFailed
            raise kind(f"{title} failed ({how}):\n{output}", output)


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
