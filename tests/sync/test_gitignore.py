"""Our reading of `.gitignore` files against git's own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runkit.model import gitignore
from runkit.model.listing import collect
from tests.sync.mirrored import git, git_lists, write

_NAMES = ["a", "b", "ab", "a.py", "foo", "foobar", "x-y", "a b", "[", "é", "A", "#a", "!b", "a\\b", "c*"]
_TREE = [
    *_NAMES,
    *(f"foo/{name}" for name in _NAMES[:8]),
    "foo/bar/a",
    "foo/bar/foo/a.py",
    "b/a",
    "b/foo/bar/b",
    "ab/cd/ef/a.py",
]
_TREE = [name for name in _TREE if name not in ("foo", "b", "ab")]
_PIECES = st.sampled_from(
    [
        "a",
        "b",
        "foo",
        "bar",
        "/",
        "*",
        "**",
        "?",
        "[a-c]",
        "[!a]",
        "[^b]",
        "[]-a]",
        "[[:alpha:]]",
        "[[:alpha:]-z]",
        "[a-]",
        "[[]",
        "\\",
        "\\*",
        "!",
        "#",
        " ",
        "\\ ",
        ".py",
        ".",
        "é",
        "/**/",
        "**/",
        "/**",
        "foo**",
        "[",
        "]",
        "[:",
        "[[:nope:]]",
        "[a/b]",
        "\t",
    ]
)
_LINE = st.lists(_PIECES, min_size=1, max_size=5).map("".join)
_FILE = st.lists(_LINE, min_size=1, max_size=5).map("\n".join)


def _ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", os.devnull)  # a machine without git
        found = collect(folder, 1 << 30)
    return {*found.files, *found.links}


@pytest.fixture(scope="module")
def repository() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="runkit-ignore-"))
    git(folder, "init", "-q")
    write(folder, dict.fromkeys(_TREE, ""))
    yield folder
    shutil.rmtree(folder)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(top=_FILE, inner=_FILE)
@example(top="foo**/bar", inner="")
@example(top="/foo/*\n!/foo/bar/\n", inner="*.py\n!a.py")
@example(top="**/bar/\n!foo/bar", inner="\\!b\n\\#a\na\\ b\n")
@example(top="foo/**/a\r\n", inner="trail   \n")
@example(top="[[:alpha:]\n[]\n[a", inner="[\\]]")
def test_like_git(repository: Path, monkeypatch: pytest.MonkeyPatch, top: str, inner: str) -> None:
    (repository / ".gitignore").write_text(top)
    (repository / "foo" / ".gitignore").write_text(inner)
    assert _ours(repository, monkeypatch) == git_lists(repository)


def test_without_git_in_a_folder_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    write(
        tmp_path, {".gitignore": "*.log\n/sub/out\n", "sub/.gitignore": "!keep.log\n", "sub/pkg/.gitignore": "local\n"}
    )
    write(
        tmp_path,
        {
            "sub/a.log": "",
            "sub/keep.log": "",
            "sub/out/x": "",
            "sub/pkg/out/x": "",
            "sub/pkg/local/y": "",
            "sub/pkg/a.log": "",
        },
    )
    write(tmp_path, {".git/info/exclude": "secret\n", "sub/secret": "", "sub/pkg/secret": "", "sub/pkg/m.py": ""})
    for folder in (tmp_path, tmp_path / "sub", tmp_path / "sub/pkg"):
        assert _ours(folder, monkeypatch) == git_lists(folder)


def test_bytes_not_characters() -> None:
    assert not gitignore.ignored("é".encode(), False, [gitignore.parse(b"?")])
    assert gitignore.ignored("é".encode(), False, [gitignore.parse(b"??")])
