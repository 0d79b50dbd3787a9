"""A real server for tests: started as people start it, spoken to as clients speak to it."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from runkit.client.api import Api
from runkit.wire import frames, places, ports

REPOSITORY = Path(__file__).resolve().parents[2]


def free_ports() -> int:
    """The first of a hundred free ports, below the range that the system gives out by itself, and not those of the other test process."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(20000 + process % 2 * 5000 + os.getpid() % 40 * 100, 30000, 100):
        if ports.are_free(port, 12):
            return port
    raise RuntimeError("no free ports")


def command(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m runkit.server …`."""
    return subprocess.run(
        [sys.executable, "-m", "runkit.server", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )


class Server:
    """One server on this machine."""

    def __init__(self, port: int):
        self.port = port
        self.runtime = places.runtime(port)
        self.lasting = places.server_home(port)

    def start(self) -> dict[str, Any]:
        done = command("start", "--port", str(self.port))
        return self.started(done)

    def started(self, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return json.loads(done.stdout.splitlines()[-1])["ready"]

    def stop(self) -> None:
        done = command("stop", "--port", str(self.port))
        assert done.returncode == 0, done.stdout + done.stderr

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in (self.lasting / "log").glob("*"))

    @property
    def token(self) -> str:
        return (self.lasting / "token").read_text()

    @property
    def api(self) -> Api:
        return Api(lambda: socket.create_connection(("127.0.0.1", self.port)), self.token)

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.runtime / "server.json").read_text())

    def env(self, name: str = "default") -> dict[str, Any]:
        return self.api.json("GET", "/v1/status")["envs"][name]

    def processes(self) -> list[int]:
        """Every process of this server: it, its Ray, its workers and what they started."""
        found = []
        needle, itself = f"{self.runtime}".encode(), f"runkit.server\0serve\0--port\0{self.port}\0".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if (needle in text or itself in text) and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return sorted(found)

    @contextmanager
    def websocket(self, token: str | None = None) -> Iterator[ClientConnection]:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        with connect(
            f"ws://127.0.0.1:{self.port}/v1/ws", additional_headers=headers, proxy=None, compression=None, max_size=None
        ) as ws:
            ws.send(json.dumps({"hello": {"client": "test", "code": "", "version": "", "session": "s"}}))
            assert "welcome" in json.loads(ws.recv(10))
            yield ws

    @contextmanager
    def stream(self, env: str = "default") -> Iterator[Stream]:
        with self.websocket() as ws:
            yield Stream(ws, env)


class Stream:
    """A route to a worker, with JSON calls on it."""

    def __init__(self, ws: ClientConnection, env: str, route: int = 7):
        self.ws = ws
        self.route = route
        self.control: list[dict[str, Any]] = []
        self._decoder = frames.Decoder()
        self._frames: list[frames.Frame] = []
        self._seq = 0
        self.session = os.urandom(4).hex()
        ws.send(json.dumps({"open": {"route": route, "env": env}}))
        self.send(
            frames.encode(frames.HELLO, meta={"session": self.session, "lane": "main", "inline": True, "received": 0})
        )
        assert self.frame().kind == frames.WELCOME

    def send(self, data: bytes) -> None:
        self.ws.send(struct.pack("<H", self.route) + data)

    def start(self, module: str, name: str, *args: Any) -> int:
        self._seq += 1
        target = {"ref": [module, name]}
        body = json.dumps({"args": args, "kwargs": {}}).encode()
        self.send(
            frames.encode(
                frames.CALL, self._seq, {"target": target, "log": 1}, [body], seq=self._seq, flags=frames.FLAG_JSON
            )
        )
        return self._seq

    def call(self, module: str, name: str, *args: Any) -> Any:
        """Call a function over there; its result, or the message that says that the worker has gone."""
        number = self.start(module, name, *args)
        while True:
            frame = self.frame()
            if isinstance(frame, dict):
                return frame
            if frame.call == number and frame.kind == frames.RESULT:
                return json.loads(bytes(frame.parts[0]))
            if frame.call == number and frame.kind == frames.ERROR:
                raise RuntimeError(frame.meta["failure"]["chain"][0])

    def frame(self) -> Any:
        """The next frame, or the message that this route has closed."""
        while not self._frames:
            message = self.ws.recv(30)
            if isinstance(message, str):
                told = json.loads(message)
                self.control.append(told)
                if "closed" in told:
                    return told["closed"]
            else:
                assert struct.unpack("<H", message[:2])[0] == self.route
                self._frames += self._decoder.feed(message[2:])
        return self._frames.pop(0)


def plan(name: str, **changes: Any) -> dict[str, Any]:
    """A plan as a client sends it."""
    build = changes.pop("build", f"test-{name}")
    return {
        "name": name,
        "request": changes.get("request", "1"),
        "build": build,
        "python": {"version": f"{sys.version_info[0]}.{sys.version_info[1]}", "path": sys.executable},
        "lock": "",
        "packages": [],
        "env_vars": {},
        "setup_cmds": [],
        "compute": {},
        "roots": [],
        "working_dir": None,
        "spec": {"asked": name},
        **changes,
    }


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of `check`."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)
    return found
