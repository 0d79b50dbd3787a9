"""Why requirements could not be resolved, in an error that names both sides: who asks for what, and where the user wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.utils import canonicalize_name

from runkit.errors import (
    BuildFailed,
    DiskFull,
    EnvError,
    FetchFailed,
    LoginRefused,
    RequirementsConflict,
    ResolutionFailed,
)
from runkit.model.requirements import Requirements
from runkit.model.urls import without_credentials
from runkit.wire.installers import contested, failure_kind

_HEADS: dict[type[EnvError], str] = {
    FetchFailed: "the requirements cannot be resolved: an index cannot be reached from this machine",
    LoginRefused: "the requirements cannot be resolved: an index refused this machine's credentials, or wants some",
    BuildFailed: "the requirements cannot be resolved: what a package needs is only known by building it, and its build failed",
    DiskFull: "the requirements cannot be resolved: no space is left on this machine",
}
_DEPENDS = re.compile(r"(?P<who>[\w.-]+)(?P<range>[<>=!~][^\s]*)? depends? on (?P<what>\S+)")
_CONCLUSION = re.compile(r", we can conclude that .*?\.(?: |$)")
_MARKER = re.compile(r"\{[^}]*\}")


def unsolved(said: str, requirements: Requirements, where: str) -> EnvError:
    """The error for requirements that could not be resolved.

    Args:
        said: uv's explanation, in the user's words and without credentials.
        requirements: what was asked for.
        where: the Python and the platform it was to be resolved for, in words.
    """
    kind = failure_kind(said, ResolutionFailed)
    head = _HEADS.get(kind, f"the requirements cannot be resolved for {where}")
    if kind is RequirementsConflict:
        names = contested(said)
        sides = dict.fromkeys(side for name in names for side in _sides(name, said, requirements, where))
        head = "\n  ".join([f"{head}: they ask for different versions of {' and '.join(names)}", *sides])
        return kind(f"{head}\nuv: {said}", output=said)
    return kind(f"{head}.\n{said}", output=said)


def _sides(name: str, said: str, requirements: Requirements, where: str) -> Iterator[str]:
    """Who asks for which version of a package."""
    if name == "Python":
        yield f"{where.split(' on ')[0]}: what the env is to run"
    for line, origin in _written(requirements, name):
        yield f"{without_credentials(line)}: {origin}"
    for line in requirements.constraints:
        if _name(line) == canonicalize_name(name):
            yield f"{without_credentials(line)}: constraint, {requirements.limits.get(line, 'of yours')}"
    for found in _DEPENDS.finditer(_CONCLUSION.sub(". ", _MARKER.sub("", " ".join(said.split())))):
        if _name(found["what"]) == canonicalize_name(name):
            asking = f"{found['who']} {(found['range'] or '').removeprefix('==')}".strip()
            written = [
                origin if line in origin else f"{line} in {origin}"
                for line, origin in _written(requirements, found["who"])
            ]
            because = f" (from {' and '.join(written)})" if written else ""
            yield f"{found['what'].rstrip(',.')}: {asking} depends on it{because}"


def _written(requirements: Requirements, name: str) -> Iterator[tuple[str, str]]:
    origins = requirements.origins or ("the requirements",) * len(requirements.lines)
    for line, origin in zip(requirements.lines, origins, strict=True):
        if _name(line) == canonicalize_name(name):
            yield line, origin


def _name(line: str) -> str | None:
    found = re.match(r"[A-Za-z0-9][\w.-]*", line)
    return canonicalize_name(found[0]) if found else None
