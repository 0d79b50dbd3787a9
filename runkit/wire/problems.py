"""Errors as the server's JSON has them: {"type": a class of runkit.errors, "message": …, "output": …}."""

from __future__ import annotations

from collections.abc import Mapping

from runkit import errors
from runkit.errors import RunkitError, ServerError
from runkit.wire.installers import is_disk_full

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def to_json(error: BaseException) -> dict[str, str]:
    """Describe an error for the other side."""
    if is_disk_full(error):
        return {"type": "DiskFull", "message": f"no space is left on the host: {error}", "output": ""}
    own = isinstance(error, (RunkitError, KeyError))
    kind = ("KeyError" if type(error) is KeyError else type(error).__name__) if own else "ServerError"
    message = str(error.args[0]) if type(error) is KeyError and error.args else str(error)
    return {"type": kind, "message": message or type(error).__name__, "output": str(getattr(error, "output", ""))}


def from_json(value: Mapping[str, Any]) -> Exception:
    """The error that the other side described; a ServerError where this side knows no such class."""
    name, message, output = (str(value.get(field) or "") for field in ("type", "message", "output"))
    if name == "KeyError":
        return KeyError(message)
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, RunkitError)):
        return ServerError(f"{name}: {message}" if name else message)
    if issubclass(kind, (errors.EnvError, errors.SetupFailed)):
        return kind(message, output)
    return kind(message)
