"""Which builds this process uses: an open lock for each, so that nobody removes their folders. It ends with the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import IO


def use_file(path: Path) -> Path:
    """Whoever uses the build in `path` holds this file's lock, shared; its date is that of the last use that began."""
    return path.with_name(f".{path.name}.use")


class Uses:
    """The builds of one env that may not be removed.

    Args:
        home: the host's RUNKIT_HOME.
    """

    def __init__(self, home: Path):
        self._envs = home / "envs"
        self._held: dict[str, IO[bytes]] = {}

    def hold(self, build: str) -> bool:
        """Use a build, whether it is there already or not; False if it was used before."""
        if build in self._held:
            return False
        self._envs.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Open for as long as it is used. For reading too: NFS makes a byte-range lock of it, and a shared one needs that (flock(2)).
        file = open(use_file(self._envs / build), "a+b")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_SH)
        with suppress(OSError):
            os.utime(file.fileno())
        self._held[build] = file
        return True

    def only(self, builds: Collection[str]) -> None:
        """Use these and no others any more."""
        for build in set(self._held) - set(builds):
            self._held.pop(build).close()

    def end(self, build: str) -> None:
        """Use it no more."""
        self.only(set(self._held) - {build})
