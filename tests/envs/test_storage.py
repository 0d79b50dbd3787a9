"""Packages in file storage: a real S3 API, sftp through a real sshd, folders and memory."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from host import Host
from packages import Index, wheel
from storage import S3, s3

from runkit.client.asked import SyncedRoot
from runkit.client.deploy import Deployer
from runkit.errors import FetchFailed, InstallFailed, LoginRefused, ResolutionFailed, UsageError
from runkit.model import listing
from runkit.model.env import env
from runkit.model.package import Package
from tests.hosts import Host as SshHost


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3(tmp_path_factory.mktemp("s3") / "data") as made:
        yield made


@pytest.fixture
def logged_in(buckets: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name, value in buckets.variables.items():
        monkeypatch.setenv(name, value)
    return buckets


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client that installs has nothing of what another one stored."""
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "client"))
    return tmp_path / "client"


def project(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "recipe.py").write_text("from sub import oven\nSAYS = oven.SAYS\n")
    (folder / "sub" / "oven.py").write_text("SAYS = 'hot'\n")
    (folder / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "sub" / "run.sh").chmod(0o755)
    (folder / "link.py").symlink_to("recipe.py")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "big.log").write_text("not sent")
    (folder / "requirements.txt").write_text("apple<2\n")
    return folder


@pytest.mark.parametrize("prefix", ["s3://bucket/pre/fix", "file", "memory"])
def test_every_kind_is_stored_once_and_installed_from_there(
    prefix: str, host: Host, shop: Index, logged_in: S3, tmp_path: Path, own_home: Path
) -> None:
    if prefix != "s3://bucket/pre/fix":
        prefix = (tmp_path / "share").as_uri() if prefix == "file" else f"memory://{uuid.uuid4().hex}"
    own = wheel(tmp_path, "quince", "1.0")
    listed = tmp_path / "listed"
    listed.mkdir()
    (listed / "requirements.txt").write_text("pie  # with apple\n")
    packages = [
        Package.from_string(str(own)),
        Package.from_string(f"reqs:{listed}"),
        Package.from_string(f"{project(tmp_path / 'kitchen')}"),
    ]
    stored = [package.to(prefix) for package in packages]
    assert [package.to(prefix + "/") for package in packages] == stored
    assert all(str(package).startswith(f"{prefix}/") for package in stored)
    assert [str(package).rpartition("/")[2] for package in stored] == [
        "quince-1.0-py3-none-any.whl",
        "requirements.txt",
        "kitchen.folder.tar.gz",
    ]
    for folder in ("listed", "kitchen"):
        (tmp_path / folder).rename(tmp_path / f"{folder}-gone")
    own.unlink()

    asked = env("e", [str(package) for package in stored])
    assert asked.reqs == tuple(stored)
    (folder,) = asked.local_folders()
    there = Path(folder)
    assert sorted(str(path.relative_to(there)) for path in there.rglob("*") if not path.is_dir()) == [
        ".gitignore", "link.py", "recipe.py", "requirements.txt", "sub/oven.py", "sub/run.sh"]  # fmt: skip
    assert os.access(there / "sub" / "run.sh", os.X_OK)
    assert os.readlink(there / "link.py") == "recipe.py"
    host.online = False
    Deployer(host, host.status(), home=own_home).send(asked, [SyncedRoot("k", "d", folder)])
    assert host.plans["e"]["packages"] == [["apple", "1.0"], ["pie", "1.0"], ["quince", "1.0"]]
    assert host.run("e", "import quince, pie; print(quince.__version__)") == "1.0"


def test_what_is_here_is_not_fetched_again(logged_in: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Package.from_string(str(wheel(tmp_path, "quince", "1.0"))).to("s3://bucket")
    lines = env(reqs=[stored]).requirements().lines
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert env(reqs=[stored]).requirements().lines == lines


def test_all_of_a_stored_folder_is_sent_and_only_what_was_stored(tmp_path: Path) -> None:
    folder = project(tmp_path / "kitchen")
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--force", "."], check=True)  # a tracked file is sent, whatever .gitignore says
    (folder / "link").symlink_to("sub")
    stored = Package.from_string(str(folder)).to((tmp_path / "share").as_uri())
    asked = env("e", [stored])
    (there,) = map(Path, asked.local_folders())
    (there / "__pycache__").mkdir()
    (there / "__pycache__" / "recipe.pyc").touch()
    sent = listing.collect(there, 1 << 20)
    assert {**sent.files, **sent.links}.keys() == {
        ".gitignore", "big.log", "link", "link.py", "recipe.py", "requirements.txt", "sub/oven.py", "sub/run.sh"}  # fmt: skip
    (there / "recipe.py").write_text("SAYS = 'cold'\n")
    assert asked.local_folders() == [str(there)]
    assert "cold" not in (there / "recipe.py").read_text()
    (there / "further.py").touch()
    assert asked.local_folders() == [str(there)]
    assert not (there / "further.py").exists()
    own = Package.from_string(str(wheel(tmp_path, "quince", "1.0"))).to((tmp_path / "share").as_uri())
    (path,) = env(reqs=[own]).requirements().files.values()
    Path(path).write_text("")
    assert env(reqs=[own]).requirements().files.keys() == {str(own).split("/")[-2]}


def test_another_content_has_another_address(logged_in: S3, tmp_path: Path) -> None:
    folder = project(tmp_path / "kitchen")
    first = Package.from_string(str(folder)).to("s3", path="bucket/runs")
    assert str(first).startswith("s3://bucket/runs/kitchen/")
    (folder / "big.log").write_text("still not sent")
    os.utime(folder / "recipe.py")
    assert Package.from_string(str(folder)).to("s3://bucket/runs") == first
    (folder / "recipe.py").write_text("")
    assert Package.from_string(str(folder)).to("s3://bucket/runs") != first


def test_what_was_changed_in_the_storage_is_refused(logged_in: S3, tmp_path: Path, own_home: Path) -> None:
    stored = Package.from_string(str(wheel(tmp_path, "quince", "1.0"))).to("s3://bucket/x")
    wheel(tmp_path, "quince", "1.0", body="evil = True\n").replace(
        logged_in.folder / "bucket" / str(stored).removeprefix("s3://bucket/")
    )
    with pytest.raises(InstallFailed, match="not what its address says"):
        env(reqs=[stored]).requirements()
    assert not [path for path in own_home.rglob("*") if path.is_file()]


def test_a_wrong_login_a_missing_bucket_and_a_dead_service_are_told_apart(
    logged_in: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package.from_string(str(wheel(tmp_path, "quince", "1.0")))
    with pytest.raises(ResolutionFailed, match="s3://nowhere"):
        package.to("s3://nowhere/x")
    gone = f"s3://bucket/quince/{'0' * 64}/quince-1.0-py3-none-any.whl"
    with pytest.raises(ResolutionFailed, match="no such file"):
        env(reqs=[gone]).requirements()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(LoginRefused) as caught:
        package.to("s3://bucket/x")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(FetchFailed):
        package.to("s3://bucket/x")


def test_a_package_that_is_missing_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = importlib.import_module("fsspec.registry")._registry
    for scheme in ("s3", "gs", "gcs"):
        monkeypatch.delitem(loaded, scheme, raising=False)
    for module in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, module, None)
    package = Package.from_string(str(wheel(tmp_path, "quince", "1.0")))
    with pytest.raises(UsageError, match=r"pip install runkit\[s3\]"):
        package.to("s3://bucket/x")
    with pytest.raises(UsageError, match=r"pip install runkit\[gcs\]"):
        package.to("gs://bucket/x")


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("bucket/x", "no place in file storage"),
        ("s3://", "no place in file storage"),
        ("https://example.org/x", "no place in file storage"),
        ("sftp://me:hunter2@box/x", "password"),
        ("nosuch://x/y", "nosuch"),
    ],
)
def test_a_bad_destination_is_refused(destination: str, said: str, tmp_path: Path) -> None:
    package = Package.from_string(str(wheel(tmp_path, "quince", "1.0")))
    with pytest.raises(UsageError, match=said) as caught:
        package.to(destination)
    assert "hunter2" not in str(caught.value)


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only folders, wheels"):
        Package.from_string("numpy").to("memory://x")
    for line in ("-r base.txt", "./own", "--index-url https://me:hunter2@example.org/simple", "-e ."):
        (tmp_path / "requirements.txt").write_text(f"six\n{line}\n")
        with pytest.raises(UsageError, match="line 2") as caught:
            Package.from_string(f"reqs:{tmp_path}").to("memory://x")
        assert "hunter2" not in str(caught.value)
    with pytest.raises(UsageError, match="no address that"):
        Package.from_string("s3://bucket/quince-1.0-py3-none-any.whl")


def test_sftp_checks_the_host_key(all_hosts: list[SshHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh_host = all_hosts[0]
    config = tmp_path / "config"
    config.write_text(f"Host box\n  HostName {ssh_host.address}\n  Port {ssh_host.port}\n  "
                      f"IdentityFile {ssh_host.ssh_creds['ssh_private_key']}\n")  # fmt: skip
    monkeypatch.setenv("RUNKIT_SSH_CONFIG", str(config))
    monkeypatch.setenv("RUNKIT_KNOWN_HOSTS", str(tmp_path / "known_hosts"))
    package = Package.from_string(str(wheel(tmp_path, "quince", "1.0")))
    user = ssh_host.ssh_creds["ssh_user"]
    prefix = f"sftp://{user}@box/tmp/{uuid.uuid4().hex}"
    with pytest.raises(LoginRefused, match="host key of box"):
        package.to(prefix)
    (tmp_path / "known_hosts").write_text(ssh_host.known_hosts_line + "\n")
    stored = package.to(prefix)
    assert str(stored).startswith(prefix)
    assert package.to(prefix) == stored
    assert env(reqs=[str(stored)]).requirements().lines
    config.write_text(config.read_text().replace("IdentityFile", "IdentitiesOnly yes\n  IdentityFile /nowhere/"))
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "other"))
    with pytest.raises(LoginRefused):
        env(reqs=[stored]).requirements()
