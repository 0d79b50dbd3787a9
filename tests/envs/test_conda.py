"""Conda environments from what names them to a folder that runs, on a small channel (see tests/conda.py): no network, no conda."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uv
from host import Host
from packages import Index, index, wheel
from test_deploy import ONE_QUESTION, Client

import runkit as rk
from runkit.servlet import conda as on_host
from runkit.servlet.install import install
from runkit.servlet.programs import Runner
from tests.conda import Channel, channel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conda")


@pytest.fixture(scope="module")
def orchard(folder: Path) -> Iterator[Channel]:
    with channel(folder / "channel") as made:
        yield made


@pytest.fixture(scope="module")
def stall(folder: Path) -> Iterator[Index]:
    """An index of pip's packages beside the usual one: pie (needs orchard and plum), crust (needs orchard<2)."""
    with index(folder / "index") as made:
        made.add(wheel(folder / "files", "pie", "1.0", ["orchard>=1", "plum"]))
        made.add(wheel(folder / "files", "plum", "1.0"))
        made.add(wheel(folder / "files", "crust", "1.0", ["orchard<2"]))
        yield made


@pytest.fixture(scope="module")
def host(folder: Path) -> Host:
    return Host(folder / "host")


@pytest.fixture
def client(host: Host, folder: Path) -> Client:
    host.online = True
    return Client(host, folder / "client")


def asked(orchard: Channel, name: str, *dependencies: object, **options: object) -> rk.CondaEnv:
    content = {"channels": [orchard.url], "dependencies": [f"python={orchard.minor}", *dependencies]}
    return rk.conda_env(conda_env=content, name=name, **options)


VERSIONS = "import orchard, sys; print(orchard.__version__, *sys.version_info[:2], sep='.')"


def test_a_file_becomes_an_env(client: Client, host: Host, orchard: Channel, stall: Index, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(f"--extra-index-url {stall.url}\npie\n")
    file = tmp_path / "environment.yml"
    file.write_text(
        f"""
        name: fruit
        channels: [{orchard.url}, nodefaults]
        dependencies:
          - python={orchard.minor}
          - orchard
          - press
          - pip:
            - -r more.txt
        variables:
          JUICE: 3
        """
    )
    env = rk.env(conda_env=str(file))
    assert isinstance(env, rk.CondaEnv)
    assert (env.name, env.python) == ("fruit", orchard.minor)
    client.send(env)
    assert host.run("fruit", VERSIONS) == f"2.0.{orchard.minor}"
    assert host.run("fruit", "import pie, plum; print(pie.__version__)") == "1.0"
    # What conda brought is not brought again by pip, and what pip brought does not remove it.
    assert [name for name, _ in host.plans["fruit"]["packages"]] == ["orchard", "press", "python", "pie", "plum"]
    assert not client.send(env).changed
    assert host.calls == ONE_QUESTION


def test_activation_is_captured_once(client: Client, host: Host, orchard: Channel, stall: Index) -> None:
    commands = ["echo $CONDA_DEFAULT_ENV $PRESS_HOME; command -v press", f"pip install --index-url {stall.url} plum"]
    client.send(asked(orchard, "pressed", "press", setup_cmds=commands))
    assert host.run("pressed", "import plum; print(plum.__version__)") == "1.0"
    prefix = host.home / "envs" / host.plans["pressed"]["build"]
    assert f"pressed {prefix}/share/press" in host.logs
    assert f"{prefix}/bin/press" in host.logs
    assert subprocess.check_output([prefix / "bin" / "press"], text=True) == f"press {prefix}\n"
    assert str(prefix).encode() + b"/share/x\0" in (prefix / "share/press/prefix.bin").read_bytes()
    plan = host.plans["pressed"]
    found = install(plan, home=host.home, uv=Path(uv.find_uv_bin()), environment={}, emit=lambda event: None)
    assert not found.created
    variables = found.activation.on({"PATH": "/bin", "HOME": "/h"}, "pressed")
    assert variables == {
        "HOME": "/h",
        "PATH": f"{prefix}/share/press/bin:{prefix}/bin:/bin",
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": "pressed",
        "CONDA_SHLVL": "1",
        "PRESS_HOME": f"{prefix}/share/press",
        "PRESS_VARIABLE": "of the package",
    }


def test_what_is_left_aside_is_told_once(client: Client, orchard: Channel) -> None:
    content = {"channels": [orchard.url], "dependencies": [f"python={orchard.minor}"], "dependency": ["orchard"]}
    env = rk.conda_env(conda_env=content, name="told")
    for _ in range(2):
        client.send(env)
    assert len([text for text in client.warnings if "'dependency'" in text]) == 1


def test_a_host_without_internet_gets_everything_from_here(client: Client, host: Host, orchard: Channel) -> None:
    host.online = False
    orchard.requests.clear()
    env = asked(orchard, "offline", "basket")
    client.send(env)
    assert host.run("offline", VERSIONS) == f"2.0.{orchard.minor}"
    shipped = {call.rpartition("/")[2].split("-")[0] for call in host.calls if call.startswith("PUT /v1/wheels/")}
    assert {"basket", "orchard", "python"} <= shipped
    assert set(host.plans["offline"]["conda"]["files"]) == {
        f"{orchard.url}/noarch/basket-1.0-0.tar.bz2",
        f"{orchard.url}/noarch/orchard-2.0-0.tar.bz2",
        *(one for one in host.plans["offline"]["conda"]["files"] if "/python-" in one),
    }


def test_a_shipped_file_that_was_changed_is_refused(client: Client, host: Host, orchard: Channel) -> None:
    host.online = False
    client.send(asked(orchard, "shipped", "orchard<2"))
    plan = host.plans["shipped"]
    (place,) = (place for url, place in plan["conda"]["files"].items() if "/orchard-" in url)
    kept = host.home / "wheels" / place
    before = kept.read_bytes()
    kept.write_bytes(b"something else")
    try:
        with pytest.raises(rk.errors.InstallFailed, match="Hash mismatch"):
            _install({**plan, "build": "changed"}, host)
        assert not (host.home / "envs" / "changed").exists()
    finally:
        kept.write_bytes(before)


def test_virtual_packages_are_the_hosts(client: Client, host: Host, orchard: Channel) -> None:
    status = host.status()

    def on(**facts: object) -> None:
        client.deployer = type(client.deployer)(host, {**status, "host": {**status["host"], **facts}}, home=client.home)

    on(cuda="12.4")
    client.send(asked(orchard, "driven", "gpu"))
    assert host.run("driven", "import gpu; print(gpu.__version__)") == "1.0"
    on(glibc=[2, 16])
    with pytest.raises(rk.errors.RequirementsConflict, match="__glibc"):
        client.send(asked(orchard, "old", "press"))


def test_more_pip_requirements_do_not_solve_again(client: Client, host: Host, orchard: Channel, stall: Index) -> None:
    client.send(asked(orchard, "grows", "orchard<2"))
    orchard.requests.clear()
    more = asked(orchard, "grows", "orchard<2", reqs=[f"--extra-index-url {stall.url}", "crust"])
    client.send(more)
    assert not any("repodata" in request for request in orchard.requests)
    assert host.run("grows", "import crust, orchard; print(crust.__version__, orchard.__version__)") == "1.0 1.0"
    client.send(asked(orchard, "grows", "orchard<2", "press"))
    assert host.run("grows", VERSIONS) == f"1.0.{orchard.minor}"


def test_what_has_no_solution_is_explained_and_changes_nothing(
    client: Client, host: Host, orchard: Channel, stall: Index
) -> None:
    def refused(kind: type[Exception], *dependencies: object, **options: object) -> str:
        with pytest.raises(kind) as caught:
            client.send(asked(orchard, "impossible", *dependencies, **options))
        assert type(caught.value) is kind
        assert not any(call.startswith("PUT") for call in host.calls)
        return str(caught.value)

    conflict = refused(rk.errors.RequirementsConflict, "orchard<2", "basket")
    assert "basket 1.0 would require" in conflict
    assert "orchard <2" in conflict
    assert "nosuch" in refused(rk.errors.ResolutionFailed, "nosuch")
    assert "__cuda" in refused(rk.errors.RequirementsConflict, "gpu")
    assert ">>1" in refused(rk.errors.UsageError, "orchard >>1")
    beside = refused(rk.errors.RequirementsConflict, "orchard", reqs=[f"--extra-index-url {stall.url}", "crust"])
    assert "crust" in beside
    assert "The conda environment has orchard 2.0" in beside
    nobody = rk.conda_env(conda_env={"channels": ["http://127.0.0.1:9/nobody"]}, name="impossible")
    with pytest.raises(rk.errors.FetchFailed, match=r"127\.0\.0\.1:9/nobody"):
        client.send(nobody)


def test_the_python_that_runs_here_is_preferred(client: Client, host: Host, orchard: Channel) -> None:
    env = rk.conda_env(conda_env={"channels": [orchard.url], "dependencies": ["orchard"]}, name="any")
    assert env.python is None
    client.send(env)
    warned = [text for text in client.warnings if "by value" in text]
    assert bool(warned) == (f"{sys.version_info[0]}.{sys.version_info[1]}" != orchard.minor)


def test_a_package_that_is_not_what_was_promised_is_refused(host: Host, client: Client, tmp_path: Path) -> None:
    with channel(tmp_path / "channel") as spoiled:
        spoiled.add("lemon", "1.0", {"share/lemon": (b"sour", "", 0o644)})
        spoiled.spoil("lemon")
        with pytest.raises(rk.errors.InstallFailed, match="lemon"):
            client.send(asked(spoiled, "spoiled", "lemon"))
        host.online = False
        with pytest.raises(rk.errors.InstallFailed, match="not the file its index promised"):
            client.send(asked(spoiled, "spoiled", "lemon"))
    assert "spoiled" not in host.plans


def test_a_token_of_a_channel_stays_here(client: Client, host: Host, tmp_path: Path) -> None:
    with channel(tmp_path / "channel", below="/t/hunter2") as private:
        client.send(asked(private, "private", "orchard"))
        assert host.run("private", VERSIONS) == f"2.0.{private.minor}"
        assert all(request.split()[1].startswith("/t/hunter2/") for request in private.requests)
        wrong = rk.conda_env(conda_env={"channels": [private.url.replace("hunter2", "hunter3")]}, name="private")
        with pytest.raises(rk.errors.LoginRefused) as caught:
            client.send(wrong)
        assert "hunter3" not in str(caught.value)
        private.add("lemon", "1.0", {"share/lemon": (b"sour", "", 0o644)})
        private.spoil("lemon")
        with pytest.raises(rk.errors.InstallFailed, match="lemon") as spoiled:
            client.send(asked(private, "private", "lemon"), force=True)
        assert "hunter2" not in "".join(traceback.format_exception(spoiled.value))
    assert "hunter2" not in str(host.plans) + str(host.logs) + str(client.events)
    for path in host.home.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


def test_an_install_that_was_cut_off_is_made_again(client: Client, host: Host, orchard: Channel) -> None:
    client.send(asked(orchard, "cut", "orchard"))
    plan = host.plans["cut"]
    place = {"home": host.home, "uv": Path(uv.find_uv_bin()), "environment": os.environ}
    given_up = threading.Event()

    def see(event: dict[str, object]) -> None:
        if event.get("phase") == "install 2 conda packages":
            given_up.set()

    with pytest.raises(rk.errors.InstallFailed, match="nobody waits"):
        install({**plan, "build": "cut"}, **place, emit=see, given_up=given_up)
    assert not (host.home / "envs" / "cut").exists()
    (host.home / "envs" / "cut" / "conda-meta").mkdir(parents=True)  # as kill -9 would leave it
    built: list[bool] = []
    both = [threading.Thread(target=lambda: built.append(_install({**plan, "build": "cut"}, host))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(built) == [False, True]


def _install(plan: dict[str, Any], host: Host) -> bool:
    place: dict[str, Any] = {"home": host.home, "uv": Path(uv.find_uv_bin()), "environment": os.environ}
    return install(plan, **place, emit=lambda event: None).created


# -- conda environments of this machine


@pytest.fixture
def local(
    client: Client, host: Host, orchard: Channel, stall: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A local conda environment "mine", as conda would have made it: orchard<2, press, and plum by pip."""
    root = folder / "mamba"
    monkeypatch.setenv("MAMBA_ROOT_PREFIX", str(root))
    prefix = root / "envs" / "mine"
    if not prefix.exists():
        client.send(asked(orchard, "model", "orchard<2", "press"))
        (root / "envs").mkdir(parents=True)
        run = Runner(host.home, Path(uv.find_uv_bin()), os.environ, lambda event: None, threading.Event())
        on_host.make(host.plans["model"]["conda"], prefix, run)
        (prefix / "conda-meta" / "history").write_text(
            f"==> 2026-01-01 <==\n# cmd: conda create\n# update specs: ['python={orchard.minor}', 'orchard', 'basket', 'press']\n"
            "==> 2026-01-02 <==\n# update specs: ['orchard[version=\"<2\"]']\n# remove specs: ['basket']\n"
        )
        pip = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", str(prefix / "bin" / "python")]
        subprocess.run([*pip, "--index-url", stall.url, "plum"], check=True)
    return prefix


def test_a_local_environment_is_copied(client: Client, host: Host, local: Path, stall: Index) -> None:
    env = rk.conda_env(conda_env="mine", reqs=[f"--extra-index-url {stall.url}", "pie"])
    assert env.name == "mine"
    client.send(env)
    prefix = host.home / "envs" / host.plans["mine"]["build"]
    said = host.run(
        "mine",
        "import orchard, plum, pie, sys; print(orchard.__version__, plum.__version__, pie.__version__, sys.prefix)",
    )
    assert said == f"1.0 1.0 1.0 {prefix}"
    assert str(local) not in (prefix / "share/press/prefix.txt").read_text()
    assert subprocess.check_output([prefix / "bin" / "press"], text=True) == f"press {prefix}\n"
    assert not client.send(env).changed
    assert host.calls == ONE_QUESTION
    # It is sent once, also for an env with other requirements of pip; another content is sent.
    host.calls.clear()
    client.send(rk.conda_env(conda_env="mine", reqs=[f"--extra-index-url {stall.url}", "pie", "crust"]))
    assert not any(call.startswith("PUT /v1/wheels") and ".tar.gz" in call for call in host.calls)
    grown = host.home / "envs" / host.plans["mine"]["build"]
    assert grown != prefix
    assert subprocess.check_output([grown / "bin" / "press"], text=True) == f"press {grown}\n"
    assert host.run("mine", "import orchard, sys; print(sys.prefix)") == str(grown)
    client.send(env)
    second = client.send(
        rk.conda_env(conda_env="mine", reqs=[f"--extra-index-url {stall.url}", "pie"], env_vars={"A": "b"})
    )
    assert second.build == prefix.name
    assert not any(call.startswith("PUT /v1/wheels") for call in host.calls)
    pip = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", str(local / "bin" / "python")]
    subprocess.run([*pip, "--index-url", stall.url, "crust"], check=True)
    try:
        assert client.send(rk.conda_env(conda_env=str(local), name="mine")).changed
        assert host.run("mine", "import crust; print(crust.__version__)") == "1.0"
    finally:
        subprocess.run([uv.find_uv_bin(), "pip", "uninstall", "--quiet", *pip[4:], "crust"], check=True)


def test_an_unnamed_env_goes_on_top_of_a_copy(client: Client, host: Host, local: Path, stall: Index) -> None:
    stalled = f"--extra-index-url {stall.url}"
    client.deployer.send(rk.conda_env(conda_env="mine", reqs=[stalled]), default=True)
    try:
        client.send(rk.env(reqs=["pie"]))
        said = host.run("default", "import orchard, pie; print(orchard.__version__, pie.__version__)")
        assert said == "1.0 1.0"
    finally:
        del host.plans["default"]


def test_for_another_platform_it_is_solved_anew(
    client: Client, host: Host, local: Path, stall: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_EXTRA_INDEX_URL", stall.url)
    status = host.status()
    far = rk.conda_env(conda_env="mine", name="far")
    client.deployer = type(client.deployer)(
        host, {**status, "host": {**status["host"], "glibc": [2, 17]}}, home=client.home
    )
    client.send(far)
    assert "solved anew" in client.warnings[-1]
    assert host.run("far", "import orchard, plum; print(orchard.__version__, plum.__version__)") == "1.0 1.0"
    assert "basket" not in str(host.plans["far"]["packages"])


def test_editable_installs_in_it_are_synced_beside_it(client: Client, local: Path, tmp_path: Path) -> None:
    (info,) = local.glob("lib/python3*/site-packages/plum-1.0.dist-info")
    (info / "direct_url.json").write_text(f'{{"url": "{tmp_path.as_uri()}", "dir_info": {{"editable": true}}}}')
    try:
        env = rk.conda_env(conda_env="mine")
        assert env.local_folders() == [str(tmp_path)]
        assert env.conda is not None
        assert "plum is installed" in env.conda.notes[0]
    finally:
        (info / "direct_url.json").unlink()


def test_local_environments_are_found_without_conda(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(rk.errors.UsageError, match="there is mine") as caught:
        rk.env(conda_env="yours")
    assert "yours" in str(caught.value)
    monkeypatch.delenv("MAMBA_ROOT_PREFIX")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda" / "environments.txt").write_text(f"{local}\n/nowhere\n")
    assert rk.env(conda_env="mine").conda.prefix == str(local)  # type: ignore[union-attr]
