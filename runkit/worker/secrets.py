"""The env's secrets in its worker: variables of this process, which it was not started with."""

from __future__ import annotations

import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATIENCE = 10.0
"""Seconds that the servlet may take to tell them."""


class Secrets:
    """What came with the env.

    Attributes:
        advice: what calls are told where some did not come; empty as a rule.
    """

    def __init__(self, env: str):
        self._env = env
        self._before: dict[str, str | None] = {}
        self.advice = ""

    def take(self, told: dict[str, Any]) -> None:
        """Set these variables; those set before that are not among them are again what they were.

        Args:
            told: {"variables": {name: value}, "missing": [name]}.
        """
        variables: dict[str, str] = told.get("variables") or {}
        for name in [name for name in self._before if name not in variables]:
            value = self._before.pop(name)
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, value in variables.items():
            self._before.setdefault(name, os.environ.get(name))
            os.environ[name] = value
        missing = told.get("missing") or ()
        self.advice = ""
        if missing:
            which = (
                f"secret {missing[0]} of env {self._env!r}"
                if len(missing) == 1
                else f"secrets {', '.join(missing)} of env {self._env!r}"
            )
            self.advice = f"the {which} did not survive a restart of the server: send the env again, with .to(cluster)"


def fetch(path: str) -> dict[str, Any]:
    """Ask the servlet for the env's secrets as they are now.

    Raises:
        OSError, ValueError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        with sock.makefile("rb") as answer:
            found: dict[str, Any] = json.loads(answer.read())
    return found
