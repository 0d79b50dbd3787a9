"""What a worker needs sooner or later, but not for its start: loaded in a quiet moment, or before user code gets in its way."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence

from runkit.wire.streams import spawn

QUIET = 0.1
"""Seconds after the start when a first call is likely to have its result; a call that needs more until then imports it itself."""

_lock = threading.RLock()
_warm = False
_names = {*getattr(sys, "stdlib_module_names", ()), "cloudpickle"}  # Python 3.9 does not tell


def warm_up() -> None:
    """Import what pickles by value and what describes exceptions: it takes as long as all the rest of a worker's start."""
    global _warm
    with _lock:
        import traceback  # noqa: F401  (late by design, both)

        import cloudpickle  # noqa: F401

        _warm = True


def warm_up_later() -> None:
    """The same in a thread of its own, after a moment."""
    # A fork in the middle of it would leave the child with modules that nobody finishes importing.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
    spawn("warm-up", _wait_and_warm_up)


def _wait_and_warm_up() -> None:
    time.sleep(QUIET)
    warm_up()


def warm_up_before(folders: Sequence[str]) -> None:
    """The same at once, if a folder that is about to come onto `sys.path` holds something that is called like a standard module.

    A user's own `logging.py` is nothing that cloudpickle could work with.
    """
    if not _warm and (len(_names) == 1 or any(not _names.isdisjoint(_modules(folder)) for folder in folders)):
        warm_up()


def _modules(folder: str) -> list[str]:
    try:
        return [name.partition(".")[0] for name in os.listdir(folder)]
    except OSError:  # no sync has been completed yet
        return []
