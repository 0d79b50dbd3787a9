"""Workers that die under a call: how the call ends, and what goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from tests.calls import jobs, jobs_stopping
from tests.calls.clients import Client, until
from tests.hosts import Host

SOON = 3.0
"""Seconds; "within a second" on a machine that others use too."""


@pytest.fixture
def on(cluster: rk.Cluster, side: rk.Env) -> Iterator[Callable[[Any], Any]]:
    """Makes functions that run in the second env."""
    yield lambda function: rk.function(function).to(cluster, env=side)
    cluster.delete(cluster.keys(env=side))


@pytest.mark.parametrize(
    ("how", "exitcode", "signal"),
    [("exit", 7, None), ("SIGSEGV", None, "SIGSEGV"), ("SIGKILL", None, "SIGKILL"), ("SIGABRT", None, "SIGABRT")],
)
def test_how_it_died(cluster: rk.Cluster, on: Callable[[Any], Any], how: str, exitcode: int, signal: str) -> None:
    elsewhere = rk.function(jobs.nap).to(cluster).submit(2, "noticed nothing")
    other = rk.function(jobs.pid).to(cluster)
    before, elsewhere_before = on(jobs.pid)(), other()
    began = time.monotonic()
    with pytest.raises(rk.errors.WorkerDied) as caught:
        on(jobs.die)(how)
    assert time.monotonic() - began < SOON
    assert (caught.value.exitcode, caught.value.signal) == (exitcode, signal)
    assert "last words" in caught.value.stderr
    assert "last words" in str(caught.value)
    assert "'side'" in str(caught.value)
    assert (str(exitcode) if signal is None else signal) in str(caught.value)
    if how == "SIGSEGV":  # the Python stack of the crash is among the last lines
        assert "in die" in caught.value.stderr
    began = time.monotonic()
    assert on(jobs.pid)() != before
    assert time.monotonic() - began < SOON
    assert elsewhere.result() == "noticed nothing"
    assert other() == elsewhere_before


def test_all_its_calls_end(on: Callable[[Any], Any]) -> None:
    calls = [on(jobs.nap).submit(60) for _ in range(20)]
    stream = on(jobs_stopping.slow_items)(0.01)
    next(stream)
    with pytest.raises(rk.errors.WorkerDied):
        on(jobs.die)("exit")
    for call in calls:
        with pytest.raises(rk.errors.WorkerDied) as caught:
            call.result(10)
        assert caught.value.exitcode == 7
    with pytest.raises(rk.errors.WorkerDied):
        list(stream)
    assert sum(on(jobs.add).map(range(100))) == sum(range(100))


def test_its_objects_are_gone(cluster: rk.Cluster, side: rk.Env, on: Callable[[Any], Any]) -> None:
    cluster.put("model", [1], env=side)
    with pytest.raises(rk.errors.WorkerDied):
        on(jobs.die)("SIGKILL")
    with pytest.raises(KeyError):
        cluster.get("model")
    assert cluster.keys(env=side) == []
    cluster.put("model", [2], env=side)
    assert cluster.get("model") == [2]


def test_its_children_are_gone(
    cluster: rk.Cluster, on: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = on(jobs.spawn_sleeper).submit(60)
    said: list[str] = []
    assert until(lambda: said.extend(capsys.readouterr().out.split()) or said)
    with pytest.raises(rk.errors.WorkerDied):
        on(jobs.die)("exit")
    assert isinstance(waiting.exception(10), rk.errors.WorkerDied)
    assert until(lambda: not on(jobs.alive)(int(said[0])))


def test_a_fork_does_not_hide_a_death(on: Callable[[Any], Any]) -> None:
    """A forked child has copies of all descriptors; the end of the worker is seen all the same."""

    def fork_and_die() -> None:
        import os
        import time

        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os._exit(9)

    began = time.monotonic()
    with pytest.raises(rk.errors.WorkerDied) as caught:
        on(fork_and_die)()
    assert caught.value.exitcode == 9
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("submitted", [False, True])
def test_retries(on: Callable[[Any], Any], submitted: bool) -> None:
    """They cover what is runkit's to answer for, and never the user's own exceptions."""
    again = on(jobs_stopping.count_up).options(retries=2)
    call = (lambda *args: again.submit(*args).result()) if submitted else again
    path = f"/tmp/retried-{time.time_ns()}"
    assert call(path, "SIGKILL") == 2
    with pytest.raises(ValueError, match="1"):
        call(path + "-raise", "raise")
    assert call(path + "-raise") == 2  # that was its second call
    with pytest.raises(rk.errors.WorkerDied):
        on(jobs_stopping.count_up).options(retries=0)(path + "-once", "exit")
    with pytest.raises(rk.errors.CallTimeout):
        on(jobs.nap).options(retries=2, timeout=0.3)(60)


def test_an_exception_of_runkit_raised_by_the_user_is_not_retried(on: Callable[[Any], Any]) -> None:
    def raise_it(path: str) -> None:
        with open(path, "a") as file:
            file.write("x")
        raise rk.errors.WorkerDied("another one")

    path = f"/tmp/own-error-{time.time_ns()}"
    with pytest.raises(rk.errors.WorkerDied, match="another one"):
        on(raise_it).options(retries=2)(path)
    assert on(jobs_stopping.count_up)(path) == 2


async def test_system_exit_ends_nothing(on: Callable[[Any], Any]) -> None:
    before = on(jobs.pid)()

    async def leave() -> None:
        sys.exit(5)

    with pytest.raises(rk.errors.RemoteError) as caught:
        on(jobs.fail)("exit")
    assert caught.value.type_name == "SystemExit"
    with pytest.raises(rk.errors.RemoteError) as caught:
        await on(leave)()
    assert caught.value.type_name == "SystemExit"
    assert on(jobs.pid)() == before


def test_a_death_in_a_script(host: Host, tmp_path: Path) -> None:
    """What a user reads who runs a script: the error, and no traceback of threads of runkit's own."""
    with Client(host, tmp_path, "rk.function(os._exit).to(c, env='side')(4)") as client:
        assert client.end() == 1
    assert "WorkerDied: the process of env 'side' on cluster 'box' ended with exit code 4" in client.output
    assert client.output.count("Traceback") == 1
