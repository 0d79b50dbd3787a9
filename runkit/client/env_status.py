"""What an env on a cluster is at the moment, as the user sees it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runkit.wire.names import DEFAULT_ENV

SIZES_S = 600.0
"""Seconds the host may take to look how large envs are: on a cold disk or NFS large ones take minutes."""


@dataclass(frozen=True)
class EnvStatus:
    """One env on a cluster, as it was when it was asked about.

    Attributes:
        name: its name there; the cluster's default env is "default".
        alias: of the default env the name it was given, else "".
        state: "ready"; "installing"; "stopped", if it starts when it is next used, as after a restart of the host; "dead", if its
            process does not come up (see `failure`).
        python: its version of Python.
        packages: how many packages it was asked to have, with what they need.
        pid: its process over there; None if none runs.
        memory: what that takes, in bytes.
        running: how many calls run in it.
        keys: of the objects in it.
        size: what its folder takes on disk, in bytes; None if that was not asked for. Files that it shares with uv's cache are counted.
        compute: what it holds for itself.
        restarts: how often its process had to be started again.
        failure: why no process runs.
        secrets_lost: its secrets that did not survive a restart of the server: it has to be sent again.
    """

    name: str
    alias: str
    state: str
    python: str
    packages: int
    pid: int | None
    memory: int
    running: int
    keys: tuple[str, ...]
    size: int | None = None
    compute: Mapping[str, float] = field(default_factory=dict, hash=False)
    restarts: int = 0
    failure: str = ""
    secrets_lost: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, said: Mapping[str, Any]) -> EnvStatus:
        """What the server says about an env."""
        worker = said.get("worker") or {}
        return cls(
            name,
            str(said.get("alias") or ""),
            said["state"],
            str((said.get("python") or {}).get("version") or ""),
            int(said.get("packages") or 0),
            worker.get("pid"),
            int(worker.get("rss") or 0),
            int(worker.get("running") or 0),
            tuple(sorted(said.get("keys") or ())),
            said.get("size"),
            dict(said.get("compute") or {}),
            int(said.get("restarts") or 0),
            str(said.get("failure") or ""),
            tuple(said.get("secrets_lost") or ()),
        )

    @property
    def title(self) -> str:
        """Its name, for people: with the one that the user gave the default env."""
        return f"{self.name} ({self.alias})" if self.alias else self.name

    def details(self) -> list[str]:
        """What there is to say, in short phrases."""
        found = [self.state, f"Python {self.python}", f"{self.packages} package{'' if self.packages == 1 else 's'}"]
        if self.size is not None:
            found.append(f"{self.size / 1e6:.0f} MB on disk")
        if self.pid is not None:
            found.append(f"process {self.pid}, {self.memory / 1e6:.0f} MB")
        if self.running:
            found.append(f"{self.running} call{'' if self.running == 1 else 's'} running")
        found += [f"{kind} {amount:g}" for kind, amount in self.compute.items()]
        if self.keys:
            found.append(f"objects {', '.join(self.keys)}")
        if self.secrets_lost:
            found.append(f"without its secrets {', '.join(self.secrets_lost)}: send it again")
        if self.failure:
            found.append(self.failure.splitlines()[0])
        return found

    def __repr__(self) -> str:
        return f"<env {self.title!r}: {', '.join(self.details())}>"

    def _repr_html_(self) -> str:
        return f"<b>env {html.escape(self.title)}</b>: {html.escape(', '.join(self.details()))}"


def read(said: Mapping[str, Mapping[str, Any]]) -> list[EnvStatus]:
    """What the server says about its envs: the default env first, the others by name."""
    return [EnvStatus.of(name, said[name]) for name in sorted(said, key=lambda name: (name != DEFAULT_ENV, name))]
