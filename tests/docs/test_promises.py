"""Promises of the tree that no linter knows: what the worker may import, and that modules come up cheaply."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import pages

PACKAGE = pages.REPOSITORY / "runkit"
INSIDE_ENVS = sorted([PACKAGE / "errors.py", *(PACKAGE / "wire").rglob("*.py"), *(PACKAGE / "worker").rglob("*.py")])
ALLOWED = {*sys.stdlib_module_names, "cloudpickle", "runkit"}
HEAVY = {"aiohttp", "numpy", "paramiko", "ray", "rich", "sky", "sshtunnel", "uvicorn", "uvloop"}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level or node.module
            yield node.module or ""


@pytest.mark.parametrize("file", INSIDE_ENVS, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_runs_inside_an_env_needs_only_the_standard_library_and_cloudpickle(file: Path) -> None:
    assert {name.split(".")[0] for name in imported(file)} <= ALLOWED


def test_import_is_cheap() -> None:
    code = "import sys, runkit; print(*sorted(set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not HEAVY & set(done.stdout.split())


def test_no_file_is_too_long_to_read() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert {str(file): length for file, length in lengths.items() if length >= 600} == {}
