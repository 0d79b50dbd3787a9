"""The commands that README and docs show exist, and the main job does what the README says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import pages

COMMANDS = sorted({command for page in pages.pages() for command in pages.commands(page)})


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command: str) -> None:
    program, *arguments = command.split()
    if program.startswith("./"):
        assert os.access(pages.REPOSITORY / program, os.X_OK)
    elif program == "runkit":
        words = arguments[:2] if arguments[0] in ("server", "env") else arguments[:1]
        done = subprocess.run(
            [sys.executable, "-m", "runkit.cli", *words, "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    elif program == "sh":
        done = subprocess.run(
            [*command.split(), "--help"], capture_output=True, text=True, timeout=60, cwd=pages.REPOSITORY
        )
        assert done.returncode == 0, done.stderr
    elif arguments[:3] == ["-m", "pip", "install"]:  # a venv that uv made has no pip: uv tells whether it would do
        dry = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--reinstall", *arguments[3:]]
        done = subprocess.run(dry, capture_output=True, text=True, timeout=120, cwd=pages.REPOSITORY)
        assert done.returncode == 0, done.stderr
        assert "runkit" in done.stderr
    else:
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *arguments, "--help"], capture_output=True, text=True, timeout=60, cwd=pages.REPOSITORY
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.timeout(600)
def test_main_job(tmp_path: Path) -> None:
    """From a copy, as a user has it; the client's Python has neither scikit-learn nor matplotlib."""
    project = shutil.copytree(pages.REPOSITORY / "examples/digits", tmp_path / "digits")
    missing = [sys.executable, "-c", "import importlib.util as u; assert not u.find_spec('sklearn')"]
    subprocess.run(missing, check=True)
    done = subprocess.run(
        [sys.executable, str(project / "main.py"), "--out", "picture.png"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch  30" in done.stdout
    assert "accuracy 97" in done.stdout
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
