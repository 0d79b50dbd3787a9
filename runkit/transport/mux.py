"""The control socket of an OpenSSH master, spoken directly: no `ssh` has to be started to ask it something.

The protocol is OpenSSH's PROTOCOL.mux (version 4, unchanged since 2010). Every message is a length and a type, both 32 bits, big
endian, and its fields; strings have a length in front.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from runkit.transport.base import Address

HELLO, VERSION = 0x00000001, 4
ALIVE_CHECK, ALIVE = 0x10000004, 0x80000005
OPEN_FORWARD, CLOSE_FORWARD, STDIO_FORWARD = 0x10000006, 0x10000007, 0x10000008
OK, DENIED, FAILURE, SESSION_OPENED = 0x80000001, 0x80000002, 0x80000003, 0x80000006
LOCAL = 1  # a forward from here to there
UNIX_SOCKET = 0xFFFFFFFE  # as a port: the host is a path (PORT_STREAMLOCAL, -2)


class MuxError(OSError):
    """The master refused, with its reason."""


class Mux:
    """One connection to a master's control socket; not for several threads at once."""

    def __init__(self, path: str, timeout: float):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
            self._send(struct.pack(">II", HELLO, VERSION))
            kind, body = self._receive()
            if kind != HELLO or struct.unpack_from(">I", body)[0] != VERSION:
                raise MuxError(f"{path}: not a master of version {VERSION}")
        except BaseException:
            self._socket.close()
            raise

    def alive(self) -> bool:
        """Whether the master answers."""
        self._send(struct.pack(">II", ALIVE_CHECK, 0))
        return self._receive()[0] == ALIVE

    def open_forward(self, listen: Address, target: Address) -> None:
        """Have the master listen here, on a port or a UNIX socket, and pass connections to an address on the host."""
        self._request(struct.pack(">III", OPEN_FORWARD, 0, LOCAL) + _address(listen) + _address(target))

    def close_forward(self, listen: Address, target: Address) -> None:
        self._request(struct.pack(">III", CLOSE_FORWARD, 0, LOCAL) + _address(listen) + _address(target))

    def probe(self, target: tuple[str, int]) -> None:
        """Have the host open a stream to a port and close it: what a forward cannot tell, this raises.

        Raises:
            MuxError: the host refused; the reason is on the master's standard error.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._send(struct.pack(">III", STDIO_FORWARD, 0, 0) + _address(target))
            for _ in range(2):  # its input and its output
                socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
            self._expect(SESSION_OPENED)

    def _request(self, message: bytes) -> None:
        self._send(message)
        self._expect(OK)

    def _expect(self, wanted: int) -> None:
        kind, body = self._receive()
        if kind in (FAILURE, DENIED):
            raise MuxError(body[8:].decode(errors="replace"))
        if kind != wanted:
            raise MuxError(f"unexpected answer {kind:#x} of the master")

    def _send(self, message: bytes) -> None:
        self._socket.sendall(struct.pack(">I", len(message)) + message)

    def _receive(self) -> tuple[int, bytes]:
        (length,) = struct.unpack(">I", self._exactly(4))
        message = self._exactly(length)
        return struct.unpack_from(">I", message)[0], message[4:]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not (chunk := self._socket.recv(count - len(data))):
                raise MuxError("the master has ended")
            data += chunk
        return data

    def __enter__(self) -> Mux:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def _address(address: Address) -> bytes:
    host, port = (address, UNIX_SOCKET) if isinstance(address, str) else address
    name = os.fsencode(host)
    return struct.pack(">I", len(name)) + name + struct.pack(">I", port)
