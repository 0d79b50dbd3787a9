"""What a worker does by itself: roots side by side, its line to the server, what it tells of calls that do not stop."""

from __future__ import annotations

import json
import os
import resource
import socket
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runkit.wire import frames
from tests.calls import jobs, jobs_bare, jobs_output
from tests.calls.bare import Bare, bare_worker


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rkb", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def worker(folder: Path) -> Iterator[Bare]:
    with bare_worker(folder, stopper__PATIENCE=0.3) as made:
        yield made


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    """Writes a module into a root, as a sync does."""

    def write(root: str, name: str, text: str) -> Path:
        tree = folder / "roots" / root / "tree"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(textwrap.dedent(text))
        fresh = folder / "manifest"
        fresh.write_text(text)
        return fresh.replace(tree.parent / "manifest.json")

    return write


def test_objects_got_by_key_are_of_the_newest_class(worker: Bare, write: Callable[..., Path]) -> None:
    code = """
        import runkit as rk
        class Thing:
            def say(self):
                return {said!r}
        def make():
            rk.here.put("thing", Thing())
        def use():
            return rk.here.get("thing").say()
        """
    client = worker.client()
    write("r1", "things.py", code.format(said="old"))
    client.run("things:make", root="r1")
    assert client.run("things:use", root="r1") == "old"
    write("r1", "things.py", code.format(said="edited"))
    assert client.run("things:use", root="r1") == "edited"


def test_modules_of_a_root_that_are_called_like_standard_ones(worker: Bare, write: Callable[..., Path]) -> None:
    """The first call of a process comes before all that pickles by value has been imported."""
    write("r1", "platform.py", "raise RuntimeError('what describes this machine lies elsewhere')")
    write("r1", "maker.py", "def make():\n    return lambda: 7\n")
    assert worker.client().run("maker:make", root="r1")() == 7


def test_functions_of_two_projects_share_no_limit(worker: Bare) -> None:
    """Both are imported at once, by the first calls of this process."""
    client = worker.client()
    calls = [client.call(jobs_bare.meet, root=root, conc=1) for root in ("r1", "r2")]
    for call in calls:
        client.result(call)
    calls = [client.call(jobs.watched, 0.1, root="r3", conc=1) for _ in range(2)]
    assert [client.result(call) for call in calls] == [1, 1]


def test_coroutines_have_the_folder_of_their_call(worker: Bare, write: Callable[..., Path], folder: Path) -> None:
    for root in ("r1", "r2"):
        write(root, "empty.py", "")
    client = worker.client()
    tree = str(folder / "roots/{}/tree")
    assert client.run(jobs_bare.cwd_of_coroutine, root="r1") == tree.format("r1")
    beside = client.call(jobs.nap, 0.5, root="r1")
    assert client.run(jobs_bare.cwd_of_coroutine, root="r2") == tree.format("r2")
    client.result(beside)
    assert client.run(jobs_bare.cwd, root="r1") == tree.format("r1")


def test_a_call_that_waits_for_the_import_of_another_project(worker: Bare, write: Callable[..., Path]) -> None:
    write("r1", "slow.py", "import time; print('importing'); time.sleep(3)\ndef f(): return 1")
    write("r2", "quick.py", "def f(): return 2")
    client = worker.client()
    slow = client.call("slow:f", root="r1")
    client.until(frames.LOG, slow)
    waiting = client.call("quick:f", root="r2")
    client.send(frames.CANCEL, waiting, {"why": "cancel"})
    assert client.until(frames.CANCELLED, waiting).meta == {"stopped": True}
    assert client.result(slow) == 1
    assert client.run("quick:f", root="r2") == 2


def test_a_call_that_does_not_stop_where_the_process_cannot_be_replaced(worker: Bare) -> None:
    client = worker.client()
    call = client.call(jobs_output.stubborn_talker, 3.0)
    client.until(frames.LOG, call)
    client.send(frames.CANCEL, call, {"why": "cancel"})
    assert client.until(frames.CANCELLED, call).meta["replaced"]
    told = client.until(frames.CANCELLED, call).meta
    assert not told["stopped"]
    assert "does not react" in told["how"]
    assert client.run(jobs.add, 1, 2) == 3


def test_connections_beyond_the_limit_of_descriptors(worker: Bare) -> None:
    client, pid = worker.client(), worker.info["pid"]
    client.run(jobs.pid)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), hard))
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(worker.info["socket"])
        client.run(jobs.nap, 0.3)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert worker.client().run(jobs.add, 1, 2) == 3


def test_a_connection_while_no_thread_can_be_started(worker: Bare) -> None:
    client = worker.client()
    client.run(jobs.pid)
    client.until(frames.LOG, client.call(jobs_bare.use_up_threads, 0.3))
    assert worker.client().run(jobs.add, 1, 2) == 3


class Line:
    """The server's end of a worker's line, with the test in the server's place."""

    def __init__(self, path: Path):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def accept(self) -> None:
        self.sock, _ = self._listener.accept()
        self.sock.settimeout(20)
        self._lines = self.sock.makefile("rb")
        assert self.read()["op"] == "hello"

    def read(self) -> dict[str, Any]:
        return json.loads(self._lines.readline())

    def write(self, **message: Any) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self._lines.close()
        self.sock.close()


@pytest.fixture
def line(folder: Path) -> Line:
    return Line(folder / "control.sock")


@pytest.fixture
def told(folder: Path, line: Line) -> Iterator[Bare]:
    """A worker on that line."""
    with bare_worker(folder, str(folder / "control.sock")) as made:
        line.accept()
        yield made
        line.close()


def test_two_envs_put_the_same_key_at_once(told: Bare, line: Line) -> None:
    """The other env's claim came first: the order that follows from it does not cost what was stored here since."""
    client = told.client()
    call = client.call(jobs.put_here, "k", [1])
    claim = line.read()
    line.write(op="drop", key="k", id=1)
    assert line.read() == {"id": 1, "ok": None}
    line.write(id=claim["id"], ok=None)
    client.result(call)
    assert client.run(jobs.get_here, "k") == [1]
    line.write(op="drop", key="k", id=2)
    assert line.read() == {"id": 2, "ok": None}
    call = client.call(jobs.get_here, "k", "gone")
    line.write(id=line.read()["id"], ok=None)
    assert client.result(call) == "gone"


def test_the_server_goes_away_while_it_is_asked(told: Bare, line: Line) -> None:
    client = told.client()
    call = client.call(jobs.put_here, "k", 1)
    line.read()
    line.close()
    line.accept()
    with pytest.raises(Exception, match="went away before it answered 'claim'"):
        client.result(call)
