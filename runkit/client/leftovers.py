"""What a client keeps in its RUNKIT_HOME to be quicker the next time, and has not needed for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from runkit.client.resolve import CACHE_SECONDS

KEEP_SECONDS = 30 * 86400.0
"""Packed interpreters and notes of builds that are older go."""

UNDER_WAY_SECONDS = 3600.0
"""What is younger may be in use by another session."""


def collect(home: Path, everything: bool = False, dry_run: bool = False) -> list[dict[str, Any]]:
    """Remove what is old; {kind, name, size in bytes} of each.

    Args:
        home: the client's RUNKIT_HOME.
        everything: whatever is not just being made, as it can be made again.
        dry_run: only say what would be removed.
    """
    removed = []
    for kind, pattern, keep in (
        ("resolution", "locks/*", CACHE_SECONDS),
        ("packed Python", "pythons/*.tar.gz", KEEP_SECONDS),
        ("note of a build", "built/*.json", KEEP_SECONDS),
    ):
        for path, size in _older(home, pattern, UNDER_WAY_SECONDS if everything else keep):
            removed.append({"kind": kind, "name": path.name, "size": size})
            if not dry_run:
                path.unlink(missing_ok=True)
    return removed


def _older(home: Path, pattern: str, seconds: float) -> Iterator[tuple[Path, int]]:
    for path in sorted(home.glob(pattern)):
        with suppress(OSError):
            info = path.stat()
            if path.is_file() and time.time() - info.st_mtime > seconds:
                yield path, info.st_size
