"""A conda environment on this host: made of solved packages by py-rattler, or unpacked, and its activation variables."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runkit.errors import InstallFailed
from runkit.servlet.locks import install_lock
from runkit.servlet.programs import Runner, locked
from runkit.wire.installers import failure_kind

_CODE = Path(__file__).resolve().parents[2]
_RUN = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"

# Variables that a shell sets for itself, and those that are given anew at each start.
_NOISE = {"_", "PWD", "OLDPWD", "SHLVL", "PATH", "CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER"}

_ACTIVATE = r"""
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
    if [ -f "$script" ]; then . "$script"; fi
done
"$RUNKIT_PYTHON" -I -c 'import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], "w"))' "$RUNKIT_OUT"
"""

_STAND_IN = r"""#!/bin/sh
# No conda is needed to make or use this environment, and this host has none. What scripts ask it most is answered here.
case "${1-} ${2-}" in
    "env list" | "info --envs" | "info -e")
        printf '# conda environments:\n#\n%-22s*  %s\n' "$CONDA_DEFAULT_ENV" "$CONDA_PREFIX" ;;
    *)
        echo "conda: not on this host, where runkit answers 'conda env list' alone; packages are named in rk.conda_env" >&2
        exit 127 ;;
esac
"""


@dataclass(frozen=True)
class Activation:
    """What activating a conda environment does to a process.

    Attributes:
        variables: those that it sets.
        path: folders that it puts in front of PATH.
    """

    variables: Mapping[str, str]
    path: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Activation:
        """Read what an env's marker holds; nothing for a venv."""
        return cls(dict(value["variables"]), tuple(value["path"])) if value else cls({}, ())

    def to_json(self) -> dict[str, Any]:
        return {"variables": dict(self.variables), "path": list(self.path)}

    def on(self, environment: Mapping[str, str], name: str) -> dict[str, str]:
        """The variables of an activated environment called `name`, on top of others."""
        if not self.variables:
            return dict(environment)
        behind = environment.get("PATH") or os.defpath
        named = {"CONDA_DEFAULT_ENV": name, "PATH": os.pathsep.join([*self.path, behind])}
        return {**environment, **self.variables, **named}


NO_ACTIVATION = Activation({}, ())


def make(conda: Mapping[str, Any], path: Path, run: Runner) -> None:
    """Fill an env's folder with conda packages.

    Args:
        conda: the conda part of an EnvPlan: `records`, `files` and `tools`, or `copy` and `packed_as`; `variables`.
        path: the folder; it does not exist.
        run: runs what has to run.

    Raises:
        InstallFailed: a package could not be fetched or installed.
    """
    if conda.get("copy"):
        run.emit({"phase": "unpack the conda environment"})
        path.mkdir(mode=0o700)
        archive = run.home / "wheels" / conda["copy"]
        run.command(["tar", "-xzf", str(archive), "-C", str(path)], {}, run.home, "unpacking the conda environment")
        if packed_as := conda.get("packed_as"):
            _renamed(path, packed_as)
    else:
        _install(conda, path, run)
    if conda.get("variables"):
        state = path / "conda-meta" / "state"
        kept = _json(state)
        state.parent.mkdir(exist_ok=True)
        state.write_text(
            json.dumps({**kept, "version": 1, "env_vars": {**kept.get("env_vars", {}), **conda["variables"]}})
        )
    if not os.access(path / "bin" / "python", os.X_OK):
        raise InstallFailed("the conda environment has no Python")
    own = path / "bin" / "conda"
    if not own.exists() and not shutil.which("conda", path=run.environment.get("PATH")):
        own.write_text(_STAND_IN)
        own.chmod(0o755)


def _renamed(path: Path, packed_as: str) -> None:
    """Put the name of an env's folder in the place of the one that its files were packed for.

    Both are as long, so that compiled files stay whole too; being a digest, it stands nowhere by chance.
    """
    old, new = packed_as.encode(), path.name.encode()
    if len(old) != len(new):
        raise InstallFailed(f"a conda environment that was packed for the folder {packed_as} cannot lie in {path.name}")
    for folder, names, files in os.walk(path):
        for file in (Path(folder, name) for name in (*names, *files)):
            if file.is_symlink():
                target = os.readlink(file)
                if packed_as in target:
                    file.unlink()
                    file.symlink_to(target.replace(packed_as, path.name))
            elif file.is_file() and (size := file.stat().st_size):
                with open(file, "rb") as read, mmap.mmap(read.fileno(), size, access=mmap.ACCESS_READ) as content:
                    found = [match.start() for match in re.finditer(re.escape(old), content)]
                if found:
                    mode = file.stat().st_mode
                    file.chmod(mode | 0o200)
                    with open(file, "r+b") as write:
                        for start in found:
                            write.seek(start)
                            write.write(new)
                    file.chmod(mode)


def _install(conda: Mapping[str, Any], path: Path, run: Runner) -> None:
    tools = _tools(conda["tools"], run)
    many = len(conda["records"])
    run.emit({"phase": f"install {many} conda package{'s' * (many != 1)}"})
    folder = run.home / "conda"
    folder.mkdir(exist_ok=True, mode=0o700)
    question = folder / f"install.{path.name}.json"
    done = Path(f"{question}.done")
    done.unlink(missing_ok=True)
    files = {url: str(run.home / "wheels" / place) for url, place in (conda.get("files") or {}).items()}
    question.write_text(
        json.dumps({"records": conda["records"], "files": files, "prefix": str(path), "cache": str(folder / "pkgs")})
    )
    command = [str(tools), "-I", "-c", _RUN, str(_CODE), "runkit.servlet.conda_installing", str(question)]
    try:
        run.command(command, {}, run.home, "installing conda packages")
    except InstallFailed as error:
        if not done.exists():  # py-rattler's processes may crash at their end, with all done
            kind = type(error) if run.given_up.is_set() else failure_kind(error.output)
            raise kind(str(error), error.output) from None
    finally:
        finished = done.exists()
        question.unlink(missing_ok=True)
        done.unlink(missing_ok=True)
    if not finished:
        raise InstallFailed("installing conda packages ended before it was done")


def _tools(tools: Mapping[str, Any], run: Runner) -> Path:
    """The interpreter of the environment that has py-rattler, made if it is not there."""
    folder = run.home / "tools"
    folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"{tools['digest']}-python{sys.version_info[0]}.{sys.version_info[1]}"
    python = path / "bin" / "python"
    with locked(path, run.emit, run.given_up):
        if not (path / ".done").exists() or not python.exists():
            run.emit({"phase": "set up py-rattler, which installs conda packages"})
            shutil.rmtree(path, ignore_errors=True)
            run.uv("venv", "--quiet", "--no-project", "--no-config", "--offline", "--python", sys.executable, str(path))
            install_lock(tools["lock"], python, run)
            (path / ".done").touch()
    return python


def activation(path: Path, run: Runner) -> Activation:
    """What activating the environment sets, found by doing it: `etc/conda/env_vars.d`, `conda-meta/state`, `etc/conda/activate.d`."""
    own: dict[str, str] = {}
    for file in sorted((path / "etc" / "conda" / "env_vars.d").glob("*.json")):
        own.update({str(name).upper(): str(value) for name, value in _json(file).items()})
    own.update(
        {str(name): str(value) for name, value in _json(path / "conda-meta" / "state").get("env_vars", {}).items()}
    )
    before = run.environment
    path_before = before.get("PATH") or os.defpath
    front = str(path / "bin")
    start = {
        **own,
        "CONDA_PREFIX": str(path),
        "CONDA_DEFAULT_ENV": path.name,
        "CONDA_SHLVL": "1",
        "PATH": os.pathsep.join([front, path_before]),
    }
    if not any((path / "etc" / "conda" / "activate.d").glob("*.sh")):
        return Activation({name: value for name, value in start.items() if name not in _NOISE}, (front,))
    out = run.home / "conda" / f"activation.{path.name}.json"
    out.parent.mkdir(exist_ok=True, mode=0o700)
    # They are written for bash, as conda's users have it; a host may have no more than a POSIX shell.
    shell = shutil.which("bash", path=path_before) or "/bin/sh"
    helper = {"RUNKIT_OUT": str(out), "RUNKIT_PYTHON": sys.executable}
    try:
        run.command([shell, "-c", _ACTIVATE], {**start, **helper}, run.home, "activating the conda environment")
        after = {str(name): str(value) for name, value in _json(out).items()}
    finally:
        out.unlink(missing_ok=True)
    if not after:
        raise InstallFailed("activating the conda environment ended the shell: an activation script in it says `exit`")
    added = {
        name: value
        for name, value in after.items()
        if value != before.get(name) and name not in _NOISE and name not in helper and name != "NO_COLOR"
    }
    path_after = after.get("PATH", "")
    fronts = path_after.removesuffix(path_before).split(os.pathsep) if path_after.endswith(path_before) else [front]
    return Activation({**added, "CONDA_PREFIX": str(path)}, tuple(part for part in fronts if part))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
