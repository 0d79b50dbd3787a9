"""A WebSocket, seen from the client (RFC 6455)."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode, apply_mask  # type: ignore[attr-defined]  # it is there, in C where that was built
from websockets.protocol import State
from websockets.uri import parse_uri

from runkit.errors import ConnectionLost, NotAuthorized
from runkit.wire.streams import spawn

_HEAD16 = struct.Struct("!BBH")
_HEAD64 = struct.Struct("!BBQ")


class WebSocket:
    """RFC 6455 over a connected socket: the library's protocol, this module's own reads and writes.

    No thread stands between the socket and the caller, which the library's own client has; and messages are framed here, since
    a system call for each mask lets other threads in, at the price of a call.

    Raises:
        NotAuthorized: the server refused the token.
        OSError, WebSocketException: no WebSocket came about.
    """

    def __init__(self, sock: socket.socket, token: str, path: str = "/v1/ws"):
        self._sock = sock
        self._lock = threading.Lock()  # of whoever sends
        self._masks: Iterator[bytes] = iter(())
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1{path}"), max_size=None)
        request = self._protocol.connect()
        request.headers["Authorization"] = f"Bearer {token}"
        self._protocol.send_request(request)
        self._fragments: list[bytes] = []
        self._kind = Opcode.BINARY
        self._flush()
        sock.settimeout(20)
        while self._protocol.handshake_exc is None and self._protocol.state.name == "CONNECTING":
            self._receive()
        problem = self._protocol.handshake_exc
        if problem is not None:
            sock.close()
            if isinstance(problem, InvalidStatus) and problem.response.status_code == 401:
                raise NotAuthorized("the server refused the token")
            raise problem
        sock.settimeout(None)

    def _receive(self) -> None:
        data = self._sock.recv(262144)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
            if self._protocol.handshake_exc is None:
                raise ConnectionLost("the server closed the connection")

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._sock.sendall(data)

    def text(self, data: bytes) -> None:
        self._send(0x81, data)

    def binary(self, data: bytes) -> None:
        self._send(0x82, data)

    def _send(self, first: int, data: bytes) -> None:
        """Send a message of one frame, masked as a client has to (RFC 6455, 5.3)."""
        length = len(data)
        if length < 126:
            head = bytes((first, 0x80 | length))
        elif length < 65536:
            head = _HEAD16.pack(first, 0x80 | 126, length)
        else:
            head = _HEAD64.pack(first, 0x80 | 127, length)
        with self._lock:
            if self._protocol.state is not State.OPEN:
                raise ConnectionLost("the connection has been closed")
            self._sock.sendall(b"".join((head, mask := self._mask(), apply_mask(data, mask))))

    def _mask(self) -> bytes:
        """Four unpredictable bytes; taken from the system many at a time."""
        mask = next(self._masks, None)
        if mask is None:
            drawn = os.urandom(4096)
            self._masks = (drawn[at : at + 4] for at in range(4, 4096, 4))
            mask = drawn[:4]
        return mask

    def _answer(self) -> None:
        """Send what the protocol answers by itself to a ping or a close.

        In a thread of its own: the reader must not wait for somebody who sends, since that one may be waiting for the reader.
        """
        with contextlib.suppress(OSError), self._lock:
            self._flush()

    def messages(self) -> Any:
        """The messages as (opcode, bytes), until the connection ends with OSError."""
        while True:
            for event in self._protocol.events_received():
                if not isinstance(event, Frame):
                    continue
                if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    if event.fin and not self._fragments:
                        yield event.opcode, event.data
                        continue
                    if event.opcode is not Opcode.CONT:
                        self._kind = event.opcode
                    self._fragments.append(bytes(event.data))
                    if event.fin:
                        whole, self._fragments = b"".join(self._fragments), []
                        yield self._kind, whole
                elif event.opcode is not Opcode.PONG:
                    spawn("answer", self._answer)
            self._receive()

    def abort(self) -> None:
        """Close the socket; whoever reads it notices."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was closed already
            pass
        self._sock.close()
