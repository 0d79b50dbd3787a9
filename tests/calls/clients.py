"""Client processes of their own, for tests that interrupt or kill one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hosts import REPOSITORY, Host

PRELUDE = """\
import os, sys, threading, time
import runkit as rk
from tests.calls import jobs, jobs_output, jobs_stopping
c = rk.cluster("box", **{!r})
"""


class Client:
    """A running Python program that uses the cluster on a host; its output is gathered in a file.

    Args:
        body: the program; it finds `rk`, `jobs` and the cluster `c`.
        variables: of its environment, besides this process's.
    """

    def __init__(self, host: Host, folder: Path, body: str, creds: dict[str, str] | None = None, **variables: str):
        script = folder / "client.py"
        prelude = PRELUDE.format({**host.place, **({"ssh_creds": creds} if creds else {})})
        script.write_text(prelude + textwrap.dedent(body))
        self._log = folder / "client.log"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **variables}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Wait until it has printed `text`; gives the line."""

        def line() -> str | None:
            return next((one for one in self.output.splitlines() if text in one), None)

        until(lambda: line() is not None or self.process.poll() is not None, seconds)
        found = line()
        assert found is not None, self.output
        return found

    def end(self, seconds: float = 60) -> int:
        """Wait for its end; gives its exit status."""
        return self.process.wait(seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], Any], seconds: float = 10) -> bool:
    """Wait until something is so; whether it came to be in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
