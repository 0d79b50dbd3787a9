"""Packages of the local environment that no index is to be asked for: where they were installed from, and whether that is still so."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from host import Host
from packages import Index, wheel
from venvs import Client, Venv, project, versions

import runkit as rk
from runkit.cli.sync_plan import differences
from runkit.client.replicate import replicate
from runkit.client.scan import Note, scan
from runkit.errors import SyncRefused
from runkit.model.digest import file_digest


def test_what_is_gone_is_not_taken_from_an_index(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    """An index may have another package under that name."""
    plum, quince = project(tmp_path / "plum", "plum"), wheel(tmp_path / "dist", "quince", "1.0")
    venv.install(str(plum), str(quince), "apple")
    plum.rename(tmp_path / "moved")
    quince.unlink()
    for name in ("plum", "quince"):
        shop.add(wheel(tmp_path, name, "1.0", body="FOREIGN = 1\n"))
    with pytest.raises(SyncRefused) as caught:
        replicating.send(venv)
    assert f"plum 1.0: it was installed from {plum}, which is not there any more" in str(caught.value)
    assert f"quince 1.0: it was installed from {quince}, which is not there any more" in str(caught.value)
    replicating.send(venv, rk.PackageSync(ignore=["plum"]), reqs=["quince==1.0"])
    assert versions(host) == {"apple": "2.0", "quince": "1.0"}
    replicating.send(venv, rk.PackageSync(ignore=["plum"], extras=["quince==1.0"]))
    assert versions(host) == {"apple": "2.0", "quince": "1.0"}


def test_a_folder_that_holds_nothing_now(replicating: Client, venv: Venv, tmp_path: Path) -> None:
    plum = project(tmp_path / "plum", "plum")
    venv.install(str(plum))
    (plum / ".gitignore").write_text("*\n")
    with pytest.raises(SyncRefused, match=r"plum: .* is empty"):
        replicating.plan(venv)


def test_code_that_no_root_brings_is_named(replicating: Client, venv: Venv, tmp_path: Path) -> None:
    """What a scan leaves aside is told where it is missing, and nothing else of it."""
    notes = (
        Note("/home/me", "is on sys.path, but is a home folder: its modules are left out", True),
        Note("x", "is hidden"),
    )
    local = replace(scan(str(venv.python)), notes=notes)
    replica = replicate(rk.env("e", package_sync=True), replicating.deployer.host, local=local)
    assert replica.plan.notes == ("/home/me is on sys.path, but is a home folder: its modules are left out",)


def test_a_folder_in_an_archive_of_this_machine(replicating: Client, venv: Venv, tmp_path: Path) -> None:
    venv.install("pie")
    archive = tmp_path / "mono.zip"
    zipfile.ZipFile(archive, "w").close()
    said = {"url": archive.as_uri(), "archive_info": {}, "subdirectory": "pkg"}
    (next(venv.site.glob("pie-*.dist-info")) / "direct_url.json").write_text(json.dumps(said))
    with pytest.raises(SyncRefused, match=r"pie: it comes from the folder pkg of the archive .*mono\.zip"):
        replicating.plan(venv)


def test_a_folder_that_holds_another_version_now(replicating: Client, host: Host, venv: Venv, tmp_path: Path) -> None:
    plum = project(tmp_path / "plum", "plum")
    venv.install(str(plum))
    (plum / "pyproject.toml").write_text((plum / "pyproject.toml").read_text().replace('"1.0"', '"2.0"'))
    for sync in (rk.PackageSync(strict=True), rk.PackageSync(critical=["plum"])):
        with pytest.raises(SyncRefused, match=r"plum 1\.0(.|\n)*pyproject\.toml has changed since it was installed"):
            replicating.send(venv, sync)
    replicating.send(venv)
    [told] = replicating.warnings
    assert told.startswith("plum 1.0 is built of its folder as that is now")


@pytest.mark.parametrize("has_hash", [True, False])
def test_a_wheel_that_was_built_anew(
    has_hash: bool, replicating: Client, host: Host, venv: Venv, tmp_path: Path
) -> None:
    """pip notes the hash of what it installed, uv does not; the RECORD tells as well."""
    quince = wheel(tmp_path, "quince", "1.0", body="x = 1\n")
    venv.install(str(quince))
    note = next(venv.site.glob("quince-*.dist-info")) / "direct_url.json"
    hashes = {"hashes": {"sha256": file_digest(quince)}} if has_hash else {}
    note.write_text(json.dumps({"url": quince.as_uri(), "archive_info": hashes}))
    replicating.send(venv, rk.PackageSync(strict=True, critical=["quince"]))
    wheel(tmp_path, "quince", "1.0", body="x = 2\n")
    for sync in (rk.PackageSync(strict=True), rk.PackageSync(critical=["quince"])):
        with pytest.raises(SyncRefused, match=r"quince 1\.0 is.*quince-1\.0-py3-none-any\.whl has changed"):
            replicating.send(venv, sync)
    replicating.send(venv)
    assert replicating.warnings == [f"quince 1.0 is another file there: {quince} has changed since it was installed"]


def test_a_critical_package_that_is_built_in_another_version(replicating: Client, venv: Venv, tmp_path: Path) -> None:
    """What a build makes of a folder is known once it is built."""
    plum = project(tmp_path / "plum", "plum")
    venv.install(str(plum))
    backend = plum / "backend.py"
    backend.write_text(backend.read_text().replace('version = project["version"]', 'version = "3.0"'))
    stated = (plum / "pyproject.toml").read_text()
    (plum / "pyproject.toml").write_text(stated.replace('version = "1.0"', 'dynamic = ["version"]'))
    for sync in (rk.PackageSync(strict=True), rk.PackageSync(critical=["plum"])):
        with pytest.raises(SyncRefused, match=r"plum 1\.0 is .*3\.0 there"):
            replicating.send(venv, sync)
    replicating.send(venv)
    assert replicating.warnings == [f"plum 1.0 is 3.0 there: from {plum}"]


def test_one_version_spelled_in_two_ways(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    shop.add(wheel(tmp_path, "quince", "2024.07.04"))
    venv.install("quince")
    replicating.send(venv, rk.PackageSync(strict=True))
    assert versions(host) == {"quince": "2024.7.4"}
    assert differences(replicating.plan(venv).plan, host.plans["e"]["spec"]) == []


def test_files_that_git_ignores_are_named(replicating: Client, venv: Venv, tmp_path: Path) -> None:
    """They do not travel, and the code here may import them."""
    files = {".gitignore": "*_pb2.py\n*.bin\n*.egg-info\n", "src/{}/sub/x_pb2.py": "", "src/{}/model.bin": ""}
    mine, plum = (
        project(tmp_path / name, name, {path.format(name): text for path, text in files.items()})
        for name in ("mine", "plum")
    )
    venv.install("-e", str(mine), str(plum))
    (mine / "src/mine/__pycache__").mkdir()
    (mine / "src/mine/__pycache__/x.pyc").touch()
    (mine / "src/other.log").touch()
    assert replicating.plan(venv).plan.notes == (
        f"mine: git ignores {mine}/src/mine/sub/x_pb2.py, {mine}/src/mine/model.bin, which do not travel",
        f"plum: git ignores {plum}/src/plum/model.bin, {plum}/src/plum/sub/x_pb2.py, which do not travel",
    )


def test_an_old_develop_install_with_compiled_modules_is_built(replicating: Client, venv: Venv, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for path in ("setup.py", ".gitignore", "mine/__init__.py", "mine/_fast.cpython-311-x86_64-linux-gnu.so"):
        (mine / path).parent.mkdir(parents=True, exist_ok=True)
        (mine / path).touch()
    (mine / ".gitignore").write_text("*.so\n*.egg-info\n")
    (mine / "mine.egg-info").mkdir()
    (mine / "mine.egg-info/PKG-INFO").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (venv.site / "mine.egg-link").write_text(f"{mine}\n.\n")
    (venv.site / "easy-install.pth").write_text(f"{mine}\n")
    [entry] = replicating.plan(venv).plan.entries
    assert (entry.level, entry.why) == ("built", f"from {mine}: it has compiled parts")
