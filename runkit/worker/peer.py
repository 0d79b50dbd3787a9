"""Objects of another env of the same cluster, asked of its worker."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from runkit.errors import PythonMismatch, ServerError
from runkit.wire import codec, failure, frames
from runkit.wire.streams import read_frames, read_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def ask(path: str, op: str, meta: dict, parts: Sequence[Any] = ()) -> Any:
    """Run a built-in operation in the worker that listens on the UNIX socket `path` and give its result.

    Raises:
        ServerError: that worker ended meanwhile.
        PythonMismatch: code travels by value between two minor versions of Python.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        hello = {"session": f"peer-{os.urandom(8).hex()}", "lane": "main", "inline": True, "received": 0}
        sock.sendall(frames.encode(frames.HELLO, meta=hello))
        there = read_one(sock).meta["python"]
        if there != _HERE and codec.by_value(parts):
            sock.sendall(frames.encode(frames.BYE, seq=1))
            raise _mismatch(there)
        sock.sendall(frames.encode(frames.CALL, 1, {"op": op, "log": 0, **meta}, parts, seq=1))
        for frame in read_frames(sock):
            if frame.kind in (frames.RESULT, frames.ERROR):
                sock.sendall(frames.encode(frames.BYE, seq=2))
            if frame.kind == frames.RESULT:
                if there != _HERE and codec.by_value(frame.parts):
                    raise _mismatch(there)
                return codec.load(frame.parts)
            if frame.kind == frames.ERROR:
                raise failure.unpack(frame.meta["failure"], frame.parts, "another env")
    raise ServerError("the env that holds the object ended before it answered")


def _mismatch(there: str) -> PythonMismatch:
    return PythonMismatch(
        f"the object holds code that travels by value, which needs the same minor version of Python in both envs: here {_HERE}, "
        f"there {there}. Put its functions and classes in a module of a package, so that they travel by reference"
    )
