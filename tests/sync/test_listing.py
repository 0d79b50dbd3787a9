"""What is sent of a root, compared with git and with what a user expects."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runkit.client import roots
from runkit.client.manifest import scan
from runkit.errors import RootError
from runkit.model.listing import collect
from tests.sync.mirrored import git, git_lists, write

_LIMIT = 1 << 30


def _paths(folder: Path) -> set[str]:
    found = collect(folder, _LIMIT)
    return {*found.files, *found.links}


def _commit(folder: Path) -> None:
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def test_what_git_lists(tmp_path: Path) -> None:
    write(
        tmp_path,
        {".gitignore": "*.log\nout/\n", "a.py": "", "gone.py": "", "pkg/b c.py": "", "tracked.log": "", "é\n.txt": ""},
    )
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", "tracked.log")
    _commit(tmp_path)
    (tmp_path / "gone.py").unlink()
    write(tmp_path, {"new.py": "", "x.log": "", "out/y": "", "staged.py": ""})
    git(tmp_path, "add", "staged.py")
    os.makedirs(tmp_path / "empty/folder")
    assert _paths(tmp_path) == git_lists(tmp_path)
    assert {"tracked.log", "new.py", "é\n.txt", ".gitignore"} <= _paths(tmp_path)
    assert _paths(tmp_path / "pkg") == {"b c.py"}


def test_caches_and_environments_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "__pycache__/a.pyc": "", "pkg/__pycache__/b.cpython-311.pyc": "", "old.pyc": ""})
    write(
        tmp_path,
        {
            ".venv/pyvenv.cfg": "",
            ".venv/lib/x.py": "",
            "deep/env/pyvenv.cfg": "",
            "deep/env/lib/x.py": "",
            "deep/x.py": "",
        },
    )
    write(tmp_path, {"conda/conda-meta/history": "", "conda/lib/x.py": ""})
    assert _paths(tmp_path) == {"a.py", "deep/x.py"}
    git(tmp_path, "init", "-q")
    assert _paths(tmp_path) == {"a.py", "deep/x.py"}
    git(tmp_path, "add", "-f", "old.pyc")
    assert _paths(tmp_path) == {"a.py", "deep/x.py", "old.pyc"}  # a module without source, kept on purpose


@pytest.mark.parametrize("with_git", [True, False])
def test_project_that_is_an_environment(tmp_path: Path, with_git: bool) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").unlink(missing_ok=True)
    write(tmp_path, {"train.py": "", "lib/mine.py": ""})
    if with_git:
        git(tmp_path, "init", "-q")
    assert _paths(tmp_path) == {"train.py", "lib/mine.py"}


@pytest.mark.parametrize("commits", [True, False])
def test_repositories_inside(tmp_path: Path, commits: bool) -> None:
    write(
        tmp_path,
        {"other/.gitignore": "*.tmp\n", "other/a.py": "", "other/b.tmp": "", "other/deep/er/c.py": "", "m.py": ""},
    )
    other = tmp_path / "other"
    git(other, "init", "-q")
    if commits:
        _commit(other)
    expected = {"m.py", "other/.gitignore", "other/a.py", "other/deep/er/c.py"}
    assert _paths(tmp_path) == expected
    git(tmp_path, "init", "-q")
    assert _paths(tmp_path) == expected


def test_submodules(tmp_path: Path) -> None:
    library, project = tmp_path / "library", tmp_path / "project"
    write(library, {"lib.py": "", ".gitignore": "*.tmp\n"})
    _commit(library)
    write(project, {"main.py": ""})
    _commit(project)
    git(project, "submodule", "add", "-q", str(library), "vendor/lib")
    write(project, {"vendor/lib/new.py": "", "vendor/lib/x.tmp": ""})
    expected = {"main.py", ".gitmodules", "vendor/lib/lib.py", "vendor/lib/.gitignore", "vendor/lib/new.py"}
    assert _paths(project) == expected
    (project / "vendor/lib/.git").unlink()  # copied without its repository
    assert _paths(project) == expected
    assert _paths(project / "vendor/lib") == {"lib.py", ".gitignore", "new.py"}


def test_tracked_file_became_a_folder_or_a_link(tmp_path: Path) -> None:
    write(tmp_path, {"a": "", "b/c": "", "d/e": "", ".gitignore": "*.log\n"})
    _commit(tmp_path)
    (tmp_path / "a").unlink()
    write(tmp_path, {"a/x.py": "", "a/y.log": ""})
    os.rename(tmp_path / "b", tmp_path / "moved")
    (tmp_path / "b").symlink_to("moved")
    assert _paths(tmp_path) == {"a/x.py", "b", "moved/c", "d/e", ".gitignore"}


def test_folder_that_a_larger_repository_ignores(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".gitignore": "scratch/\n",
            "scratch/mine/pyproject.toml": "",
            "scratch/mine/a.py": "",
            "scratch/mine/b.log": "",
        },
    )
    write(tmp_path, {"scratch/mine/.gitignore": "*.log\n"})
    _commit(tmp_path)
    assert _paths(tmp_path / "scratch/mine") == {"pyproject.toml", "a.py", ".gitignore"}


def test_inside_a_git_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "outer", {"o.py": ""})
    write(tmp_path / "inner", {"i.py": "", ".gitignore": "*.log", "x.log": ""})
    _commit(tmp_path / "outer")
    _commit(tmp_path / "inner")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "outer/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "outer/.git/index"))
    assert _paths(tmp_path / "inner") == {"i.py", ".gitignore"}


def test_broken_repository_is_read_without_git(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "b.log": "", ".gitignore": "*.log", ".git": "gitdir: /nowhere/at/all\n"})
    assert _paths(tmp_path) == {"a.py", ".gitignore"}


def test_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    write(root, {"pkg/a.py": "a", "deep/er/x": ""})
    write(
        outside,
        {"data/one.csv": "1", "data/sub/two.csv": "2", "tool.py": "t", "data/.gitignore": "*.tmp", "data/x.tmp": ""},
    )
    (root / "inside").symlink_to("pkg/a.py")
    (root / "deep/up").symlink_to("../pkg")
    (root / "absolute").symlink_to(root / "pkg")
    (root / "deep/around").symlink_to("../../root/pkg/a.py")
    (root / "tool.py").symlink_to(outside / "tool.py")
    (root / "data").symlink_to("../outside/data")
    (root / "dangling").symlink_to("nowhere")
    (root / "circle").symlink_to("circle")
    (root / "deep/er/above").symlink_to(tmp_path)  # holds the root itself
    (outside / "data/back").symlink_to(root / "pkg")
    (outside / "data/sub/own").symlink_to("../one.csv")
    (outside / "data/sub/again").symlink_to(outside / "data")
    found = collect(root, _LIMIT)
    assert found.links == {
        "inside": "pkg/a.py",
        "deep/up": "../pkg",
        "absolute": "pkg",
        "deep/around": "../pkg/a.py",
        "dangling": "nowhere",
        "circle": "circle",
        "deep/er/above": str(tmp_path),
        "data/back": "../pkg",
        "data/sub/own": "../one.csv",
        "data/sub/again": "..",
    }
    assert set(found.files) == {
        "pkg/a.py",
        "deep/er/x",
        "tool.py",
        "data/one.csv",
        "data/sub/two.csv",
        "data/.gitignore",
    }
    git(root, "init", "-q")
    again = collect(root, _LIMIT)
    assert (set(again.files), again.links) == (set(found.files), found.links)


def test_sockets_and_pipes_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.py": ""})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link-to-pipe").symlink_to(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        assert _paths(tmp_path) == {"a.py", "link-to-pipe"}
        git(tmp_path, "init", "-q")
        assert _paths(tmp_path) == {"a.py", "link-to-pipe"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9 \n'\".py"), "w"):
        pass
    assert _paths(tmp_path) == {"caf\udce9 \n'\".py"}
    git(tmp_path, "init", "-q")
    assert _paths(tmp_path) == {"caf\udce9 \n'\".py"}


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"small.py": "x" * 10, "data/a.bin": "x" * 700, "data/b.bin": "x" * 400})
    monkeypatch.setenv("RUNKIT_MAX_ROOT_BYTES", "1000")
    with pytest.raises(RootError, match=r"'data/'.*\.gitignore.*working_dir="):
        scan(roots.root_at(tmp_path))
    (tmp_path / ".gitignore").write_text("data\n")
    assert scan(roots.root_at(tmp_path)).total_bytes == 15


@pytest.mark.parametrize("files", [{}, {".gitignore": "*\n", "a.py": ""}])
@pytest.mark.parametrize("with_git", [True, False])
def test_empty_root(tmp_path: Path, files: dict[str, str], with_git: bool) -> None:
    write(tmp_path, files)
    if with_git:
        git(tmp_path, "init", "-q")
    with pytest.raises(RootError, match="is empty"):
        scan(roots.root_at(tmp_path))


def test_unreadable_file(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "secret": ""})
    (tmp_path / "secret").chmod(0)
    if os.geteuid() == 0:  # root reads everything: ask as somebody else
        for place in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            place.chmod(0o755)
        pid = os.fork()
        if pid == 0:
            os.setuid(65534)
            try:
                from runkit.client.manifest import _hash

                _hash(os.fsencode(tmp_path / "secret"), False)
            except RootError as error:
                os._exit(0 if "secret" in str(error) and ".gitignore" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    else:
        with pytest.raises(RootError, match=r"secret.*\.gitignore"):
            scan(roots.root_at(tmp_path))
