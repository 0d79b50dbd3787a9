"""A lock that threads and processes of this machine share."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runkit.client.set_up import current


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock that this file is; it is made if need be, and stays. It ends with the process, whatever ends that.

    Raises:
        InstallTimeout: the current set-up has no time left to wait for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                current().go_on()
                time.sleep(0.05)
        yield
