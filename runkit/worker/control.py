"""The worker's line to its server: which env owns which key, and orders from the server. JSON lines over a UNIX socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable

from runkit.errors import ServerError
from runkit.wire.streams import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Control:
    """Requests to the server, answered in any order; the connection is made again when the server restarts.

    Args:
        path: the server's UNIX socket.
        hello: gives the first message of every connection.
        order: handles a message of the server's own; what it returns is the answer.
    """

    def __init__(self, path: str, hello: Callable[[], dict], order: Callable[[dict], Any]):
        self._path = path
        self._hello = hello
        self._order = order
        self._lock = threading.Lock()
        self.connection: socket.socket | None = None
        self._connected = threading.Event()
        self._waiting: dict[int, list] = {}
        self._next = 0

    def start(self) -> None:
        if self._path:
            spawn("control", self._run)

    def request(self, op: str, timeout: float = 10.0, then: Callable[[], object] = lambda: None, **fields: Any) -> Any:
        """Ask the server and wait for its answer.

        Args:
            timeout: in seconds.
            then: called when the answer arrives, before anything that the server says after it is looked at.

        Raises:
            ServerError: the server refused, did not answer in time, or went away.
        """
        if not self._path:
            then()
            return None
        if not self._connected.wait(timeout):
            raise ServerError("runkit's server on this host does not answer; it may be restarting")
        answer: list = [threading.Event(), None, then]
        with self._lock:
            self._next += 1
            number = self._next
            self._waiting[number] = answer
        try:
            self._send({"id": number, "op": op, **fields})
            if not answer[0].wait(timeout):
                raise ServerError(f"runkit's server on this host did not answer {op!r} within {timeout:g} s")
        except OSError as error:
            raise ServerError(f"runkit's server on this host went away before it was asked {op!r}: {error}") from error
        finally:
            self._waiting.pop(number, None)
        if answer[1] is None:
            raise ServerError(f"runkit's server on this host went away before it answered {op!r}")
        if "error" in answer[1]:
            raise ServerError(str(answer[1]["error"]))
        return answer[1].get("ok")

    def _send(self, message: dict) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            sock = self.connection
            if sock is None:
                raise OSError("not connected to the server")
            sock.sendall(data)

    def _run(self) -> None:
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(self._path)
                    sock.sendall(json.dumps({"op": "hello", **self._hello()}).encode() + b"\n")
                    self.connection = sock
                    self._connected.set()
                    with sock.makefile("rb") as lines:
                        for line in lines:
                            self._take(json.loads(line))
            except (OSError, ValueError):
                pass
            self._connected.clear()
            self.connection = None
            for answer in list(self._waiting.values()):
                answer[0].set()
            time.sleep(0.05)

    def _take(self, message: dict) -> None:
        if "op" not in message:
            answer = self._waiting.get(message.get("id", -1))
            if answer is not None:
                answer[1] = message
                answer[2]()
                answer[0].set()
            return
        spawn("order", self._obey, message)  # an order may take time and ask the server itself

    def _obey(self, message: dict) -> None:
        try:
            reply = {"ok": self._order(message)}
        except Exception as error:  # whatever goes wrong is the server's to report
            reply = {"error": f"{type(error).__name__}: {error}"}
        if "id" in message:
            try:
                self._send({"id": message["id"], **reply})
            except OSError:
                pass
