"""uv, as this side uses it: to resolve, to build and to find interpreters."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runkit.client import pip_settings
from runkit.client.programs import run
from runkit.client.set_up import current
from runkit.errors import EnvError
from runkit.model.digest import digest, file_digest
from runkit.model.foreign import FOREIGN
from runkit.model.passed_on import environment
from runkit.model.requirements import Requirements
from runkit.model.urls import without_credentials
from runkit.wire import places

try:
    import uv
except ModuleNotFoundError:  # the server's own environment, see runkit.client.apply
    uv = None  # type: ignore[assignment]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_COUNT = re.compile(
    r"(default-|extra-)?index(-url)?|index-strategy|no-index|find-links|exclude-newer(-package)?|prerelease|resolution|"
    r"fork-strategy|((build-)?constraint|override|exclude)-dependencies|no-deps|(no|only)-(binary|build)(-package)?|"
    r"no-build-isolation(-package)?|config-settings(-package)?|torch-backend|cuda-driver-version|amd-gpu-architecture|"
    r"sources|no-sources(-package)?|workspace|dependency-metadata|extra-build-(dependencies|variables)|no-emit-package|"
    r"require-hashes|upgrade(-package)?"
)
"""Settings of uv, as its configuration files name them, that decide which files make up an env, or how they are built; the others
(caches, timeouts, certificates, where Python lies) do not."""

_FILES = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_EXCLUDE")
"""Variables that name files of requirements, divided by white space."""

_STEP = re.compile(r"warning:|Using Python|Resolved|\s*(Building|Built|Downloading|Downloaded|Updating|Updated) \S")
"""What uv says on its way, not of what went wrong."""


@functools.cache
def uv_binary() -> str:
    """The path of the uv that came with runkit's dependencies.

    Raises:
        EnvError: it is not there.
    """
    if uv is None:
        return str(places.home() / "bin" / "uv")  # where setup_cluster.sh has put one
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise EnvError(
            f"uv's binary is missing from this Python ({sys.executable}): reinstall the package 'uv'"
        ) from error


def run_uv(
    arguments: Sequence[str],
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    lines: Iterable[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run uv with the user's own configuration and credentials, pip's included; what it says is shown as it comes, until it says
    an error.

    Args:
        arguments: uv's.
        cwd: the folder whose configuration counts.
        env: further environment variables.
        lines: the requirement lines it works on; index options among them count more than pip's settings.

    Raises:
        InstallTimeout: the current set-up has no time left.
    """
    variables = {name: value for name, value in environment().items() if name not in FOREIGN}
    arguments, resolving = list(arguments), arguments[:2] == ["pip", "compile"]
    installing = arguments[:2] == ["pip", "install"]
    of_pip, options = pip_settings.for_uv([content for _, content in configurations(cwd or ".")], lines)
    if resolving or installing or arguments[0] == "build":
        arguments += options
    if arguments[0] == "build":  # what it builds with comes from where the requirements do
        of_lines, options = pip_settings.of_lines(lines, {**variables, **of_pip})
        arguments += options
        of_pip.update(of_lines)
    report, telling = current(), True

    def hear(line: str) -> None:
        nonlocal telling
        telling = telling and not line.startswith("error:")
        # Whoever resolves tells the warnings: uv names the temporary file it read in them.
        if telling and line.strip() and not (resolving and line.startswith("warning:")):
            report({"log": without_credentials(line)})

    variables = {**variables, **of_pip, **(env or {}), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    return run([uv_binary(), *arguments], cwd, variables, hear)


def warnings(stderr: str) -> list[str]:
    """What uv warned about, in its own words, each with what it wrote below."""
    found: list[str] = []
    inside = False
    for line in stderr.splitlines():
        if line.startswith("warning: "):
            found.append(line.removeprefix("warning: "))
            inside = True
        elif inside and line.startswith("  "):
            found[-1] += "\n" + line
        else:
            inside = False
    # Building here with another Python than the env's is this module's business, not the user's.
    return [said for said in found if "will be used to build dependencies" not in said]


def explanation(stderr: str) -> str:
    """uv's own words about what went wrong, without its markers."""
    lines = [line for line in stderr.splitlines() if not _STEP.match(line)]
    # uv writes "error: ..." and "  cause: ..." with what follows indented to the cause's text.
    return "\n".join(re.sub(r"^(error: |  cause: | {9})", "", line) for line in lines).strip()


def index_settings(cwd: str | Path, requirements: Requirements | None = None) -> str:
    """A digest of what steers resolution besides the lines of a request: uv's variables and configuration files, pip's index
    settings, and what the stored form of the requirements does not show. Without credentials."""
    found: dict[str, Any] = {}
    for name, value in sorted(os.environ.items()):
        if name in _FILES:
            found[name] = [_content(Path(cwd), place) for place in value.split()]
        elif name.startswith("UV_") and _COUNT.fullmatch(name[3:].lower().replace("_", "-")):
            found[name] = without_credentials(value)
    for file, content in configurations(cwd):
        counting = {key: value for key, value in content.items() if _COUNT.fullmatch(key)}
        if of_pip_table := {key: value for key, value in content.get("pip", {}).items() if _COUNT.fullmatch(key)}:
            counting["pip"] = of_pip_table
        if counting:
            found[file] = without_credentials(json.dumps(counting, sort_keys=True, default=str))
    of_pip = {
        name: without_credentials(value)
        for name, value in pip_settings.pip_settings().items()
        if _COUNT.fullmatch(name)
    }
    if of_pip:
        found["pip"] = of_pip
    if requirements and (hidden := requirements.hidden()):
        found["hidden"] = hidden
    return digest(found)


def _content(cwd: Path, place: str) -> str:
    """A file by its content, wherever it lies; what is no file of this machine by its address."""
    try:
        return file_digest(cwd / place)
    except OSError:
        return without_credentials(place)


def configurations(cwd: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents of the uv configuration files that count in a folder, most particular first, as uv looks for them."""
    if os.environ.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "on"):
        return []
    if given := os.environ.get("UV_CONFIG_FILE"):
        return _contents([Path(cwd) / given])
    here = Path(cwd).absolute()
    found: list[tuple[str, dict[str, Any]]] = []
    for folder in (here, *here.parents):
        if (folder / "uv.toml").is_file():
            found = _contents([folder / "uv.toml"])
            break
        # A pyproject.toml without a table for uv does not end the search.
        if found := _contents([folder / "pyproject.toml"]):
            break
    user = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "uv" / "uv.toml"
    folders = (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    system = [Path(folder) / "uv" / "uv.toml" for folder in folders if folder] + [Path("/etc/uv/uv.toml")]
    return found + _contents([user]) + _contents([path for path in system if path.is_file()][:1])


def _contents(paths: Iterable[Path]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in paths:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # uv itself says what is wrong with it
        if path.name == "pyproject.toml":
            content = content.get("tool", {}).get("uv", {})
        if content:
            found.append((path.name, content))
    return found
