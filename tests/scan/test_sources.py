"""Where distributions came from: archives, folders, git, and no credentials of any of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from making import Venv, head, run

from runkit.client.scan import scan
from tests.envs.packages import sdist, wheel


def unpacked(folder: Path, archive: Path) -> Path:
    folder.mkdir(parents=True)
    run("tar", "-xzf", archive, "-C", folder, "--strip-components=1")
    return folder


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_archives_folders_and_git(installer: str, tmp_path: Path) -> None:
    venv = Venv(tmp_path / "venv", *(["--seed"] if installer == "pip" else []))
    files = tmp_path / "files"
    apple = wheel(files, "apple", "1.0")
    local = unpacked(tmp_path / "with space" / "local", sdist(files, "local", "1.0"))
    repository = tmp_path / "repository"
    unpacked(repository / "sub" / "dir", sdist(files, "inner", "1.0"))
    git = ["git", "-C", repository, "-c", "user.name=x", "-c", "user.email=x@example.org"]
    run("git", "init", "-q", repository)
    run(*git, "add", "-A")
    run(*git, "commit", "-qm", "x")
    commit = run(*git, "rev-parse", "HEAD").strip()
    wanted = [apple, local, f"inner @ git+file://{repository}@{commit[:10]}#subdirectory=sub/dir"]
    if installer == "uv":
        venv.install("--no-index", *wanted)
    else:
        run(venv.python, "-m", "pip", "install", "-q", "--no-index", "--disable-pip-version-check", *wanted)
    found = scan(venv.python)
    sources = {name: found.get(name) for name in ("apple", "local", "inner")}
    assert {name: one and one.source for name, one in sources.items()} == {
        "apple": "archive",
        "local": "directory",
        "inner": "vcs",
    }
    inner = sources["inner"]
    assert inner is not None
    assert inner.direct_url is not None
    assert inner.direct_url["subdirectory"] == "sub/dir"
    assert inner.direct_url["vcs_info"]["commit_id"] == commit
    assert inner.direct_url["url"] == f"file://{repository}"
    assert found.notes == ()

    apple.unlink()
    (tmp_path / "with space").rename(tmp_path / "moved")
    found = scan(venv.python)
    assert [one.source for one in found.distributions if one.name in ("apple", "local")] == ["archive", "directory"]
    assert {note.about: note.text for note in found.notes} == {
        "apple": f"was installed from {apple}, which is gone",
        "local": f"was installed from {local}, which is gone",
    }


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://me:p%40ss@git.example.org/x.git", "https://git.example.org/x.git"),
        ("https://ghp_secret@git.example.org/x.git", "https://git.example.org/x.git"),
        ("ssh://git@git.example.org/x.git", "ssh://git@git.example.org/x.git"),
        ("ssh://git:secret@git.example.org/x.git", "ssh://git@git.example.org/x.git"),
        ("https://${USER}:${TOKEN}@git.example.org/x.git", "https://${USER}:${TOKEN}@git.example.org/x.git"),
        (
            "https://x.example.org/a.whl?X-Amz-Signature=secret&v=1&token=secret#frag",
            "https://x.example.org/a.whl?v=1#frag",
        ),
        ("https://x.example.org/a.whl?api_key=secret", "https://x.example.org/a.whl"),
        ("https://me:p%40ss/secret@x.example.org/a.whl", "https://x.example.org/a.whl"),
        ("https://u:p@ss/secret@host.example.org/x.whl", "https://host.example.org/x.whl"),
        ("https://${USER}@x.example.org/a.whl?api_key=secret", "https://${USER}@x.example.org/a.whl"),
    ],
)
def test_credentials_are_left_out(url: str, kept: str, venv: Venv) -> None:
    about = {"url": url, "vcs_info": {"vcs": "git", "commit_id": "c" * 40}}
    venv.metadata("x-1.0.dist-info", head("x", "1.0"), DIRECT_URL=json.dumps(about))
    for cached in (False, True, True):
        found = scan(venv.python, cache=cached)
        one = found.get("x")
        assert one is not None
        assert one.direct_url == {**about, "url": kept}
        assert "secret" not in json.dumps(found.as_json()) + repr(found)
        assert "p%40ss" not in json.dumps(found.as_json())


@pytest.mark.parametrize(
    "about",
    [
        "no json",
        "[]",
        '{"url": 7}',
        '{"archive_info": {}}',
        '{"url": "file:///root/.cache/pypoetry/artifacts/aa/bb/x-1.0-py3-none-any.whl", "archive_info": {}}',
        '{"url": "https://example.org/x.whl"}',
    ],
)
def test_what_is_no_source(about: str, venv: Venv) -> None:
    venv.metadata("x-1.0.dist-info", head("x", "1.0"), DIRECT_URL=about)
    one = scan(venv.python).get("x")
    assert one is not None
    assert (one.source, one.editable) == ("index", None)


def test_archive_from_the_web(venv: Venv) -> None:
    about = {"url": "https://example.org/x.whl", "archive_info": {"hashes": {"sha256": "0" * 64}}}
    venv.metadata("x-1.0.dist-info", head("x", "1.0"), DIRECT_URL=json.dumps(about))
    one = scan(venv.python).get("x")
    assert one is not None
    assert (one.source, one.direct_url) == ("archive", about)


def test_nothing_is_changed(venv: Venv) -> None:
    venv.metadata("x-1.0.dist-info", head("x", "1.0"))
    listing = ["find", str(venv.folder), "-printf", "%p %T@\\n"]
    before = subprocess.check_output(listing)
    scan(venv.python)
    assert subprocess.check_output(listing) == before
