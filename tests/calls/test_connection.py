"""A connection that breaks: the call goes on, nothing is lost and nothing runs twice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import runkit as rk
from tests.calls import jobs, jobs_stopping
from tests.calls.clients import Client, until
from tests.hosts import Host, hosts


@pytest.fixture(scope="module")
def frail() -> Iterator[Host]:
    """A host of this module's own, to cut off and unplug."""
    with hosts(n=1) as made:
        yield made[0]


def arrays() -> rk.Env:
    return rk.env(name="arrays", reqs=["numpy"], root_reqs=False)


def kill_ssh() -> None:
    """Kill the master connections of this test run."""
    runtime = os.environ["RUNKIT_RUNTIME_DIR"].encode()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            if words[0:1] == [b"ssh"] and b"-M" in words and any(word.startswith(runtime) for word in words):
                os.kill(int(folder.name), signal.SIGKILL)


def open_cluster(host: Host, **creds: str) -> rk.Cluster:
    return rk.cluster("frail", **{**host.place, **({"ssh_creds": creds} if creds else {})}).up_if_not()


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


def test_the_server_is_killed_during_a_call(frail: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Server and Ray are not what the call runs in: a new server takes the worker over, and the result arrives."""
    with open_cluster(frail) as cluster:
        cluster.put("kept", [1])
        call = rk.function(jobs.talk).to(cluster).submit("tick", 40, 0.1)
        time.sleep(0.5)
        frail.run(f"kill -9 {cluster.status()['pid']}")
        assert not cluster.is_up()
        cluster.up_if_not()
        assert cluster.is_up()
        assert call.result(timeout=60) == "tick"
        assert "".join(f"tick {i}\n" for i in range(40)) in capsys.readouterr().out
        assert cluster.get("kept") == [1]
        cluster.clear()


def test_a_killed_server_comes_back_for_a_call_and_one_that_was_stopped_does_not(
    frail: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_cluster(frail) as cluster, open_cluster(frail) as other:
        nap = rk.function(jobs.nap).to(cluster)
        call = nap.submit(5, "done")
        time.sleep(0.5)
        frail.run(f"kill -9 {cluster.status()['pid']}")
        assert call.result(timeout=60) == "done"
        said = capsys.readouterr().err
        assert "frail: the connection broke" in said
        assert "frail: the server has died; it is started again" in said
        call = nap.submit(60)
        time.sleep(0.5)
        assert other.stop_server()
        with pytest.raises((rk.errors.WorkerDied, rk.errors.ConnectionLost)):
            call.result(timeout=40)
        assert not other.is_up()


def test_another_server_leaves_what_else_uses_the_way_to_the_host(frail: Host) -> None:
    with open_cluster(frail) as cluster, cluster.forward(cluster.server_port) as forward:
        address = "127.0.0.1", forward.local_port
        with socket.create_connection(address):
            pid = cluster.status()["pid"]
            cluster.transport.run(f"kill -9 {pid}; rm ~/.runkit/servers/*/token")
            assert cluster.up_if_not().status()["pid"] != pid
            with socket.create_connection(address) as stream:
                stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert b" 401 " in stream.recv(100)


@pytest.mark.parametrize("alive", [True, False])
def test_a_restart_of_the_server_during_a_call(frail: Host, alive: bool) -> None:
    with open_cluster(frail) as cluster:
        call = rk.function(jobs.nap).to(cluster).submit(4, "done")
        time.sleep(0.5)
        if not alive:
            frail.run(f"kill -9 {cluster.status()['pid']}")
        outcome = cluster.restart_server()
        assert "default" in outcome["kept"]
        assert outcome["lost"] == []
        assert call.result(timeout=60) == "done"


def test_the_ssh_connection_is_killed(frail: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with open_cluster(frail) as cluster:
        add = rk.function(jobs.add).to(cluster)
        call = rk.function(jobs.talk).to(cluster).submit("tick", 30, 0.1)
        time.sleep(1)
        kill_ssh()
        assert add(1, 2) == 3
        assert call.result(30) == "tick"
        assert "".join(f"tick {i}\n" for i in range(30)) in capsys.readouterr().out


@pytest.mark.parametrize("after", [0.02, 0.2, 0.4, 0.6])
def test_the_ssh_connection_is_killed_under_a_large_argument_and_result(frail: Host, after: float) -> None:
    with open_cluster(frail) as cluster:
        echo = rk.function(jobs_stopping.echo_and_count).to(cluster, env=arrays())
        array = np.arange(100_000_000, dtype=np.uint8)
        call = echo.submit(array, f"/tmp/count-{time.time_ns()}")
        time.sleep(after)
        kill_ssh()
        back, times = call.result(60)
        assert np.array_equal(back, array)
        assert times == 1


def test_a_large_transfer_is_given_up(frail: Host) -> None:
    """Whenever it is stopped, the env's process stays, the connection is usable at once, and no memory is kept."""
    with open_cluster(frail) as cluster:
        echo, pid = (rk.function(f).to(cluster, env=arrays()) for f in (jobs.echo, jobs.pid))
        before = pid()
        array = np.zeros(200_000_000, dtype=np.uint8)
        for after in (0.05, 0.3, 0.6, 0.9):
            with contextlib.suppress(rk.errors.CallTimeout):
                echo.options(timeout=after)(array)
            assert pid() == before
            call = echo.submit(array)
            time.sleep(after)
            call.cancel()
            assert pid() == before
        assert np.array_equal(echo(array), array)
        assert until(lambda: cluster.status()["envs"]["arrays"]["worker"]["rss"] < 150e6)


def test_small_calls_go_on_beside_a_large_one(frail: Host) -> None:
    with open_cluster(frail) as cluster:
        echo, add = (rk.function(f).to(cluster, env=arrays()) for f in (jobs.echo, jobs.add))
        call = echo.submit(np.zeros(200_000_000, dtype=np.uint8))
        small = 0
        while not call.done():
            assert add(small, 1) == small + 1
            small += 1
        assert small > 10


def test_many_buffers(frail: Host) -> None:
    with open_cluster(frail) as cluster:
        echo = rk.function(jobs.echo).to(cluster, env=arrays())
        for many in (
            [np.full(size, size % 7) for size in (1, 300, 4_000, 9_000) for _ in range(300)],
            [np.arange(5)] * 10 + [np.arange(i % 9) for i in range(70_000)],
        ):
            assert all(np.array_equal(one, other) for one, other in zip(echo(many), many, strict=True))


def test_a_client_is_killed_in_the_middle_of_a_large_upload(frail: Host, tmp_path: Path) -> None:
    body = """
        import numpy as np
        size = rk.function(len).to(c, env="arrays")
        print("begin", flush=True)
        while True:
            size(np.zeros(300_000_000, dtype=np.uint8))
        """
    with open_cluster(frail) as cluster:
        arrays().to(cluster)
        pid = rk.function(jobs.pid).to(cluster, env="arrays")
        before = pid()
        for after in (0.2, 0.7):
            with Client(frail, tmp_path, body) as client:
                client.wait_for("begin")
                time.sleep(after)
                client.process.kill()
            assert pid() == before
        assert until(lambda: cluster.status()["envs"]["arrays"]["worker"]["rss"] < 150e6)
        assert until(lambda: len(cluster.status()["clients"]) == 1)


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
        echo = rk.function(jobs.echo).to(cluster, env=arrays())
        for size in (100, 300_000, 50_000_000):
            array = np.arange(size, dtype=np.uint8)
            assert np.array_equal(echo(array), array)
        with pytest.raises(rk.errors.CallTimeout):
            rk.function(jobs.nap).to(cluster).options(timeout=0.3)(60)


@pytest.mark.timeout(120)
def test_an_unplugged_host(frail: Host, tmp_path: Path) -> None:
    """The last test here: calls end with ConnectionLost, never with None."""
    body = """
        f = rk.function(jobs.nap).to(c)
        submitted = f.submit(60)
        print("ready", flush=True)
        for wait in (lambda: f(60), submitted.result, lambda: list(f.map([60]))):
            try:
                print("result", wait())
            except rk.errors.ConnectionLost as error:
                print("lost:", error, flush=True)
            except rk.errors.HostError as error:
                print("unreachable:", error, flush=True)
        """
    with Client(frail, tmp_path, body, RUNKIT_RECONNECT_SECONDS="3") as client:
        client.wait_for("ready")
        time.sleep(1)
        frail.kill()
        assert client.end(90) == 0
    lines = [line for line in client.output.splitlines() if ":" in line][-3:]
    assert [line.split(":")[0] for line in lines] == ["lost", "lost", "unreachable"], client.output
    assert "result" not in client.output
    assert "may still be running" in lines[0]
