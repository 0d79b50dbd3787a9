"""One env as the server knows it."""

from __future__ import annotations

import asyncio
from typing import Any

from runkit.server.secrets import Held
from runkit.server.servlets import Servlet


class Env:
    """One env: what was asked for (`plan`), who runs it (`servlet`), and its worker as last heard of."""

    def __init__(self, name: str, plan: dict[str, Any]):
        self.name = name
        self.plan = plan
        self.secrets: Held = {}  # nowhere but here, and in the servlet
        self.servlet: Servlet | None = None
        self.installing = False
        self.state: dict[str, Any] = {"version": 0, "worker": None, "restarts": 0, "failure": ""}
        self.changed = asyncio.Event()
        self.watcher: asyncio.Task[None] | None = None
        self.has_run = False  # under this server: if Ray ends, it is brought back

    @property
    def worker(self) -> dict[str, Any] | None:
        return self.state["worker"]

    @property
    def lacks(self) -> list[str]:
        """The names of its secrets whose values did not survive."""
        return sorted(set(self.plan.get("secrets") or {}) - set(self.secrets))

    def hear(self, state: dict[str, Any]) -> None:
        """Take over what the servlet says."""
        self.state = {**self.state, **{name: state[name] for name in ("version", "worker", "restarts", "failure")}}
        self.changed.set()
        self.changed = asyncio.Event()

    def summary(self, keys: list[str]) -> dict[str, Any]:
        """What the server's status says about it."""
        word = (
            "installing"
            if self.installing
            else "ready"
            if self.worker
            else "stopped"
            if self.servlet is None and not self.state["failure"]
            else "dead"
        )
        return {
            "state": word, "build": self.plan.get("build"), "request": self.plan.get("request"), "python": self.plan.get("python"),
            "alias": self.plan.get("alias") or "", "packages": len(self.plan.get("packages") or ()),
            "worker": self.worker, "keys": keys, "compute": self.plan.get("compute") or {}, "restarts": self.state["restarts"],
            "failure": self.state["failure"], "secrets": sorted(self.plan.get("secrets") or {}), "secrets_lost": self.lacks,
        }  # fmt: skip
