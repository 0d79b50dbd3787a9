"""YAML, as far as it is plain data."""

from __future__ import annotations

from typing import Any


def load(text: str) -> Any:
    """The value that a YAML document holds.

    Raises:
        ValueError: it is no YAML.
    """
    import yaml  # late: it takes longer to import than all of this layer, and few envs need it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
