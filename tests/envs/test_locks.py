"""Locks that are kept: what was installed as a `pylock.toml`, and envs made of one, of runkit or of another tool."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import uv
from host import Host
from packages import Index, wheel
from venvs import Client, Venv, project, versions

import runkit as rk
from runkit.client.deploy import Deployer
from runkit.client.lock import Lock
from runkit.client.replicate import prepare
from runkit.errors import ResolutionFailed, UsageError

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


def send(client: Client, path: Path, name: str | None = "locked", **options: Any) -> Any:
    replica = prepare(rk.env(name, lock=path, **options), client.deployer.host, with_ray=name is None)
    assert replica is not None
    return client.deploy(replica)


def kept(host: Host, path: Path, home: Path, name: str = "e") -> Path:
    """What `cluster.env_lock` writes."""
    path.write_text(Lock.from_json(host.plans[name]["spec"]["lock"]).text(kept=home / "wheels"))
    return path


def test_what_was_installed_is_installed_again(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    mine, plum = project(tmp_path / "mine", "mine"), project(tmp_path / "plum", "plum")
    venv.install("pie", "sourdough", str(plum), "-e", str(mine))
    replicating.send(venv)
    lock = kept(host, tmp_path / "pylock.toml", tmp_path / "client")
    shop.add(wheel(tmp_path, "pie", "1.1", ["apple<2"]))
    assert send(replicating, lock).changed
    assert versions(host, "locked") == versions(host)
    assert host.run("locked", "import mine, plum; print(mine.VALUE, plum.VALUE)") == "1 1"
    assert not send(replicating, lock).changed
    assert host.calls == ["POST /v1/ensure"]
    other = Venv(tmp_path / "other")
    done = subprocess.run(
        [uv.find_uv_bin(), "pip", "sync", "--preview", "-q", "--python", str(other.python), str(lock)],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert other.run("import pie, plum, mine; print(pie.__version__, plum.VALUE, mine.VALUE)") == "1.0 1 1"


def test_the_lock_of_another_tool(replicating: Client, host: Host, shop: Index, tmp_path: Path) -> None:
    """`uv export` of a project: markers, files for all platforms, and the project itself."""
    shop.add(wheel(tmp_path, "medlar", "1.0"))
    folder = project(tmp_path / "mine", "mine", requires="['pie', 'sourdough', 'medlar; sys_platform == \"win32\"']")
    arguments = ["export", "-q", "--format", "pylock.toml", "-o", "pylock.toml", "--python", sys.executable]
    done = subprocess.run([uv.find_uv_bin(), *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    send(replicating, folder / "pylock.toml")
    assert versions(host, "locked") == {"apple": "1.0", "mine": "1.0", "pie": "1.0", "sourdough": "1.0"}
    assert host.run("locked", "import mine; print(mine.VALUE)") == "1"


def test_on_top_of_the_default_env(replicating: Client, host: Host, shop: Index, tmp_path: Path) -> None:
    lock = _lock(tmp_path, shop, "apple-1.0-py3-none-any.whl")
    send(replicating, lock, name=None)
    assert versions(host, "default") == {"apple": "1.0"}


def _lock(folder: Path, shop: Index, *files: str, top: str = "", more: str = "", sha: str | None = None) -> Path:
    text = f'lock-version = "1.0"\ncreated-by = "test"\n{top}\n'
    for file in files:
        name, version = file.split("-")[:2]
        served = shop.folder / "simple" / name / file
        sha256 = hashlib.sha256(served.read_bytes()).hexdigest() if sha is None else sha
        hashes = f'hashes = {{sha256 = "{sha256}"}}' if sha256 else "hashes = {}"
        entry = f'{{name = "{file}", url = "{shop.url}/{name}/{file}", {hashes}}}'
        text += f'[[packages]]\nname = "{name}"\nversion = "{version}"\n{more}\nwheels = [{entry}]\n'
    path = folder / "pylock.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"top": 'requires-python = "<3.5"'}, "is for Python <3.5"),
        ({"more": 'requires-python = "<3.5"'}, r"apple 1\.0 is for Python <3\.5"),
        ({"top": "environments = [\"sys_platform == 'win32'\"]"}, "is not for Python .* on Linux"),
        ({"sha": ""}, "no SHA-256 for a file of apple"),
        ({"more": 'marker = "fruit == 1"'}, "no environment marker"),
    ],
)
def test_a_lock_that_does_not_fit(
    replicating: Client, host: Host, shop: Index, tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        send(replicating, _lock(tmp_path, shop, "apple-1.0-py3-none-any.whl", **changed))
    assert host.plans == {}


def test_another_file_than_the_lock_says(replicating: Client, host: Host, shop: Index, tmp_path: Path) -> None:
    from runkit.errors import InstallFailed

    lock = _lock(tmp_path, shop, "apple-1.0-py3-none-any.whl", sha="0" * 64)
    for online in (True, False):
        host.online = online
        with pytest.raises(InstallFailed):
            send(replicating, lock)
        assert host.plans == {}


def test_no_file_for_the_platform(replicating: Client, shop: Index, tmp_path: Path) -> None:
    shop.add(wheel(tmp_path, "medlar", "1.0", tag="py3-none-win_amd64"))
    with pytest.raises(ResolutionFailed, match=r"no file of medlar 1\.0 for Python"):
        send(replicating, _lock(tmp_path, shop, "medlar-1.0-py3-none-win_amd64.whl"))


def test_bad_locks(replicating: Client, tmp_path: Path) -> None:
    for text, said in (
        ("nonsense", "cannot be read"),
        ("", "no pylock.toml"),
        ('lock-version = "7.0"', "not known here"),
    ):
        (tmp_path / "pylock.toml").write_text(text)
        with pytest.raises(UsageError, match=said):
            send(replicating, tmp_path / "pylock.toml")
    for more in ({"reqs": ["apple"]}, {"package_sync": True}):
        with pytest.raises(UsageError, match="says all that the env has"):
            rk.env(lock=tmp_path / "pylock.toml", **more)


def test_a_lock_is_good_on_another_machine(
    replicating: Client, host: Host, shop: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was built here is named by what it was built from: a source distribution, a folder of an archive, a commit."""
    inner = project(tmp_path / "repository" / "inner", "inner")
    with zipfile.ZipFile(shop.folder / "many-1.zip", "w") as archive:
        for file in filter(Path.is_file, inner.rglob("*")):
            archive.write(file, f"many-1/{file.relative_to(inner.parent)}")
    plum = project(tmp_path / "plum", "plum")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", plum, *command], check=True)
    archived = f"inner @ {shop.url.removesuffix('/simple')}/many-1.zip#subdirectory=inner"
    asked = ["sourdough", archived, rk.GitPackage(plum.as_uri())]
    replicating.deployer.send(rk.env("e", asked))
    assert host.run("e", "import inner, plum, sourdough; print(inner.VALUE, plum.VALUE)") == "1 1"
    lock = kept(host, tmp_path / "pylock.toml", tmp_path / "client")
    assert str(tmp_path / "client") not in lock.read_text()
    (tmp_path / "client").rename(tmp_path / "of-somebody-else")
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "other"))
    other = Client(Host(tmp_path / "other-host"), tmp_path / "other")
    send(other, lock)
    assert versions(other.host, "locked") == versions(host)
    other.host.run("locked", "import inner, plum, sourdough")


def test_what_another_client_built_is_built_again_where_it_is_gone(host: Host, shop: Index, tmp_path: Path) -> None:
    for number, client in enumerate(("one", "other")):
        deployer = Deployer(host, host.status(), home=tmp_path / client)
        deployer.send(rk.env("e", ["sourdough"], env_vars={"A": str(number)}, setup_cmds=["true"]))
        shutil.rmtree(host.home / "wheels")
    assert host.run("e", "import sourdough; print(sourdough.__version__)") == "1.0"
