"""How the local environment is to be replicated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runkit.errors import UsageError


@dataclass(frozen=True)
class PackageSync:
    """How strictly, and what is left out or added."""


def as_package_sync(given: Any) -> PackageSync | None:
    """What a `package_sync=` argument means: None and False for none."""
    if given is None or given is False:
        return None
    raise UsageError("package sync is not available yet")
