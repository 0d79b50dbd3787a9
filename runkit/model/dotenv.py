"""Environment variables out of a `.env` file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from runkit.errors import UsageError

_ASSIGNMENT = re.compile(
    r"""\s*(?:export[ \t]+)?(?P<name>[^\s=#'"]+)[ \t]*=[ \t]*
        (?:'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|(?P<plain>[^\n]*))
        [ \t]*(?:\#[^\n]*)?(?:\n|$)""",
    re.VERBOSE | re.DOTALL,
)
_NOTHING = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|$)")
_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'", "$": "$", "\n": ""}


def read_dotenv(path: str | Path) -> dict[str, str]:
    """Read `NAME=value` lines as shells and python-dotenv do.

    Comments, `export`, single quotes (taken literally), double quotes (with escapes, over several lines) and `${NAME}` or
    `${NAME:-default}` (a variable set above, else one of this process) are understood.

    Raises:
        UsageError: the file cannot be read, or a line is none of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise UsageError(f"the file of environment variables {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the file of environment variables {path} cannot be read: {error}") from None
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if nothing := _NOTHING.match(text, at):
            at = max(nothing.end(), at + 1)
            continue
        line = text.count("\n", 0, at) + 1
        assignment = _ASSIGNMENT.match(text, at)
        if not assignment:
            raise UsageError(f"{path}, line {line}: expected NAME=value")
        found[assignment["name"]] = _value(assignment, found)
        at = assignment.end()
    return found


def _value(assignment: re.Match[str], known: dict[str, str]) -> str:
    if assignment["single"] is not None:
        return assignment["single"]
    if assignment["double"] is not None:
        # Escapes are undone piece by piece, so that an escaped "\${X}" is not expanded.
        pieces = re.split(r"(\\.)", assignment["double"], flags=re.DOTALL)
        return "".join(_ESCAPES.get(p[1:], p) if p[:1] == "\\" else _expand(p, known) for p in pieces)
    return _expand(re.split(r"(?:^|\s)#", assignment["plain"], maxsplit=1)[0].strip(), known)


def _expand(text: str, known: dict[str, str]) -> str:
    def value(reference: re.Match[str]) -> str:
        name = reference["name"]
        return known.get(name) or os.environ.get(name) or reference["default"] or ""

    return _REFERENCE.sub(value, text)
