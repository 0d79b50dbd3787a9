"""Byte streams between sockets: dial an address, pump two streams into each other, listen on a port here for streams there."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from runkit.errors import PortInUse
from runkit.transport.base import Address, Forward

CHUNK = 256 * 1024  # bytes


class Stream(Protocol):
    """What `splice` needs of a stream; sockets have it, and paramiko's channels."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> object: ...
    def shutdown(self, how: int, /) -> object: ...
    def close(self) -> object: ...


def dial(address: Address, timeout: float) -> socket.socket:
    """Connect to an address of this machine; the stream has no timeout afterwards.

    Raises:
        ConnectionRefusedError: nobody listens there, or there is no such path.
    """
    if not isinstance(address, str):
        stream = socket.create_connection(address, timeout)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(timeout)
        try:
            stream.connect(address)
        except FileNotFoundError:
            stream.close()
            raise ConnectionRefusedError(errno.ECONNREFUSED, "no such socket", address) from None
        except BaseException:
            stream.close()
            raise
    stream.settimeout(None)
    return stream


def splice(first: Stream, second: Stream) -> None:
    """Copy both ways, ends of data included, in threads, until both ways have ended; then both are closed."""
    ways = threading.Semaphore(1)

    def copy(source: Stream, target: Stream) -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := source.recv(CHUNK):
                target.sendall(data)
        with contextlib.suppress(OSError, EOFError):
            target.shutdown(socket.SHUT_WR)
        if not ways.acquire(blocking=False):  # the other way has ended before
            first.close()
            second.close()

    for pair in ((first, second), (second, first)):
        threading.Thread(target=copy, args=pair, name="runkit-relay", daemon=True).start()


def listen(connect: Callable[[], socket.socket], local_port: int) -> Forward:
    """Listen on 127.0.0.1 and give every connection a stream of its own from `connect()`.

    Raises:
        PortInUse: `local_port` belongs to another process.
    """
    listener = bound(local_port)
    streams: set[socket.socket] = set()

    def serve(caller: socket.socket) -> None:
        try:
            stream = connect()
        except Exception:  # the caller sees its connection closed, as with any forward
            caller.close()
            return
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        streams.difference_update([old for old in tuple(streams) if old.fileno() < 0])  # those that have ended
        streams.update((caller, stream))
        splice(caller, stream)

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), name="runkit-forward", daemon=True).start()

    def close() -> None:
        for stream in (listener, *streams):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait for it
            stream.close()

    threading.Thread(target=accept, name="runkit-forward", daemon=True).start()
    return Forward(listener.getsockname()[1], close)


def bound(local_port: int) -> socket.socket:
    """A socket bound to 127.0.0.1:`local_port`, listening.

    Raises:
        PortInUse: the port belongs to another process, or is one that only root may use.
    """
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        stream.bind(("127.0.0.1", local_port))
        stream.listen(64)
    except OSError as error:
        stream.close()
        raise PortInUse(
            f"port {local_port} of this machine cannot be used: {error.strerror}; name another local port"
        ) from error
    return stream
