"""What the conda part of an env is made of, exactly: packages with their addresses and hashes, or the copy of a local environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from runkit.client.conda_channels import plain
from runkit.model.digest import digest


@dataclass(frozen=True)
class CondaLock:
    """The conda part of a lock.

    Attributes:
        platform: conda's name of the platform, as "linux-64".
        python: the full version of its Python.
        records: the packages, as `runkit.model.conda_records` writes them, sorted by name; none for a copy.
        provided: names and versions of the Python packages that lie in it, as pip knows them.
        variables: environment variables of the environment's own.
        copied: names the content of the local environment that it is a copy of; empty if it is none.
        installed: names and versions of conda's packages in that copy.
        lines: what pip had installed in a local environment that is solved anew.
    """

    platform: str
    python: str
    records: tuple[Mapping[str, Any], ...] = ()
    provided: tuple[tuple[str, str], ...] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    copied: str = ""
    installed: tuple[tuple[str, str], ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[list[str]]:
        """Names and versions of conda's packages."""
        return [[r["name"], r["version"]] for r in self.records] or [list(pair) for pair in self.installed]

    @property
    def digest(self) -> str:
        """Names the content: every package by its hash, not by where it comes from."""
        packages = [[r["name"], r["version"], r["build"], r["sha256"] or r["md5"]] for r in self.records]
        return digest([self.platform, packages, dict(self.variables), self.copied])

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads, without credentials."""
        return {**asdict(self), "records": self.plain_records()}

    def plain_records(self) -> list[dict[str, Any]]:
        """The packages, their addresses without credentials."""
        return [{**r, "url": plain(r["url"]), "channel": plain(r["channel"] or "")} for r in self.records]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CondaLock:
        """Read what `to_json` wrote."""
        provided = value["provided"]
        return cls(
            **{
                **value,
                "records": tuple(value["records"]),
                "provided": None if provided is None else tuple((name, version) for name, version in provided),
                "installed": tuple((name, version) for name, version in value["installed"]),
                "lines": tuple(value["lines"]),
            }
        )
