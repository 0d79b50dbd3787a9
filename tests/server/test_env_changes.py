"""Changes of envs that fail halfway or meet: what is said, and that nobody else's env suffers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runkit.client.asked import SyncedRoot
from runkit.client.deploy import Deployer
from runkit.errors import ServerError, SetupFailed
from runkit.model.env import env
from runkit.server.directory import Directory
from runkit.server.envs import Envs
from runkit.server.ray_cluster import RayCluster
from runkit.server.settings import Settings
from tests.envs.packages import index, wheel
from tests.server.running import Server, eventually, plan
from tests.server.test_envs import send


def test_a_default_env_that_cannot_be_made_anew_stays(server: Server) -> None:
    """And every other env is there as before."""
    assert "done" in send(server, plan("other"))[0]
    assert "done" in send(server, plan("default", alias="ml"))[0]
    home = Path(server.api.json("GET", "/v1/status")["home"])
    first = next((home / "envs").glob("default-ray*"))
    hidden, shipped, aside = home / "hidden", home / "wheels" / "base", home / "wheels" / "aside"
    first.rename(hidden)
    if had := shipped.exists():
        shipped.rename(aside)
    shipped.mkdir(parents=True)  # holds no Ray, and nothing else is asked then
    try:
        with pytest.raises(SetupFailed):
            server.api.json("DELETE", "/v1/envs/default", timeout=None)
        asked = {"env": {"name": "other", "request": "1"}}
        assert server.api.json("POST", "/v1/ensure", asked)["env"] == "ready"
        assert server.env()["alias"] == "ml"
        with server.stream("default") as stream:
            assert stream.call("math", "sqrt", 4) == 2.0
    finally:
        shipped.rmdir()
        if had:
            aside.rename(shipped)
        if not (first / "bin" / "python").exists():
            shutil.rmtree(first, ignore_errors=True)
            hidden.rename(first)
    server.api.json("DELETE", "/v1/envs/default", timeout=None)
    assert server.env()["alias"] == ""
    with server.stream("default") as stream:
        assert stream.call("math", "sqrt", 4) == 2.0


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An index with the packages first and second."""
    with index(tmp_path / "index") as made:
        for name in ("first", "second"):
            made.add(wheel(tmp_path, name, "1.0"))
        monkeypatch.setenv("UV_DEFAULT_INDEX", made.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
        yield


def test_two_clients_that_add_to_one_env_at_once(server: Server, shop: None, tmp_path: Path) -> None:
    """Each is sent for a root of its own: what both roots ask for is there in the end."""
    roots = {}
    for name in ("first", "second"):
        folder = tmp_path / f"of-{name}"
        folder.mkdir()
        (folder / "requirements.txt").write_text(f"{name}\n")
        roots[name] = SyncedRoot(f"{name}-root", "1", str(folder), always=False)
    clients = {
        name: Deployer(server.api, server.api.json("GET", "/v1/status"), home=tmp_path / "home") for name in roots
    }
    wanted = env("shared")
    between: list[str] = []

    def progress(event: dict[str, Any]) -> None:
        if not between:
            between.append(clients["second"].send(wanted, [roots["second"]]).name)

    assert clients["first"].send(wanted, [roots["first"]], progress=progress).changed
    spec = server.api.json("GET", "/v1/envs/shared/spec")
    assert set(spec["of_roots"]) == {"first-root", "second-root"}
    assert dict(spec["packages"]) == {"first": "1.0", "second": "1.0"}
    assert not clients["first"].send(wanted, [roots["first"]]).changed
    last, _ = send(server, {**plan("shared"), "follows": "another"})  # it may have waited for the one before
    assert last == {"changed": "shared"}
    assert server.api.json("GET", "/v1/envs/shared/spec") == spec
    server.api.json("DELETE", "/v1/envs/shared")


def test_nobody_waits_for_a_ray_that_does_not_come_up(tmp_path: Path) -> None:
    settings = Settings(port=32300, home=tmp_path, lasting=tmp_path, runtime=tmp_path)

    async def attempt() -> None:
        envs = Envs(settings, RayCluster(settings), Directory(None, None))  # type: ignore[arg-type]  # neither is asked
        given_up = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, given_up.set)
        [event] = [event async for event in envs.install(plan("one"), {}, given_up)]
        assert "was ended before it began" in event["error"]["message"]
        asyncio.get_running_loop().call_later(0.1, envs.no_ray, "Ray is lost. Restart the server.")
        with pytest.raises(ServerError, match="Restart the server"):
            await envs.worker("default")
        [event] = [event async for event in envs.install(plan("one"), {}, asyncio.Event())]
        assert "Restart the server" in event["error"]["message"]

    asyncio.run(asyncio.wait_for(attempt(), 60))


def test_a_process_that_went_for_one_that_does_not_come_up(server: Server) -> None:
    """It had to make room, as there are no resources for both: that, and what went with it, is told."""
    cpus = server.api.json("GET", "/v1/status")["host"]["cpus"]
    assert "done" in send(server, plan("roomy", compute={"CPU": cpus}))[0]
    with server.stream("roomy") as stream:
        stream.call("builtins", "exec", "from runkit.worker import here\nhere.Here().put('model', 1)", {})
    eventually(lambda: server.env("roomy")["keys"] == ["model"])
    fatal = "import os, site; open(site.getsitepackages()[0] + '/fatal.pth', 'w').write('import os; os._exit(3)')"
    wanted = plan("roomy", request="2", build="roomy-2", setup_cmds=[f'python -c "{fatal}"'])
    last, said = send(server, {**wanted, "compute": {"CPU": cpus - 0.25}})
    assert "error" in last
    assert last["ended"]
    [warning] = [event["warning"] for event in said if "warning" in event]
    assert "'model'" in warning
    assert server.api.json("POST", "/v1/ensure", {"env": {"name": "roomy", "request": "1"}})["env"] == "ready"
    server.api.json("DELETE", "/v1/envs/roomy")


def test_a_plan_that_cannot_be_written(server: Server) -> None:
    """The env is there, is watched, and its sender hears that it is not kept."""
    file = server.lasting / "envs" / "unkept.json"
    file.mkdir()
    try:
        last, said = send(server, plan("unkept"))
        assert "done" in last
        assert any("cannot be written down" in event.get("warning", "") for event in said)
    finally:
        file.rmdir()
    assert list(file.parent.glob(".unkept*")) == []
    pid = server.env("unkept")["worker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    ask = {"env": {"name": "unkept", "request": "1"}}
    eventually(lambda: (server.api.json("POST", "/v1/ensure", ask)["worker"] or {}).get("pid") not in (None, pid))
    server.api.json("DELETE", "/v1/envs/unkept")
