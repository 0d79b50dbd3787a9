"""Clusters as a user holds them: commands, files, ports, names, the server's life."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import socket
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import runkit as rk
from tests.calls import jobs
from tests.calls.clients import until
from tests.calls.projects import Project
from tests.hosts import Host


@pytest.fixture(scope="module")
def second(cluster: rk.Cluster, host: Host) -> Iterator[rk.Cluster]:
    """A second server on the same host, with a port, envs and objects of its own."""
    port = host.server_port + 200
    found = rk.cluster("second", host=host.address, ssh_port=host.port, ssh_creds=host.ssh_creds, server_port=port)
    yield found
    with contextlib.suppress(rk.errors.RunkitError):
        found.stop_server()


# -- commands


def test_commands(cluster: rk.Cluster, host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    assert cluster.run("echo one") == [(0, "one\n", "")]
    assert capfd.readouterr().out == "one\n"
    found = cluster.run(["echo a; echo b >&2", "exit 3", "kill -9 $$", "cat"], stream_logs=False)
    assert [code for code, _, _ in found] == [0, 3, -9, 0]
    assert found[0][1:] == ("a\n", "b\n")
    assert capfd.readouterr() == ("", "")
    cluster.run("echo to stderr >&2")
    assert capfd.readouterr().err.endswith("to stderr\n")
    [(_, out, _)] = cluster.run("hostname; pwd; id -un", stream_logs=False)
    name, folder, user = out.split()
    assert user == host.user
    assert folder == ("/home/node1" if host.isolated else str(host.home))
    if host.isolated:
        assert name == host.name
    with pytest.raises(rk.errors.CallTimeout):
        cluster.run("sleep 60", timeout=0.5)
    assert cluster.ssh("exit 3") == 3


def test_commands_in_an_env(cluster: rk.Cluster) -> None:
    env = rk.env(name="commands", reqs=["pycowsay==0.0.0.2"], env_vars={"GREETING": "hello"}, root_reqs=False)
    [(code, out, err)] = cluster.run("pycowsay $GREETING", env=env, stream_logs=False)
    assert code == 0, err
    assert "hello" in out
    found = cluster.run(["command -v python", "echo $GREETING"], env="commands", stream_logs=False)
    assert "/envs/" in found[0][1]
    assert found[1][1] == "hello\n"
    assert cluster.run("command -v pycowsay", stream_logs=False)[0][0] != 0


def test_python_commands(cluster: rk.Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    assert cluster.run_python(["import sys", "x = 20", "print(x + 1)"])[0][:2] == (0, "21\n")
    assert capfd.readouterr().out == "21\n"
    [(code, out, err)] = cluster.run_python(["print('so far')", "1 / 0"], stream_logs=False)
    assert (code, out) == (1, "so far\n")
    assert "ZeroDivisionError" in err
    [(code, out, _)] = cluster.run_python("from tests.calls import jobs; print(jobs.add(1, 2))", stream_logs=False)
    assert (code, out) == (0, "3\n")  # the package root is there


# -- files and ports


def test_files_both_ways(cluster: rk.Cluster, host: Host, tmp_path: Path) -> None:
    there = f"~/transfer {os.getpid()}"
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/ä b.bin").write_bytes(os.urandom(100_000))
    (tmp_path / "data/run.sh").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "data/run.sh").chmod(0o755)
    cluster.rsync(f"{tmp_path}/data/", f"{there}/", up=True)
    place = f'~/"{there[2:]}"'
    assert cluster.run(f"{place}/run.sh; rm {place}/run.sh; echo new > {place}/new", stream_logs=False)[0][1] == "ran\n"
    cluster.rsync(f"{there}/", tmp_path / "back", up=False)
    assert (tmp_path / "back/deep/ä b.bin").read_bytes() == (tmp_path / "data/deep/ä b.bin").read_bytes()
    assert (tmp_path / "back/new").read_text() == "new\n"
    cluster.rsync(f"{tmp_path}/data/", f"{there}/", delete=True)
    assert cluster.run(f"ls {place}", stream_logs=False)[0][1] == "deep\nrun.sh\n"
    with pytest.raises(FileNotFoundError, match="no-such"):
        cluster.rsync(tmp_path / "no-such", "~/x")


def test_a_port_is_brought_here(cluster: rk.Cluster, host: Host, tmp_path: Path) -> None:
    def serve(port: int) -> None:
        import http.server
        import threading

        server = http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.handle_request, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    rk.function(serve).to(cluster)(port)
    with cluster.forward(port) as forward:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(f"http://127.0.0.1:{forward.local_port}/", timeout=20).status == 200
        assert (forward.local_port == port) is host.isolated  # otherwise it is taken: by what listens there
        with cluster.forward(port) as another:
            assert another.local_port not in (0, forward.local_port)


def test_a_shell_files_and_ports_need_no_server(
    cluster: rk.Cluster, host: Host, client_state: Path, tmp_path: Path
) -> None:
    """So that somebody whose set-up has failed can go and see why."""
    masters = set((client_state / "run/ssh").iterdir())
    held = host.server_port - 1  # its Ray would get the port of the shared cluster's server
    failing = rk.cluster("failing", host=host.address, ssh_port=host.port, ssh_creds=host.ssh_creds, server_port=held)
    with pytest.raises(rk.errors.PortInUse):
        failing.up_if_not()
    assert failing.ssh("exit 3") == 3
    (tmp_path / "note").write_text("seen")
    failing.rsync(tmp_path / "note", "~/note of a failure")
    assert (host.home / "note of a failure").read_text() == "seen"
    with failing.forward(host.port) as forward:
        assert forward.local_port > 0
    assert failing.is_up() is False
    failing.disconnect()
    assert set((client_state / "run/ssh").iterdir()) == masters


# -- names


def test_saved_clusters(cluster: rk.Cluster, host: Host, client_state: Path) -> None:
    assert cluster.save() is cluster
    saved = client_state / "home/clusters"
    assert (saved / "box.json").stat().st_mode & 0o777 == 0o600
    found = rk.cluster("box")
    with found:
        assert rk.function(jobs.add).to(found)(1, 2) == 3
        assert rk.function(jobs.add).to("box")(1, 2) == 3
    other = rk.cluster("box", ssh_creds={"password": "hunter2"}, server_port=40000)
    assert (other.host, other.ssh_port, other.server_port) == (host.address, host.port, 40000)
    assert other.ssh_creds == {**host.ssh_creds, "password": "hunter2"}
    with pytest.raises(rk.errors.InvalidName):
        rk.cluster("here", server_port=40000)
    with pytest.raises(rk.errors.UsageError, match=r"'nothing'.*saved ones: .*box"):
        rk.cluster("nothing")
    secret = rk.cluster("secret", host="x", ssh_creds={"password": "hunter2"})
    with pytest.raises(rk.errors.UsageError, match="password"):
        secret.save()
    assert "hunter2" not in repr(secret) + secret._repr_html_() + repr(vars(secret).get("ssh_port"))
    assert not list(saved.glob("secret*"))


def test_how_things_look(cluster: rk.Cluster, host: Host) -> None:
    place = f"{host.user}@{host.address}:{host.port}"
    assert repr(cluster) == f"<Cluster 'box' at {place} (connected)>"
    assert place in cluster._repr_html_()
    other = rk.cluster("a&b".replace("&", "-"), host="example.org")
    assert repr(other) == "<Cluster 'a-b' at example.org (not connected)>"
    add = rk.function(jobs.add)
    assert repr(add) == "<Function add (here; .to(cluster) sends it)>"
    assert repr(add.to(cluster)) == "<Function add on 'box', env 'default'>"
    assert "add" in add._repr_html_()
    call = add.to(cluster).submit(1, 2)
    assert call.result() == 3
    assert repr(call) == "<Call add on 'box', env 'default': finished>"
    assert "finished" in call._repr_html_()
    sums = add.to(cluster).map([1], [2])
    assert repr(sums) == "<results of add on 'box', env 'default': iterate over them, or list(...)>"
    assert list(sums) == [3]
    assert repr(rk.env().to(cluster)) == "<env 'default': ready>"
    env = rk.env(name="look", reqs=["a<b"], env_vars={"TOKEN": "hunter2"})
    assert "hunter2" not in repr(env) + env._repr_html_()
    assert "a&lt;b" in env._repr_html_()
    module = rk.module(jobs.Trainer).to(cluster)
    assert repr(module) == "<Module Trainer on 'box', env 'default'>"
    made = module(name="<t>")
    assert "&lt;t&gt;" in made._repr_html_()
    assert "step" in repr(made.step)
    cluster.clear()
    with pytest.raises(TypeError, match=r"rk\.here"):
        pickle.dumps(cluster)


# -- the server's life


def test_status(cluster: rk.Cluster, host: Host) -> None:
    cluster.put("seen", 1)
    status = cluster.status()
    assert status["version"] == rk.__version__
    assert status["port"] == cluster.server_port == host.server_port
    assert status["host"]["cpus"] >= 1
    default = status["envs"]["default"]
    assert default["state"] == "ready"
    assert default["keys"] == ["seen"]
    assert default["worker"]["pid"] > 0
    assert default["worker"]["rss"] > 1_000_000
    assert len(status["clients"]) >= 1
    assert status["ray"]["version"]
    cluster.clear()


def test_is_up_starts_nothing(second: rk.Cluster, host: Host, cluster: rk.Cluster) -> None:
    second.stop_server()  # nothing runs: nothing happens
    assert second.is_up() is False
    assert repr(second).endswith("(not connected)>")
    assert cluster.is_up() is True
    assert rk.cluster("far", host="no-such-host.invalid").is_up() is False


def test_two_servers_on_one_host(second: rk.Cluster, cluster: rk.Cluster) -> None:
    assert second.up_if_not() is second
    assert second.server_port == cluster.server_port + 200
    second.put("k", "second")
    cluster.put("k", "first")
    assert (second.get("k"), cluster.get("k")) == ("second", "first")
    assert rk.function(jobs.pid).to(second)() != rk.function(jobs.pid).to(cluster)()
    assert cluster.clear() == second.clear() == ["k"]


def test_restart_keeps_what_it_can(second: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    env = rk.env(name="stays", root_reqs=False)
    f = rk.function(jobs.identity_of).to(second, env=env)
    second.put("object", [1], env=env)
    second.put("another", 2)
    before = second.status()
    identity = f("object")
    assert second.restart_server() == {"kept": ["default", "stays"], "lost": []}
    after = second.status()
    assert after["pid"] != before["pid"]
    assert second.keys() == ["another", "object"]
    assert f("object") == identity
    assert second.get("another") == 2


def test_a_server_that_was_killed(second: rk.Cluster, host: Host) -> None:
    """What only looks says so; what sends brings it back, and what ran in it goes on."""
    add = rk.function(jobs.add)
    second.put("kept", [1])
    host.run(f"kill -9 {second.status()['pid']}")
    assert until(lambda: f":{second.server_port}" not in listening(host))
    with pytest.raises(rk.errors.ConnectionLost, match=r"no server answers.*up_if_not"):
        second.keys()
    assert add.to(second)(1, 2) == 3
    assert second.get("kept") == [1]
    second.clear()


def test_restart_tells_what_was_lost(second: rk.Cluster, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    port = second.up_if_not().server_port
    left = host.run("ps -eo pid,args | grep -v grep").stdout.splitlines()
    mine = [line.split()[0] for line in left if f"/{port}/" in line or f"--port {port}" in line]
    host.run(f"kill -9 {' '.join(mine)}", check=False)
    outcome = second.restart_server()
    assert outcome["kept"] == []
    assert "default" in outcome["lost"]
    assert "default" in capsys.readouterr().err
    assert rk.function(jobs.add).to(second)(1, 2) == 3


def test_disconnecting_leaves_everything(second: rk.Cluster, host: Host) -> None:
    second.put("stays", [1])
    second.disconnect()
    assert repr(second).endswith("(not connected)>")
    second.disconnect()
    assert second.get("stays") == [1]  # connects by itself
    with second as entered:
        assert entered is second
        f = rk.function(jobs.add).to(second)
    assert repr(second).endswith("(not connected)>")
    assert f(1, 2) == 3
    assert second.is_up() is True


def test_another_version_replaces_an_idle_server(second: rk.Cluster, host: Host, tmp_path: Path) -> None:
    second.clear()
    second.disconnect()
    package = Path(rk.__file__).parent
    shutil.copytree(package, tmp_path / "other/runkit", ignore=shutil.ignore_patterns("__pycache__"))
    init = tmp_path / "other/runkit/__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "9.'))
    project = Project(tmp_path / "idle", second).write({"f.py": "def f():\n    return 1\n"})
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'other')!r})\nfrom box import c\nimport f, runkit as rk\n"
    [printed] = project.run("-c", code + "print(rk.function(f.f).to(c)(), c.status()['version'])")
    assert printed == f"1 9.{rk.__version__}"


def test_stopping_leaves_nothing(second: rk.Cluster, cluster: rk.Cluster, host: Host) -> None:
    port = second.up_if_not().server_port
    assert f":{port}" in listening(host)
    envs = [rk.env(name=f"again-{i}", root_reqs=False) for i in range(3)]
    submitted, mapped = (rk.function(jobs.add).to(second, env=env) for env in envs[:2])
    constructed = rk.module(jobs.Trainer).to(second, env=envs[2])
    call = rk.function(jobs.nap).to(second, env=envs[0]).submit(60)
    second.stop_server()
    assert not listening(host) & {f":{number}" for number in range(port, port + 100)}
    left = host.run("ps -eo pid,args | grep -v grep").stdout
    assert f"/{port}/" not in left
    assert f"--port {port}" not in left
    assert second.is_up() is False
    with pytest.raises((rk.errors.WorkerDied, rk.errors.ConnectionLost)):
        call.result(20)
    assert cluster.is_up() is True
    assert rk.function(jobs.add).to(cluster)(1, 2) == 3
    assert rk.function(jobs.add).to(second)(1, 2) == 3  # and starts again
    assert second.keys() == []
    # Envs that went with it are sent again, whichever way they are called.
    assert submitted.submit(1, 2).result() == 3
    assert list(mapped.map([1, 2])) == [1, 2]
    assert constructed(0.5).remote.lr == 0.5
    second.stop_server()


def listening(host: Host) -> set[str]:
    """Local ports with a listener, as ':PORT'."""
    script = "import re; print([int(l.split()[1].split(':')[1], 16) for f in ('tcp', 'tcp6') for l in open('/proc/net/' + f) if ' 0A ' in l])"
    return {f":{port}" for port in eval(host.run(f'python3 -c "{script}"').stdout)}


def test_by_a_script_as_in_the_readme(cluster: rk.Cluster, tmp_path: Path) -> None:
    project = Project(tmp_path / "hello", cluster).write(
        {
            "train.py": "import helper\ndef train(n):\n    print('training')\n    return helper.square(n)\n",
            "helper.py": "def square(n): return n * n\n",
        }
    )
    code = "import runkit as rk\nfrom box import c\nimport train\nprint(rk.function(train.train).to(c)(7))"
    assert project.run("-c", code) == ["training", "49"]


def test_the_code_of_what_a_container_holds(cluster: rk.Cluster, tmp_path: Path) -> None:
    """A container of another package holds objects of the user's classes: their code goes along."""
    project = Project(tmp_path / "held", cluster).write({"things.py": "class Thing:\n    size = 3\n"})
    code = """
        from collections import OrderedDict
        from box import c
        import things
        c.put("held", OrderedDict(a=things.Thing()))
        print(c.get("held")["a"].size)
        """
    assert project.run("-c", textwrap.dedent(code)) == ["3"]
    cluster.clear()
