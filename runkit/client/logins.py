"""User names and passwords of package indexes, as the user gave them to uv or pip. They stay on this machine."""

from __future__ import annotations

import json
import netrc
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from runkit.client import pip_settings
from runkit.client.set_up import current
from runkit.model.urls import expanded, without_credentials

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_URL = re.compile(r"https?://[^\s\"'/]+@[^\s\"',]+")
_WHOLE = re.compile(r"https?://[^\s\"'`]+")
_KEYRING_S = 60.0
"""Seconds that the keyring program may take: it may ask for the user's own password in a window."""


class Logins:
    """Who to be for a URL: what stands in URLs of requirements, in uv's and pip's variables and configuration files, else netrc,
    what `uv auth login` keeps, and the `keyring` program where the user has told uv or pip to ask it."""

    def __init__(self, texts: Iterable[str] = (), configurations: Iterable[Mapping[str, Any]] = ()) -> None:
        """Collect them.

        Args:
            texts: requirement lines, which may hold URLs with a user name and password.
            configurations: the content of uv's configuration files.
        """
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        self._indexes: dict[
            tuple[str, str], str
        ] = {}  # where a user name is all that is known, what the keyring is asked for
        self._asked: dict[tuple[str, str], tuple[str, str] | None] = {}
        self._always: dict[tuple[str, str], str] = {}
        self._whole: dict[str, str] = {}
        texts, configurations = [expanded(text) for text in texts], list(configurations)
        self.lines = texts
        for text in texts:
            for url in _WHOLE.findall(text):
                self._whole[without_credentials(url).partition("#")[0]] = url
        of_pip, _ = pip_settings.for_uv(configurations)
        variables = {**os.environ, **of_pip}
        self._keyring = _uses_keyring(variables, configurations)
        for configuration in configurations:
            for index in configuration.get("index", []):
                self._named(index.get("name"), index.get("url"))
                if index.get("authenticate") == "always" and index.get("url"):
                    self._always[_origin(index["url"])] = without_credentials(index["url"])
        for entry in " ".join(variables.get(name, "") for name in ("UV_INDEX", "UV_DEFAULT_INDEX")).split():
            self._named(*entry.split("=", 1)) if re.match(r"[\w-]+=", entry) else None
        values = [value for name, value in variables.items() if name.startswith("UV_")]
        for text in (*texts, *values, *(json.dumps(c, default=str) for c in configurations)):
            for url in _URL.findall(text):
                parts = urlsplit(url)
                self._add(url, unquote(parts.username or ""), unquote(parts.password or ""))
        self._authority = of_pip.get("SSL_CERT_FILE")
        self._checking: ssl.SSLContext | None = None
        self._trusted = _trusted(variables, configurations)
        self._netrc = _read_netrc()
        self._kept = _kept_by_uv()

    def find(self, url: str) -> tuple[str, str] | None:
        """The user name and password for a URL, or None."""
        parts = urlsplit(url)
        origin = _origin(url)
        found = (unquote(parts.username), unquote(parts.password or "")) if parts.username else self._known.get(origin)
        if found and found[1]:
            return found
        login = self._netrc.authenticators(parts.hostname or "") if self._netrc else None
        if login and (not found or not found[0] or found[0] == login[0]):
            return login[0], login[2] or ""
        for (scheme, place, path), kept in self._kept.items():
            if (scheme, place) == origin and parts.path.startswith(path) and (not found or found[0] == kept[0]):
                return kept
        return self._of_keyring(url, origin, found[0] if found else None) or found

    def whole(self, url: str) -> str:
        """A URL that was stored without its query string, as the user gave it."""
        return self._whole.get(url.partition("#")[0], url)

    def tls(self, url: str) -> ssl.SSLContext:
        """What the certificate of a URL's host is checked against."""
        parts = urlsplit(url)
        if {parts.hostname, _origin(url)[1]} & self._trusted:
            return ssl._create_unverified_context()
        if self._checking is None:
            self._checking = ssl.create_default_context(cafile=self._authority)
        return self._checking

    def _add(self, url: str, user: str, password: str) -> None:
        origin = _origin(url)
        if password or origin not in self._known:
            self._known[origin] = user, password
        self._indexes.setdefault(origin, without_credentials(url))

    def _named(self, name: str | None, url: str | None) -> None:
        """An index that has its credentials in UV_INDEX_<NAME>_USERNAME and _PASSWORD."""
        if not name or not url:
            return
        prefix = f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"
        user, password = os.environ.get(f"{prefix}_USERNAME"), os.environ.get(f"{prefix}_PASSWORD")
        if user or password:
            self._add(url, user or "", password or "")

    def _of_keyring(self, url: str, origin: tuple[str, str], user: str | None) -> tuple[str, str] | None:
        """As uv asks it: for the index, else for its host; without a user name only where the index always wants a login."""
        if not self._keyring or (not user and origin not in self._always):
            return None
        if origin not in self._asked:
            parts = urlsplit(url)
            bare = urlunsplit((parts.scheme, origin[1], parts.path, "", ""))
            services = dict.fromkeys((self._indexes.get(origin) or self._always.get(origin) or bare, origin[1]))
            self._asked[origin] = next((found for service in services if (found := _ask_keyring(service, user))), None)
        return self._asked[origin]


def _ask_keyring(service: str, user: str | None) -> tuple[str, str] | None:
    command = ["keyring", "get", service, user] if user else ["keyring", "get", service, "--mode", "creds"]
    left = current().left(_KEYRING_S)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        current().go_on()
        return None
    except OSError:
        return None
    said = done.stdout.splitlines()
    if done.returncode or not said:
        return None
    if user:
        return user, said[0]
    return (said[0], said[1]) if len(said) > 1 else None


def _uses_keyring(variables: Mapping[str, str], configurations: Iterable[Mapping[str, Any]]) -> bool:
    if given := variables.get("UV_KEYRING_PROVIDER"):
        return given == "subprocess"
    for configuration in configurations:
        for table in (configuration.get("pip", {}), configuration):
            if "keyring-provider" in table:
                return bool(table["keyring-provider"] == "subprocess")
    return False


def _trusted(variables: Mapping[str, str], configurations: Iterable[Mapping[str, Any]]) -> set[str | None]:
    """Hosts whose certificate is not checked, because the user said so."""
    found = variables.get("UV_INSECURE_HOST", "").split()
    for configuration in configurations:
        found += configuration.get("allow-insecure-host", [])
    return {host.partition("://")[2] or host for host in found}


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def _read_netrc() -> netrc.netrc | None:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return None


def _kept_by_uv() -> dict[tuple[str, str, str], tuple[str, str]]:
    """What `uv auth login` has written down: scheme, host and path to user name and password."""
    folder = os.environ.get("UV_CREDENTIALS_DIR")
    data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    file = (Path(folder) if folder else data / "uv" / "credentials") / "credentials.toml"
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("credential", [])
        found = {}
        for entry in entries:
            parts = urlsplit(entry["service"])
            if entry.get("scheme") == "basic" and entry.get("password"):
                found[parts.scheme, parts.netloc, parts.path] = (entry.get("username") or "", entry["password"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found
