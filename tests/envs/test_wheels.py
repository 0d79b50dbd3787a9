"""Fetching and building on the client, against a real index over HTTP."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from packages import Index, index, sdist, wheel

from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact
from runkit.client.logins import Logins
from runkit.client.resolve import resolve
from runkit.client.uvtool import configurations
from runkit.client.wheels import WheelStore
from runkit.errors import InstallFailed
from runkit.model.env import env


def test_fetched_wheels_are_kept_by_their_hash(shop: Index, target: Platform, tmp_path: Path) -> None:
    store = WheelStore(tmp_path / "wheels")
    lock = resolve(env(reqs=["pie"]).requirements(), target)
    seen: list[dict] = []
    fetched = store.fetch([package.artifact for package in lock.packages], seen.append)
    for artifact in fetched:
        path = tmp_path / "wheels" / artifact.sha256 / artifact.filename
        assert artifact.path == str(path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact.sha256
    assert seen[-1]["done"] == sum(artifact.size or 0 for artifact in fetched)
    asked = len(shop.requests)
    assert [artifact.path for artifact in store.fetch(fetched)] == [artifact.path for artifact in fetched]
    assert len(shop.requests) == asked
    assert sorted(path.name for path in (tmp_path / "wheels").iterdir()) == sorted(
        artifact.sha256 for artifact in fetched
    )


def test_a_file_that_is_not_what_was_promised_is_refused(shop: Index, tmp_path: Path) -> None:
    url = f"{shop.url}/apple/apple-1.0-py3-none-any.whl"
    with pytest.raises(InstallFailed, match="not the file its index promised"):
        WheelStore(tmp_path / "wheels").fetch([Artifact("apple-1.0-py3-none-any.whl", "0" * 64, url)])
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_missing_file_is_named_without_the_password(shop: Index, tmp_path: Path) -> None:
    url = f"{shop.url}/apple/gone-1.0-py3-none-any.whl".replace("http://", "http://me:hunter2@")
    with pytest.raises(InstallFailed, match=r"gone-1\.0.*404") as caught:
        WheelStore(tmp_path / "wheels").fetch([Artifact("gone-1.0-py3-none-any.whl", "0" * 64, url)])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("way", ["requirement", "variable", "named", "configuration", "netrc"])
def test_a_private_index_is_read_as_uv_reads_it(
    way: str, target: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    project = tmp_path / "project"
    project.mkdir()
    with index(tmp_path / "index", login=("me", "p@ss:/%w")) as private:
        private.add(wheel(tmp_path, "medlar", "1.0"))
        reqs = ["medlar"]
        if way == "requirement":
            reqs.append(f"--index-url {private.with_login()}")
        elif way == "variable":
            monkeypatch.setenv("UV_INDEX", private.with_login())
        elif way == "named":
            monkeypatch.setenv("UV_INDEX_SHOP_USERNAME", "me")
            monkeypatch.setenv("UV_INDEX_SHOP_PASSWORD", "p@ss:/%w")
            (project / "uv.toml").write_text(f'[[index]]\nname = "shop"\nurl = "{private.url}"\n')
        elif way == "configuration":
            (project / "pyproject.toml").write_text(
                f'[[tool.uv.index]]\nname = "shop"\nurl = "{private.with_login()}"\n'
            )
        else:
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password p@ss:/%w\n")
            monkeypatch.setenv("UV_INDEX", private.url)
        wanted = env(reqs=reqs).requirements()
        lock = resolve(wanted, target, cwd=project)
        logins = Logins(wanted.lines, [content for _, content in configurations(project)])
        store = WheelStore(tmp_path / "wheels", logins)
        assert lock.packages[0].artifact.url is not None
        assert logins.find(lock.packages[0].artifact.url) == ("me", "p@ss:/%w")
        (fetched,) = store.fetch([lock.packages[0].artifact])
        assert fetched.path is not None
        for text in (lock.text(), str(lock.to_json()), str(wanted.portable())):
            assert "p@ss" not in text
            assert "p%40ss" not in text


def test_a_source_distribution_is_built_here_once(shop: Index, target: Platform, tmp_path: Path) -> None:
    store = WheelStore(tmp_path / "wheels")
    (package,) = resolve(env(reqs=["sourdough"]).requirements(), target).sources
    built = store.build(package, target)
    assert built is not None
    assert built.filename == "sourdough-1.0-py3-none-any.whl"
    assert store.build(package, target) == built
    elsewhere = replace(target, python="3.9" if target.minor != (3, 9) else "3.10")
    assert store.build(package, elsewhere) is not None


def test_a_build_that_fails_is_told_with_its_output(target: Platform, tmp_path: Path) -> None:
    path = sdist(tmp_path, "rye", "1.0", broken=True)
    (package,) = resolve(env(reqs=[str(path)]).requirements(), target).sources
    with pytest.raises(InstallFailed, match="no compiler for you"):
        WheelStore(tmp_path / "wheels").build(package, target)


def test_what_is_compiled_is_left_to_a_host_that_differs(target: Platform, tmp_path: Path) -> None:
    tag = f"{target.python_tag}-{target.python_tag}-linux_{target.machine}"
    path = sdist(tmp_path, "rye", "1.0", tag=tag)
    (package,) = resolve(env(reqs=[str(path)]).requirements(), target).sources
    store = WheelStore(tmp_path / "wheels")
    here = store.build(package, target)
    assert here is not None
    assert here.filename == f"rye-1.0-{tag}.whl"
    assert store.build(package, replace(target, glibc=(2, 5))) is None
    assert store.build(package, replace(target, python="3.9" if target.minor != (3, 9) else "3.10")) is None
