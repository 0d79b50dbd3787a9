"""The object store: keys and values, classes whose instances live over there, handles, `rk.here` in remote code."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import runkit as rk
from tests.calls import jobs
from tests.hosts import Host

ELSEWHERE = """
import runkit as rk
c = rk.cluster("box", **{place!r})
{code}
"""


@pytest.fixture(autouse=True)
def emptied(cluster: rk.Cluster) -> Iterator[None]:
    """No object outlives a test."""
    yield
    cluster.clear()
    assert cluster.keys() == []


@pytest.fixture(scope="module")
def trainer(cluster: rk.Cluster) -> rk.Module:
    return rk.module(jobs.Trainer).to(cluster)


def elsewhere(host: Host, code: str) -> str:
    """What another process of this user prints; it knows nothing of the classes of these tests."""
    script = ELSEWHERE.format(place=host.place, code=code)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- keys and values


@pytest.mark.parametrize("value", [None, 0, "", False, [], {}, {"a": [1, (2, 3)]}])
def test_put_and_get(cluster: rk.Cluster, value: object) -> None:
    cluster.put("a key", value)
    back = cluster.get("a key", default="missing")
    assert back == value
    assert type(back) is type(value)
    assert cluster.keys() == ["a key"]
    assert cluster.delete("a key") == ["a key"]
    assert cluster.get("a key", default="missing") == "missing"
    assert cluster.get("a key", default=None) is None
    with pytest.raises(KeyError, match="a key"):
        cluster.get("a key")
    assert cluster.delete(["a key", "another"]) == []


def test_put_replaces_and_rename_does_not(cluster: rk.Cluster) -> None:
    cluster.put("a", 1)
    cluster.put("a", 2)
    cluster.put("b", 3)
    with pytest.raises(rk.errors.KeyExists, match="'b' exists") as caught:
        cluster.rename("a", "b")
    assert isinstance(caught.value, KeyError)
    assert (cluster.get("a"), cluster.get("b")) == (2, 3)
    cluster.rename("a", "c")
    assert cluster.keys() == ["b", "c"]
    with pytest.raises(KeyError, match="a"):
        cluster.rename("a", "d")
    with pytest.raises(rk.errors.InvalidName):
        cluster.rename("b", " ")
    assert sorted(cluster.clear()) == ["b", "c"]


def test_a_key_belongs_to_one_env(cluster: rk.Cluster, side: rk.Env) -> None:
    cluster.put("k", "in default")
    cluster.put("k", "in side", env=side)
    assert cluster.get("k") == "in side"
    assert (cluster.keys(env=side), cluster.keys(env="default"), cluster.keys()) == (["k"], [], ["k"])
    cluster.put("other", 1)
    with pytest.raises(rk.errors.KeyExists):
        cluster.rename("other", "k")
    cluster.put("k", None, env="default")
    assert cluster.get("k", default="missing") is None
    assert (cluster.keys(env="side"), cluster.keys(env="default")) == ([], ["k", "other"])


def test_put_sends_an_env_that_is_not_there(cluster: rk.Cluster) -> None:
    cluster.put("k", 5, env=rk.env(name="never-sent", root_reqs=False))
    assert cluster.keys(env="never-sent") == ["k"]
    with pytest.raises(rk.errors.EnvNotFound, match="no-such-env"):
        cluster.put("k", 6, env="no-such-env")
    assert cluster.get("k") == 5


def test_values_of_ones_own_classes(cluster: rk.Cluster, side: rk.Env) -> None:
    cluster.put("one", jobs.Trainer(0.5))
    cluster.put("many", {"x": [jobs.Trainer(0.25)]}, env=side)
    assert cluster.get("one").lr == 0.5
    assert cluster.get("many")["x"][0].lr == 0.25
    cluster.put("class", jobs.Trainer)
    assert cluster.get("class") is jobs.Trainer


# -- rk.here in remote code


def test_here_gives_the_very_same_object(cluster: rk.Cluster) -> None:
    f = rk.function(jobs.put_here).to(cluster)
    value = {"some": "thing"}
    first = f("same", value)
    identity = rk.function(jobs.identity_of).to(cluster)
    assert identity("same") == identity("same") == first
    assert rk.function(jobs.hold_and_check).to(cluster)("same") is True
    assert identity("same") != first
    assert rk.function(jobs.get_here).to(cluster)("nothing", None) is None
    with pytest.raises(KeyError, match="nothing"):
        rk.function(jobs.get_here).to(cluster)("nothing")


def test_here_reaches_other_envs(cluster: rk.Cluster, side: rk.Env) -> None:
    cluster.put("far", [1], env=side)
    do = rk.function(jobs.here_do).to(cluster)
    assert do("get", "far") == [1]
    do("put", "sent", {"b": 2}, "side")
    assert cluster.keys(env=side) == ["far", "sent"]
    assert do("keys") == ["far", "sent"]
    assert do("keys", "default") == []
    assert rk.function(jobs.which_env).to(cluster, env=side)() == "side"
    do("put", "far", "taken")  # moves it
    assert cluster.keys(env="default") == ["far"]
    do("rename", "sent", "received")
    with pytest.raises(rk.errors.KeyExists):
        do("rename", "far", "received")
    do("delete", ["received", "far", "nothing"])
    assert cluster.keys() == []
    with pytest.raises(rk.errors.ServerError, match="no-such-env"):
        do("put", "x", 1, "no-such-env")
    do("put", "x", None)
    assert do("get", "x", "default") is None


def test_here_takes_the_code_of_classes_along(cluster: rk.Cluster, side: rk.Env) -> None:
    rk.function(jobs.put_trainer).to(cluster)("t", "side", 0.75)
    assert cluster.keys(env=side) == ["t"]
    assert cluster.get("t").lr == 0.75
    assert cluster.get("t", remote=True).remote.lr == 0.75
    assert rk.function(jobs.trainer_lr).to(cluster)("t") == 0.75
    assert rk.function(jobs.trainer_lr).to(cluster, env=side)("t") == 0.75


# -- classes


def test_an_object_lives_over_there(cluster: rk.Cluster, trainer: rk.Module) -> None:
    obj = trainer(0.5, loss=8.0, name="trainer")
    assert cluster.keys() == ["trainer"]
    assert obj.step() == 4.0
    assert obj.step(n=2) == 1.0
    assert obj.remote.loss == 1.0
    obj.remote.lr = 0.1
    assert obj.remote.lr == 0.1
    assert obj.remote.kind == "trainer"
    assert obj(10) == 1.0
    assert list(obj.items(3)) == [0, 1, 2]
    fetched = obj.fetch()
    assert type(fetched) is jobs.Trainer
    assert (fetched.lr, fetched.loss) == (0.1, 1.0)
    assert cluster.get("trainer").loss == 1.0
    assert "'trainer'" in repr(obj)
    assert "Trainer" in repr(obj)
    assert {"step", "items", "later", "fetch", "remote"} <= set(dir(obj))
    unnamed = trainer()
    assert len(cluster.keys()) == 2
    assert unnamed.key in cluster.keys()


async def test_async_methods(trainer: rk.Module) -> None:
    obj = trainer(name="a")
    assert await obj.later(3) == 3
    assert await asyncio.gather(*(obj.later(i) for i in range(20))) == list(range(20))
    assert await obj.step.submit() == 9.0


def test_mistakes_with_a_proxy(trainer: rk.Module) -> None:
    obj = trainer(name="t")
    with pytest.raises(AttributeError, match=r"\.remote\.lr"):
        obj.lr = 3
    with pytest.raises(AttributeError, match=r"\.remote\.loss"):
        print(obj.loss)
    with pytest.raises(AttributeError, match="nothing"):
        print(obj.remote.nothing)
    with pytest.raises(TypeError):
        obj.step(1, 2, 3)
    with pytest.raises(rk.errors.UsageError, match="remote object"):
        rk.fetch(3)
    with pytest.raises(rk.errors.UsageError, match="rk.function"):
        rk.module(jobs.add)  # type: ignore[arg-type]


def test_a_class_s_own_methods_win(cluster: rk.Cluster) -> None:
    obj = rk.module(jobs.Fetcher).to(cluster)(name="f")
    assert obj.fetch() == "mine"
    assert obj.key() == "my key"
    assert rk.fetch(obj).value == 5
    assert obj.remote.value == 5


def test_exceptions_of_objects(cluster: rk.Cluster, trainer: rk.Module) -> None:
    with pytest.raises(jobs.Mine, match="in the constructor") as caught:
        rk.module(jobs.Broken).to(cluster)(name="broken")
    assert caught.value.code == 2
    with pytest.raises(TypeError):
        trainer(no_such=1, name="broken")
    assert cluster.keys() == []
    obj = trainer(name="t")
    with pytest.raises(jobs.Mine, match="in a method"):
        obj.fail()
    assert obj.step() == 9.0


def test_a_name_replaces(cluster: rk.Cluster, trainer: rk.Module, side: rk.Env) -> None:
    first = trainer(0.1, name="t")
    second = trainer(0.2, name="t")
    assert first.remote.lr == second.remote.lr == 0.2
    rk.module(jobs.Trainer).to(cluster, env=side)(0.3, name="t")
    assert (cluster.keys(env=side), cluster.keys(env="default")) == (["t"], [])
    assert cluster.get("t", remote=True).remote.lr == 0.3
    with pytest.raises(rk.errors.InvalidName):
        trainer(name="")


def test_options_of_methods(cluster: rk.Cluster, side: rk.Env, capsys: pytest.CaptureFixture[str]) -> None:
    holder = rk.module(jobs.Holder).to(cluster, env=side)(name="h")
    with pytest.raises(rk.errors.CallTimeout, match="nap"):
        holder.nap.options(timeout=0.3)(30)
    assert max(holder.nap.options(concurrency=2).map([0.02] * 12)) <= 2
    with pytest.raises(rk.errors.UsageError, match="nonsense"):
        holder.nap.options(nonsense=1)
    talker = rk.module(jobs.Talker).to(cluster)(name="talker")
    capsys.readouterr()
    talker.say.options(stream_logs=False)("quietly")
    talker.say("aloud")
    assert capsys.readouterr().out == "aloud\n"
    kept = talker.say.options(keep="said")("kept")
    assert kept.fetch() == "KEPT"


def test_retries_of_methods(cluster: rk.Cluster, side: rk.Env, host: Host) -> None:
    marker = f"{host.tmp}/died-{time.time_ns()}" if not host.isolated else f"/tmp/died-{time.time_ns()}"
    holder = rk.module(jobs.Holder).to(cluster, env=side)(name="h")
    with pytest.raises(KeyError, match="h"):  # its object went with the process: what is retried finds nothing
        holder.die_once.options(retries=2)(marker)
    again = rk.module(jobs.Holder).to(cluster, env=side)(name="h")
    assert again.die_once.options(retries=2)(marker) == "survived"


def test_from_another_process(cluster: rk.Cluster, trainer: rk.Module, host: Host) -> None:
    trainer(0.5, name="t")
    code = 't = c.get("t", remote=True); print(t.step(), t.remote.lr, t(4), list(t.items(2)), t)'
    printed = elsewhere(host, code)
    assert printed.startswith("5.0 0.5 2.0 [0, 1] <")
    assert "Trainer 't' on 'box', env 'default'" in printed
    assert cluster.get("t").loss == 5.0


def test_get_or_to(cluster: rk.Cluster, side: rk.Env) -> None:
    made = rk.module(jobs.Trainer).get_or_to(cluster, env=side, name="t")
    made.remote.lr = 0.9
    found = rk.module(jobs.Trainer).get_or_to(cluster, env=side, name="t")
    assert found.remote.lr == 0.9
    assert cluster.keys(env=side) == ["t"]
    with pytest.raises(rk.errors.UsageError, match="name="):
        rk.module(jobs.Trainer).get_or_to(cluster)
