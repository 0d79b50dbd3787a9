"""What starting costs: `import runkit`, a worker, the server."""

from __future__ import annotations

import compileall
import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import runkit as rk
from benchmarks.measures.session import Session
from benchmarks.peers import ray
from benchmarks.place import PLACE, Absent
from benchmarks.stats import median, timed

HEAVY = ("ray", "sky", "paramiko", "sshtunnel", "uvicorn", "aiohttp", "numpy")


# Without `site`, which in a venv with editable installs imports a good part of the standard library beforehand.
BARE = [sys.executable, "-S"]


@functools.cache
def _installed() -> Path:
    """A copy of runkit with its bytecode, as an installation or a host's code folder has it."""
    folder = PLACE / "installed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(Path(rk.__file__).parent, folder / "runkit", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=2)
    return folder


def _path() -> str:
    return f"import sys; sys.path[:0] = {[str(_installed()), sysconfig.get_path('purelib')]}; "


def _python(code: str) -> float:
    return timed(lambda: subprocess.run([*BARE, "-c", code], check=True, stdin=subprocess.DEVNULL))


def import_runkit(runs: int = 40) -> dict[str, Any]:
    """Seconds above `python -c pass`, in alternating runs, and which heavy modules came along."""
    differences = [-_python(_path() + "pass") + _python(_path() + "import runkit") for _ in range(runs)]
    code = f"import json, runkit; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    came = subprocess.run([*BARE, "-c", _path() + code], check=True, capture_output=True, text=True)
    return {"above_pass": median(differences), "heavy": json.loads(came.stdout)}


def worker(runs: int = 40) -> float:
    """Seconds from the start of a worker's process until it takes calls, above a whole `python -c pass`."""
    return median(_worker() - _python("pass") for _ in range(runs))


def _worker() -> float:
    """Starts a worker as its keeper does, waits until it says that it is ready, and ends it."""
    out_read, out = os.pipe()
    err_read, err = os.pipe()
    ready, ready_write = os.pipe()
    boot = _installed() / "runkit" / "worker" / "boot.py"
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        config = {
            "env": "default",
            "generation": 1,
            "socket": f"{folder}/s",
            "stdout_fd": out_read,
            "stderr_fd": err_read,
        }
        config["ready_fd"] = ready_write
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*BARE, str(boot)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            pass_fds=(out_read, err_read, ready_write),
        )
        os.close(ready_write)
        _feed(process, config)
        assert os.read(ready, 100), "the worker ended before it was ready"
        seconds = time.perf_counter() - begin
        process.kill()
        process.wait()
    for descriptor in (out_read, out, err_read, err, ready):
        os.close(descriptor)
    return seconds


def _feed(process: subprocess.Popen[bytes], config: dict[str, Any]) -> None:
    assert process.stdin
    process.stdin.write(json.dumps(config).encode())
    process.stdin.close()


def server(session: Session, rounds: int) -> dict[str, Any]:
    """Server start on a prepared host until a call in the default env is done, next to `ray start --head`."""
    cluster = session.cluster
    out: dict[str, Any] = {}
    ours, theirs = [], []
    for _ in range(rounds):
        cluster.stop_server()
        try:
            theirs.append(ray.start_head(session.host))
        except Absent as reason:
            out["ray_absent"] = str(reason)

        def start() -> None:
            cluster.up_if_not()
            assert rk.function(session.functions.echo).to(cluster)(1) == 1  # type: ignore[union-attr]  # open() has set it

        ours.append(timed(start))
    out["server_start"] = median(ours)
    if theirs:
        out.update(
            ray_start=median(theirs), over_ray=median(mine / their for mine, their in zip(ours, theirs, strict=True))
        )
    return out
