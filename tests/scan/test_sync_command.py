"""`runkit sync scan`, run as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from making import Venv, head

from runkit.client.scan import scan


def runkit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runkit.cli", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def filled(venv: Venv, elsewhere: Path) -> None:
    (elsewhere / "train.py").write_text("")
    venv.metadata("apple-1.0.dist-info", head("apple", "1.0"), INSTALLER="pip\n")
    venv.metadata("pie-2022b.dist-info", head("pie", "2022-final-b"))
    url = {"url": f"file://{elsewhere}/gone", "dir_info": {}}
    venv.metadata("tart-1.0.dist-info", head("tart", "1.0"), DIRECT_URL=json.dumps(url))
    vcs = {
        "url": "https://git.example.org/x.git",
        "vcs_info": {"vcs": "git", "commit_id": "abc"},
        "subdirectory": "sub",
    }
    venv.metadata("x-1.0.dist-info", head("x", "1.0"), DIRECT_URL=json.dumps(vcs))


def test_table(venv: Venv, elsewhere: Path) -> None:
    filled(venv, elsewhere)
    done = runkit("sync", "scan", "--python", venv.python)
    assert done.returncode == 0, done.stderr
    first, _, *lines = done.stdout.splitlines()
    assert first.startswith(f"Python {sys.version.split()[0]} (cpython, linux-")
    assert first.endswith(f"venv {venv.folder}")
    assert [line.split() for line in lines[:5]] == [
        ["distribution", "version", "source", "installer", "from"],
        ["apple", "1.0", "index", "pip"],
        ["pie", "2022-final-b", "(not", "PEP", "440)", "index", "?"],
        ["tart", "1.0", "index", "?"],
        ["x", "1.0", "vcs", "?", "https://git.example.org/x.git@abc#subdirectory=sub"],
    ]
    assert [line.split() for line in lines[6:8]] == [
        ["code", "imported", "from", "by", "belongs", "to", "modules"],
        [str(elsewhere), "cwd", "-", "train"],
    ]
    assert lines[9:] == [
        "notes",
        f"  tart: was installed from {elsewhere}/gone, which is gone: only an index can have it now",
    ]


def test_json(venv: Venv, elsewhere: Path) -> None:
    filled(venv, elsewhere)
    done = runkit("sync", "scan", "--json", "--python", venv.folder)
    assert json.loads(done.stdout) == json.loads(json.dumps(scan(venv.python).as_json()))
    assert [one["name"] for one in json.loads(done.stdout)["distributions"]] == ["apple", "pie", "tart", "x"]


def test_this_python(elsewhere: Path) -> None:
    done = runkit("sync", "scan", "--json")
    assert json.loads(done.stdout)["prefix"] == sys.prefix


def test_wrong_python(tmp_path: Path) -> None:
    done = runkit("sync", "scan", "--python", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"runkit: there is no Python at {tmp_path}/nowhere\n"
