"""What starting costs: `import runkit`, a worker, the server."""

from __future__ import annotations

import compileall
import functools
import json
import os
import socket
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
from benchmarks.place import PLACE, Absent, venv
from benchmarks.stats import median, timed
from runkit.launch.code import place as place_code
from runkit.servlet.spawn import WorkerProcess, WorkerSpec, clean_environment
from runkit.wire import frames
from runkit.wire.streams import read_frames

HEAVY = ("ray", "sky", "paramiko", "sshtunnel", "uvicorn", "aiohttp", "numpy")
TOUCHED = "rk.cluster, rk.function, rk.env"
_TOUCH = f"import runkit as rk; {TOUCHED}"


@functools.cache
def _code() -> Path:
    """runkit's code folder as a host has it: with cloudpickle beside it, and its bytecode."""
    folder = place_code(PLACE)
    compileall.compile_dir(folder, quiet=2)
    return folder


def _python(code: str) -> float:
    """Seconds for a Python without `site`, which in a venv with editable installs imports much of the standard library."""
    return timed(lambda: _run(code))


def _run(code: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(
        command, env=variables, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def import_runkit(runs: int = 40) -> dict[str, Any]:
    """Seconds above `python -c pass` in alternating runs, bare and with the lazy names touched; heavy modules that came along."""
    path = f"import sys; sys.path[:0] = {[str(_code()), sysconfig.get_path('purelib')]}; "
    _run(path + _TOUCH)  # from here on there is bytecode of everything, also where PYTHONDONTWRITEBYTECODE is set
    pairs = [
        (-(base := _python(path + "pass")) + _python(path + "import runkit"), -base + _python(path + _TOUCH))
        for _ in range(runs)
    ]
    came = _run(f"{path}{_TOUCH}; import json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))")
    return {
        "above_pass": median(bare for bare, _ in pairs),
        "touched_above_pass": median(touched for _, touched in pairs),
        "touched": TOUCHED,
        "heavy": json.loads(came),
    }


def worker(runs: int = 40) -> dict[str, float]:
    """Seconds above `python -c pass` of the same venv until a worker listens, and until its first call's result is here.

    The venv is an env's: with `site`, without anything installed. The process is started by the code that the keeper has.
    """
    python = str(venv("plain", sys.executable) / "python")
    times = []
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        spec = WorkerSpec(
            env="plain",
            mark=f"{folder}:plain",
            python=python,
            boot=str(_code() / "runkit" / "worker" / "boot.py"),
            sockets=folder,
            control="",
            log=f"{folder}/log",
            environment=clean_environment(os.environ),
            env_vars={},
            roots_home=f"{folder}/roots",
            vendor=str(_code() / "vendor"),
        )
        for generation in range(runs):
            base = timed(lambda: subprocess.run([python, "-c", "pass"], check=True, stdin=subprocess.DEVNULL))
            times.append(tuple(moment - base for moment in _worker(spec, generation)))
    return {"listens": median(t for t, _ in times), "call": median(t for _, t in times)}


def _worker(spec: WorkerSpec, generation: int) -> tuple[float, float]:
    """Starts a worker, calls `os.getpid` in it and ends it; seconds until it listens, and until the result."""
    begin = time.perf_counter()
    process = WorkerProcess(spec, generation)
    try:
        assert process.wait_ready(), "the worker ended before it was ready"
        listens = time.perf_counter() - begin
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(process.socket)
            hello = {"session": f"{generation}", "lane": "main", "inline": True, "received": 0}
            call = {"target": {"ref": ["os", "getpid"]}}
            body = json.dumps({"args": [], "kwargs": {}}).encode()
            connection.sendall(frames.encode(frames.HELLO, meta=hello))
            connection.sendall(frames.encode(frames.CALL, 1, call, [body], seq=1, flags=frames.FLAG_JSON))
            result = next(frame for frame in read_frames(connection) if frame.kind in (frames.RESULT, frames.ERROR))
        seconds = time.perf_counter() - begin
        assert result.kind == frames.RESULT, result.meta
        assert json.loads(bytes(result.parts[0])) == process.pid
    finally:
        process.kill()
        process.wait()
    return listens, seconds


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
