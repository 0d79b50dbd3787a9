"""Handles as arguments, results that stay over there, functions under a name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

import runkit as rk
from runkit.client.cluster import store
from runkit.client.connected import PlacedCode
from tests.calls import jobs
from tests.hosts import Host


@pytest.fixture(autouse=True)
def emptied(cluster: rk.Cluster) -> Iterator[None]:
    """No object outlives a test."""
    yield
    cluster.clear()


def test_a_proxy_is_the_object_itself_over_there(cluster: rk.Cluster) -> None:
    remote = rk.module(jobs.Trainer).to(cluster)
    trainer = remote(0.5, name="t")
    assert rk.function(jobs.loss_of).to(cluster)(trainer) == 10.0
    name, address = rk.function(jobs.describe).to(cluster)(trainer)
    assert (name, address) == ("Trainer", rk.function(jobs.identity_of).to(cluster)("t"))
    holder = rk.module(jobs.Holder).to(cluster)(trainer, name="h")
    assert holder.same_as(trainer) is True
    trainer.step()
    assert holder.remote.value.loss == 5.0
    assert rk.function(jobs.echo).to(cluster)({"deep": [trainer]})["deep"][0].loss == 5.0
    cluster.put("again", trainer)
    assert rk.function(jobs.identity_of).to(cluster)("again") == address
    assert [t.loss for t in rk.function(jobs.echo).to(cluster).map([trainer] * 3)] == [5.0] * 3


def test_a_handle_of_another_env_is_a_copy(cluster: rk.Cluster, side: rk.Env) -> None:
    far = rk.module(jobs.Trainer).to(cluster, env=side)(0.25, loss=3.0, name="far")
    assert rk.function(jobs.loss_of).to(cluster)(far) == 3.0
    kept = rk.function(jobs.add).to(cluster, env=side).options(keep="sum")([1], [2])
    assert rk.function(jobs.add).to(cluster)(kept, [3]) == [1, 2, 3]
    assert kept.env == "side"


def test_kept_results(cluster: rk.Cluster, side: rk.Env) -> None:
    kept = rk.function(jobs.echo).to(cluster, env=side).options(keep="k")(None)
    assert cluster.get("k", default="missing") is None
    assert kept.fetch() is None
    again = rk.function(jobs.echo).to(cluster).options(keep="k")("replaced")
    assert again.fetch() == "replaced"
    assert (cluster.keys(env=side), cluster.keys(env="default")) == ([], ["k"])
    call = rk.function(jobs.echo).to(cluster).options(keep="later").submit([1, 2])
    assert call.result().fetch() == [1, 2]
    kept_list = rk.function(jobs.echo).to(cluster).options(keep="list")([3, 1, 2])
    kept_list.sort()
    assert kept_list.fetch() == [1, 2, 3]
    with pytest.raises(jobs.Mine):
        rk.function(jobs.fail).to(cluster).options(keep="never")("mine")
    assert "never" not in cluster.keys()


def test_a_handle_belongs_to_its_cluster(cluster: rk.Cluster) -> None:
    kept = rk.function(jobs.echo).to(cluster).options(keep="k")(1)
    other = rk.cluster("other", host="other.invalid")
    with pytest.raises(rk.errors.NotPicklable, match=r"another cluster than 'other'.*\.fetch\(\)"):
        store(other, "k", kept, PlacedCode("default", []))
    cluster.delete("k")
    with pytest.raises(KeyError, match="k"):
        rk.function(jobs.echo).to(cluster)(kept)


def test_two_clients_of_one_cluster_share_handles(cluster: rk.Cluster, host: Host) -> None:
    """A second Cluster object of the same host is the same cluster."""
    kept = rk.function(jobs.echo).to(cluster).options(keep="k")([1])
    same = rk.cluster("box", **host.place)
    try:
        assert rk.function(jobs.echo).to(same)(kept) == [1]
    finally:
        same.disconnect()


def test_a_function_under_a_name(cluster: rk.Cluster, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    named = rk.function(jobs.add).to(cluster, name="adder")
    assert named(1, 2) == 3
    assert cluster.keys() == ["adder"]
    found = cluster.get("adder", remote=True)
    assert found(2, 3) == 5
    assert found.submit(2, 4).result() == 6
    assert list(found.map([1, 2], [3, 4])) == [4, 6]
    assert list(found.starmap([(1, 2)])) == [3]
    assert found.options(timeout=20, stream_logs=False)(1, b=1) == 2
    rk.function(jobs.count).to(cluster, name="counter")
    capsys.readouterr()
    assert list(cluster.get("counter", remote=True)(3)) == [0, 1, 2]
    assert capsys.readouterr().out == "item 0\nitem 1\nitem 2\n"
    offset = 10
    rk.function(lambda x: x + offset).to(cluster, name="by value")
    script = (
        f"import runkit as rk; c = rk.cluster('box', **{host.place!r})\n"
        "print(c.get('adder', remote=True)(5, 6), c.get('by value', remote=True)(1))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout == "11 11\n", done.stderr


def test_wrappers_as_arguments_are_what_they_wrap(cluster: rk.Cluster) -> None:
    echo = rk.function(jobs.echo).to(cluster)
    assert echo(rk.function(jobs.add).to(cluster)) is jobs.add
    assert echo(rk.module(jobs.Trainer).to(cluster)) is jobs.Trainer
    with pytest.raises(rk.errors.NotPicklable, match=r"rk\.here"):
        echo(cluster)
