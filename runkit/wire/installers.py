"""Why an installer failed, read from what it printed: uv's words first, pip's, git's and the kernel's too."""

from __future__ import annotations

import errno
import re
from collections import deque
from collections.abc import Iterable

from runkit.errors import (
    BuildFailed,
    DiskFull,
    FetchFailed,
    InstallFailed,
    InstallTimeout,
    LoginRefused,
    RequirementsConflict,
    ResolutionFailed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runkit.errors import EnvError

_DISK = re.compile(r"No space left on device|Disk quota exceeded|os error (28|122)\b")
_LOGIN = re.compile(
    r"\b(401 Unauthorized|403 Forbidden|407 Proxy Authentication|lack of valid authentication credentials"
    r"|Authentication failed for|could not read (Username|Password) for|Permission denied \(publickey"
    r"|terminal prompts disabled|HTTP Basic: Access denied)"
)
_NETWORK = re.compile(
    r"error sending request|operation timed out|dns error|tcp connect error|Connection (refused|reset|aborted)"
    r"|error decoding response body|request or response body error|HTTP status server error|Request failed after"
    r"|\b(408 Request Timeout|429 Too Many Requests)|Could not resolve host|Failed to connect to|Name or service not known"
    r"|Temporary failure in name resolution|Network is unreachable|No route to host|invalid peer certificate"
    r"|Network connectivity is disabled|when the network is disabled|network was disabled"
    r"|NewConnectionError|ReadTimeoutError|ConnectTimeoutError|ProtocolError|The remote end hung up",
    re.IGNORECASE,
)
# What a build itself prints may name any of the above: that it failed says more, unless it is what it needs that lacks.
_BUILD = re.compile(r"build backend returned an error|Call to `[^`]*` failed|subprocess-exited-with-error")
_BUILT = re.compile(r"Failed to build|Failed building wheel|build-system\.requires")
_UNSOLVED = re.compile(r"No solution found|ResolutionImpossible|requirements are unsatisfiable")
# A package with a version range, where something asks for it: not as the one that depends, is available, cannot be used...
_ASKED = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^\]]*\]|\{[^}]*\})*(?P<range>(?:===|[<>=!~]=|[<>])[^\s,]+(?:,(?:[<>=!~]=|[<>])[^\s,]+)*)"
    r"(?! (?:depends? on|ha(?:s|ve) no|cannot be used|(?:is|are) (?:available|incompatible)|was not))(?=,?\s|$)"
)
_ABSENT = re.compile(r"(there (?:is no version|are no versions) of|only the following versions? of) \S+")


_ERROR = re.compile(r"\berror:", re.IGNORECASE)
_LAST_LINES = 60
_FIRST_ERRORS = 5


class Tail:
    """The last lines of what a program printed, after the first errors where those are further up, as when a report follows them."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._errors: list[str] = []
        for line in lines:
            self.add(line)

    def add(self, line: str) -> None:
        if len(self._errors) < _FIRST_ERRORS and _ERROR.search(line):
            self._errors.append(line)
        self._last.append(line)

    def __str__(self) -> str:
        above = [line for line in self._errors if line not in self._last]
        return "\n".join([*above, *(["..."] if above else []), *self._last])


def failure_kind(said: str, otherwise: type[EnvError] = InstallFailed) -> type[EnvError]:
    """The class of the error that an installer's output tells of.

    Args:
        said: what it printed on its standard error.
        otherwise: the class where the output says nothing that is known here.
    """
    if _DISK.search(said):
        return DiskFull
    if _BUILD.search(said):
        return BuildFailed
    if _LOGIN.search(said):
        return LoginRefused
    if _NETWORK.search(said):
        return FetchFailed
    if _BUILT.search(said):
        return BuildFailed
    if _UNSOLVED.search(said):
        return RequirementsConflict if contested(said) else ResolutionFailed
    return otherwise


def contested(said: str) -> tuple[str, ...]:
    """The packages, as uv's explanation names them, that its statements want in different versions; "Python" may be one."""
    text = _ABSENT.sub("", " ".join(said.split("\nhint:")[0].split()))
    ranges: dict[str, set[str]] = {}
    for found in _ASKED.finditer(text):
        ranges.setdefault(found["name"], set()).add(found["range"].rstrip(".)"))
    if "the requested Python version" in text and "Python" in ranges:
        ranges["Python"].add("requested")
    return tuple(name for name, wanted in ranges.items() if len(wanted) > 1)


def took_too_long(env: str, seconds: float, phase: str, at: float, ended: bool = False) -> InstallTimeout:
    """The error for a set-up that was ended at its deadline.

    Args:
        env: the env's name.
        seconds: the deadline.
        phase: what it was at.
        at: for how many seconds.
        ended: whether the env's process had to go for it.
    """
    now = (
        "and so was the env's process: it starts as it was when it is next used"
        if ended
        else "and the env is as it was"
    )
    return InstallTimeout(
        f"the set-up of env {env!r} took longer than its install_timeout of {seconds:g} s: it had been at {phase!r} for "
        f"{at:.1f} s. What it had started was ended, {now}"
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether it says that no space is left, or none of what this user may fill."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
