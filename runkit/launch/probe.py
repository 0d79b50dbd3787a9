"""What a host answers to `probe.sh`: whether the server runs there, and what would be needed to set it up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runkit.errors import SetupFailed, UnsupportedHost

SCRIPT = (Path(__file__).parent / "probe.sh").read_text()
LEAST_UV = re.findall(r"^uv_minimum=(\S+)$", (Path(__file__).parent / "setup_cluster.sh").read_text(), re.MULTILINE)[0]
"""The oldest uv that setup_cluster.sh takes."""

MACHINES = ("x86_64", "aarch64")
LEAST_GLIBC = (2, 17)
"""What Ray's wheels for Linux are built for: manylinux2014 (PEP 599)."""

PYTHONS = range(10, 15)
"""Minor versions of Python 3 that Ray has wheels for."""

NEEDED_KIB = 900 * 1024
"""Free disk space that a first set-up wants."""


@dataclass(frozen=True)
class Host:
    """One host, as far as setting it up goes.

    Attributes:
        home: its RUNKIT_HOME.
        system, machine, glibc: the platform; glibc is None where there is another C library.
        server: the state of the server on the asked port if it runs: {server: {pid}, code, python, path, …}; else empty.
        left: what a server that was killed wrote about itself; empty if there was none.
        token: that server's token.
        has_code: the client's code is there.
        uv: the versions of uv that are there.
        bases: names of finished base environments.
        pythons: interpreters, {version: path}.
        reaches_index: whether it can fetch packages itself.
        fetches_uv: whether it can fetch uv itself too.
    """

    home: str
    system: str
    machine: str
    glibc: tuple[int, int] | None
    server: dict[str, Any] = field(default_factory=dict)
    left: dict[str, Any] = field(default_factory=dict)
    token: str = ""
    has_code: bool = False
    uv: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    pythons: dict[str, str] = field(default_factory=dict)
    reaches_index: bool = False
    fetches_uv: bool = False
    has_tar: bool = True
    free_kib: int | None = None
    not_writable: str = ""

    @property
    def runs(self) -> bool:
        """Whether a server runs on the port."""
        return bool(self.server)

    @property
    def has_uv(self) -> bool:
        """Whether one of them is new enough."""
        return any(_numbers(version) >= _numbers(LEAST_UV) for version in self.uv)

    def check(self, where: str) -> None:
        """See that the host can be set up.

        Raises:
            UnsupportedHost: Ray has no wheels for it, or it lacks what even a bare host has. SetupFailed: no room, or no right to write.
        """
        if self.system != "Linux" or self.machine not in MACHINES:
            raise UnsupportedHost(
                f"{where} is {self.system} on {self.machine}: runkit's server runs on Linux on {' or '.join(MACHINES)}, where Ray does. "
                "Nothing was changed there."
            )
        if self.glibc is None or self.glibc < LEAST_GLIBC:
            has = "another C library (musl?)" if self.glibc is None else f"glibc {self.glibc[0]}.{self.glibc[1]}"
            raise UnsupportedHost(
                f"{where} has {has}: Ray's wheels need glibc {LEAST_GLIBC[0]}.{LEAST_GLIBC[1]} or later. Nothing was changed there."
            )
        if not self.has_tar:
            raise UnsupportedHost(f"{where} has no `tar`: install it there")
        if self.not_writable:
            raise SetupFailed(
                f"{where}: {self.not_writable} cannot be written to; set RUNKIT_HOME there to a folder that can"
            )
        if not self.bases and self.free_kib is not None and self.free_kib < NEEDED_KIB:
            raise SetupFailed(
                f"{where} has {self.free_kib // 1024} MiB free at {self.home}, and a first set-up needs {NEEDED_KIB // 1024} MiB"
            )

    def python(self, minor: str) -> tuple[str, str] | None:
        """(version, path) of an interpreter for the server: of that minor version if there is one, else the newest that will do."""
        fitting = {version: path for version, path in self.pythons.items() if int(version.split(".")[1]) in PYTHONS}
        if not fitting:
            return None
        same = [version for version in fitting if version.split(".")[:2] == minor.split(".")]
        best = max(same or fitting, key=_numbers)
        return best, fitting[best]


def script(port: int, code: str) -> str:
    """The probe for the server on `port`, asked by a client with that code."""
    return f"port={port}\ncode={code}\n{SCRIPT}"


def read(lines: Iterable[str], where: str) -> Host:
    """What the probe printed.

    Raises:
        UnsupportedHost: that is not what a POSIX shell prints.
    """
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition("=")
        found.setdefault(name, []).append(value)
    if "end" not in found or "system" not in found:
        raise UnsupportedHost(
            f"{where} did not answer as a host with a POSIX shell does: {' / '.join(map(str, found))[:500]}"
        )

    def one(name: str) -> str:
        return found.get(name, [""])[-1].strip()

    glibc = re.search(r"(?:glibc|GLIBC|GNU libc\)?)\D*(\d+)\.(\d+)", one("glibc"))
    pythons: dict[str, str] = {}
    for value in found.get("python", ()):
        version, _, path = value.partition(" ")
        pythons.setdefault(version, path)
    return Host(
        home=one("home"),
        system=one("system"),
        machine=one("machine"),
        glibc=(int(glibc[1]), int(glibc[2])) if glibc else None,
        server=_server(one("state"), one("stat")),
        left=_state(one("state")),
        token=one("token"),
        has_code="has_code" in found,
        uv=tuple(value.removeprefix("uv ").split(" ")[0] for value in found.get("uv", ())),
        bases=tuple(found.get("base", ())),
        pythons=pythons,
        reaches_index="reaches_index" in found,
        fetches_uv="fetches_uv" in found,
        has_tar="has_tar" in found,
        free_kib=int(one("free_kib")) if one("free_kib").isdigit() else None,
        not_writable=one("not_writable"),
    )


def _server(state: str, stat: str) -> dict[str, Any]:
    """The server's state, if the process that wrote it is still there: same pid, same start (proc(5), field 22)."""
    kept = _state(state)
    with suppress(ValueError, KeyError, TypeError, IndexError):
        fields = stat.rpartition(")")[2].split()
        if fields[0] not in ("Z", "X") and int(fields[19]) == int(kept["server"]["started"]):
            return kept
    return {}


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _state(state: str) -> dict[str, Any]:
    with suppress(ValueError):
        kept = json.loads(state)
        if isinstance(kept, dict):
            return kept
    return {}
