"""Objects of another env of the same cluster, asked of its worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from runkit.errors import ServerError
from runkit.wire import codec, failure, frames
from runkit.wire.streams import read_frames, read_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def ask(path: str, op: str, meta: dict, parts: Sequence[Any] = ()) -> Any:
    """Run a built-in operation in the worker that listens on the UNIX socket `path` and give its result.

    Raises:
        ServerError: that worker ended meanwhile.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        hello = {"session": f"peer-{os.urandom(8).hex()}", "lane": "main", "inline": True, "received": 0}
        sock.sendall(frames.encode(frames.HELLO, meta=hello))
        read_one(sock)
        sock.sendall(frames.encode(frames.CALL, 1, {"op": op, "log": 0, **meta}, parts, seq=1))
        for frame in read_frames(sock):
            if frame.kind == frames.RESULT:
                sock.sendall(frames.encode(frames.BYE, seq=2))
                return codec.load(frame.parts)
            if frame.kind == frames.ERROR:
                raise failure.unpack(frame.meta["failure"], frame.parts, "another env")
    raise ServerError("the env that holds the object ended before it answered")
