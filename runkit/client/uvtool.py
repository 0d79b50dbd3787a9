"""uv, as this side uses it: to resolve, to build and to find interpreters."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runkit.client.programs import run
from runkit.client.set_up import current
from runkit.errors import EnvError
from runkit.model.digest import digest
from runkit.model.foreign import FOREIGN
from runkit.model.package import without_credentials
from runkit.model.passed_on import environment
from runkit.wire import places

try:
    import uv
except ModuleNotFoundError:  # the server's own environment, see runkit.client.apply
    uv = None  # type: ignore[assignment]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Settings of uv that do not change what is resolved.
_HARMLESS = {
    "UV_CACHE_DIR",
    "UV_NO_PROGRESS",
    "UV_LINK_MODE",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_PROJECT_ENVIRONMENT",
    "UV",
}


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
    arguments: Sequence[str], cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run uv with the user's own configuration and credentials; what it says is shown as it comes, until it says an error.

    Raises:
        InstallTimeout: the current set-up has no time left.
    """
    variables = {name: value for name, value in environment().items() if name not in FOREIGN}
    report, telling = current(), True

    def hear(line: str) -> None:
        nonlocal telling
        telling = telling and not line.startswith("error:")
        if telling and line.strip():
            report({"log": without_credentials(line)})

    variables = {**variables, **(env or {}), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    return run([uv_binary(), *arguments], cwd, variables, hear)


def explanation(stderr: str) -> str:
    """uv's own words about what went wrong, without its markers."""
    lines = [line for line in stderr.splitlines() if not _STEP.match(line)]
    # uv writes "error: ..." and "  cause: ..." with what follows indented to the cause's text.
    return "\n".join(re.sub(r"^(error: |  cause: | {9})", "", line) for line in lines).strip()


def index_settings(cwd: str | Path) -> str:
    """A digest of what steers resolution besides the requirements: uv's variables and configuration files, without credentials."""
    names = [name for name in os.environ if name.startswith("UV_") and name not in _HARMLESS]
    names = [name for name in names if not re.search("PASSWORD|USERNAME|TOKEN", name)]
    found: dict[str, Any] = {name: without_credentials(os.environ[name]) for name in sorted(names)}
    for name, content in configurations(cwd):
        found[name] = without_credentials(json.dumps(content, sort_keys=True, default=str))
    return digest(found)


def configurations(cwd: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents of the uv configuration files that count in a folder, most particular first."""
    found = []
    for path in _configuration_files(Path(cwd)):
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # uv itself says what is wrong with it
        if path.name == "pyproject.toml":
            content = content.get("tool", {}).get("uv", {})
        if content:
            found.append((path.name, content))
    return found


def _configuration_files(cwd: Path) -> list[Path]:
    """The uv configuration files that count, most particular first, as uv looks for them."""
    found = []
    for folder in (cwd, *cwd.parents):
        here = [folder / name for name in ("uv.toml", "pyproject.toml") if (folder / name).is_file()]
        if here:
            found.append(here[0])
            break
    user = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "uv" / "uv.toml"
    return found + [path for path in (user, Path("/etc/uv/uv.toml")) if path.is_file()]
