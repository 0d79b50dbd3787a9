"""What programs inherit that runkit starts: the environment without the variables that secrets are read from.

Anybody who may look at a user's processes sees what they were started with (`ps e`, `/proc/*/environ`).
"""

from __future__ import annotations

import os

_kept_out: set[str] = set()


def keep_out(name: str) -> None:
    """Programs that are started from now on do not inherit this variable."""
    _kept_out.add(name)


def environment() -> dict[str, str]:
    """The variables for a program that runkit starts."""
    return {name: value for name, value in os.environ.items() if name not in _kept_out}
