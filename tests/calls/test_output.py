"""What remote code prints: live, complete before the result, on the right stream, never another call's."""

from __future__ import annotations

import contextlib
import io
import threading
import time

import pytest

import runkit as rk
from tests.calls import jobs


def test_both_streams_without_prefix(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    rk.function(jobs.both_streams).to(cluster)()
    said = capsys.readouterr()
    assert said.out == "to stdout\n"
    assert said.err.endswith("to stderr\n")


def test_complete_before_the_result(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    talk = rk.function(jobs.talk).to(cluster)
    talk("line", 3000)
    assert capsys.readouterr().out == "".join(f"line {i}\n" for i in range(3000))
    call = talk.submit("later", 50)
    call.result()
    assert capsys.readouterr().out == "".join(f"later {i}\n" for i in range(50))


def test_everything_a_process_can_print_with(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    rk.function(jobs.from_everywhere).to(cluster)()
    assert capsys.readouterr().out == "python\ndescriptor\nchild\nsystem\nunfinished"


def test_much_on_the_stderr_of_a_child(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert rk.function(jobs.flood).to(cluster)(3_000_000) == 3_000_000
    assert capsys.readouterr().err.count("x") >= 3_000_000


def test_output_arrives_live(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    call = rk.function(jobs.talk).to(cluster).submit("early", 2, 1.0)
    said = ""
    deadline = time.monotonic() + 5
    while "early 0" not in said and time.monotonic() < deadline:
        said += capsys.readouterr().out
        time.sleep(0.01)
    assert "early 0" in said
    assert not call.done()
    call.result()


def test_stream_logs_off(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    rk.function(jobs.talk).to(cluster).options(stream_logs=False)("silent", 5)
    assert "silent" not in capsys.readouterr().out


def test_calls_that_overlap_are_never_mixed(cluster: rk.Cluster) -> None:
    """Each call's output goes to the thread that waits for it, also that of its child processes."""
    said = {}

    def listen(name: str, function: rk.Function, *args: object) -> None:
        function(*args)
        said[name] = stream.of_this_thread()

    stream = PerThread()
    talk = rk.function(jobs.talk).to(cluster)
    child = rk.function(jobs.child_says).to(cluster)
    with contextlib.redirect_stdout(stream):  # type: ignore[type-var]  # all that print needs of a stream
        threads = [threading.Thread(target=listen, args=(f"t{i}", talk, f"t{i}", 40, 0.005)) for i in range(4)]
        threads += [threading.Thread(target=listen, args=(f"c{i}", child, f"c{i}")) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(4):
        assert said[f"t{i}"] == "".join(f"t{i} {n}\n" for n in range(40))
        assert said[f"c{i}"] == "".join(f"c{i} {n}\n" for n in (1, 2, 3))


class PerThread(io.TextIOBase):
    """A stream that keeps apart what each thread writes."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}

    def write(self, text: str) -> int:
        self._texts.setdefault(threading.get_ident(), []).append(text)
        return len(text)

    def of_this_thread(self) -> str:
        return "".join(self._texts.get(threading.get_ident(), []))
