"""pip's index settings, given to uv, which does not read them: `pip.conf` and `PIP_…` variables.

Where the files lie and which comes first is as pip documents it (https://pip.pypa.io/en/stable/topics/configuration/). A setting
counts only where the user has none of uv's own for the same thing.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runkit.errors import UsageError
from runkit.model.urls import expanded

_READ = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "keyring-provider")
_SECTIONS = ("global", "install")  # an env is installed; `[install]` is more particular

_INDEX_LINE = re.compile(r"(--index-url|-i|--extra-index-url|--find-links|-f)(?:\s*=\s*|\s+)(\S+)")
_BY_LINE = {
    "--index-url": "UV_DEFAULT_INDEX",
    "-i": "UV_DEFAULT_INDEX",
    "--extra-index-url": "UV_EXTRA_INDEX_URL",
    "--find-links": "UV_FIND_LINKS",
    "-f": "UV_FIND_LINKS",
}
_OWN = {
    "index-url": (("UV_DEFAULT_INDEX", "UV_INDEX_URL"), ("index-url",)),
    "extra-index-url": (("UV_INDEX", "UV_EXTRA_INDEX_URL"), ("extra-index-url",)),
    "find-links": (("UV_FIND_LINKS",), ("find-links",)),
    "no-index": ((), ("no-index",)),
    "trusted-host": (("UV_INSECURE_HOST",), ("allow-insecure-host",)),
    "cert": (("SSL_CERT_FILE", "SSL_CERT_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS"), ("native-tls", "system-certs")),
    "keyring-provider": (("UV_KEYRING_PROVIDER",), ("keyring-provider",)),
}
"""For each of pip's settings, uv's variables and configuration keys for the same thing."""


def pip_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """pip's settings that say where packages come from, by pip's own names; several values are divided by white space.

    Raises:
        UsageError: a `pip.conf` cannot be read.
    """
    variables = os.environ if environment is None else environment
    found: dict[str, str] = {}
    contents = [_parse(path) for path in _files(variables)]
    for section in _SECTIONS:
        for content in contents:
            if content.has_section(section):
                found.update((name.replace("_", "-"), value or "") for name, value in content.items(section))
    named = {name: variables.get(f"PIP_{name.upper().replace('-', '_')}") for name in _READ}
    found.update({name: value for name, value in named.items() if value})  # pip, too, takes an empty one for none
    return {name: found[name].strip() for name in _READ if found.get(name, "").strip()}


def for_uv(
    configurations: Iterable[Mapping[str, Any]], lines: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """What gives uv pip's settings, where the user has none of uv's for the same thing: variables, and options.

    Addresses may hold passwords, so they are variables: a process list shows options.

    Args:
        configurations: the content of uv's configuration files that count.
        lines: requirement lines; an `--index-url` or `--no-index` there counts more than pip's settings, as with pip.
        environment: the environment variables, if not this process's own.
    """
    variables = os.environ if environment is None else environment
    settings = pip_settings(variables)
    if not settings:
        return {}, []
    known = _own(configurations, variables)
    if any(line.startswith(("--index-url", "-i", "--no-index")) for line in lines):
        known |= {"index-url", "no-index"}
    left = {name: value for name, value in settings.items() if name not in known}
    made: dict[str, str] = {}
    if "index-url" in left:
        made["UV_DEFAULT_INDEX"] = left["index-url"]
    if "extra-index-url" in left:
        made["UV_EXTRA_INDEX_URL"] = " ".join(left["extra-index-url"].split())
        # pip takes the best version of all indexes, and these were written for pip; uv's default is the first that has the package.
        if "index-strategy" not in known:
            made["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "find-links" in left:
        made["UV_FIND_LINKS"] = ",".join(_place(link) for link in left["find-links"].split())
    if "trusted-host" in left:
        made["UV_INSECURE_HOST"] = " ".join(left["trusted-host"].split())
    if "cert" in left:
        made["SSL_CERT_FILE"] = _place(left["cert"])
    if left.get("keyring-provider") == "subprocess":
        made["UV_KEYRING_PROVIDER"] = "subprocess"
    no_index = left.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t")
    return made, ["--no-index"] if no_index else []


def of_lines(lines: Iterable[str], environment: Mapping[str, str] | None = None) -> tuple[dict[str, str], list[str]]:
    """What tells uv the indexes that requirement lines name, where it does not read these lines: variables, and options."""
    variables = os.environ if environment is None else environment
    found: dict[str, list[str]] = {}
    options: list[str] = []
    for line in lines:
        if line == "--no-index":
            options = ["--no-index"]
        elif named := _INDEX_LINE.fullmatch(expanded(line)):
            found.setdefault(_BY_LINE[named[1]], []).append(named[2])
    made = {name: ("," if name == "UV_FIND_LINKS" else " ").join(values) for name, values in found.items()}
    for name in ("UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        if name in made and variables.get(name):
            made[name] += ("," if name == "UV_FIND_LINKS" else " ") + variables[name]
    return {
        name: value for name, value in made.items() if name != "UV_DEFAULT_INDEX" or not _has_default(variables)
    }, options


def _has_default(variables: Mapping[str, str]) -> bool:
    """Whether a variable names the default index: uv takes that one first."""
    return bool(variables.get("UV_DEFAULT_INDEX") or variables.get("UV_INDEX_URL"))


def _own(configurations: Iterable[Mapping[str, Any]], variables: Mapping[str, str]) -> set[str]:
    """pip's settings that the user has set for uv."""
    known = set()
    if variables.get("UV_INDEX_STRATEGY"):
        known.add("index-strategy")
    for name, (names, _) in _OWN.items():
        if any(variables.get(one) for one in names):
            known.add(name)
    for configuration in configurations:
        for table in (configuration, configuration.get("pip", {})):
            known |= {name for name, (_, keys) in _OWN.items() if any(key in table for key in keys)}
            known |= {"index-strategy"} & set(table)
        for index in configuration.get("index", []):
            known.add("index-url" if index.get("default") else "extra-index-url")
    return known


def _files(variables: Mapping[str, str]) -> list[Path]:
    """The `pip.conf` files that count, later ones more."""
    given = variables.get("PIP_CONFIG_FILE")
    if given == os.devnull:
        return []
    home = Path(variables.get("HOME") or "~").expanduser()
    folders = (variables.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    found = [Path(folder) / "pip" / "pip.conf" for folder in folders if folder] + [Path("/etc/pip.conf")]
    if not (given and os.path.exists(given)):
        found += [home / ".pip" / "pip.conf"]
        found += [Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"]
    found += [Path(variables.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf"]
    found += [Path(given)] if given else []
    return [path for path in found if path.is_file()]


def _parse(path: Path) -> configparser.RawConfigParser:
    content = configparser.RawConfigParser(allow_no_value=True)
    try:
        content.read_string(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise UsageError(f"pip's configuration {path} cannot be read: {type(error).__name__}") from error
    return content


def _place(link: str) -> str:
    return link if "://" in link else str(Path(link).expanduser().absolute())
