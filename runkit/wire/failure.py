"""Exceptions on their way: packed over there, themselves again here, with the remote frames in the traceback."""

from __future__ import annotations

import pickle
import sys
import types

from runkit.errors import RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_FRAMES = 200
MAX_CHAIN = 20


def pack(error: BaseException, hide: str = "") -> tuple[dict, list[bytes]]:
    """Describe `error` and the chain of its causes.

    Args:
        hide: frames of files below this folder (runkit's own) are left out.

    Returns:
        A JSON object, and one pickle per exception of the chain (empty where it cannot be pickled).
    """
    chain: list[BaseException] = []
    links: list[dict] = []
    _walk(error, chain, links)
    parts = []
    for one, link in zip(chain, links):
        link["type"] = _type_name(type(one))
        try:
            link["text"] = str(one)
        except Exception as problem:  # a user's broken __str__
            link["text"] = f"<str() failed: {problem!r}>"
        link["frames"] = _frames(one.__traceback__, hide)
        link["notes"] = [str(note) for note in getattr(one, "__notes__", ())]
        parts.append(_pickled(one))
    links[0]["formatted"] = _format(error, hide)
    return {"chain": links}, parts


def _walk(error: BaseException, chain: list[BaseException], links: list[dict]) -> int:
    chain.append(error)
    link: dict = {"suppress": error.__suppress_context__}
    links.append(link)
    for name, other in (("cause", error.__cause__), ("context", error.__context__)):
        if other is None or len(chain) >= MAX_CHAIN:
            continue
        known = next((i for i, one in enumerate(chain) if one is other), None)
        link[name] = _walk(other, chain, links) if known is None else known
    return next(i for i, one in enumerate(chain) if one is error)


def _type_name(kind: type) -> str:
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _pickled(error: BaseException) -> bytes:
    if isinstance(error, (SystemExit, KeyboardInterrupt, GeneratorExit)):
        return b""  # these must not act on the caller's process
    try:
        import cloudpickle  # late, as in codec

        return cloudpickle.dumps(error, protocol=5)
    except Exception:  # whatever its attributes raise: the description is enough for a RemoteError
        return b""


def _frames(tb: types.TracebackType | None, hide: str) -> list[list]:
    import linecache  # late, like traceback: only an exception needs them, and they cost a worker's start
    import traceback

    found = []
    for frame, lineno in traceback.walk_tb(tb):
        name = frame.f_code.co_filename
        if hide and name.startswith(hide):
            continue
        line = linecache.getline(name, lineno, frame.f_globals).rstrip("\n")
        found.append([name, lineno, frame.f_code.co_name, line])
    return found[-MAX_FRAMES:]


def _format(error: BaseException, hide: str) -> str:
    import traceback

    report = traceback.TracebackException.from_exception(error)
    seen = set()
    stack: list[Any] = [report]
    while stack:
        one = stack.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if hide:
            one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(hide)]
        stack += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
    return "".join(report.format())


def unpack(description: dict, parts: list[Any], where: str, local: dict[str, str] | None = None) -> BaseException:
    """The exception as this side can have it: itself, or a `RemoteError` that carries its name, message and traceback.

    Args:
        where: shown before the file in the traceback's lines, e.g. "box".
        local: folders over there → the same folders here, so that a frame of synced code names the file the user edits.
    """
    links = description["chain"]
    errors = [_revive(link, part) for link, part in zip(links, parts)]
    for error, link in zip(errors, links):
        error.__cause__ = errors[link["cause"]] if "cause" in link else None
        error.__context__ = errors[link["context"]] if "context" in link else None
        error.__suppress_context__ = link["suppress"]
        error.__traceback__ = _traceback(link["frames"], where, local or {})
        if link["notes"] and not getattr(error, "__notes__", None):
            for note in link["notes"]:
                add_note(error, note)
    return errors[0]


def add_note(error: BaseException, note: str) -> None:
    """PEP 678 notes, also where Python is older than 3.11 (they are kept, not shown)."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        vars(error)["__notes__"] = [*getattr(error, "__notes__", ()), note]


def _revive(link: dict, part: Any) -> BaseException:
    if len(part):
        try:
            error = pickle.loads(part)
            if isinstance(error, BaseException) and not isinstance(error, RemoteError):
                return error
        except Exception:  # not importable here, or its __init__ wants other arguments
            pass
    return RemoteError(link["type"], link["text"], link.get("formatted", ""))


def _traceback(frames: list[list], where: str, local: dict[str, str]) -> types.TracebackType | None:
    import linecache

    tb: types.TracebackType | None = None
    for name, lineno, function, line in reversed(frames):
        # A file the far side cannot read, but this one can: code that went there by value, from a notebook's cell.
        at = name if not line and linecache.getline(name, lineno) else _shown(name, where, local)
        tb = _one_frame(at, lineno, function, line, tb)
    return tb


def _shown(name: str, where: str, local: dict[str, str]) -> str:
    for there, here in local.items():
        if name.startswith(there):
            return here + name[len(there) :]
    return f"<{where}>{name}" if name.startswith("/") else name


def _one_frame(
    name: str, lineno: int, function: str, line: str, below: types.TracebackType | None
) -> types.TracebackType | None:
    """A traceback entry made of a stub function that carries the remote file, line and function name."""
    import linecache

    if line and not linecache.getline(name, lineno):
        old = linecache.cache.get(name)
        lines = list(old[2]) if old is not None and len(old) == 4 else []
        lines += ["\n"] * (lineno - len(lines))
        lines[lineno - 1] = line + "\n"
        linecache.cache[name] = (len(lines), None, lines, name)
    stub = compile("\n" * (lineno - 1) + "raise _Stub", name, "exec").replace(co_name=function)
    if sys.version_info >= (3, 11):
        # Without columns: those of `raise _Stub` would underline an arbitrary part of the user's line. One entry per eight
        # instructions, each "no column, same line" (CPython's Objects/locations.md).
        units = len(stub.co_code) // 2
        table = b"".join(bytes([0x80 | 13 << 3 | min(8, units - i) - 1, 0]) for i in range(0, units, 8))
        stub = stub.replace(co_qualname=function, co_firstlineno=lineno, co_linetable=table)
    top: types.TracebackType | None = None
    try:
        exec(stub, {"_Stub": _Stub, "__name__": function, "__file__": name})
    except _Stub as error:
        top = error.__traceback__ and error.__traceback__.tb_next
    return types.TracebackType(below, top.tb_frame, top.tb_lasti, lineno) if top is not None else below


class _Stub(Exception):
    pass
