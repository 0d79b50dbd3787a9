"""Where the benchmarks keep what they need: the peers' venvs and scripts, the client's state, a root of 1,000 files.

It lies in /var/tmp because the SSH hosts have a /tmp and a /home of their own but share the rest with this machine, so
a peer's venv has the same path on both sides. It is kept from run to run: installing the peers takes longer than
measuring them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hosts import Host

PLACE = Path(f"/var/tmp/runkit-benchmarks-{os.getuid()}")
MARK = "RUNKIT_BENCHMARK"  # an environment variable of every process of a peer on the host, to end it by
JOBS = Path(__file__).parent / "peers" / "jobs"
FILES = 1000


class Absent(Exception):
    """A peer that cannot be had here; the message says why."""


def prepare() -> None:
    """Make the folder, copy the peers' scripts into it and point this process's runkit at a state of its own."""
    PLACE.mkdir(mode=0o755, exist_ok=True)
    if PLACE.stat().st_uid != os.getuid():
        raise SystemExit(f"{PLACE} belongs to another user")
    _claim()
    shutil.copytree(JOBS, PLACE / "jobs", dirs_exist_ok=True)
    shutil.rmtree(PLACE / "roots", ignore_errors=True)  # of earlier runs
    for name in ("home", "run"):
        (PLACE / name).mkdir(mode=0o700, exist_ok=True)
    os.environ.update(RUNKIT_HOME=str(PLACE / "home"), RUNKIT_RUNTIME_DIR=str(PLACE / "run"))
    os.environ["RUNKIT_KNOWN_HOSTS"] = str(PLACE / "home" / "known_hosts")
    (PLACE / "home" / "known_hosts").unlink(missing_ok=True)  # the hosts of this run have new keys


def _claim() -> None:
    """One run at a time: two would measure each other. The lock ends with this process."""
    lock = os.open(PLACE / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"another run of the benchmarks is under way (it holds {PLACE}/lock)") from None


def make_root(name: str) -> Path:
    """A fresh package root of 1,000 files: a module `benchfns` and 50 packages, one of which it imports."""
    root = PLACE / "roots" / f"{name}-{uuid.uuid4().hex[:8]}"
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "benchroot"\nversion = "0"\n')
    functions = """
        from pkg00.mod01 import value

        def echo(x):
            return x

        def helper_value():
            return value()

        def die():
            import os
            os._exit(3)
    """
    (root / "benchfns.py").write_text(textwrap.dedent(functions).lstrip())
    for i in range(FILES - 2):
        package = root / f"pkg{i // 20:02}"
        package.mkdir(exist_ok=True)
        module = "__init__" if i % 20 == 0 else f"mod{i % 20:02}"
        (package / f"{module}.py").write_text(f"def value():\n    return {i}\n" + f"# {'padding ' * 40}\n")
    return root


def python_of_host(host: Host) -> str:
    """An interpreter that host and machine share; Absent without one."""
    done = host.run("command -v python3 && python3 -c 'import sys; print(sys.version_info >= (3, 10))'", check=False)
    path, _, recent = done.stdout.strip().partition("\n")
    if recent != "True" or not Path(path).exists():
        raise Absent("the host has no Python 3.10 or newer that this machine sees at the same path")
    return path


def venv(name: str, python: str, *requirements: str) -> Path:
    """A venv, made once, of a peer or empty; Absent when its packages cannot be installed. Returns its `bin`."""
    folder = PLACE / "venvs" / name
    wanted = json.dumps([python, *requirements])
    done = folder / "benchmark.json"
    if not done.exists() or done.read_text() != wanted:
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        commands = [[uv, "venv", "--quiet", "--clear", "--python", python, str(folder)]]
        if requirements:
            install = [uv, "pip", "install", "--quiet", "--link-mode=copy", "--python", str(folder / "bin/python")]
            commands.append([*install, *requirements])
        # The host's user runs it too, and uv copies what its cache holds with the modes of there.
        commands.append(["chmod", "-R", "a+rX", str(folder)])
        for command in commands:
            result = subprocess.run(command, text=True, capture_output=True)
            if result.returncode:
                raise Absent(f"{' '.join(requirements) or name} could not be installed: {result.stderr.strip()[-500:]}")
        done.write_text(wanted)
    return folder / "bin"


@contextmanager
def far(host: Host, command: str) -> Iterator[Asker]:
    """A process on the host that answers JSON lines, ended when the block ends."""
    process = subprocess.Popen([*host.ssh(), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Asker(process)
    finally:
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class Asker:
    """Sends a JSON line to a process and waits for the line that answers it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, **question: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise Absent(f"its process ended with exit code {self._process.wait()}")
        return json.loads(line)


def end_marked(host: Host, mark: str) -> None:
    """End the processes on the host that carry the mark: those of one peer, no others."""
    python = python_of_host(host)
    host.run(f"{python} {PLACE}/jobs/end_marked.py {MARK} {mark}")
