"""An environment of 350 packages replicated on a host, next to `uv pip sync` there with the same lock and the same cache."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import runkit
from benchmarks.measures.session import Session
from benchmarks.place import PLACE, Absent, Asker, venv
from benchmarks.stats import median

DISTRIBUTIONS = 350
_PADDING = PLACE / "padding-files"
_FILES = (5, 9, 16, 28, 45, 75, 130, 300)  # modules of a distribution: quantiles of some hundred from PyPI
_JOB = Path(__file__).with_name("replicate_child.py")
_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "benchedit"
version = "1"
"""


def measure(session: Session, rounds: int) -> dict[str, Any]:
    """Medians in seconds of `.to()` with nothing changed, with one package changed, and of an edit until its code has run."""
    needs = [line for line in importlib.metadata.requires("runkit") or () if "extra ==" not in line]
    binaries = venv("replicate", sys.executable, *needs, _project())
    _fill(binaries)
    times: dict[str, list[float]] = {}
    with _child(binaries, session) as ask:
        ask(do="send")
        for number in range(rounds):
            times.setdefault("again", []).append(ask(do="again")["seconds"])
            _change(binaries, number)
            changed = ask(do="send")
            times.setdefault("changed", []).append(changed["seconds"])
            times.setdefault("uv_sync", []).append(_uv_sync(session, changed["lock"], changed["python"]))
            times.setdefault("edited", []).append(ask(do="edit")["seconds"])
        _change(binaries, None)
    return {name: median(values) for name, values in times.items()} | {"distributions": DISTRIBUTIONS, "rounds": times}


def _project() -> str:
    """An editable install, made once."""
    folder = PLACE / "benchedit"
    (folder / "src" / "benchedit").mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_PROJECT)
    (folder / "src/benchedit/__init__.py").write_text("")
    (folder / "src/benchedit/code.py").write_text("def value():\n    return 0\n")
    return f"--editable={folder}"


def _fill(binaries: Path) -> None:
    """Fill a venv with made-up packages until it has enough distributions."""
    _PADDING.mkdir(exist_ok=True)
    have = len(list(binaries.parent.glob("lib/python3*/site-packages/*.dist-info")))
    _install(binaries, *(_wheel(number, "1.0") for number in range(DISTRIBUTIONS - have)))
    have = len(list(binaries.parent.glob("lib/python3*/site-packages/*.dist-info")))
    if have != DISTRIBUTIONS:
        raise Absent(f"the venv has {have} distributions, not {DISTRIBUTIONS}: remove {binaries.parent}")


def _wheel(number: int, version: str) -> str:
    """A wheel with as many files as an ordinary one; gives its requirement."""
    name = f"filling_{number:03}"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/{'__init__' if at == 0 else f'module_{at}'}.py": f"VALUE = {at}\n" * 40
        for at in range(_FILES[number % 8])
    }
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: filling\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    path = _PADDING / f"{name}-{version}-py3-none-any.whl"
    if not path.exists():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, text in files.items():
                archive.writestr(zipfile.ZipInfo(inside), text)
    return f"{name}=={version}"


def _change(binaries: Path, number: int | None) -> None:
    """Another version of one package; None: the one it had."""
    _install(binaries, _wheel(0, "1.0" if number is None else f"2.{number}.{uuid.uuid4().int % 10**9}"))


def _install(binaries: Path, *requirements: str) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--no-index", "--find-links", str(_PADDING)]
    if requirements:
        subprocess.run([*install, "--python", str(binaries / "python"), *requirements], check=True)


def _uv_sync(session: Session, lock: str, python: str) -> float:
    """The same lock, installed by the host's own uv into a fresh venv; both lie in the folders that runkit's do."""
    home = "$HOME/.runkit"
    uv = f"$(ls -d {home}/*/uv {home}/bin/uv {home}/uv/uv 2>/dev/null | head -1)"
    script = f"""
        cat > {home}/wheels/pylock.peer.toml; rm -rf {home}/envs/peer; uv={uv}
        new={home}/envs/peer
        begin=$(date +%s%N)
        $uv venv --quiet --no-project --no-config --offline --python {python} $new &&
        $uv pip sync --preview-features pylock --quiet --offline --no-config --python $new/bin/python {home}/wheels/pylock.peer.toml
        status=$?; end=$(date +%s%N); rm -rf $new {home}/wheels/pylock.peer.toml; echo $((end - begin)); exit $status
    """
    done = subprocess.run([*session.host.ssh(), script], input=lock, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"uv pip sync on the host failed: {done.stderr.strip()[-500:]}")
    return int(done.stdout.split()[-1]) / 1e9


@contextmanager
def _child(binaries: Path, session: Session) -> Iterator[Asker]:
    """A process in that environment, which replicates itself."""
    code = PLACE / "runkit-alone"
    code.mkdir(exist_ok=True)
    link = code / "runkit"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(runkit.__file__).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": str(code),
        "UV_FIND_LINKS": str(_PADDING),
        "RUNKIT_LOG": "warning",
    }
    host = session.host
    place = {"host": host.address, "ssh_port": host.port, "ssh_creds": host.ssh_creds, "server_port": host.server_port}
    process = subprocess.Popen(
        [str(binaries / "python"), str(_JOB), json.dumps(place), str(PLACE / "benchedit/src/benchedit/code.py")],
        cwd=PLACE / "benchedit",
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Asker(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(20)
