"""Environments made for a test, and what Python itself says about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name
from uv import find_uv_bin

UV = find_uv_bin()
_ORACLE = """
import importlib.metadata as m, json
print(json.dumps([[d.metadata["Name"], d.version, sorted(d.requires or [])] for d in m.distributions()]))
"""


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """Run a command that has to succeed; gives its output."""
    done = subprocess.run(
        [str(one) for one in command],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Venv:
    """A venv that uv made; empty."""

    def __init__(self, folder: Path, *options: str) -> None:
        run(UV, "venv", "--quiet", "--python", sys.executable, *options, folder)
        self.folder = folder
        self.python = folder / "bin" / "python"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = folder / "lib" / version / "site-packages"

    def install(self, *arguments: str | Path) -> None:
        run(UV, "pip", "install", "--quiet", "--python", self.python, *arguments)

    def metadata(self, called: str, text: str | bytes, folder: Path | None = None, **files: str) -> Path:
        """A .dist-info or .egg-info made by hand; `DIRECT_URL` and the like name its other files."""
        info = (folder or self.site) / called
        info.mkdir(parents=True)
        name = "METADATA" if called.endswith(".dist-info") else "PKG-INFO"
        (info / name).write_bytes(text.encode() if isinstance(text, str) else text)
        for other, content in files.items():
            (info / {"DIRECT_URL": "direct_url.json", "REQUIRES": "requires.txt"}.get(other, other)).write_text(content)
        return info


def head(name: str, version: str, *lines: str) -> str:
    return "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, "", "A README.", ""])


def oracle(python: str | Path, cwd: Path, **variables: str) -> dict[str, tuple[str, list[str]]]:
    """Names, versions and requirements as importlib.metadata has them; the first of a name counts, as there."""
    found: dict[str, tuple[str, list[str]]] = {}
    for name, version, requires in json.loads(run(python, "-c", _ORACLE, cwd=cwd, **variables)):
        if name:
            found.setdefault(canonicalize_name(name), (version, requires))
    return found
