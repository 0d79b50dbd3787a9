"""uv, as this side uses it: to resolve, to build and to find interpreters."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import uv

from runkit.errors import EnvError

# Settings of another tool's virtual environment or project that must not steer what is resolved for a host.
_FOREIGN = ("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT", "UV_PYTHON", "UV_SYSTEM_PYTHON", "PYTHONHOME", "PYTHONPATH")


@functools.cache
def uv_binary() -> str:
    """The path of the uv that came with runkit's dependencies.

    Raises:
        EnvError: it is not there.
    """
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise EnvError(
            f"uv's binary is missing from this Python ({sys.executable}): reinstall the package 'uv'"
        ) from error


def run_uv(
    arguments: Sequence[str], cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run uv with the user's own configuration and credentials; its output is captured, as text without colours."""
    variables = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return subprocess.run(
        [uv_binary(), *arguments],
        cwd=cwd,
        env={**variables, **(env or {}), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )


def explanation(stderr: str) -> str:
    """uv's own words about what went wrong, without its markers."""
    lines = [line for line in stderr.splitlines() if not line.startswith(("warning:", "Using Python", "Resolved"))]
    # uv writes "error: ..." and "  cause: ..." with what follows indented to the cause's text.
    return "\n".join(re.sub(r"^(error: |  cause: | {9})", "", line) for line in lines).strip()
