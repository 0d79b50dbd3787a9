"""Who owns which key: the directory with the stores of several workers on its lines, without workers or server around them."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runkit.server.directory import Directory
from runkit.worker.control import Control
from runkit.worker.store import Store
from tests.server.running import eventually


async def nobody(*asked: Any) -> Any:
    raise AssertionError("these tests have no servlets")


class Cluster:
    """A directory that listens, in a thread of its own."""

    def __init__(self, path: Path):
        self.directory = Directory(nobody, nobody)
        self._path = path
        self._over = False
        self._parked = 0
        self._listens = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self._thread.start()
        assert self._listens.wait(10)

    async def _serve(self) -> None:
        await self.directory.listen(self._path)
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._listens.set()
        await self._end.wait()

    def store(self, env: str, before_drop: Callable[[], object] = lambda: None) -> Store:
        """The store of an env's worker, on a line of its own."""

        def hello() -> dict[str, Any]:
            if self._over:
                self._parked += 1
                threading.Event().wait()  # it would go on looking for its server, for as long as these tests run
            return {"env": env, "generation": 1, "keys": []}

        def order(message: dict[str, Any]) -> None:
            assert message["op"] == "drop"
            before_drop()
            made.drop(message["key"])

        control = Control(str(self._path), hello, order)
        made = Store(env, control)
        control.start()
        eventually(lambda: env in self.directory._lines)
        return made

    def close(self) -> None:
        self._over = True
        for line in list(self.directory._lines.values()):
            self._loop.call_soon_threadsafe(line._writer.close)
        eventually(lambda: self._parked == 3)
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="rkd", dir="/tmp") as folder:
        made = Cluster(Path(folder) / "server.sock")
        yield made
        made.close()


def test_two_envs_take_a_key_from_a_third_that_is_slow(cluster: Cluster) -> None:
    """Each has it or has it not, and the last one that put it is the one that has it."""
    asked, go_on = threading.Event(), threading.Event()
    first, second = cluster.store("first"), cluster.store("second")
    slow = cluster.store("slow", lambda: (asked.set(), go_on.wait(4)))
    slow.put("k", "old")
    puts = [threading.Thread(target=one.put, args=("k", "new")) for one in (first, second)]
    puts[0].start()
    assert asked.wait(10)
    puts[1].start()
    eventually(lambda: cluster.directory.owner("k") == "second")
    go_on.set()
    for put in puts:
        put.join()
    assert ["k" in one for one in (first, second, slow)] == [False, True, False]
    eventually(lambda: not cluster.directory._turns)


def test_a_key_that_is_put_deleted_and_put_again_while_others_want_it(cluster: Cluster) -> None:
    asked, go_on = threading.Event(), threading.Event()
    first, second = cluster.store("first"), cluster.store("second")
    slow = cluster.store("slow", lambda: (asked.set(), go_on.wait(4)))
    slow.put("k", "old")
    threads = [threading.Thread(target=one.put, args=("k", "new")) for one in (first, second, first)]
    threads[0].start()
    assert asked.wait(10)
    threads[1].start()
    eventually(lambda: cluster.directory.owner("k") == "second")
    first.delete(["k"])
    threads[2].start()
    eventually(lambda: cluster.directory.owner("k") == "first")
    go_on.set()
    for thread in threads:
        thread.join()
    assert ["k" in one for one in (first, second, slow)] == [True, False, False]


def test_losses_of_one_env_that_are_collected_twice_at_once() -> None:
    directory = Directory(nobody, nobody)
    directory._owners["k"] = "env"
    with directory.losses("env") as outer:
        with directory.losses("env") as inner:
            pass
        directory.forget("env")
    assert (outer, inner) == ({"k"}, set())
