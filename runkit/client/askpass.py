"""A token for git, without a trace: git asks a helper, the helper asks this process, over a socket that only this user reaches.

The token is in no argument, no environment, no file and no URL. The helper lives as long as one git command; it answers for the
server that the token was given for and for nobody else, so a submodule elsewhere, or a redirect, does not get it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from runkit.errors import RunkitError, UsageError
from runkit.model.passed_on import environment
from runkit.model.secret import Secret
from runkit.wire import places

_PROMPT = re.compile(r"(?P<what>Username|Password) for '(?P<url>[^']*)'")
_HELPER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    server.sendall(sys.argv[1].encode() + b"\\0")
    with server.makefile("rb") as file:
        answer = file.read()
sys.stdout.buffer.write(answer)
sys.exit(not answer)
"""

Origin = tuple[str, str, int | None]


@dataclass(frozen=True)
class Login:
    """Who to be at one server."""

    origin: Origin
    username: str | None
    token: Secret

    @property
    def address(self) -> str:
        """The server, as git's configuration names it."""
        scheme, host, port = self.origin
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}" + (f":{port}" if port else "")

    @property
    def is_in_clear(self) -> bool:
        """Whether the token travels unencrypted, and farther than on this machine."""
        scheme, host, _ = self.origin
        return scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127.")

    @property
    def user(self) -> str:
        """The user name: servers that take tokens want some word there, and each has its own."""
        if self.username:
            return self.username
        host = self.origin[1]
        if host == "github.com":
            return "x-access-token"
        if host == "bitbucket.org":
            return "x-token-auth"
        return "oauth2" if "gitlab" in host else "git"


def origin(url: str) -> Origin:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port


class Askpass:
    """Answers git's questions for a login while the `with` lasts.

    Attributes:
        variables: what git's environment needs for it.
        settings: settings for git, as names and values: the user's own credential helpers stay out of it, for these servers.
            They would be given the token to keep.
        refusal: why a token could not be read, once git has asked for it.
    """

    def __init__(self, logins: Iterable[Login]) -> None:
        self._logins = {login.origin: login for login in logins}
        self._values: set[str] = set()
        self._stack = contextlib.ExitStack()
        self.variables: dict[str, str] = {}
        self.settings: list[tuple[str, str]] = []
        self.refusal: Exception | None = None
        for login in self._logins.values():
            self.settings.append((f"credential.{login.address}.helper", ""))
            # With this, newer gits do not try what stands in ~/.netrc first.
            self.settings.append((f"http.{login.address}/.proactiveAuth", "basic"))

    def __enter__(self) -> Askpass:
        if self._logins:
            with contextlib.ExitStack() as opened:
                self._open(opened)
                self._stack = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def for_others(self) -> dict[str, str]:
        """Variables and settings together, for a git that another program runs: its arguments are not ours to choose."""
        given = environment().get("GIT_CONFIG_COUNT", "")
        first = int(given) if given.isdecimal() else 0  # those of the user's own stay
        found = dict(self.variables)
        for number, (name, value) in enumerate(self.settings, first):
            found.update({f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value})
        if self.settings:
            found["GIT_CONFIG_COUNT"] = str(first + len(self.settings))
        return found

    def without_values(self, text: str) -> str:
        """The text without the values that were given out, should git or a server have repeated one."""
        for value in self._values:
            for form in {value, quote(value, safe=""), quote(value)}:
                text = text.replace(form, "***")
        return text

    def _open(self, opened: contextlib.ExitStack) -> None:
        # The script lies in a folder of runkit's own, as nothing may be run from some /tmp; a socket's path has to be short.
        folder = Path(tempfile.mkdtemp(prefix="ask-", dir=places.private(places.home() / "git")))
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        short = Path(tempfile.mkdtemp(prefix="rk-ask-", dir=places.runtime_root()))
        opened.callback(shutil.rmtree, short, ignore_errors=True)
        server = opened.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(short / "s"))
        server.listen(8)
        script = folder / "askpass"
        code = _HELPER.format(path=str(short / "s"))
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS -c {shlex.quote(code)} "$1"\n')
        script.chmod(0o700)
        thread = threading.Thread(target=self._serve, args=[server], name="runkit-askpass", daemon=True)
        opened.callback(thread.join, 5)
        opened.callback(_shut, server)
        thread.start()
        self.variables = {"GIT_ASKPASS": str(script)}

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                peer = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if peer[1] == os.getuid():
                    asked = b""
                    while not asked.endswith(b"\0") and len(asked) < 65536 and (chunk := connection.recv(4096)):
                        asked += chunk
                    connection.sendall(self._answer(asked.rstrip(b"\0").decode(errors="replace")))

    def _answer(self, prompt: str) -> bytes:
        asked = _PROMPT.search(prompt)
        try:
            login = self._logins.get(origin(asked["url"])) if asked else None
        except ValueError:
            login = None
        if asked is None or login is None:
            return b""
        if asked["what"] == "Username":
            return login.user.encode() + b"\n"
        try:
            value = login.token.value()
            if not isinstance(value, str) or not value or set(value) & set("\r\n\0"):
                raise UsageError(f"{login.token!r} is no token: it is empty, or has a line break in it")
        except RunkitError as error:
            self.refusal = error
            return b""
        except Exception as error:
            # What a function of the user's raises may hold the value: its type is all that is told.
            self.refusal = UsageError(f"{login.token!r} cannot be read: {type(error).__name__}")
            return b""
        self._values.add(value)
        return value.encode() + b"\n"


def _shut(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
