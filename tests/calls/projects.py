"""Projects of a user for the tests: folders with code, run by processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import runkit as rk


class Project:
    """A folder with files, and a way to run Python in it as a user would.

    What it runs can `from box import c`: the cluster.
    """

    def __init__(self, folder: Path, cluster: rk.Cluster):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.outside = folder.parent / f".{folder.name}-box"
        self.outside.mkdir(exist_ok=True)
        (self.outside / "box.py").write_text(
            f"import runkit as rk\nc = rk.cluster('box', host={cluster.host!r}, ssh_port={cluster.ssh_port}, "
            f"ssh_creds={cluster.ssh_creds!r}, server_port={cluster.server_port})\n"
        )

    def write(self, files: dict[str, str]) -> Project:
        """Write files, their text dedented; folders as needed."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).lstrip("\n"))
        return self

    def start(self, *arguments: str, cwd: str = "") -> subprocess.Popen[str]:
        """Start `python ARGUMENTS` in the project."""
        path = os.pathsep.join(filter(None, [str(self.outside), os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder / cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def run(self, *arguments: str, cwd: str = "") -> list[str]:
        """Run `python ARGUMENTS` in the project; the lines it printed. It has to end well."""
        return output_of(self.start(*arguments, cwd=cwd))


def output_of(process: subprocess.Popen[str], seconds: float = 100) -> list[str]:
    """The lines a process printed, once it has ended well."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, out + err
    return out.splitlines()
