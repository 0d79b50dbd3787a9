"""Output: what remote code and its children print comes out here, live, whole, on the right stream, never mixed."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from tests.calls import jobs, jobs_output
from tests.calls.clients import Client, until
from tests.hosts import Host

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def on(cluster: rk.Cluster) -> Callable[[Any], Any]:
    """Makes functions of the default env, in which no call of an earlier test runs any more: raw output is for a call alone."""
    assert until(lambda: cluster.status()["envs"]["default"]["worker"]["running"] == 0, 60)
    return lambda function: rk.function(function).to(cluster)


class PerThread(io.TextIOBase):
    """A stdout that keeps what each thread writes apart, as web frameworks and test runners do."""

    def __init__(self) -> None:
        self.kept: dict[str, list[str]] = {}

    def write(self, text: str) -> int:
        self.kept.setdefault(threading.current_thread().name, []).append(text)
        return len(text)

    def of(self, thread: str) -> list[str]:
        return "".join(self.kept.get(thread, [])).splitlines()


def test_on_the_right_stream_without_prefix(on: Callable[[Any], Any], capsys: Capture) -> None:
    both = on(jobs.both_streams)
    capsys.readouterr()  # what the sync said
    both()
    assert capsys.readouterr() == ("to stdout\n", "to stderr\n")


def test_live(on: Callable[[Any], Any], capsys: Capture) -> None:
    call = on(jobs.talk).submit("live", 3, 2.0)
    seen = ""
    for i in range(3):
        began = time.monotonic()
        while f"live {i}\n" not in seen and time.monotonic() < began + 5:
            seen += capsys.readouterr().out
            time.sleep(0.01)
        assert not call.done()
    assert call.result() == "live"


@pytest.mark.parametrize("how", ["call", "submit", "await", "generator"])
def test_complete_before_the_result(on: Callable[[Any], Any], capsys: Capture, how: str) -> None:
    lines = 5000
    if how == "call":
        on(jobs.talk)("x", lines)
    elif how == "submit":
        on(jobs.talk).submit("x", lines).result()
    elif how == "await":
        asyncio.run(_awaited(on(jobs_output.talk_later)("x", lines)))
    else:
        for item in on(jobs.count)(100):
            assert capsys.readouterr().out == f"item {item}\n"
        return
    assert capsys.readouterr().out.splitlines() == [f"x {i}" for i in range(lines)]


async def _awaited(call: Any) -> Any:
    return await call


def test_from_everywhere(on: Callable[[Any], Any], capsys: Capture) -> None:
    on(jobs.from_everywhere)()
    assert capsys.readouterr().out == "python\ndescriptor\nchild\nsystem\nunfinished"


@pytest.mark.parametrize("how", jobs_output.WAYS_TO_PRINT)
def test_ways_to_print(on: Callable[[Any], Any], capsys: Capture, how: str) -> None:
    on(jobs_output.print_by)(how, f"hello from {how}")
    out, err = capsys.readouterr()
    assert f"hello from {how}" in (
        err if how in ("logging", "stderr-descriptor", "popen-to-stderr", "warnings") else out
    )


# Not "fork" and "multiprocessing": a fork beside other running threads may find their locks taken, in any Python program.
@pytest.mark.parametrize("how", ["subprocess", "pool", "thread", "pool-of-another", "sys-stdout"])
def test_concurrent_calls_are_never_mixed(on: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    say = on(jobs_output.say_through)
    say(how, "warm", 1)
    streams = PerThread()
    monkeypatch.setattr(sys, "stdout", streams)
    names = [f"caller-{i}" for i in range(4)]
    threads = [threading.Thread(target=say, args=(how, name, 25), name=name) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert streams.of(name) == [f"{name} {i}" for i in range(25)]


def test_coroutines_are_never_mixed(on: Callable[[Any], Any], capsys: Capture) -> None:
    """Printed as each arrives; lines stay whole although all coroutines share one thread."""

    async def both() -> None:
        await asyncio.gather(*(on(jobs_output.talk_later)(name, 200) for name in ("a", "b", "c")))

    asyncio.run(both())
    lines = capsys.readouterr().out.splitlines()
    for name in ("a", "b", "c"):
        assert [line for line in lines if line.startswith(name)] == [f"{name} {i}" for i in range(200)]


def test_lines_of_several_threads_stay_whole(on: Callable[[Any], Any], capsys: Capture) -> None:
    on(jobs_output.threads_print)(8, 500)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"thread {t} line {i}" for t in range(8) for i in range(500))


def test_much_of_it(on: Callable[[Any], Any], capsys: Capture) -> None:
    assert on(jobs.flood)(5_000_000) == 5_000_000
    err = capsys.readouterr().err
    assert len(err) == 5_000_001
    assert set(err) == {"x", "\n"}
    on(jobs_output.say)("y" * 3_000_000)
    assert capsys.readouterr().out == "y" * 3_000_000 + "\n"


def test_unicode_survives_being_cut(on: Callable[[Any], Any], capsys: Capture) -> None:
    on(jobs_output.say_in_pieces)("größer als ein Kästchen 🙂\n", 1)
    assert capsys.readouterr().out == "größer als ein Kästchen 🙂\n"
    text = "ä🙂" * 100_000
    on(jobs_output.child_prints)("ä🙂", 100_000)
    assert capsys.readouterr().out == text + "\n"
    on(jobs_output.say_in_pieces)("\udcff\udc80!\n", 2)  # no UTF-8 at all
    assert "!" in capsys.readouterr().out


def test_progress_bars_move(on: Callable[[Any], Any], capsys: Capture) -> None:
    call = on(jobs_output.progress_bar).submit(3, 0.5)
    seen: list[str] = []
    assert until(lambda: seen.append(capsys.readouterr().err) or "\r 66%" in "".join(seen), 5)
    assert not call.done()
    call.result()
    assert "".join(seen) + capsys.readouterr().err == "\r 33%\r 66%\r100%\n"


def test_silence(on: Callable[[Any], Any], capsys: Capture) -> None:
    quiet = on(jobs.from_everywhere).options(stream_logs=False)
    quiet()
    quiet.submit().result()
    assert on(jobs.flood).options(stream_logs=False)(1_000_000) == 1_000_000
    assert list(on(jobs.count).options(stream_logs=False)(3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_after_its_end_a_call_prints_nothing_into_others(on: Callable[[Any], Any], capsys: Capture) -> None:
    """A call that could not be stopped goes on printing; nobody else's output has it."""
    calls = [on(jobs_output.stubborn_talker).submit(6.0), on(jobs.talk).submit("other", 60, 0.1)]
    time.sleep(0.3)
    assert calls[0].cancel()
    assert "could not be stopped" in capsys.readouterr().err
    calls[1].result()
    assert "stubborn" not in capsys.readouterr().out


def test_the_log_of_the_env_has_it_too(host: Host, on: Callable[[Any], Any]) -> None:
    on(jobs_output.say).options(stream_logs=False)("written down")
    logs = list(host.home.glob(".runkit/servers/*/log/default.log"))
    assert any(b"written down" in log.read_bytes() for log in logs)


@pytest.mark.parametrize("local", ["closed", "none", "broken pipe", "ascii"])
def test_a_local_stdout_that_takes_nothing(host: Host, tmp_path: Path, local: str) -> None:
    """The calls go on, and the connection as well."""
    set_up = {
        "closed": "sys.stdout.close()",
        "none": "sys.stdout = None",
        "broken pipe": "r, w = os.pipe(); os.close(r); os.dup2(w, 1)",
        "ascii": "",
    }[local]
    body = f"""
        f, add = rk.function(jobs_output.say).to(c), rk.function(jobs.add).to(c)
        {set_up}
        f("ä" * 100_000)
        f.submit("zum Schluß").result()
        print("sum", add(1, 2), file=sys.stderr)
        os._exit(0)
        """
    variables = {"PYTHONIOENCODING": "ascii"} if local == "ascii" else {}
    with Client(host, tmp_path, body, **variables) as client:
        assert client.end() == 0, client.output
    assert "sum 3" in client.output
    if local == "ascii":
        assert r"zum Schlu\xdf" in client.output


def test_a_slow_local_stdout(on: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up the call that prints, and no other."""

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(0.02)
            return super().write(text)

    slow = Slow()
    monkeypatch.setattr(sys, "stdout", slow)
    talker = threading.Thread(target=on(jobs.talk), args=("slow", 100))
    talker.start()
    add = on(jobs.add)
    began = time.monotonic()
    assert [add(i, 1) for i in range(20)] == list(range(1, 21))
    assert time.monotonic() - began < 1
    talker.join()
    assert re.findall(r"slow (\d+)", slow.getvalue()) == [str(i) for i in range(100)]
