"""A connection that breaks: the call goes on, nothing is lost and nothing runs twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import runkit as rk
from tests.calls import jobs
from tests.hosts import Host, hosts


@pytest.fixture(scope="module")
def frail() -> Iterator[Host]:
    """A host of this module's own, to cut off and unplug."""
    with hosts(n=1) as made:
        yield made[0]


def open_cluster(host: Host, **creds: str) -> rk.Cluster:
    found = rk.cluster("frail", host=host.address, ssh_port=host.port, ssh_creds=creds or host.ssh_creds)
    return found.up_if_not()


@pytest.mark.timeout(180)
def test_a_cut_cable(frail: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """The call goes on; after the repair the lines that were missed arrive, then the result, once."""
    if not frail.isolated:
        pytest.skip("cables are cut between namespaces only, which need root")
    with open_cluster(frail) as cluster:
        call = rk.function(jobs.talk).to(cluster).submit("tick", 60, 0.5)
        time.sleep(3)
        frail.cut()
        time.sleep(20)
        frail.mend()
        assert call.result(timeout=90) == "tick"
        assert capsys.readouterr().out == "".join(f"tick {i}\n" for i in range(60))
        assert rk.function(jobs.add).to(cluster)(1, 1) == 2


def test_the_server_is_killed_during_a_call(frail: Host) -> None:
    """Server and Ray are not what the call runs in: a new server takes the worker over, and the result arrives."""
    with open_cluster(frail) as cluster:
        cluster.put("kept", [1])
        server = cluster.status()["pid"]
        call = rk.function(jobs.nap).to(cluster).submit(4, "done")
        time.sleep(0.5)
        frail.run(f"kill -9 {server}")
        with open_cluster(frail) as other:
            assert other.get("kept") == [1]
        assert call.result(timeout=60) == "done"
        assert cluster.get("kept") == [1]


def test_many_threads_and_two_clients(frail: Host) -> None:
    with open_cluster(frail) as cluster, open_cluster(frail) as other:
        add = rk.function(jobs.add).to(cluster)
        rest = rk.function(jobs.add).to(other)
        results: list[int] = []
        threads = [threading.Thread(target=lambda i=i: results.append((add, rest)[i % 2](i, 1))) for i in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == list(range(1, 201))


def test_passwords_go_through_paramiko(frail: Host) -> None:
    if not frail.isolated:
        pytest.skip("an sshd without root cannot check passwords")
    with open_cluster(frail, ssh_user=frail.user, password=frail.password) as cluster:
        echo = rk.function(jobs.echo).to(cluster, env=rk.env(name="arrays", reqs=["numpy"], root_reqs=False))
        array = np.arange(3_000_000)
        assert np.array_equal(echo(array), array)


@pytest.mark.timeout(120)
def test_an_unplugged_host(frail: Host) -> None:
    """The last test here: calls end with ConnectionLost, never with None."""
    program = (
        "import time, runkit as rk\n"
        "from tests.calls import jobs\n"
        f"c = rk.cluster('frail', host={frail.address!r}, ssh_port={frail.port}, ssh_creds={frail.ssh_creds!r})\n"
        "f = rk.function(jobs.nap).to(c)\n"
        "print('ready', flush=True)\n"
        "try:\n    print('result', f(60))\n"
        "except rk.errors.ConnectionLost as error:\n    print('lost:', error, flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RUNKIT_RECONNECT_SECONDS": "3"},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(1)
    frail.kill()
    out, _ = child.communicate(timeout=90)
    assert "lost:" in out, out
    assert "may still be running" in out
