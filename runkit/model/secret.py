"""Secrets: references to values that are read at the last moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runkit.errors import UsageError


@dataclass(frozen=True)
class Secret:
    """A reference to a value."""

    name: str


def as_secrets(given: Sequence[Any] | None) -> tuple[Secret, ...]:
    """What a `secrets=` argument means."""
    if given is None:
        return ()
    raise UsageError("secrets are not available yet")
