"""A user's mistakes: a clear error of runkit's own, from the user's line straight to what is wrong, and nothing changed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from tests.calls import jobs, jobs_stopping
from tests.calls.projects import Project
from tests.hosts import Host


def run(code: str, cwd: Path | str, **environment: str) -> tuple[str, str]:
    """The name of the error that a script of a user ends with, and its whole standard error."""
    script = f"import runkit as rk\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^runkit\.errors\.(\w+): ", done.stderr, re.MULTILINE)
    assert found, done.stderr
    assert not re.search(r'File ".*[/]runkit[/](client|wire|transport|launch|model)', done.stderr), done.stderr
    return found[-1], done.stderr


def at(there: Host, **changes: Any) -> str:
    """`c`, a cluster on the host, as a line of code."""
    creds = {**there.ssh_creds, **changes.pop("creds", {})}
    arguments = {**there.place, "ssh_creds": creds, **changes}
    return f"c = rk.cluster('wrong', **{arguments!r})\n"


# -- the way to the host


def test_unknown_host(host: Host, tmp_path: Path) -> None:
    kind, said = run(at(host, host="no-such-host.invalid") + "c.up_if_not()", tmp_path)
    assert kind == "HostUnreachable"
    assert "no-such-host.invalid" in said


def test_nobody_listens(host: Host, tmp_path: Path) -> None:
    kind, said = run(at(host, ssh_port=9) + "rk.function(abs).to(c)", tmp_path)
    assert kind == "HostUnreachable"
    assert f"{host.address}" in said


def test_a_refused_key(host: Host, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    wrong = {"ssh_private_key": str(tmp_path / "key")}
    kind, said = run(at(host, creds=wrong) + "c.up_if_not()", tmp_path)
    assert kind == "AuthenticationFailed"
    assert host.user in said
    missing = {"ssh_private_key": str(tmp_path / "no-such-key")}
    _, said = run(at(host, creds=missing) + "c.up_if_not()", tmp_path)
    assert said.count("Traceback") == 1
    assert said.count("no-such-key") == 1
    _, said = run('rk.env(env_vars="no-such.env")', tmp_path)
    assert "no-such.env cannot be read: No such file" in said
    assert said.count("Traceback") == 1


def test_a_changed_host_key(host: Host, hosts2: list[Host], tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[{host.address}]:{host.port} {hosts2[1].host_key}\n")
    kind, said = run(at(host) + "c.up_if_not()", tmp_path, RUNKIT_KNOWN_HOSTS=str(known))
    assert kind == "HostKeyChanged"
    assert str(known) in said
    assert known.read_text().count("\n") == 1  # nothing recorded


def test_a_port_in_use(host: Host, tmp_path: Path) -> None:
    port = host.server_port + 100
    held = "import socket, time; s = socket.create_server(('127.0.0.1', {})); time.sleep(60)"
    pids = []
    try:
        for number in (port, port + 101):
            done = host.run(f'python3 -c "{held.format(number)}" >/dev/null 2>&1 </dev/null & echo $!')
            pids.append(done.stdout.strip())
        for server_port, taken in ((port, port), (port + 100, port + 101)):
            kind, said = run(at(host, server_port=server_port) + "c.up_if_not()", tmp_path)
            assert kind == "PortInUse"
            assert str(taken) in said
    finally:
        host.run(f"kill {' '.join(pids)}", check=False)


def test_a_client_of_another_version(cluster: rk.Cluster, host: Host, tmp_path: Path) -> None:
    """The server is in use by this session: it is not taken away from it."""
    package = Path(rk.__file__).parent
    shutil.copytree(package, tmp_path / "other/runkit", ignore=shutil.ignore_patterns("__pycache__"))
    init = tmp_path / "other/runkit/__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "9.'))
    cluster.put("mine", 1)
    code = at(host, server_port=cluster.server_port) + "c.up_if_not()"
    (tmp_path / "empty").mkdir()
    kind, said = run(code, tmp_path / "empty", PYTHONPATH=str(tmp_path / "other"))
    assert kind == "VersionMismatch"
    assert "in use" in said
    assert "'mine'" in said
    assert "cluster.restart_server()" in said
    assert cluster.get("mine") == 1
    cluster.clear()


# -- code and roots


def test_roots_that_cannot_be(cluster: rk.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Project(tmp_path / "nothing-here", cluster)
    (empty.folder / "only").mkdir()
    with pytest.raises(rk.errors.RootError, match="empty"):
        rk.function(jobs.add).to(cluster, env=rk.env(name="rooted", working_dir=empty.folder))
    with pytest.raises(rk.errors.RootError, match="home folder.*working_dir"):
        rk.function(jobs.add).to(cluster, env=rk.env(name="rooted", working_dir=Path.home()))
    big = Project(tmp_path / "big", cluster).write({"a.py": "x = 1"})
    with open(big.folder / "data.bin", "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(rk.errors.RootError, match=r"1\.0 GiB.*data\.bin.*gitignore|data\.bin.*1\.0 GiB"):
        rk.function(jobs.add).to(cluster, env=rk.env(name="rooted", working_dir=big.folder))
    assert "rooted" not in cluster.status()["envs"]
    [(_, out, _)] = cluster.run("ls ~/.runkit/roots", stream_logs=False)
    assert "big" not in out
    assert "nothing-here" not in out


def test_a_module_that_is_not_there(cluster: rk.Cluster) -> None:
    missing = type(sys)("made_up")
    exec("def f(): return 1", missing.__dict__)
    assert rk.function(missing.f).to(cluster)() == 1  # no file: it travels by value


# -- names and arguments

NAMES = [
    lambda c: rk.cluster("not a name", host="x"),
    lambda c: rk.cluster("here", host="x"),
    lambda c: rk.cluster("", host="x"),
    lambda c: rk.cluster(3, host="x"),
    lambda c: rk.env(name="a/b"),
    lambda c: rk.env(name="base"),
    lambda c: rk.env(name="../up"),
    lambda c: rk.env(name="n" * 101),
    lambda c: c.put("", 1),
    lambda c: c.put("two\nlines", 1),
    lambda c: c.put(5, 1),
    lambda c: c.put("k" * 201, 1),
    lambda c: rk.function(jobs.add).to(c, name=" padded "),
    lambda c: rk.module(jobs.Trainer).to(c)(name="tab\t"),
    lambda c: rk.function(jobs.add).to(c, env="no good"),
]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names(cluster: rk.Cluster, number: int) -> None:
    with pytest.raises(rk.errors.InvalidName) as caught:
        NAMES[number](cluster)
    assert "runkit/client" not in "".join(str(frame.path) for frame in caught.traceback)
    assert cluster.keys() == []


ARGUMENTS = {
    r"no cluster is saved as 'unknown'": lambda c: rk.cluster("unknown"),
    r"server_port is a port": lambda c: rk.cluster("x", host="x", server_port=80),
    r"ssh_usr": lambda c: rk.cluster("x", host="x", ssh_creds={"ssh_usr": "me"}),
    r"is not a port": lambda c: rk.cluster("x", host="x", ssh_port="twenty-two"),
    r"reqs is a list": lambda c: rk.env(reqs="numpy"),
    r"no package": lambda c: rk.env(reqs=[""]),
    r"no-such-folder": lambda c: rk.env(reqs=["./no-such-folder"]),
    r"no-such-place": lambda c: rk.env(reqs=["reqs:no-such-place"]),
    r"holds a password": lambda c: rk.env(reqs=["git+https://me:pw@example.org/x.git"]),
    r"must be a string": lambda c: rk.env(env_vars={"A": 1}),
    r"cannot be the name of an environment variable": lambda c: rk.env(env_vars={"A B": "1"}),
    r"no-such\.env": lambda c: rk.env(env_vars="no-such.env"),
    r'write it as "3\.12"': lambda c: rk.env(python=3.12),
    r"too old": lambda c: rk.env(python="3.6"),
    r"CPU": lambda c: rk.env(compute={"CPU": -1}),
    r"rk\.module": lambda c: rk.function(jobs.Trainer),
    r"takes a function": lambda c: rk.function("add"),
    r"a cluster is needed": lambda c: rk.function(jobs.add).to(5),
    r"no cluster is saved as 'typo'": lambda c: rk.function(jobs.add).to("typo"),
    r"sent to a cluster": lambda c: rk.env().to("typo"),
    r"commands are strings": lambda c: c.run(["true", 3]),
    r"timeout": lambda c: rk.function(jobs.add).to(c).options(timeout="soon"),
}


@pytest.mark.parametrize("message", ARGUMENTS)
def test_arguments(cluster: rk.Cluster, message: str) -> None:
    with pytest.raises(rk.errors.UsageError, match=message) as caught:
        ARGUMENTS[message](cluster)
    assert "runkit/client" not in "".join(str(frame.path) for frame in caught.traceback)


def test_errors_are_one_tree() -> None:
    kinds = [kind for kind in vars(rk.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 20
    assert all(issubclass(kind, rk.errors.RunkitError) for kind in kinds)


def test_remote_exceptions_show_no_way_through_runkit(cluster: rk.Cluster) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        rk.function(jobs.deep).to(cluster)(2)
    files = [Path(str(frame.path)).name for frame in caught.traceback]
    assert files == ["test_bad_input.py", "jobs.py", "jobs.py", "jobs.py"]


def test_a_proxy_shows_no_way_through_runkit(cluster: rk.Cluster) -> None:
    cluster.put("listed", [1])
    proxy = cluster.get("listed", remote=True)

    def set_loss() -> None:
        proxy.loss = 1

    for use, kind in ((lambda: proxy.nothing, AttributeError), (set_loss, AttributeError), (proxy, TypeError)):
        with pytest.raises(kind) as caught:
            use()
        assert {Path(str(frame.path)).name for frame in caught.traceback} == {"test_bad_input.py"}
    cluster.clear()


@pytest.mark.parametrize("how", ["call", "submit", "map", "generator"])
def test_ctrl_c_shows_the_users_line_alone(cluster: rk.Cluster, how: str) -> None:
    nap, count = (rk.function(f).to(cluster) for f in (jobs.nap, jobs_stopping.slow_items))
    items = count(60)
    ways: dict[str, Callable[[], Any]] = {
        "call": lambda: nap(60),
        "submit": lambda: nap.submit(1).result(),
        "map": lambda: list(nap.map([60])),
        "generator": lambda: [next(items), next(items)],
    }
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        ways[how]()
    assert {Path(str(frame.path)).name for frame in caught.traceback} == {"test_bad_input.py"}
    items.close()
