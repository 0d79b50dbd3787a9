"""URLs as they may be shown and stored: without passwords and tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_URL = re.compile(r"\b(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s\"'`<>]*)")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_HOST = r"(?:localhost|\d{1,3}(?:\.\d{1,3}){3}|(?:[\w-]+\.)+[A-Za-z]{2,})(?::\d+)?"
_WHOLE_HOST = re.compile(_HOST + r"|\[[0-9A-Fa-f:.]+\](?::\d+)?|[\w-]+:\d+")
_LATER_HOST = re.compile(rf"@(?={_HOST}(?:/|$))|@(?=[\w.-]+:\d+(?:/|$))")
_SECRET = re.compile(
    r"token|secret|passw|pwd|auth|key|sig(?!ma)|credential|session|expires|date|policy|^x-(amz|goog)-|^s[eptv]$", re.I
)
_NAMED_BY_USER = ("ssh", "sftp", "git+ssh", "ssh+git")
"""Schemes whose user name belongs to the address: it is no login without a key."""


def without_credentials(text: str) -> str:
    """The text with user names, passwords and query strings taken out of its URLs: a stored or shown URL never carries them.

    Passwords count that are not percent-encoded as they should be, with `@`, `/` and `:` in them: where it is not clear what is
    a password and what is a path, the URL loses the path.
    """
    return _URL.sub(lambda found: found["scheme"] + _bare(found["scheme"][:-3].lower(), found["rest"]), text)


def without_secrets(text: str) -> str:
    """The text with logins taken out of its URLs, and of their query strings what looks like a token: the rest may name the file."""
    return _URL.sub(lambda found: found["scheme"] + _asked(found["scheme"][:-3].lower(), found["rest"]), text)


def has_unencoded_login(text: str) -> bool:
    """Whether a user name or password in one of its URLs has a character that ends it there, as "/" does where "%2F" is meant."""
    for found in _URL.finditer(text):
        scheme, rest = found["scheme"][:-3].lower(), found["rest"]
        if scheme not in _NAMED_BY_USER:
            login = rest[: len(rest) - sum(map(len, _without_login(scheme, rest)))]
            if any(mark in login for mark in "/?#"):
                return True
    return False


def expanded(text: str) -> str:
    """The text with `${NAME}` replaced by that environment variable, as pip and uv do; one that is not set stays."""
    return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[0]), text)


def unseen(lines: Iterable[str]) -> list[str]:
    """What lines ask for that is not seen when they are stored.

    The values of environment variables and of query strings decide what is installed. Those that look like tokens do not: a
    renewed token asks for nothing new.
    """
    hidden = []
    for line in lines:
        whole = _VARIABLE.sub(lambda found: found[0] if _SECRET.search(found[1]) else expanded(found[0]), line)
        seen = without_secrets(whole)
        if seen != without_credentials(line):
            hidden.append(seen)
    return hidden


def _bare(scheme: str, rest: str) -> str:
    place, fragment = _without_login(scheme, rest)
    return place.partition("?")[0] + fragment


def _asked(scheme: str, rest: str) -> str:
    place, fragment = _without_login(scheme, rest)
    place, _, query = place.partition("?")
    kept = [part for part in query.split("&") if part and not _SECRET.search(part.partition("=")[0])]
    return place + ("?" + "&".join(kept) if kept else "") + fragment


def _without_login(scheme: str, rest: str) -> tuple[str, str]:
    """What follows the user name and password, and the fragment."""
    address, mark, fragment = rest.partition("#")
    if scheme in _NAMED_BY_USER:
        user, _, _ = address[: _login_end(address)].rstrip("@").partition(":")
        return (f"{user}@" if user else "") + address[_login_end(address) :], mark + fragment
    if scheme.rpartition("+")[2] not in ("http", "https"):
        return address[_login_end(address) :], mark + fragment
    if "@" in fragment and not _is_host(re.split("[/?@]", address)[0]):
        address, mark, fragment = rest, "", ""  # a "#" of the password
    end = _login_end(address)
    left = address[end:].partition("/")[0].partition("?")[0]
    # A "/" in a password that is not encoded: what looks like the host is a piece of it, and the host comes after a later "@".
    secret = ":" in (address[:end] or ("" if _is_host(left) else left))
    if secret or not _is_host(left):
        later = [found.end() for found in _LATER_HOST.finditer(address) if found.end() > end]
        end = later[-1] if later else end
        left = address[end:].partition("/")[0]
        if not _is_host(left) and "git" not in scheme:
            ends = [found.end() for found in re.finditer("@" if secret else "(?<!/)@", address)]
            end = max([end, *ends])
    return address[end:], mark + fragment


def _login_end(address: str) -> int:
    """Where the user name and password of a well-formed address end; 0 if it has none."""
    return re.split("[/?]", address)[0].rfind("@") + 1


def _is_host(authority: str) -> bool:
    return bool(_WHOLE_HOST.fullmatch(authority))
