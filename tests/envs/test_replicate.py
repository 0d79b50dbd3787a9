"""The local environment replicated: real virtual environments, scanned, planned, installed on a host and compared there."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from host import Host
from packages import Index, wheel
from venvs import Client, Venv, project, versions

import runkit as rk
from runkit.client.deploy import Deployer
from runkit.client.manifest import scan as scan_root
from runkit.client.replicate import add_roots, replicate
from runkit.client.roots import root_at
from runkit.client.scan import scan
from runkit.errors import ResolutionFailed, SyncRefused

ONE_QUESTION = ["POST /v1/ensure"]


def test_what_is_here_is_there(replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path) -> None:
    mine = project(tmp_path / "mine", "mine", requires='["apple"]')
    venv.install("apple==1.0", "-e", str(mine))
    assert replicating.send(venv).changed
    assert versions(host) == {"apple": "1.0", "mine": "1.0"}
    assert host.plans["e"]["python"]["version"] == platform.python_version()
    [root] = replicating.replica.roots
    assert (root.path, root.paths) == (mine, ("src",))
    assert replicating.warnings == []
    said = "import importlib.metadata as m; print(m.version('mine'), m.requires('mine'), m.entry_points(group='fruit')['sort'].value)"
    assert host.run("e", said) == venv.run(said) == "1.0 ['apple'] mine:VALUE"
    assert (host.home / "envs" / host.plans["e"]["build"] / "bin" / "mine-hello").exists()
    assert not replicating.send(venv).changed
    assert host.calls == ONE_QUESTION


def test_an_edit_of_an_editable_install_costs_no_build(
    replicating: Client, host: Host, venv: Venv, tmp_path: Path
) -> None:
    mine = project(tmp_path / "mine", "mine")
    venv.install("-e", str(mine))
    replicating.send(venv)
    (mine / "src/mine/__init__.py").write_text("VALUE = 2\n")
    (mine / "src/mine/data.json").write_text("{}")
    assert not replicating.send(venv).changed
    assert host.calls == ONE_QUESTION  # the root's digest goes with it
    (mine / "pyproject.toml").write_text((mine / "pyproject.toml").read_text().replace('"1.0"', '"1.1"'))
    venv.install("-e", str(mine))
    assert replicating.send(venv).changed
    assert host.run("e", "import importlib.metadata as m; print(m.version('mine'))") == "1.1"


def test_metadata_that_a_build_left_beside_the_code_are_not_synced(
    replicating: Client, venv: Venv, tmp_path: Path
) -> None:
    """They would come before those that are installed, and may be older."""
    mine = project(tmp_path / "around/mine", "mine", {"src/mine.egg-info/PKG-INFO": "Name: mine\nVersion: 0.1\n"})
    venv.install("-e", str(mine))
    replica = replicating.plan(venv)
    [root] = replica.roots
    around = root_at(tmp_path / "around")
    for scanned in ({}, {root.id: (root, scan_root(root))}, {around.id: (around, scan_root(around))}):
        found, _ = add_roots(replica, scanned, set(), print)
        [(_, manifest)] = found.values()
        names = {path.rpartition("mine/")[2] for path in manifest.files}
        assert "__init__.py" in names
        assert not [path for path in manifest.files if ".egg-info" in path]
        before = scan_root(manifest.root)
        assert (len(manifest.files), manifest.digest != before.digest) == (len(before.files) - 1, True)


def test_an_editable_install_whose_packages_are_called_otherwise_is_built(
    replicating: Client, host: Host, venv: Venv, tmp_path: Path
) -> None:
    """A folder on `sys.path` gives one of its packages, and only a build the other."""
    mine = project(tmp_path / "mine", "mine", {"lib/__init__.py": "VALUE = 3\n"})
    venv.install("-e", str(mine))
    with (venv.site / "__editable__.mine.pth").open("a") as paths:
        paths.write("import __editable___mine_finder; __editable___mine_finder.install()\n")
    finder = f"MAPPING = {{'other': {str(mine / 'lib')!r}}}\nNAMESPACES = {{}}\ndef install(): pass\n"
    (venv.site / "__editable___mine_finder.py").write_text(finder)
    replicating.send(venv)
    [entry] = replicating.replica.plan.entries
    assert (entry.level, replicating.replica.roots) == ("built", ())
    assert host.run("e", "import mine; print(mine.VALUE)") == "1"


def test_one_changed_package_travels_alone(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    host.online = False
    shop.add(wheel(tmp_path, "quince", "1.0"))
    venv.install("apple==1.0", "quince")
    replicating.send(venv)
    assert len([call for call in host.calls if call.startswith("PUT /v1/wheels/")]) == 2
    venv.install("apple==2.0")
    replicating.send(venv)
    [sent] = [call for call in host.calls if call.startswith("PUT /v1/wheels/")]
    assert sent.endswith("apple-2.0-py3-none-any.whl")
    venv.uninstall("quince")
    replicating.send(venv)
    assert not any(call.startswith("PUT /v1/wheels/") for call in host.calls)
    assert versions(host) == {"apple": "2.0"}


def test_as_the_default_env(replicating: Client, host: Host, venv: Venv, tmp_path: Path) -> None:
    default = rk.cluster("box", host="h", default_env=rk.env("mine", ["sourdough"]), package_sync=True).default_env
    assert default is not None
    assert (default.name, default.package_sync) == ("mine", rk.PackageSync())
    assert rk.cluster("box", host="h", package_sync=False).default_env is None
    mine = project(tmp_path / "mine", "mine")
    venv.install("apple==1.0", "-e", str(mine))

    def send() -> bool:
        local = scan(str(venv.python))
        replica = replicate(default, host.status()["host"], local=local, with_ray=True)
        return replicating.deploy(replica, default=True).changed

    assert send()
    assert versions(host, "default") == {"apple": "1.0", "mine": "1.0", "sourdough": "1.0"}
    assert not send()
    venv.install("apple==2.0")
    assert send()
    assert versions(host, "default")["apple"] == "2.0"


def test_the_default_env_has_more_than_is_here(replicating: Client, host: Host, venv: Venv) -> None:
    """As Ray and what that needs always are there, even a strict one says nothing of what is added."""
    venv.install("--no-deps", "pie")
    with pytest.raises(SyncRefused, match=r"apple \S+ is there, and not here"):
        replicating.send(venv, rk.PackageSync(strict=True))
    replicating.send(venv, rk.PackageSync(strict=True), name=None)
    assert replicating.warnings == []


def test_an_unnamed_env_takes_the_place_of_what_it_replicated_before(
    replicating: Client, host: Host, venv: Venv, tmp_path: Path
) -> None:
    mine = project(tmp_path / "mine", "mine", requires='["apple"]')
    venv.install("apple==1.0", "-e", str(mine))
    replicating.send(venv, name=None)
    (mine / "pyproject.toml").write_text((mine / "pyproject.toml").read_text().replace('"1.0"', '"1.1"'))
    venv.install("apple==2.0", "-e", str(mine))
    replicating.send(venv, name=None)
    assert versions(host, "default") == {"apple": "2.0", "mine": "1.1"}


def test_one_changed_package_is_looked_up_alone(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("quince", "medlar", "damson", "sloe"):
        shop.add(wheel(tmp_path, name, "1.0", ["apple; python_version>'3'", "nothing; extra == 'all'"]))
    venv.install("apple==1.0", "quince", "medlar", "damson", "sloe")
    replicating.send(venv)
    shop.add(wheel(tmp_path, "sloe", "2.0", ["apple"]))
    venv.install("--refresh", "sloe==2.0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty-cache"))
    shop.requests.clear()
    assert replicating.send(venv).changed
    pages = {path for path in shop.requests if path.endswith("/")}
    assert pages == {"/simple/sloe/"}
    assert versions(host)["sloe"] == "2.0"
    shop.add(wheel(tmp_path, "sloe", "3.0", ["apple>=2"]))
    venv.install("--no-deps", "--refresh", "sloe==3.0")  # which the others are not asked about
    with pytest.raises(ResolutionFailed, match="apple"):
        replicating.send(venv)


def test_a_file_of_a_folder_that_was_made_anew(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same name and version, other content: what was known of it does not count."""
    folder = tmp_path / "links"
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    for name in ("quince", "medlar", "damson", "sloe"):
        wheel(folder, name, "1.0")
    venv.install("quince", "medlar", "damson", "sloe")
    replicating.send(venv)
    wheel(folder, "quince", "1.0", body="new = True\n")
    replicating.send(venv, name="other")
    assert host.run("other", "import quince; print(quince.new)") == "True"


def test_an_unnamed_env_goes_on_top_of_a_replicated_default_env(
    replicating: Client, host: Host, venv: Venv, tmp_path: Path
) -> None:
    """Also when the folder that one of its packages was built from is another by now."""
    plum = project(tmp_path / "plum", "plum")
    venv.install("apple==1.0", str(plum))
    deployer = replicating.deployer
    replica = replicate(rk.env(package_sync=True), deployer.host, local=scan(str(venv.python)), with_ray=True)
    deployer.send(replica.env, resolve=replica.solver, default=True)
    (plum / "src/plum/__init__.py").write_text("VALUE = 2\n")
    for client in (deployer, Deployer(host, host.status(), home=tmp_path / "client")):
        client.send(rk.env(reqs=["pie" if client is deployer else "sourdough"]))
    assert set(versions(host, "default")) == {"apple", "pie", "plum", "sourdough"}
    assert host.run("default", "import plum; print(plum.VALUE)") == "1"
