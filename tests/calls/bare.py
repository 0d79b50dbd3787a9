"""A worker by itself, without cluster or server, and a client that speaks frames to it: what it does when clients misbehave."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runkit.servlet.keeper import Keeper
from runkit.servlet.processes import memory
from runkit.servlet.spawn import WorkerSpec, clean_environment
from runkit.wire import codec, failure, frames
from runkit.wire.frames import BLOB_HEADER, Decoder, Frame
from runkit.wire.streams import read_one
from tests.hosts import REPOSITORY


class Bare:
    """A running worker."""

    def __init__(self, keeper: Keeper):
        self.keeper = keeper
        self._clients: list[Client] = []

    @property
    def info(self) -> dict[str, Any]:
        found = self.keeper.state()["worker"]
        assert found is not None, "the worker died"
        return dict(found)

    @property
    def rss(self) -> int:
        """Its memory in bytes."""
        return memory(self.info["pid"])

    @property
    def log(self) -> str:
        return Path(self.keeper.spec.log).read_text()

    def client(self, **hello: Any) -> Client:
        """A new client of it."""
        made = Client(self.info["socket"], **hello)
        self._clients.append(made)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.drop()
        self.keeper.stop()


@contextmanager
def bare_worker(folder: Path, control: str = "", **constants: Any) -> Iterator[Bare]:
    """A worker of this interpreter; functions of this repository are called by reference.

    Args:
        control: the server's UNIX socket, if there is one.
        constants: `module__NAME=value`: waits that are too long for a test.
    """
    boot = REPOSITORY / "runkit/worker/boot.py"
    if constants:
        lines = [f"import sys; sys.path[0] = {str(REPOSITORY)!r}"]
        for name, value in constants.items():
            module, _, constant = name.partition("__")
            lines.append(f"import runkit.worker.{module}; runkit.worker.{module}.{constant} = {value!r}")
        boot = folder / "boot.py"
        boot.write_text("\n".join([*lines, "from runkit.worker.main import main", "main()"]))
    spec = WorkerSpec(
        env="bare",
        mark=f"{folder}:bare",
        python=sys.executable,
        boot=str(boot),
        sockets=str(folder),
        control=control,
        log=str(folder / "bare.log"),
        environment=clean_environment(os.environ),
        env_vars={},
        roots_home=str(folder / "roots"),
    )
    keeper = Keeper(spec)
    keeper.start()
    bare = Bare(keeper)
    try:
        yield bare
    finally:
        bare.close()


class Client:
    """One session with a worker, spoken frame by frame."""

    def __init__(self, path: str, **hello: Any):
        self._path = path
        self.id = f"test-{os.urandom(6).hex()}"
        self._sequence = 0
        self._calls = 0
        self._decoder = Decoder()
        self._arrived: list[Frame] = []
        self._ended: dict[int, Frame] = {}
        self.said = b""
        """What came as output, of either stream."""
        self._sockets: list[socket.socket] = []
        self.sock = self._connect({"lane": "main", "inline": True, "received": 0, **hello})

    def _connect(self, hello: dict[str, Any]) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(self._path)
        sock.sendall(frames.encode(frames.HELLO, meta={"session": self.id, **hello}))
        self._sockets.append(sock)
        self.welcome = read_one(sock).meta
        return sock

    def bulk(self) -> socket.socket:
        """A bulk connection of this session."""
        return self._connect({"lane": "bulk"})

    def send(self, kind: int, call: int = 0, meta: dict[str, Any] | None = None, parts: Any = ()) -> None:
        """Send the next frame of the session."""
        self._sequence += 1
        self.sock.sendall(frames.encode(kind, call, meta, parts, self._sequence))

    def call(self, function: Callable[..., Any] | str, *args: Any, root: str = "", **options: Any) -> int:
        """Begin a call; gives its number.

        Args:
            function: one of this repository, or "module:name".
            root: the id of its root.
            options: as in the frame's meta.
        """
        self._calls += 1
        ref = function.split(":") if isinstance(function, str) else [function.__module__, function.__qualname__]
        target = {"ref": ref, "roots": [{"id": root}] if root else []}
        self.send(frames.CALL, self._calls, {"target": target, **options}, codec.dump((args, {})))
        return self._calls

    def next(self) -> Frame:
        """The next frame that arrives."""
        while not self._arrived:
            data = self.sock.recv(65536)
            assert data, "the worker hung up"
            self._arrived += self._decoder.feed(data)
        return self._arrived.pop(0)

    def result(self, call: int) -> Any:
        """What a call gives, or raises; output before it is gathered, other frames are dropped."""
        while call not in self._ended:
            frame = self.next()
            if frame.kind == frames.LOG:
                self.said += bytes(frame.parts[0])
            elif frame.kind in (frames.RESULT, frames.ERROR):
                self._ended[frame.call] = frame
        frame = self._ended.pop(call)
        if frame.kind == frames.ERROR:
            raise failure.unpack(frame.meta["failure"], frame.parts, "bare")
        return codec.load(frame.parts)

    def until(self, kind: int, call: int) -> Frame:
        """The next frame of this kind and call; those before it are dropped."""
        while True:
            frame = self.next()
            if (frame.kind, frame.call) == (kind, call):
                return frame

    def run(self, function: Callable[..., Any] | str, *args: Any, **options: Any) -> Any:
        return self.result(self.call(function, *args, **options))

    def drop(self) -> None:
        """End without a word, as a client that was killed."""
        for sock in self._sockets:
            sock.close()


def blob(number: int, length: int, sent: int) -> bytes:
    """The first `sent` bytes of a blob of `length`."""
    return BLOB_HEADER.pack(number, length) + bytes(sent)
