"""The platform that requirements are resolved for: a host's, not necessarily this machine's."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

_LEVELS = (17, 28, *range(31, 41))
"""The glibc 2.x levels that uv resolves for; wheels of a level in between are rare."""

_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Platform:
    """A Linux host and a Python on it.

    Attributes:
        machine: "x86_64" or "aarch64".
        glibc: the host's glibc, as (2, 36).
        python: "3.12", or with the patch level where it is known.
        driver: the version of its NVIDIA driver; empty without one, None where that is not known.
    """

    machine: str
    glibc: tuple[int, int]
    python: str
    driver: str | None = None

    @classmethod
    def of_host(cls, host: Mapping[str, Any], python: str) -> Platform:
        """The platform that a server's status describes under `host`."""
        major, minor = host["glibc"][:2]
        driver = (host["gpu"] or {}).get("driver", "") if "gpu" in host else None
        return cls(host["machine"], (int(major), int(minor)), python, driver)

    @property
    def minor(self) -> tuple[int, int]:
        """The Python's minor version, as (3, 12)."""
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def uv_platform(self) -> str:
        """uv's name for the platform: `--python-platform`."""
        known = [level for level in _LEVELS if (2, level) <= self.glibc]
        return f"{self.machine}-manylinux_2_{known[-1] if known else _LEVELS[0]}"

    @property
    def is_here(self) -> bool:
        """Whether what is built on this machine runs there, as far as the platform says."""
        system, libc = platform.system(), platform.libc_ver()
        if system != "Linux" or platform.machine() != self.machine or libc[0] != "glibc":
            return False
        return tuple(int(part) for part in libc[1].split(".")[:2]) <= self.glibc

    @property
    def is_this_python(self) -> bool:
        """Whether it is this very process's minor version of Python, on a platform like this one."""
        return self.is_here and self.minor == sys.version_info[:2]

    @property
    def python_tag(self) -> str:
        """As in a wheel's name: "cp312"."""
        return f"cp{self.minor[0]}{self.minor[1]}"

    def marker_environment(self) -> dict[str, str]:
        """What environment markers see there (PEP 508)."""
        full = self.python if self.python.count(".") > 1 else f"{self.python}.0"
        return {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full,
            "python_version": ".".join(map(str, self.minor)),
            "sys_platform": "linux",
        }

    def tags(self) -> list[Tag]:
        """Wheel tags that fit, best first (PEP 425, PEP 600)."""
        platforms = list(self._platforms())
        found = list(cpython_tags(self.minor, platforms=platforms))
        found += compatible_tags(self.minor, self.python_tag, platforms)
        return found

    def best(self, filenames: list[str]) -> str | None:
        """The wheel that an installer would take there, or None if none fits."""
        order = _ranks(self)
        ranked = []
        for filename in filenames:
            try:
                _, _, build, tags = parse_wheel_filename(filename)
            except InvalidWheelFilename:
                continue
            ranks = [order[tag] for tag in tags if tag in order]
            if ranks:
                ranked.append((min(ranks), tuple(-part if isinstance(part, int) else part for part in build), filename))
        return min(ranked)[2] if ranked else None

    def _platforms(self) -> Iterator[str]:
        for level in range(self.glibc[1], 4, -1):
            yield f"manylinux_2_{level}_{self.machine}"
            if level in _LEGACY:
                yield f"{_LEGACY[level]}_{self.machine}"
        yield f"linux_{self.machine}"


@functools.lru_cache(maxsize=16)
def _ranks(target: Platform) -> dict[Tag, int]:
    return {tag: rank for rank, tag in reversed(list(enumerate(target.tags())))}
