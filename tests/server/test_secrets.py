"""Secrets in the server: held in memory through deaths of everything but the server itself, malformed ones refused unseen."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runkit.errors import UsageError
from runkit.servlet.secrets import Secrets, remove_all
from runkit.servlet.spawn import WorkerSpec, write_ray_python
from tests.server.running import REPOSITORY, Server, eventually, plan

VALUE = "v4lue-'\"\n@/:%ä"


def secret(fingerprint: str = "1", value: str = VALUE) -> dict[str, Any]:
    content = base64.b64encode(value.encode()).decode()
    file = {"name": "key", "content": content, "variable": "KEY_FILE", "folder": False}
    return {"fingerprint": fingerprint, "variables": {"TOKEN": value}, "settings": {"REGION": "mars"}, "files": [file]}


def held(server: Server) -> list[str | None]:
    """What the env's code sees: variable, setting, file."""
    with server.stream("held") as stream:
        path = stream.call("os", "getenv", "KEY_FILE")
        text = stream.call("builtins", "eval", f"open({path!r}).read()") if path else None
        return [stream.call("os", "getenv", "TOKEN"), stream.call("os", "getenv", "REGION"), text]


def kill(server: Server, sign: str) -> None:
    for pid in server.processes():
        if sign.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def test_what_dies_comes_back_with_them(server: Server) -> None:
    events = list(server.api.events("PUT", "/v1/envs/held", plan("held", secrets={"s": secret()})))
    assert "done" in events[-1], events
    assert held(server) == [VALUE, "mars", VALUE]
    for sign in ("ray::EnvServlet", "raylet/raylet"):
        before = server.env("held")["worker"]["pid"]
        kill(server, sign)
        eventually(lambda: (server.env("held")["worker"] or {"pid": before})["pid"] != before, 60)
        assert held(server) == [VALUE, "mars", VALUE]
    kept = (server.lasting / "envs" / "held.json").read_text()
    assert "v4lue" not in kept
    assert base64.b64encode(VALUE.encode()).decode() not in kept
    # A client that has another value is told so; one that has none of it leaves it as it is.
    asked = {"name": "held", "request": "1"}
    for secrets, state in (({"s": "2"}, "changed"), ({"s": "1"}, "ready"), ({}, "ready")):
        assert server.api.json("POST", "/v1/ensure", {"env": {**asked, "secrets": secrets}})["env"] == state
    again = plan("held", request="2", secrets={"s": {"fingerprint": "1"}, "t": {"fingerprint": "x"}})
    assert "done" in list(server.api.events("PUT", "/v1/envs/held", again))[-1]
    assert held(server) == [VALUE, "mars", VALUE]
    assert server.env("held")["secrets_lost"] == ["t"]
    # Other resources are another servlet.
    larger = plan("held", request="3", compute={"CPU": 1}, secrets={"s": {"fingerprint": "1"}})
    assert "done" in list(server.api.events("PUT", "/v1/envs/held", larger))[-1]
    assert held(server) == [VALUE, "mars", VALUE]
    server.api.json("DELETE", "/v1/envs/held")
    assert list((server.runtime / "secrets").iterdir()) == []


def test_a_build_changes_nothing_for_the_running_worker(server: Server, tmp_path: Path) -> None:
    wanted = plan("held", secrets={"s": secret()})
    assert "done" in list(server.api.events("PUT", "/v1/envs/held", wanted))[-1]
    going, go_on = tmp_path / "going", tmp_path / "go-on"
    wait = f"test $NEW = other-{VALUE[:6]} && touch {going}; while ! test -e {go_on}; do sleep 0.05; done; exit 3"
    other = {"fingerprint": "2", "variables": {"NEW": f"other-{VALUE[:6]}"}, "settings": {}, "files": []}
    wanted = plan("held", request="2", build="held-2", setup_cmds=[wait], secrets={"t": other})
    events = server.api.events("PUT", "/v1/envs/held", wanted)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(list, events)
        try:
            eventually(going.exists)
            assert held(server) == [VALUE, "mars", VALUE]
        finally:
            go_on.touch()
        assert "exit code 3" in str(done.result()[-1]["error"])
    assert held(server) == [VALUE, "mars", VALUE]
    server.api.json("DELETE", "/v1/envs/held")


@pytest.mark.parametrize(
    "changes",
    [
        {"variables": {"TOKEN": 3}},
        {"variables": {"TOKEN": "v4lue\0"}},
        {"variables": ["v4lue"]},
        {"files": [{"name": "../v4lue", "content": ""}]},
        {"files": [{"name": "key", "content": "v4lue!"}]},
        {"variables": {"TOKEN": "v4lue" * 20_000}},
    ],
)
def test_a_malformed_one_is_refused_unseen(server: Server, changes: dict[str, Any]) -> None:
    wanted = plan("bad", secrets={"s": {**secret(), **changes}})
    with pytest.raises(UsageError, match="the secret 's' of the plan is malformed") as caught:
        list(server.api.events("PUT", "/v1/envs/bad", wanted))
    assert "v4lue" not in str(caught.value)
    with pytest.raises(UsageError, match="'a/b' cannot be the name of a secret"):
        list(server.api.events("PUT", "/v1/envs/bad", plan("bad", secrets={"a/b": secret()})))


def test_files_that_vanish_come_back_and_go_to_nobody_else(tmp_path: Path) -> None:
    """As where the system empties the memory folder at a log-out, and somebody else makes a folder of that name."""
    secrets = Secrets(str(tmp_path), "env", str(tmp_path / "secrets.sock"))
    secrets.take({"s": "1"}, [{"name": "s", **secret()}])
    try:
        file = Path(secrets.variables()["KEY_FILE"])
        folder = (tmp_path / "secrets").resolve()
        shutil.rmtree(folder)
        folder.mkdir()
        folder.chmod(0o777)
        eventually(file.exists)
        assert file.read_text() == VALUE
        assert (tmp_path / "secrets").resolve() != folder
        assert list(folder.iterdir()) == []
        folder.rmdir()
        file.unlink()
        secrets.told()  # what a worker is started with
        assert file.read_text() == VALUE
    finally:
        secrets.clear()
        remove_all(tmp_path)
    assert not os.path.lexists(tmp_path / "secrets")


def test_tasks_of_ray_ask_for_them(tmp_path: Path) -> None:
    """The program that Ray starts has the env's variables in it, and no secret."""
    secrets = Secrets(str(tmp_path), "env", str(tmp_path / "secrets.sock"))
    secrets.take({"s": "1"}, [{"name": "s", **secret()}])
    boot = str(REPOSITORY / "runkit/worker/boot.py")
    folders = dict.fromkeys(("sockets", "control", "log"), str(tmp_path))
    spec = WorkerSpec(
        "env",
        "m",
        sys.executable,
        boot,
        **folders,
        environment={},
        env_vars={"PLAIN": "a b", "BASH_FUNC_x%%": "() { :; }"},
        secrets=secrets,
    )
    try:
        script = write_ray_python(spec)
        assert "v4lue" not in Path(script).read_text()
        show = (
            "import os, sys; print([os.environ.get(n) for n in ('PLAIN', 'TOKEN', 'REGION')], sys.argv, sys.executable)"
        )
        done = subprocess.run([script, "-c", show, "one two"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"{['a b', VALUE, 'mars']} ['-c', 'one two'] {sys.executable}"
        secrets.take({"s": "1"}, [{"name": "s", **secret(value="new")}])
        assert "'new'" in subprocess.run([script, "-c", show], capture_output=True, text=True, check=True).stdout
    finally:
        secrets.clear()
        left = list((tmp_path / "secrets").iterdir())
        remove_all(tmp_path)
    assert left == list(tmp_path.glob("secrets*")) == []
