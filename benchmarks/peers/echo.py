"""A raw echo through an SSH forward: what the way itself can give."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers.jobs.echo import receive
from benchmarks.place import PLACE, far, python_of_host
from benchmarks.stats import timed
from tests.hosts import Host


@contextmanager
def server(host: Host) -> Iterator[int]:
    """An echo server on the host's loopback; gives its port."""
    with far(host, f"exec {python_of_host(host)} -u {PLACE}/jobs/echo.py") as ask:
        yield ask()


class Echo:
    """One connection to an echo server through a forwarded port."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self, data: bytes | memoryview) -> float:
        """Seconds for these bytes there and back, stored on both sides."""

        def there_and_back() -> None:
            head = struct.pack(">Q", len(data))
            if len(data) < 65536:
                self._socket.sendall(head + data)
            else:
                self._socket.sendall(head)
                self._socket.sendall(data)
            receive(self._socket, len(data))

        return timed(there_and_back)

    def close(self) -> None:
        self._socket.close()
