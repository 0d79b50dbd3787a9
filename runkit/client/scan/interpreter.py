"""The facts of the interpreter that is scanned: of this very one, or of another, which is run for them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from runkit.client.scan import facts
from runkit.client.scan.model import Kind
from runkit.errors import UsageError
from runkit.model.passed_on import environment

_PROGRAMS = ("bin/python", "bin/python3", "python.exe", "Scripts/python.exe")
_PATIENCE = 60


def ask(python: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts of another interpreter; PYTHONPATH and the working directory are those of this process.

    Args:
        python: its path, the prefix of its environment, or a command's name, as "python3.12".

    Raises:
        UsageError: there is no interpreter, or it does not answer.
    """
    import shutil  # noqa: PLC0415  (a scan of the running interpreter must not wait for these)
    import subprocess  # noqa: PLC0415

    given = os.path.abspath(os.path.expanduser(python))
    if os.path.isdir(given):
        program = next((f"{given}/{one}" for one in _PROGRAMS if os.path.exists(f"{given}/{one}")), None)
        if program is None:
            raise UsageError(f"{given} is no environment with a Python: it has no bin/python")
    elif os.path.exists(given):
        program = given
    else:
        program = shutil.which(python) if os.path.basename(python) == os.fspath(python) else None
        if program is None:
            raise UsageError(f"there is no Python at {given}")
    command = [program, "-c", Path(facts.__file__).read_text(encoding="utf-8")]
    # An environment variable of the one that runs this would make another Python of the same folder out of it.
    variables = {
        name: value for name, value in environment().items() if name not in ("PYTHONHOME", "__PYVENV_LAUNCHER__")
    }
    try:
        done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE)
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{program} could not be run: {error}") from error
    except (ValueError, IndexError) as error:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise UsageError(
            f"{program} is no Python 3.7 or later, or is broken: {said or f'exit code {done.returncode}'}"
        ) from error
    return dict(found)


def kind(prefix: str) -> Kind:
    """How the environment was made, by what its maker left in its folder."""
    try:
        with open(f"{prefix}/pyvenv.cfg", encoding="utf-8", errors="replace") as file:
            made = file.read()
    except OSError:
        made = None
    if made is not None:
        return "virtualenv" if re.search(r"(?m)^virtualenv\s*=", made) else "venv"
    if os.path.isdir(f"{prefix}/conda-meta"):
        return "conda"
    return "virtualenv" if _old_virtualenv(prefix) else "system"


def _old_virtualenv(prefix: str) -> bool:
    """virtualenv before 20 wrote no pyvenv.cfg, but the original's prefix into its own standard library."""
    try:
        return any(os.path.exists(f"{prefix}/lib/{name}/orig-prefix.txt") for name in os.listdir(f"{prefix}/lib"))
    except OSError:
        return False
