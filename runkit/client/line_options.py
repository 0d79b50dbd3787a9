"""Lines of requirements files that pip acts on and `uv pip compile` does not: hashes, `--require-hashes`, `--pre`, `--trusted-host`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from packaging.utils import canonicalize_name

from runkit.errors import UsageError
from runkit.model.package import DISTRIBUTIONS
from runkit.model.requirements import HASH, Requirements

_FRAGMENT = re.compile(r"#(?:[^\s#]*&)?sha256=([0-9a-fA-F]{64})")
_FOR_UV = re.compile(r"--(pre|require-hashes)|--trusted-host(?:\s+|=)(?P<host>\S+)")


def without_options(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """The lines with those emptied that are options of uv's command line instead, and these options."""
    left, options = [], []
    for line in lines:
        found = _FOR_UV.fullmatch(line)
        left.append("" if found else line)
        if found and found["host"]:
            options += ["--allow-insecure-host", found["host"]]
        elif found and found[1] == "pre":
            options += ["--prerelease", "allow"]
    return left, options


def pins(requirements: Requirements, remote: Sequence[str] = ()) -> dict[str, set[str]]:
    """The SHA-256 hashes that `--hash` and `#sha256=` allow, by package.

    Args:
        requirements: with their lines and constraints.
        remote: the lines of files that these name by URL.

    Raises:
        UsageError: a hash cannot be checked: it is of another kind, or it is not clear of which package.
    """
    found: dict[str, set[str]] = {}
    origins = [*requirements.origins, *("your constraints" for _ in requirements.constraints)]
    origins += ["a requirements file named by its URL"] * len(remote)
    for line, origin in zip([*requirements.lines, *requirements.constraints, *remote], origins, strict=True):
        hashes = HASH.findall(line)
        known = {value.lower() for kind, value in hashes if kind == "sha256"}
        known |= {value.lower() for value in _FRAGMENT.findall(line)}
        if not hashes and not known:
            continue
        name = _name(line)
        if not known or not name:
            raise UsageError(f"{origin}: a hash of a named package has to be given as --hash=sha256:...")
        found.setdefault(canonicalize_name(name), set()).update(known)
    return found


def wants_hashes(lines: Iterable[str]) -> bool:
    """Whether every package has to have a hash."""
    return "--require-hashes" in lines


def _name(line: str) -> str | None:
    """The package that a line asks for; of a bare URL, the one that its file's name tells."""
    if "://" in line.split("@", 1)[0]:
        file = line.split()[0].partition("#")[0].partition("?")[0].rpartition("/")[2]
        return re.split(r"-(?=\d)", file)[0] if file.endswith(DISTRIBUTIONS) else None
    named = re.match(r"[A-Za-z0-9][\w.-]*", line)
    return named[0] if named else None
