"""PyTorch from the index that fits the host's GPU: what uv is led to, with stand-ins for PyPI and for PyTorch's own indexes."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host import Host
from internet import Internet, internet
from packages import wheel

from runkit.client.deploy import Deployer
from runkit.client.host_platform import Platform
from runkit.client.replicate import replicate
from runkit.client.resolve import resolve
from runkit.client.scan import Distribution, LocalEnvironment
from runkit.errors import EnvError, ResolutionFailed, SyncRefused
from runkit.model.env import env
from runkit.server.hostinfo import gpu

PYPI, FILES, TORCH = "pypi.org", "files.pythonhosted.org", "download.pytorch.org"
BUILDS = ("cpu", "cu118", "cu126", "cu128", "cu129", "cu130", "cu132")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    """PyPI with torch 2.9 (as it is for everybody), sight (which needs it) and apple; PyTorch's indexes with 2.9 of each build."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "runkit"))
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "https_proxy", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    files = tmp_path / "files"
    with internet(tmp_path / "world", [PYPI, FILES, TORCH]) as made:
        for one in (
            wheel(files, "torch", "2.9.0"),
            wheel(files, "sight", "1.0", ["torch"]),
            wheel(files, "apple", "1.0"),
        ):
            made.offer(f"{PYPI}/simple", one, files=FILES)
        for build in BUILDS:
            made.offer(f"{TORCH}/whl/{build}", wheel(files, "torch", f"2.9.0+{build}"))
        monkeypatch.setenv("HTTPS_PROXY", made.proxy)
        monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
        yield made


def versions(reqs: list[str], driver: str = "", **options: Any) -> dict[str, str]:
    target = Platform("x86_64", (2, 36), "3.11", driver)
    lock = resolve(env(reqs=reqs).requirements(), target, **options)
    return {package.name: package.version for package in lock.packages}


def test_the_driver_of_the_host_decides(world: Internet, tmp_path: Path) -> None:
    cache = tmp_path / "locks"
    assert versions(["torch"], cache=cache) == {"torch": "2.9.0+cpu"}
    new = versions(["torch"], "580.65.06", cache=cache)["torch"]
    old = versions(["torch"], "450.80.02", cache=cache)["torch"]
    assert new.startswith("2.9.0+cu13")
    assert old.startswith("2.9.0+cu1")
    assert old != new
    assert versions(["torch"], cache=cache) == {"torch": "2.9.0+cpu"}


def test_it_is_found_among_the_dependencies_and_only_then_asked_for(world: Internet) -> None:
    assert versions(["apple"]) == {"apple": "1.0"}
    assert not world.asked_of(TORCH)
    assert versions(["sight", "apple"]) == {"apple": "1.0", "sight": "1.0", "torch": "2.9.0+cpu"}
    assert {path.split("/")[2] for path in world.asked_of(TORCH)} == {"cpu"}
    assert versions(["torch==2.9.0+cpu"]) == {"torch": "2.9.0+cpu"}


@pytest.mark.parametrize(
    "way", ["line", "variable", "backend", "configuration", "pip", "pip's extra", "find-links", "extra"]
)
def test_the_users_own_index_wins(way: str, world: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reqs = ["torch"]
    url = f"https://{TORCH}/whl/cu118"
    if way == "line":
        reqs.append(f"--index-url {url}")
    elif way == "extra":
        reqs.append(f"--extra-index-url {url}")
    elif way == "variable":
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    elif way == "backend":
        monkeypatch.setenv("UV_TORCH_BACKEND", "cu118")
    elif way == "configuration":
        (tmp_path / "uv.toml").write_text('[pip]\ntorch-backend = "cu118"\n')
    elif way == "pip":
        monkeypatch.setenv("PIP_INDEX_URL", url)
    elif way == "pip's extra":
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
    else:
        wheel(tmp_path / "own", "torch", "2.9.0+cu118")
        reqs.append(f"--find-links {tmp_path / 'own'}")
    assert versions(reqs) == {"torch": "2.9.0+cu118"}
    assert versions(["torch==2.9.0+cu118", *reqs[1:]]) == {"torch": "2.9.0+cu118"}
    assert {path.split("/")[2] for path in world.asked_of(TORCH)} <= {"cu118"}


def test_a_conflict_is_told_also_where_a_build_was_chosen(world: Internet) -> None:
    with pytest.raises(ResolutionFailed, match=r"apple==9\.0") as caught:
        versions(["torch==2.9.0+cpu", "apple==9.0"], options=("--torch-backend", "cpu"))
    assert "multiple times" not in str(caught.value)


def test_the_build_that_is_here_is_found(world: Internet, host: Host) -> None:
    """Replicated, it is that build, whatever the host has; and what it has nothing to do with is told as it is."""
    assert replicated(host, torch="2.9.0+cu118", apple="1.0") == {"apple": "1.0", "torch": "2.9.0+cu118"}
    world.requests.clear()
    with pytest.raises(SyncRefused, match=r"apple 1\.5"):
        replicated(host, torch="2.9.0+cu126", apple="1.5")
    assert {path.split("/")[2] for path in world.asked_of(TORCH)} == {"cu126"}


def test_a_build_that_is_here_comes_from_the_users_own_index_or_none(
    world: Internet, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.offer(f"{PYPI}/own/simple", wheel(tmp_path, "torch", "2.9.1"))
    world.offer(f"{PYPI}/own/simple", wheel(tmp_path, "apple", "1.0", ["torch<2"]))
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"https://{PYPI}/own/simple")
    assert replicated(host, torch="2.9.0+cpu") == {"torch": "2.9.1"}
    with pytest.raises(ResolutionFailed, match="apple"):
        replicated(host, torch="2.9.0+cpu", apple="1.0")
    assert not world.asked_of(TORCH)


def replicated(host: Host, **installed: str) -> dict[str, str]:
    """What an environment with these packages comes to."""
    here = [Distribution(name, version, "pip", "/x", "/x", ()) for name, version in installed.items()]
    python = platform.python_version()
    local = LocalEnvironment(python, "cpython", "/x", "/x", "venv", "linux-x86_64", tuple(here), ())
    replica = replicate(env("e", package_sync=True), host.status()["host"], local=local)
    lock = replica.solver(replica.env.requirements(), replica.plan.target)
    return {package.name: package.version for package in lock.packages}


def test_an_index_that_cannot_be_reached_is_named_with_what_to_do(world: Internet) -> None:
    world.hosts.remove(TORCH)
    with pytest.raises(EnvError, match=TORCH):
        versions(["torch"])
    assert versions(["torch", "--index-url https://pypi.org/simple"]) == {"torch": "2.9.0"}


def test_the_host_is_asked_for_its_driver(
    world: Internet, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = host.status()
    status["host"]["gpu"] = {"driver": "580.65.06"}
    host.online = False
    Deployer(host, status, home=tmp_path / "client").send(env("e", ["torch"]))
    assert host.run("e", "import torch; print(torch.__version__)").startswith("2.9.0+cu13")


def test_a_driver_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu(tmp_path, tmp_path) is None
    proc = tmp_path / "driver" / "nvidia"
    proc.mkdir(parents=True)
    (proc / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs@host)  Thu Jan 23\n"
        "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
    )
    assert gpu(tmp_path, tmp_path) == {"driver": "570.86.15"}
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "version").write_text("580.65.06\n")
    assert gpu(tmp_path, tmp_path) == {"driver": "580.65.06"}
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 535.104.05\necho 535.104.05\n")
    program.chmod(0o755)
    assert gpu(tmp_path / "none", tmp_path / "none") == {"driver": "535.104.05"}
