"""Functions on a cluster: arguments, results, exceptions, generators, coroutines, many at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import traceback
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import runkit as rk
from tests.calls import jobs


def test_arguments_and_results(cluster: rk.Cluster) -> None:
    add = rk.function(jobs.add).to(cluster)
    assert add(2, 3) == 5
    assert add("a", b="b") == "ab"
    assert add([None], [False, 0, ""]) == [None, False, 0, ""]
    assert add.local(2, 3) == 5
    assert "add" in repr(add)
    assert "'box'" in repr(add)
    assert rk.function(jobs.add)(1, 1) == 2


@pytest.mark.parametrize(
    "value", [None, 0, "", {}, b"\0" * 300_000, OrderedDict(a=1), {"k": [1, {2, 3}]}, 1 << 200, "ü" * 1000]
)
def test_values_come_back(cluster: rk.Cluster, value: object) -> None:
    back = rk.function(jobs.echo).to(cluster)(value)
    assert back == value
    assert type(back) is type(value)


def test_lambdas_and_closures(cluster: rk.Cluster) -> None:
    offset = 10
    assert rk.function(lambda x: x + offset).to(cluster)(1) == 11

    class Local:
        def __init__(self, x: int):
            self.x = x

    made = rk.function(lambda x: Local(x)).to(cluster)(3)
    assert isinstance(made, Local)
    assert made.x == 3
    assert rk.function(jobs.echo).to(cluster)(lambda: 5)() == 5


@pytest.mark.parametrize("size", [1000, 300_000, 20_000_000])
def test_arrays_keep_their_bytes(cluster: rk.Cluster, arrays: rk.Env, size: int) -> None:
    array = np.arange(size, dtype=np.uint8).reshape(10, -1)
    echo = rk.function(jobs.echo).to(cluster, env=arrays)
    back = echo(array)
    assert np.array_equal(back, array)
    back[0, 0] = 1  # the received memory is the caller's own
    several = echo({"a": array, "b": [array[::2], array.T]})
    assert np.array_equal(several["b"][1], array.T)


def test_exceptions_are_themselves(cluster: rk.Cluster) -> None:
    fail = rk.function(jobs.fail).to(cluster)
    with pytest.raises(ValueError, match="wrong") as caught:
        fail("value")
    assert caught.value.args == ("wrong", 3)
    text = "".join(traceback.format_exception(caught.value))
    assert "in fail" in text
    assert 'raise ValueError("wrong", 3)\nValueError' in text  # nothing is underlined: the columns are not known here
    assert "jobs.py" in text
    notes = "\n".join(caught.value.__notes__)
    assert "'box'" in notes
    assert "'default'" in notes
    with pytest.raises(jobs.Mine) as mine:
        fail("mine")
    assert mine.value.code == 7


def test_wrong_arguments_lead_to_the_users_line(cluster: rk.Cluster) -> None:
    remote = rk.function(jobs.fail).to(cluster)
    for wrong in (lambda: remote(), lambda: remote("value", 1, 2, 3), lambda: rk.env(nmae="x")):  # type: ignore[call-arg]  # wrong on purpose
        with pytest.raises(TypeError, match="argument") as caught:
            wrong()
        assert {Path(frame.filename) for frame in traceback.extract_tb(caught.value.__traceback__)} == {Path(__file__)}


def test_causes_and_notes(cluster: rk.Cluster) -> None:
    fail = rk.function(jobs.fail).to(cluster)
    with pytest.raises(RuntimeError, match="could not") as caught:
        fail("cause")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("in deep") >= 3  # of four: Python folds repeated lines
    assert "direct cause" in text
    if sys.version_info >= (3, 11):
        with pytest.raises(KeyError) as noted:
            fail("note")
        assert "look under the mat" in noted.value.__notes__


@pytest.mark.parametrize(("kind", "name"), [("awkward", "Awkward"), ("lock", "RuntimeError"), ("exit", "SystemExit")])
def test_what_cannot_be_itself_is_a_remote_error(cluster: rk.Cluster, kind: str, name: str) -> None:
    fail = rk.function(jobs.fail).to(cluster)
    with pytest.raises(rk.errors.RemoteError) as caught:
        fail(kind)
    assert caught.value.type_name.endswith(name)
    assert "in fail" in caught.value.traceback
    assert rk.function(jobs.add).to(cluster)(1, 1) == 2  # the worker lives on


def test_a_type_this_side_lacks(cluster: rk.Cluster, tmp_path: object) -> None:
    def raise_foreign() -> None:
        import types

        module = types.ModuleType("only_there")
        sys.modules["only_there"] = module
        exec("class Foreign(Exception): pass", module.__dict__)
        module.Foreign.__module__ = "only_there"
        raise module.Foreign("hello")

    with pytest.raises(rk.errors.RemoteError, match="hello") as caught:
        rk.function(raise_foreign).to(cluster)()
    assert caught.value.type_name == "only_there.Foreign"
    assert caught.value.message == "hello"


def test_what_cannot_be_pickled_says_so(cluster: rk.Cluster) -> None:
    with pytest.raises(rk.errors.NotPicklable, match="argument of echo"):
        rk.function(jobs.echo).to(cluster)(threading.Lock())
    with pytest.raises(rk.errors.NotPicklable, match="result"):
        rk.function(jobs.lock).to(cluster)()


def test_input_fails_at_once(cluster: rk.Cluster) -> None:
    with pytest.raises(EOFError):
        rk.function(jobs.ask).to(cluster).options(timeout=5)()


def test_generators_stream(cluster: rk.Cluster) -> None:
    count = rk.function(jobs.count).to(cluster)
    assert list(count(10)) == list(range(10))
    items = count(1000, "how far")
    assert next(items) == 0
    time.sleep(0.3)
    assert cluster.get("how far") < 10  # it runs only a few items ahead
    items.close()
    deadline = time.monotonic() + 5
    while cluster.get("how far") != "closed" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert cluster.get("how far") == "closed"
    cluster.delete(["how far"])
    failing = rk.function(jobs.count_then_fail).to(cluster)(3)
    assert [next(failing) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(jobs.Mine):
        next(failing)
    assert list(rk.function(jobs.wrapped_generator).to(cluster)(3)) == [0, 1, 2]


async def test_coroutines(cluster: rk.Cluster) -> None:
    later = rk.function(jobs.later).to(cluster)
    assert await later(3) == 3
    began = time.monotonic()
    assert await asyncio.gather(*(later(i, 0.3) for i in range(20))) == list(range(20))
    assert time.monotonic() - began < 3
    assert [i async for i in rk.function(jobs.ticks).to(cluster)(5)] == list(range(5))
    assert await rk.function(jobs.add).to(cluster).submit(1, 2) == 3


def test_calls_overlap(cluster: rk.Cluster) -> None:
    nap = rk.function(jobs.nap).to(cluster)
    began = time.monotonic()
    calls = [nap.submit(0.5, i) for i in range(10)]
    assert rk.function(jobs.on_main_thread).to(cluster)() in (True, False)
    assert [call.result() for call in calls] == list(range(10))
    assert time.monotonic() - began < 3
    assert rk.function(jobs.on_main_thread).to(cluster)() is True  # alone again


def test_map(cluster: rk.Cluster) -> None:
    add = rk.function(jobs.add).to(cluster)
    assert list(add.map(range(500))) == list(range(500))
    assert list(add.map([1, 2], [3, 4])) == [4, 6]
    assert list(add.starmap([(1, 2), (3, 4)])) == [3, 7]
    mixed = add.map([1, "a", 3], [1, 1, 1])
    assert next(mixed) == 2
    with pytest.raises(TypeError):
        next(mixed)
    endless = add.map(iter(int, 1))
    assert next(endless) == 0
    endless.close()


def test_concurrency_limit(cluster: rk.Cluster) -> None:
    watched = rk.function(jobs.watched).to(cluster).options(concurrency=2)
    assert max(watched.map([0.02] * 20)) == 2


def test_keep_gives_a_handle(cluster: rk.Cluster) -> None:
    echo = rk.function(jobs.echo).to(cluster)
    kept = echo.options(keep="big")([1, 2, 3])
    assert "'big'" in repr(kept)
    assert kept.fetch() == [1, 2, 3]
    assert cluster.get("big") == [1, 2, 3]
    name, address = rk.function(jobs.describe).to(cluster)(kept)
    assert name == "list"
    assert address == rk.function(jobs.identity_of).to(cluster)("big")  # the very same object
    with pytest.raises(TypeError, match="proxy"):
        __import__("pickle").dumps(kept)
    cluster.delete("big")
    with pytest.raises(KeyError):
        kept.fetch()


def test_bad_options_are_refused(cluster: rk.Cluster) -> None:
    f = rk.function(jobs.add)
    for wrong in ({"timeout": -1}, {"retries": -1}, {"concurrency": 0}, {"nonsense": 1}, {"keep": " "}):
        with pytest.raises(rk.errors.UsageError):
            f.options(**wrong)
    with pytest.raises(rk.errors.UsageError, match=r"\.to\(cluster\)"):
        f.submit(1)
    with pytest.raises(rk.errors.UsageError, match="rk.module"):
        rk.function(jobs.Trainer)
    with pytest.raises(rk.errors.UsageError):
        rk.function(3)  # type: ignore[arg-type]


def test_a_script_is_run_as_a_user_would(cluster: rk.Cluster, host: object, tmp_path: object) -> None:
    """A loose script with a sibling module, from another process."""
    script = tmp_path / "script.py"  # type: ignore[operator]
    (tmp_path / "sibling.py").write_text("def triple(x):\n    return 3 * x\n")  # type: ignore[operator]
    script.write_text(
        "import sibling, runkit as rk\n"
        "def f(x):\n    return sibling.triple(x) + 1\n"
        f"c = rk.cluster('box', **{host.place!r})\n"  # type: ignore[attr-defined]
        "print(rk.function(f).to(c)(2), rk.function(sibling.triple).to(c)(5))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "7 15\n", done.stderr
