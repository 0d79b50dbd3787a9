"""What a conda environment is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runkit.errors import UsageError


@dataclass(frozen=True)
class CondaSpec:
    """What `conda_env=` names."""


def as_conda(given: Any, folder: Path) -> CondaSpec | None:
    """What a `conda_env=` argument means; relative paths start from `folder`."""
    if given is None:
        return None
    raise UsageError("conda environments are not available yet")
