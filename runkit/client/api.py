"""The server's HTTP, as a client speaks it: kept-alive connections over whatever the transport gives, errors as runkit's own."""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any

from runkit.client.set_up import ENDING, current
from runkit.errors import ConnectionLost, InstallTimeout, RunkitError, ServerError
from runkit.wire import problems

DEFAULT_TIMEOUT = 60.0
KEPT = 4
"""Idle connections that are kept."""

# Requests that may be sent twice: where a kept connection turns out to be dead, they go out again on a fresh one.
_REPEATABLE_POSTS = ("/v1/ensure", "/v1/wheels/missing", "/v1/reachable", "/v1/pythons")


class Api:
    """One server. All methods may be called from any thread.

    Args:
        connect: gives a connected stream socket to the server's port.
        token: the server's token.

    >>> api = Api(lambda: transport.connect(("127.0.0.1", 32300)), token)    # doctest: +SKIP
    >>> api.json("GET", "/v1/status")["version"]                             # doctest: +SKIP
    '0.1.0'
    """

    def __init__(self, connect: Callable[[], socket.socket], token: str):
        self._connect = connect
        self._token = token
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def json(self, method: str, path: str, body: Any = None, timeout: float | None = DEFAULT_TIMEOUT) -> dict[str, Any]:
        """One request, one JSON answer.

        Args:
            method: "GET", "POST", …
            path: with its query; what is not plain in it has to be quoted.
            body: becomes JSON; bytes are sent as they are.
            timeout: seconds for each step of the exchange; None: no limit.

        Raises:
            RunkitError: the server refused; of the class that the server names (NotAuthorized, EnvNotFound, …).
            ConnectionLost: nobody listens there, or the connection broke: then the request may have been carried out.
            HostUnreachable: there is no way to the server.
        """
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        response, sock = self._exchange(method, path, data, current().left(timeout))
        return self._finish(response, sock, method, path)

    def events(self, method: str, path: str, body: Any = None) -> Generator[dict[str, Any], None, None]:
        """One request, a stream of JSON objects, one per line, as they come. Raises what `json` does.

        Closed before its end, it closes the connection, and the server ends what it was at.
        """
        data = b"" if body is None else json.dumps(body).encode()
        response, sock = self._exchange(method, path, data, current().left())
        if response.status >= 400:
            self._finish(response, sock, method, path)
        complete = False
        try:
            while line := _awaited_line(response, sock):
                if line.strip():
                    yield json.loads(line)
            complete = True
        except InstallTimeout:  # an OSError, too
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ConnectionLost(
                f"the connection to the server was cut during {method} {path}: it may be going on there"
            ) from error
        finally:
            if complete:
                self._give_back(response, sock)
            else:  # both: the server has to see that nobody waits any more
                response.close()
                sock.close()

    def upload(self, method: str, path: str, chunks: Iterable[bytes], length: int) -> dict[str, Any]:
        """One request with a body of `length` bytes, given in pieces; one JSON answer. Raises what `json` does."""
        sock = self._open(current().left())
        try:
            sock.sendall(self._head(method, path, length))
            for chunk in chunks:
                sock.sendall(chunk)
                current().go_on()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server may have refused early: its answer says why
        except TimeoutError:
            sock.close()
            raise current().expired() from None
        except BaseException:
            sock.close()
            raise
        response = self._response(sock, method, path)
        return self._finish(response, sock, method, path)

    def close(self) -> None:
        """Close the idle connections; the next request opens one again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()

    # -- one exchange

    def _exchange(
        self, method: str, path: str, data: bytes, timeout: float | None
    ) -> tuple[http.client.HTTPResponse, socket.socket]:
        # One write for head and body: two small packets cost 40 ms now and then through SSH.
        request = self._head(method, path, len(data)) + data
        kept = self._take()
        if kept is not None:
            try:
                return self._send(kept, request, method, path, timeout), kept
            except ConnectionLost:
                kept.close()
                if not _may_repeat(method, path):
                    raise
        sock = self._open(timeout)
        try:
            return self._send(sock, request, method, path, timeout), sock
        except BaseException:
            sock.close()
            raise

    def _send(
        self, sock: socket.socket, request: bytes, method: str, path: str, timeout: float | None
    ) -> http.client.HTTPResponse:
        try:
            sock.settimeout(timeout)
            sock.sendall(request)
        except OSError as error:
            raise ConnectionLost(f"the connection to the server broke at {method} {path}: {error}") from error
        return self._response(sock, method, path)

    def _response(self, sock: socket.socket, method: str, path: str) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(sock, method=method)
        try:
            response.begin()
        except TimeoutError as error:
            sock.close()
            current().go_on()
            raise ServerError(f"the server did not answer {method} {path} in time") from error
        except (OSError, http.client.HTTPException) as error:
            sock.close()
            raise ConnectionLost(
                f"the connection to the server broke at {method} {path}: {error or type(error).__name__}"
            ) from error
        return response

    def _finish(
        self, response: http.client.HTTPResponse, sock: socket.socket, method: str, path: str
    ) -> dict[str, Any]:
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            sock.close()
            raise ConnectionLost(f"the connection to the server broke at {method} {path}: {error}") from error
        self._give_back(response, sock)
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and "error" in answer and response.status >= 400:
            raise problems.from_json(answer["error"])
        if not isinstance(answer, dict) or response.status >= 400:
            raise ServerError(
                f"the server answered {method} {path} with status {response.status} and no sense: {data[:200]!r}"
            )
        return answer

    def _head(self, method: str, path: str, length: int) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {self._token}",
            "Content-Type: application/json",
            f"Content-Length: {length}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    # -- connections

    def _open(self, timeout: float | None) -> socket.socket:
        try:
            sock = self._connect()
        except RunkitError:
            raise
        except OSError as error:
            raise ConnectionLost(
                f"no server answers ({error}): it has ended, or its host was started anew. cluster.up_if_not() starts it, "
                "and so does sending code or an env"
            ) from error
        sock.settimeout(timeout)
        with suppress(OSError):  # not a TCP socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _take(self) -> socket.socket | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                sock = self._idle.pop()
            try:
                # Readable though nothing was asked: the other side has closed it.
                if not select.select([sock], [], [], 0)[0]:
                    return sock
            except (OSError, ValueError):
                pass
            sock.close()

    def _give_back(self, response: http.client.HTTPResponse, sock: socket.socket) -> None:
        with self._lock:
            if not response.will_close and len(self._idle) < KEPT:
                self._idle.append(sock)
                return
        sock.close()


def _awaited_line(response: http.client.HTTPResponse, sock: socket.socket) -> bytes:
    """The next line of a stream; a set-up's deadline ends the waiting, a little after the host had to end it itself."""
    set_up = current()
    try:
        sock.settimeout(None if set_up.remaining is None else set_up.remaining + ENDING)
        return response.readline()
    except TimeoutError:
        raise set_up.expired() from None


def _may_repeat(method: str, path: str) -> bool:
    return method in ("GET", "HEAD", "PUT", "DELETE") or path in _REPEATABLE_POSTS or path.endswith("/plan")
