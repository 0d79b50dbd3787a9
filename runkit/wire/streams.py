"""Blocking sockets: frames and blobs read with as few copies as can be."""

from __future__ import annotations

import mmap
import select
import socket
import threading
from collections.abc import Callable, Iterable

from runkit.wire.frames import BLOB_HEADER, HEADER, Decoder, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK = 256 * 1024
_HUGE = 4 * 1024 * 1024


def prepare(sock: socket.socket) -> socket.socket:
    """Small packets leave at once (no Nagle)."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_frames(sock: socket.socket) -> Iterable[Frame]:
    """The frames that arrive, until the other side closes.

    Raises:
        OSError: the connection broke.
    """
    decoder = Decoder()
    while True:
        data = sock.recv(CHUNK)
        if not data:
            return
        yield from decoder.feed(data)


def read_one(sock: socket.socket) -> Frame:
    """Exactly one frame, not a byte of what follows it.

    Raises:
        ConnectionError: the other side closed before the frame was whole.
    """
    header = HEADER.unpack(read_exactly(sock, HEADER.size))
    return next(iter(Decoder().feed(HEADER.pack(*header) + read_exactly(sock, header[0]))))


def read_exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    _fill(sock, memoryview(data))
    return bytes(data)


def read_blob(sock: socket.socket) -> tuple[int, Any]:
    """The next blob: its number, and its bytes in memory of their own.

    Raises:
        ConnectionError: the connection ended.
    """
    number, length = BLOB_HEADER.unpack(read_exactly(sock, BLOB_HEADER.size))
    memory = allocate(length)
    _fill(sock, memory)
    return number, memory


def allocate(length: int) -> memoryview:
    """Writable memory for `length` bytes. Large pieces come from mmap: not zeroed twice, in huge pages, given back when freed."""
    if length < _HUGE:
        return memoryview(bytearray(length))
    memory = mmap.mmap(-1, length)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without transparent huge pages
            pass
    return memoryview(memory)


def send_blob(sock: socket.socket, number: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    sock.sendall(BLOB_HEADER.pack(number, len(view)))
    sock.sendall(view)


def _fill(sock: socket.socket, view: memoryview) -> None:
    at, end = 0, len(view)
    while at < end:
        count = sock.recv_into(view[at:])
        if not count:
            raise ConnectionError("the connection was closed in the middle of a message")
        at += count


def hang_up(sock: Any) -> None:
    """End a connection under whoever is reading or writing it; a mere close() would leave them waiting."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has ended already
        pass


def spawn(name: str, target: Callable[..., Any], *args: Any) -> threading.Thread:
    """A daemon thread with a name that a stack dump shows."""
    thread = threading.Thread(target=target, args=args, name=f"runkit-{name}", daemon=True)
    thread.start()
    return thread


def writable(sock: socket.socket) -> bool:
    """Whether a small write to the socket would not have to wait now; it would not where it fails at once, either."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # closed meanwhile
        return True
