"""From a user's folder to its mirror: scan, plan, stream, apply, and what is there afterwards."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runkit.errors import RootError
from tests.sync.mirrored import Pair, body, git, git_lists, snapshot, write


def test_first_sync_and_edits(pair: Pair) -> None:
    write(
        pair.folder,
        {"pkg/__init__.py": "", "pkg/a.py": "A = 1\n", "data/x y é\n.txt": "x", ".gitignore": "*.log\n", "no.log": ""},
    )
    write(pair.folder, {"run.sh": "#!/bin/sh\n", "private": "key"})
    (pair.folder / "run.sh").chmod(0o755)
    (pair.folder / "private").chmod(0o400)
    with open(os.path.join(os.fsencode(pair.folder), b"\xff.bin"), "wb") as file:
        file.write(bytes(range(256)))
    git(pair.folder, "init", "-q")
    sent = pair.sync()
    assert sent.changed == len(sent.manifest.files)
    assert set(snapshot(pair.tree)) == {
        os.fsencode(name).decode("utf-8", "surrogateescape") for name in git_lists(pair.folder)
    }
    expected = snapshot(pair.folder)
    assert all(content == expected[name] for name, content in snapshot(pair.tree).items())

    (pair.folder / "pkg/a.py").write_text("A = 2\n")
    (pair.folder / "run.sh").chmod(0o644)
    (pair.folder / "data/x y é\n.txt").unlink()
    sent = pair.sync()
    assert (sent.changed, sent.deleted, pair.asked[-1]) == (2, 1, ["pkg/a.py"])
    assert (pair.tree / "pkg/a.py").read_text() == "A = 2\n"
    assert (pair.tree / "run.sh").stat().st_mode & 0o777 == 0o644
    assert not (pair.tree / "data").exists()
    sent = pair.sync()
    assert (sent.changed, sent.deleted, pair.asked[-1]) == (0, 0, [])


def test_what_remote_code_wrote_stays(pair: Pair) -> None:
    write(pair.folder, {"out/keep.txt": "1", "pkg/a.py": "", "pkg/sub/b.py": ""})
    pair.sync()
    write(
        pair.tree,
        {
            "out/result.csv": "r",
            "new/deep/model.bin": "m",
            "pkg/__pycache__/a.cpython-311.pyc": "",
            "pkg/sub/__pycache__/b.x.pyc": "",
        },
    )
    shutil.rmtree(pair.folder / "out")
    shutil.rmtree(pair.folder / "pkg")
    write(pair.folder, {"c.py": ""})
    pair.sync()
    assert set(snapshot(pair.tree)) == {"out/result.csv", "new/deep/model.bin", "c.py"}
    assert not (pair.tree / "pkg").exists()  # nothing but caches was left of it: it must not stay importable


def test_what_remote_code_changed_is_sent_again(pair: Pair) -> None:
    write(pair.folder, {"a.py": "a = 1\n", "b/c.py": "c = 1\n", "d.py": "d\n", "e": "e"})
    (pair.folder / "link").symlink_to("a.py")
    digest = pair.sync().manifest.digest
    (pair.tree / "a.py").write_text("a = 2\n")
    shutil.rmtree(pair.tree / "b")
    os.utime(pair.tree / "d.py")
    (pair.tree / "link").unlink()
    assert not pair.mirror.has(pair.root.id, digest)
    pair.sync()
    assert pair.asked[-1] == ["a.py", "b/c.py"]
    assert snapshot(pair.tree) == snapshot(pair.folder)
    for spoil in (
        lambda: (pair.tree / "e").chmod(0o600),
        lambda: shutil.rmtree(pair.tree),
        lambda: (pair.tree / "e").unlink(),
    ):
        spoil()
        assert not pair.mirror.has(pair.root.id, digest)
        assert pair.sync().changed > 0
        assert snapshot(pair.tree) == snapshot(pair.folder)


def test_files_links_and_folders_change_places(pair: Pair) -> None:
    write(pair.folder, {"a": "file", "b/x": "1", "b/y/z": "2", "d/i": "3"})
    (pair.folder / "c").symlink_to("b")
    (pair.folder / "e").symlink_to("a")
    pair.sync()
    (pair.folder / "a").unlink()
    (pair.folder / "e").unlink()
    (pair.folder / "c").unlink()
    shutil.rmtree(pair.folder / "b")
    shutil.rmtree(pair.folder / "d")
    write(pair.folder, {"a/x/y": "now a folder", "b": "now a file", "c/x": "now a folder", "e": "now a file"})
    (pair.folder / "d").symlink_to("c")
    pair.sync()
    assert snapshot(pair.tree) == snapshot(pair.folder)


def test_what_stands_in_the_way(pair: Pair, tmp_path: Path) -> None:
    write(pair.folder, {"a.py": ""})
    pair.sync()
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, {"mine": "precious"})
    write(pair.tree, {"file": "remote", "folder": "remote", "results/r1": "remote"})
    (pair.tree / "linked").symlink_to(elsewhere)
    write(pair.folder, {"file": "ours", "folder/x": "ours", "results": "ours", "linked/mine": "ours"})
    pair.sync()
    assert snapshot(elsewhere) == {"mine": snapshot(elsewhere)["mine"]}
    assert (elsewhere / "mine").read_text() == "precious"
    assert pair.applied.aside == ("results~remote1",)
    assert (pair.tree / "results~remote1/r1").read_text() == "remote"
    found = snapshot(pair.tree)
    del found["results~remote1/r1"]
    assert found == snapshot(pair.folder)
    # ... and a link that remote code puts where a synced folder was is never followed, neither to write nor to delete
    shutil.rmtree(pair.tree / "linked")
    (pair.tree / "linked").symlink_to(elsewhere)
    shutil.rmtree(pair.folder / "linked")
    pair.sync()
    assert (elsewhere / "mine").read_text() == "precious"


def test_moved_away_behind_a_link(pair: Pair, tmp_path: Path) -> None:
    write(pair.folder, {"data/a": "a", "data/b": "b"})
    pair.sync()
    os.rename(pair.tree / "data", tmp_path / "data")
    (pair.tree / "data").symlink_to(tmp_path / "data")
    write(pair.folder, {"data/a": "A"})
    pair.sync()
    assert snapshot(pair.tree) == snapshot(pair.folder)
    assert (tmp_path / "data/a").read_text() == "a"


def _run(pair: Pair, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=pair.tree, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_edits_of_the_same_size_in_the_same_second(pair: Pair) -> None:
    write(pair.folder, {"pkg/__init__.py": "", "pkg/m.py": "X = 1000\n"})
    seen = []
    for value in range(1000, 1006):
        (pair.folder / "pkg/m.py").write_text(f"X = {value}\n")
        pair.sync()
        seen.append(_run(pair, "import pkg.m; print(pkg.m.X)"))
    assert seen == [str(value) for value in range(1000, 1006)]
    times = (pair.tree / "pkg/m.py").stat().st_mtime
    (pair.folder / "pkg/m.py").unlink()
    pair.sync()
    assert "ModuleNotFoundError" in _run(pair, "try:\n import pkg.m\nexcept Exception as e: print(repr(e))")
    (pair.folder / "pkg/m.py").write_text("X = 2000\n")
    pair.sync()
    assert int((pair.tree / "pkg/m.py").stat().st_mtime) > int(times)
    assert _run(pair, "import pkg.m; print(pkg.m.X)") == "2000"


def test_two_sessions_at_once(pair: Pair) -> None:
    write(pair.folder, {f"m{number}.py": f"{number}" for number in range(30)})
    other = Pair(pair.folder, pair.mirror.folder.parent)
    pair.sync()
    write(pair.folder, {"m1.py": "mine"})

    def interfere() -> None:
        pair.meanwhile = lambda: None
        write(pair.folder, {"m2.py": "theirs"})
        other.sync()
        write(pair.folder, {"m2.py": "2"})

    # Between this one's plan and apply the other one replaces a file that this one did not send.
    pair.meanwhile = interfere
    pair.sync()
    assert snapshot(pair.tree) == snapshot(pair.folder)
    failures: list[BaseException] = []

    def often(mine: Pair) -> None:
        try:
            for _ in range(10):
                mine.mirror.apply(mine.root.id, io.BytesIO(body(mine)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=often, args=(one,)) for one in (pair, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert snapshot(pair.tree) == snapshot(pair.folder)


def test_files_that_change_while_they_are_sent(pair: Pair) -> None:
    write(pair.folder, {"a.py": "a = 1\n", "b.py": "b = 1\n", "c.py": "c = 1\n"})
    rounds = 0

    def edit() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            write(pair.folder, {"a.py": "a = 2\n"})
        if rounds == 2:
            (pair.folder / "b.py").unlink()

    pair.meanwhile = edit
    pair.sync()
    assert rounds == 3
    assert snapshot(pair.tree) == snapshot(pair.folder)


def test_a_file_that_is_written_all_the_time(pair: Pair) -> None:
    write(pair.folder, {"a.py": "a = 1\n", "status": "0"})
    rounds = iter(range(1, 100))
    pair.meanwhile = lambda: write(pair.folder, {"status": str(next(rounds))})
    sent = pair.sync()
    assert hashlib.sha256((pair.tree / "status").read_bytes()).hexdigest() == sent.manifest.files["status"][0]


def test_everything_changes_all_the_time(pair: Pair) -> None:
    names = [f"f{number}" for number in range(9)]
    rounds = iter(range(1, 100))

    def edit() -> None:
        turn = next(rounds)
        write(pair.folder, {name: f"{turn}{name}" for name in names})

    edit()
    pair.meanwhile = edit
    with pytest.raises(RootError, match=r"change all the time: 'f.*\.gitignore"):
        pair.sync()


_NAME = st.sampled_from(["a", "b", "c.py", "d", "é"])
_PATH = st.lists(_NAME, min_size=1, max_size=3).map("/".join)
_EDIT = st.tuples(
    st.sampled_from(["write", "write", "remove", "link", "chmod", "remote", "ruin"]),
    _PATH,
    st.sampled_from(["1", "22", "33"]),
)


def _edit(folder: Path, what: str, path: str, text: str) -> None:
    place = folder / path
    for parent in [*reversed(place.relative_to(folder).parents), place.relative_to(folder)][1:]:
        found = folder / parent
        in_the_way = found.is_symlink() or (found.is_file() if parent != place.relative_to(folder) else found.is_dir())
        if in_the_way and what in ("write", "link"):
            shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
    if what in ("write", "link"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_text(text) if what == "write" else place.symlink_to(text)
    elif what == "remove" and os.path.lexists(place):
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    elif what == "chmod" and place.is_file():
        place.chmod(0o755)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.lists(_EDIT, max_size=6), min_size=1, max_size=4), with_git=st.booleans())
def test_any_edits(pair: Pair, rounds: list[list[tuple[str, str, str]]], with_git: bool) -> None:
    shutil.rmtree(pair.folder)
    shutil.rmtree(pair.mirror.folder, ignore_errors=True)
    write(pair.folder, {"always": ""})
    if with_git:
        git(pair.folder, "init", "-q")
    for edits in rounds:
        for what, path, text in edits:
            if what == "ruin":
                _edit(pair.tree, "remove", path, text)
            elif what != "remote":
                _edit(pair.folder, what, path, text)
            elif pair.tree.exists():
                write(pair.tree, {f"remote {text}": text})
        pair.sync()
        mirrored = {name: what for name, what in snapshot(pair.tree).items() if not name.startswith("remote")}
        expected = snapshot(pair.folder)
        assert mirrored == {name: what for name, what in expected.items() if not name.startswith(".git/")}
