"""Saved clusters: `RUNKIT_HOME/clusters/NAME.json`. They hold how to reach a host, never a password."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from runkit.errors import UsageError
from runkit.wire import places


def _folder() -> Path:
    return places.private(places.home() / "clusters")


def save(name: str, settings: dict[str, Any]) -> Path:
    """Keep a cluster's settings under its name (0600)."""
    creds = settings.get("ssh_creds") or {}
    if creds.get("password"):
        raise UsageError(
            "a password is not written to a file: save the cluster without it and give ssh_creds again, or use a key"
        )
    path = _folder() / f"{name}.json"
    beside = path.with_suffix(".partial")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"name": name, **settings}, file, indent=2)
        file.write("\n")
    os.replace(beside, path)
    return path


def load(name: str) -> dict[str, Any] | None:
    """The settings saved under a name, or None.

    Raises:
        UsageError: the file is damaged.
    """
    path = _folder() / f"{name}.json"
    try:
        settings = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}): remove it and save the cluster again") from None
    if not isinstance(settings, dict):
        raise UsageError(f"{path} is damaged: remove it and save the cluster again")
    return settings


def names() -> list[str]:
    """The names of the saved clusters."""
    return sorted(path.stem for path in _folder().glob("*.json"))
