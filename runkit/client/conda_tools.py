"""Programs that work with conda packages, in an environment of their own: neither a user's Python nor the server's gets them."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runkit.client.programs import run
from runkit.client.progress import Report
from runkit.client.uvtool import explanation, run_uv
from runkit.errors import EnvError, InstallFailed
from runkit.launch import code
from runkit.model.digest import digest
from runkit.model.urls import without_credentials
from runkit.wire.installers import failure_kind

REQUIREMENTS = code.PACKAGE / "launch" / "conda-requirements.txt"
ANSWER = "runkit-answer: "
_RUN = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


def requirement_lines() -> tuple[str, ...]:
    """What the environment of the tools holds."""
    return tuple(line.strip() for line in REQUIREMENTS.read_text().splitlines() if line.strip())


def ask(module: str, question: Mapping[str, Any], home: Path, cwd: str | Path, progress: Report) -> dict[str, Any]:
    """Run a module of runkit with the tools' interpreter and give its answer.

    Args:
        module: it reads JSON from its standard input and writes a line that starts with `ANSWER`.
        question: what it reads; no command line shows it, as it may hold credentials.
        home: this client's RUNKIT_HOME.
        cwd: the folder whose uv configuration counts where the tools have to be fetched.

    Raises:
        EnvError: it gave no answer. InstallFailed: the tools cannot be fetched. InstallTimeout: the set-up has no time left.
    """
    python = _python(home, cwd, progress)
    done = run([python, "-I", "-c", _RUN, str(code.PACKAGE.parent), module], given=json.dumps(question))
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(ANSWER):
            answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
            return answer
    said = without_credentials("\n".join((done.stdout + done.stderr).splitlines()[-30:]))
    raise EnvError(f"{module} ended with {done.returncode} and gave no answer:\n{said}", said)


def _python(home: Path, cwd: str | Path, progress: Report) -> str:
    """The interpreter of the tools' environment, which is made when it is first needed."""
    name = digest([requirement_lines(), platform.python_version(), os.path.realpath(sys.executable)])[:16]
    folder = home / "tools" / name
    python = folder / "bin" / "python"
    if not python.exists():
        progress({"phase": "fetch py-rattler, which solves conda environments"})
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            _make(partial, cwd)
            with suppress(OSError):  # another process was faster
                partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return str(python)


def _make(folder: Path, cwd: str | Path) -> None:
    venv = ["venv", "--quiet", "--no-project", "--no-config", "--relocatable", "--python", sys.executable, str(folder)]
    install = [
        "pip",
        "install",
        "--quiet",
        "--python",
        str(folder / "bin" / "python"),
        "--requirement",
        str(REQUIREMENTS),
    ]
    for command in ([*venv[:1], "--clear", *venv[1:]], install):
        done = run_uv(command, cwd=cwd)
        if done.returncode:
            said = without_credentials(explanation(done.stderr))
            raise failure_kind(said, InstallFailed)(
                f"py-rattler, which solves conda environments, cannot be installed on this machine:\n{said}", said
            )
