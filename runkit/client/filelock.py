"""A lock that threads and processes of this machine share."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock that this file is; it is made if need be, and stays. It ends with the process, whatever ends that."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
