"""The connection to a cluster: one WebSocket that carries every call, made again when it breaks."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.frames import Opcode

from runkit.client.progress import Progress
from runkit.client.session import Session
from runkit.client.websocket import WebSocket
from runkit.errors import ConnectionLost, NotAuthorized, RunkitError, ServerError, WorkerDied
from runkit.wire.streams import CHUNK, prepare, spawn

RECONNECT_SECONDS = float(os.environ.get("RUNKIT_RECONNECT_SECONDS", "60"))
"""How long a broken connection is tried again before its calls fail with `ConnectionLost`."""

_NOTICE_SECONDS = 2.0
"""How long a broken connection goes unnoticed by whoever waits for a call."""

_GONE_SECONDS = 3.0
"""How long the server's port has to refuse until the server is taken for ended: a new one comes up in that time as a rule."""

_ROUTE = struct.Struct("<H")


class Connection:
    """One WebSocket to the server, shared by all calls of this process to one cluster.

    Args:
        name: the cluster's name, for messages.
        open_stream: gives a new byte stream to the server's port, or to the path of a UNIX socket over there; raises
            RunkitError or OSError.
        token: the server's token.
        hello: what the server is told first (client id, code digest, version).
        streams_unix: whether it can reach UNIX sockets.
        bring_back: starts a server again that was killed; False if it was ended on purpose. Raises RunkitError or OSError.
    """

    def __init__(
        self,
        name: str,
        open_stream: Callable[[str | None], socket.socket],
        token: str,
        hello: dict[str, Any],
        streams_unix: bool,
        bring_back: Callable[[], bool],
    ):
        self.name = name
        self._bring_back = bring_back
        self.streams_unix = streams_unix
        self._open_stream = open_stream
        self._token = token
        self._hello = hello
        self._state_lock = threading.RLock()
        self._socket: WebSocket | None = None
        self._sessions: dict[int, Session] = {}
        self._by_env: dict[str, Session] = {}
        self._next_route = 1
        self._closed = False
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        spawn(f"connection-{name}", self._run)

    # -- sessions

    def session(self, env: str) -> Session:
        """The session with the env's worker; a new one if there was none or the worker has been replaced.

        Raises:
            EnvNotFound: the cluster has no such env. ConnectionLost: the connection is closed or does not come back.
        """
        found = self.ready_session(env)
        if found is not None:
            return found
        for attempt in range(5):
            session = self._new_session(env)
            # A worker that died before it could say anything has a successor.
            if not isinstance(session.failure, WorkerDied) or attempt == 4:
                break
        if session.failure is not None:
            raise session.failure
        return session

    def ready_session(self, env: str) -> Session | None:
        """The session with the env's worker if there is one that calls can be sent on at once."""
        found = self._by_env.get(env)
        return found if found is not None and found.usable else None

    def _new_session(self, env: str) -> Session:
        with self._state_lock:
            session = self._by_env.get(env)
            opens = False
            if session is None or session.failure is not None:  # otherwise another thread waits for its greeting
                if self._closed:
                    raise ConnectionLost(f"the connection to {self.name!r} is closed")
                route, self._next_route = self._next_route, self._next_route % 65000 + 1
                session = Session(env, self, route)
                self._sessions[route] = self._by_env[env] = session
                opens = self._socket is not None  # otherwise the next connection does
        if opens:
            self._open_route(session)
        session.greeted.wait()  # ends with the connection, at the latest
        return session

    def expect(self, env: str, worker: Mapping[str, Any]) -> None:
        """The env's worker is this one now: calls from here on go to it, not to one that is about to end."""
        with self._state_lock:
            found = self._by_env.get(env)
            if found is not None and worker and found.generation not in (None, worker["generation"]):
                del self._by_env[env]

    def forget(self, session: Session) -> None:
        """A session has ended: its worker is gone."""
        with self._state_lock:
            self._sessions.pop(session.route, None)
            if self._by_env.get(session.env) is session:
                del self._by_env[session.env]

    def _open_route(self, session: Session) -> None:
        opening = {"route": session.route, "env": session.env, "generation": session.generation}
        try:
            self.send_text({"open": opening})
            self.send_bytes(session.route, session.hello())
        except OSError:  # not connected now; the next connection opens every route
            pass

    # -- sending

    def send_text(self, message: dict[str, Any]) -> None:
        self._send(lambda ws: ws.text(json.dumps(message).encode()))

    def send_bytes(self, route: int, data: bytes) -> None:
        self._send(lambda ws: ws.binary(_ROUTE.pack(route) + data))

    def _send(self, action: Callable[[WebSocket], None]) -> None:
        ws = self._socket
        if ws is None:
            raise ConnectionLost(f"not connected to {self.name!r}")
        try:
            action(ws)
        except BaseException:  # torn half way, also by Ctrl-C: the reader makes a new connection
            with self._state_lock:
                if self._socket is ws:
                    self._socket = None
            ws.abort()
            raise

    # -- the reader's thread

    def wait_ready(self, timeout: float) -> None:
        """Wait for the first connection (`timeout` in seconds).

        Raises:
            RunkitError: it could not be made.
        """
        if not self._ready.wait(timeout):
            raise ConnectionLost(f"no connection to {self.name!r} within {timeout:g} s")
        if self._failure is not None:
            raise self._failure

    def wait_connected(self, timeout: float) -> bool:
        """Wait until the WebSocket stands (`timeout` in seconds); whether it does."""
        deadline = time.monotonic() + timeout
        while self._socket is None and not self._closed and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._socket is not None

    def _run(self) -> None:
        try:
            self._keep_connected()
        except BaseException as error:  # whatever it is: nobody must wait for a reader that has gone
            self._fail(error, f"cannot be used any more ({type(error).__name__}: {error})")

    def _keep_connected(self) -> None:
        broke = time.monotonic()
        deadline = broke + RECONNECT_SECONDS
        refused = 0.0  # since when the host has said that nobody listens there
        told = False
        pause = 0.02
        while not self._closed:
            problem: BaseException
            stood = False
            try:
                ws = WebSocket(prepare(self._open_stream(None)), self._token)
                ws.text(json.dumps({"hello": self._hello}).encode())
                with self._state_lock:
                    if self._closed:
                        ws.abort()
                        return
                    self._socket, stood = ws, True
                    known = list(self._sessions.values())
                for session in known:
                    self._open_route(session)
                self._ready.set()
                pause = 0.02
                self._read(ws)
                problem = ConnectionLost("the server closed the connection")
            except NotAuthorized as error:
                problem, deadline = error, 0.0
            except (RunkitError, OSError, WebSocketException) as error:
                problem = error
            if stood:  # whoever has noticed its end first
                broke, refused, told = time.monotonic(), 0.0, False
                deadline = broke + RECONNECT_SECONDS
            with self._state_lock:
                self._socket = None
            for session in list(self._sessions.values()):
                session.lane.detach()
            if self._closed:
                break
            if time.monotonic() > deadline:
                self._fail(problem, f"broke and did not come back within {RECONNECT_SECONDS:g} s ({problem})")
                return
            if self._ready.is_set() and any(session.awaited for session in list(self._sessions.values())):
                now = time.monotonic()
                refused = (refused or now) if isinstance(problem, ConnectionRefusedError) else 0.0
                if refused and now > refused + _GONE_SECONDS:
                    if not self._revived():
                        self._fail(problem, "broke, and the server has ended")
                        return
                    refused = 0.0
                elif not told and now > broke + _NOTICE_SECONDS:
                    told = True
                    self._tell(f"the connection broke ({problem}); trying again for up to {RECONNECT_SECONDS:g} s")
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _revived(self) -> bool:
        """Have the server that has gone started again, since calls wait for it; False if it has ended for good."""
        try:
            return self._bring_back()
        except OSError:  # the host cannot be reached just now: that may pass
            return True
        except RunkitError as error:
            if not self._closed:
                self._tell(f"the server could not be started again: {error}")
            return False

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a standard error that takes nothing is no reason to end calls
            Progress(self.name)({"warning": text})

    def _fail(self, problem: BaseException, how: str) -> None:
        sessions = self._end()
        if not self._ready.is_set():
            self._failure = (
                problem if isinstance(problem, RunkitError) else ConnectionLost(str(problem) or repr(problem))
            )
        self._ready.set()
        lost = ConnectionLost(f"the connection to {self.name!r} {how}; the call may still be running there")
        for session in sessions:
            session.fail(lost)

    def _end(self) -> list[Session]:
        """There will be no more sessions, and nothing more is sent; gives those there are."""
        with self._state_lock:
            self._closed = True
            ws, self._socket = self._socket, None
            sessions = list(self._sessions.values())
        if ws is not None:
            ws.abort()
        return sessions

    def _read(self, ws: WebSocket) -> None:
        for opcode, data in ws.messages():
            if opcode is Opcode.TEXT:
                self._control(json.loads(data))
            else:
                session = self._sessions.get(_ROUTE.unpack_from(data)[0])
                if session is not None:
                    session.feed(data[2:])

    def _control(self, message: dict[str, Any]) -> None:
        if "opened" in message:
            opened = message["opened"]
            session = self._sessions.get(opened["route"])
            if session is not None:
                session.opened(opened)
        elif "closed" in message:
            closed = message["closed"]
            session = self._sessions.get(closed["route"])
            if session is not None:
                spawn("worker-ended", session.ended, closed)
        elif "error" in message:
            raise ServerError(str(message["error"].get("message", message["error"])))

    @property
    def alive(self) -> bool:
        """False once it has been closed or given up."""
        return not self._closed

    @property
    def connected(self) -> bool:
        """Whether the WebSocket stands right now."""
        return self._socket is not None

    def open_bulk(self, env: str, path: str | None) -> socket.socket:
        """A second byte stream to an env's worker: straight to its socket, else a WebSocket of its own through the server."""
        if path and self.streams_unix:
            return self._open_stream(path)
        near, far = socket.socketpair()
        ws = WebSocket(prepare(self._open_stream(None)), self._token)
        ws.text(json.dumps({"hello": self._hello}).encode())
        ws.text(json.dumps({"open": {"route": 1, "env": env, "generation": None}}).encode())
        spawn("bulk-up", self._pump_up, far, ws)
        spawn("bulk-down", self._pump_down, ws, far)
        return near

    def _pump_up(self, far: socket.socket, ws: WebSocket) -> None:
        try:
            while data := far.recv(CHUNK):
                ws.binary(_ROUTE.pack(1) + data)
        except (OSError, WebSocketException):
            pass
        ws.abort()

    def _pump_down(self, ws: WebSocket, far: socket.socket) -> None:
        try:
            for opcode, data in ws.messages():
                if opcode is Opcode.BINARY:
                    far.sendall(memoryview(data)[2:])
                elif "closed" in json.loads(data):
                    break
        except (OSError, WebSocketException, RunkitError):
            pass
        far.close()

    def close(self) -> None:
        """Say good-bye and close. What runs over there goes on; calls waiting here end with `ConnectionLost`."""
        for session in list(self._sessions.values()):
            session.bye()
        for session in self._end():
            session.fail(
                ConnectionLost(f"the connection to {self.name!r} was closed here; the call goes on over there")
            )
