"""Stopping calls: timeouts, cancellation, Ctrl-C, dropped generators; what stops, what is replaced, what is left alone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
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
"""Seconds; "a second or so" on a machine that others use too."""


@pytest.fixture
def on(cluster: rk.Cluster, side: rk.Env) -> Iterator[Callable[[Any], Any]]:
    """Makes functions that run in the second env."""
    yield lambda function: rk.function(function).to(cluster, env=side)
    cluster.delete(cluster.keys(env=side))


def gone(on: Callable[[Any], Any], pids: list[int]) -> bool:
    assert pids
    alive = on(jobs.alive)
    return until(lambda: not any(alive.map(pids)), 5)


def printed_pids(capsys: pytest.CaptureFixture[str]) -> list[int]:
    return [int(word) for word in capsys.readouterr().out.split() if word.isdigit()]


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (jobs.nap, (60,)),
        (jobs_stopping.wait_for_data, ()),
        (jobs_stopping.spin, ()),
        (jobs.spawn_sleeper, (60,)),
        (jobs_stopping.run_child, (60,)),
        (jobs_stopping.system_child, (60,)),
        (jobs_stopping.has_a_thread, (60,)),
        (lambda: time.sleep(60), ()),
    ],
)
def test_a_timeout_stops_the_work(
    on: Callable[[Any], Any], capsys: pytest.CaptureFixture[str], function: Any, args: Any
) -> None:
    before = on(jobs.pid)()
    slow = on(function).options(timeout=1)
    began = time.monotonic()
    with pytest.raises(rk.errors.CallTimeout, match="timeout of 1 s; its work was stopped") as caught:
        slow(*args)
    assert time.monotonic() - began < 1 + SOON
    assert isinstance(caught.value, TimeoutError)
    if pids := printed_pids(capsys):
        assert gone(on, pids)
    assert bool(pids) == (function in (jobs.spawn_sleeper, jobs_stopping.run_child, jobs_stopping.system_child))
    assert on(jobs.pid)() == before


@pytest.mark.parametrize(
    "function", [jobs.nap, jobs_stopping.spin, jobs.spawn_sleeper, jobs_stopping.run_child, jobs_stopping.has_a_thread]
)
def test_a_timeout_among_other_calls(
    on: Callable[[Any], Any], capsys: pytest.CaptureFixture[str], function: Any
) -> None:
    before = on(jobs.pid)()
    bystander = on(jobs.child_says).submit("bystander", 2.0)
    slow = on(function).options(timeout=1)
    with pytest.raises(rk.errors.CallTimeout) as caught:
        slow() if function is jobs_stopping.spin else slow(60)
    # On a thread, what waits inside C code cannot be woken; and the process is not replaced under the other call.
    assert ("could not be stopped" if function is jobs.nap else "its work was stopped") in str(caught.value)
    bystander.result()
    printed = capsys.readouterr().out
    assert printed.count("bystander") == 3
    if pids := [int(word) for word in printed.split() if word.isdigit() and int(word) > 3]:
        assert gone(on, pids)
    assert on(jobs.pid)() == before


def test_timeouts_of_coroutines(on: Callable[[Any], Any]) -> None:
    before = on(jobs.pid)()

    async def both() -> None:
        with pytest.raises(rk.errors.CallTimeout):
            await on(jobs.later).options(timeout=0.3)(1, 60)
        with pytest.raises(rk.errors.CallTimeout):
            await on(jobs_stopping.blocking_coroutine).options(timeout=0.3)()
        assert await on(jobs.later)(1) == 1

    began = time.monotonic()
    asyncio.run(both())
    assert time.monotonic() - began < 2 * SOON
    assert on(jobs.pid)() == before


def test_the_timeout_of_a_generator_is_for_each_item(on: Callable[[Any], Any]) -> None:
    items = on(jobs_stopping.slow_items).options(timeout=1)
    quick = items(0.3)
    assert [next(quick) for _ in range(6)] == list(range(6))  # 1.5 s together
    quick.close()
    slow = items(60)
    assert next(slow) == 0
    with pytest.raises(rk.errors.CallTimeout):
        next(slow)
    assert list(slow) == []
    assert on(jobs.add)(1, 2) == 3

    async def ticks() -> None:
        stream = on(jobs_stopping.slow_ticks).options(timeout=0.5)(60, "ticks")
        assert await anext(stream) == 0
        with pytest.raises(rk.errors.CallTimeout):
            await anext(stream)

    asyncio.run(ticks())
    assert on(jobs.get_here)("ticks") == "closed"


def test_a_submitted_call_times_out(on: Callable[[Any], Any]) -> None:
    call = on(jobs.nap).options(timeout=0.3).submit(60)
    with pytest.raises(rk.errors.CallTimeout):
        call.result(10)
    assert not call.cancelled()
    assert on(jobs.nap).options(timeout=5).submit(0.01, 3).result() == 3


def test_a_stubborn_call_costs_the_process_when_alone(
    cluster: rk.Cluster, side: rk.Env, on: Callable[[Any], Any]
) -> None:
    cluster.put("model", [1], env=side)
    before = on(jobs.pid)()
    with pytest.raises(rk.errors.CallTimeout, match=r"replaced.*'model'"):
        on(jobs.stubborn).options(timeout=0.3)(60)
    assert on(jobs.pid)() != before
    assert cluster.keys(env=side) == []


def test_a_stubborn_call_among_others_goes_on(cluster: rk.Cluster, side: rk.Env, on: Callable[[Any], Any]) -> None:
    cluster.put("model", [1], env=side)
    before = on(jobs.pid)()
    bystander = on(jobs.nap).submit(6, "unharmed")
    with pytest.raises(rk.errors.CallTimeout, match="could not be stopped and goes on"):
        on(jobs.stubborn).options(timeout=0.3)(7)
    assert bystander.result() == "unharmed"
    assert on(jobs.pid)() == before
    assert cluster.get("model") == [1]


def test_a_call_that_holds_the_gil_is_replaced_from_outside(
    cluster: rk.Cluster, side: rk.Env, on: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.put("model", [1], env=side)
    before = on(jobs.pid)()
    began = time.monotonic()
    with pytest.raises(rk.errors.CallTimeout, match=r"replaced.*'model'"):
        on(jobs_stopping.hold_the_gil).options(timeout=0.3)()
    assert time.monotonic() - began < 12
    assert on(jobs.pid)() != before
    call = on(jobs_stopping.hold_the_gil).submit()
    time.sleep(1)
    assert call.cancel()
    assert "box: hold_the_gil was cancelled; its code did not react, so the env's process was replaced" in (
        capsys.readouterr().err
    )
    assert on(jobs.add)(1, 2) == 3


def test_cancel(on: Callable[[Any], Any]) -> None:
    call = on(jobs_stopping.notice).submit("how", 60)
    time.sleep(0.3)
    assert call.running()
    assert call.cancel() is True
    assert call.cancelled()
    for asked in (call.result, call.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            asked()
    assert on(jobs.get_here)("how") == "Interrupted"
    done = on(jobs.add).submit(1, 2)
    assert done.result() == 3
    assert done.cancel() is False
    assert done.result() == 3


def test_cancel_takes_child_processes_along(on: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    pids: list[int] = []
    call = on(jobs_stopping.run_child).submit(60)
    assert until(lambda: pids.extend(printed_pids(capsys)) or pids)
    assert call.cancel()
    assert gone(on, pids)


def test_cancel_with_force_takes_bystanders_along(on: Callable[[Any], Any]) -> None:
    call, bystander = on(jobs.stubborn).submit(60), on(jobs.nap).submit(60)
    time.sleep(0.3)
    assert call.cancel(force=True) is True
    assert call.cancelled()
    with pytest.raises(rk.errors.WorkerDied, match="replaced"):
        bystander.result(10)
    assert on(jobs.add)(1, 2) == 3


def test_cancel_of_a_call_that_waits_for_its_turn(on: Callable[[Any], Any]) -> None:
    one = on(jobs_stopping.notice).options(concurrency=1)
    first, second, third = one.submit("first", 1), one.submit("second", 0), one.submit("third", 0)
    began = time.monotonic()
    assert second.cancel() is True
    assert time.monotonic() - began < 0.8
    assert third.result() is None
    assert first.result() is None
    assert on(jobs.get_here)("second", "never ran") == "never ran"


async def test_cancelling_a_task_stops_the_remote_work(on: Callable[[Any], Any]) -> None:
    waiting = asyncio.ensure_future(on(jobs_stopping.notice).submit("one", 60))  # type: ignore[arg-type]  # a Call can be awaited
    stream = on(jobs_stopping.slow_ticks)(60, "two")
    assert await anext(stream) == 0
    coming = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.5)
    for task in (waiting, coming):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    get = on(jobs.get_here)
    assert until(lambda: get("one", None) and get("two", None))
    assert (get("one"), get("two")) == ("Interrupted", "closed")


@pytest.mark.parametrize("how", ["close", "break", "del"])
def test_an_abandoned_generator_is_closed_over_there(on: Callable[[Any], Any], how: str) -> None:
    get = on(jobs.get_here)
    items = on(jobs.count)(10_000, how)
    for item in items:
        if item == 2:
            break
    if how == "close":
        items.close()
    del items
    assert until(lambda: get(how) == "closed")


def test_a_handler_left_behind_harms_nobody(on: Callable[[Any], Any]) -> None:
    on(jobs_stopping.own_handler)()
    with pytest.raises(rk.errors.CallTimeout, match="its work was stopped"):
        on(jobs.nap).options(timeout=0.3)(60)


@pytest.mark.parametrize("submitted", [False, True])
def test_ctrl_c(host: Host, tmp_path: Path, on: Callable[[Any], Any], submitted: bool) -> None:
    """The remote work ends with its children, and the connection is as good as before."""
    call = "list(run.map([60, 60]))" if submitted else "run(60)"
    body = f"""
        run, add = (rk.function(f).to(c, env="side") for f in (jobs_stopping.run_child, jobs.add))
        print("begin", flush=True)
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted")
        print("then", add(1, 2))
        """
    with Client(host, tmp_path, body) as client:
        client.wait_for("begin")
        assert until(lambda: len([w for w in client.output.split() if w.isdigit()]) >= (4 if submitted else 2))
        pids = [int(word) for word in client.output.split() if word.isdigit()]
        began = time.monotonic()
        client.process.send_signal(signal.SIGINT)
        assert client.end() == 0, client.output
    assert time.monotonic() - began < 2 * SOON
    assert "interrupted\nthen 3\n" in client.output
    assert gone(on, pids)


def test_ctrl_c_in_a_map_whose_calls_cannot_be_woken(host: Host, tmp_path: Path, on: Callable[[Any], Any]) -> None:
    """They are nobody else's, so nothing of them is left running; what that cost is said, once, and each time."""
    body = """
        nap, pid = (rk.function(f).to(c, env="side") for f in (jobs.nap, jobs.pid))
        pids = [pid()]
        for i in range(2):
            c.put("model", [1], env="side")
            threading.Timer(2, os.kill, (os.getpid(), 2)).start()
            try:
                list(nap.map([60] * 4))
            except KeyboardInterrupt:
                print("interrupted")
            pids.append(pid())
        print("processes", len(set(pids)))
        """
    with Client(host, tmp_path, body) as client:
        assert client.end() == 0, client.output
    said = "box: nap was interrupted; its code did not react, so the env's process was replaced; its 1 stored object(s) went with it: 'model'"
    lines = client.output.splitlines()
    assert [lines.count(line) for line in ("interrupted", said, "processes 3")] == [2, 2, 1], client.output
    assert not [line for line in lines if "could not be stopped" in line]
