"""User names and passwords of package indexes, as the user gave them to uv. They stay on this machine."""

from __future__ import annotations

import json
import netrc
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"https?://[^\s\"'@/]+@[^\s\"',]+")


class Logins:
    """Who to be for a URL: what stands in URLs of requirements, uv's variables and configuration files, else netrc."""

    def __init__(self, texts: Iterable[str] = (), configurations: Iterable[Mapping[str, Any]] = ()) -> None:
        """Collect them.

        Args:
            texts: requirement lines, which may hold URLs with a user name and password.
            configurations: the content of uv's configuration files.
        """
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        configurations = list(configurations)
        for configuration in configurations:
            for index in configuration.get("index", []):
                self._named(index.get("name"), index.get("url"))
        variables = [value for name, value in os.environ.items() if name.startswith("UV_")]
        for entry in " ".join(
            value for name, value in os.environ.items() if name in ("UV_INDEX", "UV_DEFAULT_INDEX")
        ).split():
            self._named(*entry.split("=", 1)) if re.match(r"[\w-]+=", entry) else None
        for text in (*texts, *variables, *(json.dumps(c, default=str) for c in configurations)):
            for url in _URL.findall(os.path.expandvars(text)):
                parts = urlsplit(url)
                self._known[_origin(url)] = (unquote(parts.username or ""), unquote(parts.password or ""))
        self._netrc = _read_netrc()

    def find(self, url: str) -> tuple[str, str] | None:
        """The user name and password for a URL, or None."""
        parts = urlsplit(url)
        if parts.username:
            return unquote(parts.username), unquote(parts.password or "")
        if found := self._known.get(_origin(url)):
            return found
        login = self._netrc.authenticators(parts.hostname or "") if self._netrc else None
        return (login[0], login[2] or "") if login else None

    def _named(self, name: str | None, url: str | None) -> None:
        """An index that has its credentials in UV_INDEX_<NAME>_USERNAME and _PASSWORD."""
        if not name or not url:
            return
        prefix = f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"
        user, password = os.environ.get(f"{prefix}_USERNAME"), os.environ.get(f"{prefix}_PASSWORD")
        if user or password:
            self._known[_origin(url)] = (user or "", password or "")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def _read_netrc() -> netrc.netrc | None:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return None
