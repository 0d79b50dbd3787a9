"""Real virtual environments of a user, and a client that replicates them on a host in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import uv
from host import Host

import runkit as rk
from runkit.client.asked import SyncedRoot
from runkit.client.deploy import Deployed, Deployer
from runkit.client.replicate import Replica, replicate
from runkit.client.scan import scan


class Venv:
    """A virtual environment in a folder, made and filled by uv with the test's own index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._uv("venv", "--quiet", "--python", sys.executable, str(folder))

    def install(self, *arguments: str) -> Venv:
        self._uv("pip", "install", "--quiet", "--python", str(self.python), *arguments)
        return self

    def uninstall(self, *names: str) -> Venv:
        self._uv("pip", "uninstall", "--quiet", "--python", str(self.python), *names)
        return self

    def run(self, code: str) -> str:
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, env=_clean())
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def site(self) -> Path:
        return next((self.folder / "lib").glob("python3*/site-packages"))

    def _uv(self, *arguments: str) -> None:
        done = subprocess.run([uv.find_uv_bin(), *arguments], capture_output=True, text=True, env=_clean())
        assert done.returncode == 0, done.stderr


class Client:
    """Sends what a virtual environment is to a host, as `.to()` does."""

    def __init__(self, host: Host, home: Path) -> None:
        self.host = host
        self.warnings: list[str] = []
        self.deployer = Deployer(host, host.status(), home=home)

    def send(self, venv: Venv, sync: rk.PackageSync | bool = True, name: str = "e", **options: Any) -> Deployed:
        return self.deploy(self.plan(venv, sync, name, **options))

    def plan(self, venv: Venv, sync: rk.PackageSync | bool = True, name: str = "e", **options: Any) -> Replica:
        asked = rk.env(name=name, package_sync=sync, **options)
        return replicate(asked, self.deployer.host, self._hear, scan(str(venv.python)), with_ray=name is None)

    def deploy(self, replica: Replica, **options: Any) -> Deployed:
        self.host.calls.clear()
        self.warnings.clear()
        self.replica = replica
        replica.solver.progress = self._hear
        roots = [SyncedRoot(root.id, "d", str(root.path), root.paths) for root in replica.roots]
        return self.deployer.send(replica.env, roots, resolve=replica.solver, progress=self._hear, **options)

    def _hear(self, event: Any) -> None:
        if "warning" in event:
            self.warnings.append(event["warning"])


def versions(host: Host, name: str = "e") -> dict[str, str]:
    return dict(host.plans[name]["packages"])


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}


def project(folder: Path, name: str, files: dict[str, str] | None = None, requires: str = "[]", more: str = "") -> Path:
    """A pure-Python project with a `src` folder and a command, whose build backend needs nothing from an index."""
    (folder / "src" / name).mkdir(parents=True)
    (folder / "backend.py").write_text(_BACKEND.format(name=name))
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\ndependencies = {requires}\n{more}'
    )
    for path, text in {f"src/{name}/__init__.py": "VALUE = 1\n", **(files or {})}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


_BACKEND = """
import base64, hashlib, os, sys, zipfile
if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib
NAME = {name!r}
TAG = os.environ.get("RUNKIT_TEST_TAG", "py3-none-any")
def build(folder, editable):
    with open("pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    version = project["version"]
    info = f"{{NAME}}-{{version}}.dist-info"
    name = f"{{NAME}}-{{version}}-{{TAG}}.whl"
    requires = "".join(f"Requires-Dist: {{line}}\\n" for line in project["dependencies"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        if editable:
            wheel.writestr(f"__editable__.{{NAME}}.pth", os.path.abspath("src") + "\\n")
        else:
            for top, _, files in os.walk("src"):
                for file in files:
                    if not file.endswith(".pyc"):
                        path = os.path.join(top, file)
                        wheel.write(path, os.path.relpath(path, "src"))
        wheel.writestr(f"{{info}}/METADATA", f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{version}}\\n{{requires}}\\nlong\\n")
        wheel.writestr(f"{{info}}/entry_points.txt", f"[console_scripts]\\n{{NAME}}-hello = {{NAME}}:hello\\n[fruit]\\nsort = {{NAME}}:VALUE\\n")
        wheel.writestr(f"{{info}}/WHEEL", f"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: {{TAG}}\\n")
        record = ""
        for path in wheel.namelist():
            sha = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(path)).digest()).rstrip(b"=").decode()
            record += f"{{path}},sha256={{sha}},\\n"
        wheel.writestr(f"{{info}}/RECORD", f"{{record}}{{info}}/RECORD,,\\n")
    return name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    return build(folder, False)
def build_editable(folder, config_settings=None, metadata_directory=None):
    return build(folder, True)
"""
