"""How calls are sent: once, at the right time, what is sent ahead, and what is sent again."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import runkit as rk
from tests.calls import jobs, jobs_stopping
from tests.calls.clients import until


def test_a_missing_env_of_the_users_own_is_not_called_again(cluster: rk.Cluster) -> None:
    """What user code raises is its result, whatever its type: the call has run, and runs once."""

    def raise_it(path: str) -> None:
        with open(path, "a") as file:
            file.write("x")
        raise rk.errors.EnvNotFound("one of mine")

    path = f"/tmp/own-error-{time.time_ns()}"
    with pytest.raises(rk.errors.EnvNotFound, match="one of mine"):
        rk.function(raise_it).to(cluster)(path)
    assert rk.function(jobs_stopping.count_up).to(cluster)(path) == 2


# -- callbacks and timeouts of submitted calls


def test_a_callback_that_exits_stops_nothing(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    add = rk.function(jobs.add).to(cluster)
    nap = rk.function(jobs.nap).to(cluster)
    call = nap.submit(0.2)
    call.add_done_callback(lambda _: sys.exit(3))
    call.result(20)
    assert add.submit(1, 2).result(20) == 3
    assert "SystemExit: 3" in capsys.readouterr().err


def test_timeouts_of_many_calls_share_a_thread(cluster: rk.Cluster) -> None:
    nap = rk.function(jobs.nap).to(cluster)
    before = threading.active_count()
    calls = [nap.options(timeout=60 - i).submit(0.5) for i in range(30)]
    assert threading.active_count() < before + 10
    assert [call.result(20) for call in calls] == [None] * 30
    with pytest.raises(rk.errors.CallTimeout):
        nap.options(timeout=0.1).submit(60).result(20)


def test_a_call_in_a_notebook(cluster: rk.Cluster) -> None:
    call = rk.function(lambda: None).to(cluster).submit()
    assert "&lt;lambda&gt;" in call._repr_html_()
    call.result(20)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e300, True, "1"])
def test_timeouts_that_are_none(timeout: Any) -> None:
    with pytest.raises(rk.errors.UsageError, match="timeout is a number of seconds"):
        rk.function(jobs.add).options(timeout=timeout)


# -- map


def test_map_gives_what_came_before_an_argument_that_fails(cluster: rk.Cluster) -> None:
    add = rk.function(jobs.add).to(cluster)

    def arguments() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError("no third one")

    results = add.map(arguments())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(LookupError, match="no third one"):
        next(results)
    assert list(results) == []


def test_map_gives_what_came_before_an_argument_that_cannot_be_sent(cluster: rk.Cluster) -> None:
    results = rk.function(jobs.add).to(cluster).map([1, 2, threading.Lock(), 4])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(rk.errors.NotPicklable):
        next(results)
    assert list(results) == []


def test_map_with_a_timeout_sends_what_can_run(cluster: rk.Cluster) -> None:
    """A call's time counts from sending, so none is sent to wait for its turn."""
    taken: list[int] = []

    def arguments() -> Iterator[int]:
        for i in range(10):
            taken.append(i)
            yield i

    results = rk.function(jobs.add).to(cluster).options(timeout=60, concurrency=2).map(arguments())
    assert taken == [0, 1]
    assert next(results) == 0
    assert taken == [0, 1, 2]
    assert list(results) == list(range(1, 10))


# -- generators


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_retries_of_generators(cluster: rk.Cluster, side: rk.Env, asynchronous: bool) -> None:
    """Until the first item has come; what has been given out once is not given again."""

    def items(path: str, after: str = "") -> Iterator[int]:
        yield jobs_stopping.count_up(path, "SIGKILL")
        if after:
            jobs.die(after)

    async def later_items(path: str, after: str = "") -> Any:
        for item in items(path, after):
            yield item

    made = rk.function(later_items if asynchronous else items).to(cluster, env=side)

    async def take(path: str, after: str = "", retries: int = 1) -> list[int]:
        stream = made.options(retries=retries)(path, after)
        return [item async for item in stream] if asynchronous else list(stream)

    path = f"/tmp/retried-items-{time.time_ns()}"
    assert await take(path) == [2]
    with pytest.raises(rk.errors.WorkerDied):
        await take(path, "exit")
    with pytest.raises(rk.errors.WorkerDied):
        await take(path + "-once", retries=0)


async def test_an_async_generator_begins_with_its_first_item(cluster: rk.Cluster, side: rk.Env) -> None:
    async def noting(key: str) -> Any:
        rk.here.put(key, "begun")
        yield 1

    stream = rk.function(noting).to(cluster, env=side)("noted")
    assert rk.function(jobs.get_here).to(cluster, env=side)("noted", None) is None
    assert [item async for item in stream] == [1]
    assert cluster.get("noted") == "begun"
    cluster.delete("noted")


# -- constructors


def test_a_class_with_methods_like_the_proxys_own(cluster: rk.Cluster) -> None:
    made = rk.module(jobs.Fetcher).to(cluster)(name="fetcher")
    assert (made.env(), made.key()) == ("my env", "my key")
    cluster.delete("fetcher")


def test_a_parameter_called_name(cluster: rk.Cluster) -> None:
    here = rk.module(jobs.Named)
    assert here(name="bob").who() == "bob"
    assert here("bob", name="a key").who() == "bob"
    assert rk.module(jobs.Trainer)(0.5, name="a key").lr == 0.5
    there = here.to(cluster)
    with pytest.raises(rk.errors.UsageError, match=r"parameter `name` of its own.*Named\('bob', name='a key'\)"):
        there(name="bob")
    assert there("bob", name="k").who() == "bob"
    assert there("eve").who() == "eve"
    assert cluster.get("k", remote=True).who() == "bob"
    assert here.get_or_to(cluster, name="other").who() == "nobody"
    cluster.clear()
    assert until(lambda: cluster.keys() == [])
