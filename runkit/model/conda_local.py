"""Conda environments of this machine: found without a conda executable, and read as they lie there."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from runkit.errors import UsageError
from runkit.model import yaml_text
from runkit.model.digest import digest, file_digest
from runkit.model.urls import without_credentials

_INSTALLATIONS = (
    "miniconda3",
    "anaconda3",
    "miniforge3",
    "mambaforge",
    "micromamba",
    "miniconda",
    "anaconda",
    ".conda",
)
_UPDATE = re.compile(r"#\s*update specs:\s*(?P<list>\[.*\])")
_REMOVE = re.compile(r"#\s*remove specs:\s*(?P<list>\[.*\])")


def find(name: str) -> Path:
    """The folder of the local conda environment of that name.

    Raises:
        UsageError: there is none; those that there are, are named.
    """
    there = environments()
    if name in there:
        return there[name]
    known = ", ".join(sorted(there)) or "none at all"
    raise UsageError(
        f"this machine has no conda environment {name!r}; there is {known}. "
        f"A file or folder is given as a path: conda_env='./{name}'"
    )


def environments() -> dict[str, Path]:
    """The conda environments of this machine, by name, as conda itself would list them."""
    found: dict[str, Path] = {}
    for prefix in _prefixes():
        if (prefix / "conda-meta").is_dir():
            found.setdefault("base" if _is_installation(prefix) else prefix.name, prefix)
    return found


def _prefixes() -> Iterator[Path]:
    if active := os.environ.get("CONDA_PREFIX"):
        yield Path(active)
    roots = _roots()
    roots += [folder / name for folder in (Path.home(), Path("/opt")) for name in _INSTALLATIONS]
    folders = [Path(one) for one in os.environ.get("CONDA_ENVS_PATH", "").split(os.pathsep) if one]
    folders += [Path(one) for one in os.environ.get("CONDA_ENVS_DIRS", "").split(os.pathsep) if one]
    folders += [Path(one).expanduser() for one in condarc().get("envs_dirs") or () if isinstance(one, str)]
    folders += [root / "envs" for root in roots]
    for folder in folders:
        if folder.is_dir():
            yield from sorted(folder.iterdir())
    yield from roots
    try:
        listed = (Path.home() / ".conda" / "environments.txt").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        listed = []
    yield from (Path(line.strip()) for line in listed if line.strip())


def _roots() -> list[Path]:
    """The folders of conda's installation that this session's variables name."""
    roots = [Path(root) for variable in ("CONDA_ROOT", "MAMBA_ROOT_PREFIX") if (root := os.environ.get(variable))]
    for variable in ("CONDA_EXE", "MAMBA_EXE"):  # <root>/bin/conda
        if program := os.environ.get(variable):
            roots.append(Path(program).parents[1] if len(Path(program).parents) > 1 else Path(program))
    return roots


def _is_installation(prefix: Path) -> bool:
    return (prefix / "condabin").is_dir() or ((prefix / "envs").is_dir() and (prefix / "pkgs").is_dir())


def condarc() -> dict[str, Any]:
    """The user's `.condarc`: the file that CONDARC names, else the usual ones, the first that says something counting for it.

    Where conda looks is as it documents it (https://docs.conda.io/projects/conda/en/stable/user-guide/configuration/use-condarc.html).
    """
    named = os.environ.get("CONDARC")
    found: dict[str, Any] = {}
    for file in [Path(named).expanduser()] if named else _condarcs():
        try:
            content = yaml_text.load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # conda itself says what is wrong with it
        if isinstance(content, dict):
            found = {**content, **found}
    return found


def _condarcs() -> Iterator[Path]:
    """The places of conda's settings, those that count most first."""
    active = os.environ.get("CONDA_PREFIX")
    own = [Path.home() / ".conda", Path.home() / ".config" / "conda"]
    if configuration := os.environ.get("XDG_CONFIG_HOME"):
        own.append(Path(configuration) / "conda")
    folders = [*([Path(active)] if active else []), Path.home(), *own, *_roots()]
    for folder in (*folders, Path("/var/lib/conda"), Path("/etc/conda")):
        if folder != Path.home():  # of which conda reads the hidden file alone
            parts = folder / "condarc.d"
            yield from sorted((*parts.glob("*.yml"), *parts.glob("*.yaml")), reverse=True)
            yield folder / "condarc"
        yield folder / ".condarc"


def records(prefix: Path) -> list[dict[str, Any]]:
    """What conda has noted about each package that it installed there, sorted by name."""
    found = []
    for file in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            found.append(json.loads(file.read_bytes()))
        except (OSError, ValueError):
            continue  # cut off: conda itself would not know the package either
    return found


def python(prefix: Path) -> str | None:
    """The version of its Python, or None if it has none; read from a file's name, as the files themselves are large."""
    found = sorted((prefix / "conda-meta").glob("python-[0-9]*.json"))
    return found[-1].stem.rsplit("-", 2)[1] if found else None


def distributions(prefix: Path) -> list[tuple[str, str, str]]:
    """Name, version and installer of each Python package that lies in it, sorted."""
    return [(name, version, _installer(folder)) for name, version, folder in _distributions(prefix)]


def _distributions(prefix: Path) -> list[tuple[str, str, Path]]:
    found = []
    for folder in prefix.glob("lib/python3*/site-packages/*.dist-info"):
        metadata = _text(folder / "METADATA")
        fields = dict(re.findall(r"^(Name|Version):[ \t]*(\S+)", metadata.split("\n\n")[0], re.MULTILINE))
        if len(fields) == 2:
            found.append((fields["Name"], fields["Version"], folder))
    return sorted(found)


def editable(prefix: Path) -> dict[str, str]:
    """Packages that are installed there in editable mode, and the folders they come from (PEP 610)."""
    found = {}
    for folder in prefix.glob("lib/python3*/site-packages/*.dist-info"):
        origin = _origin(folder)
        if origin.get("dir_info", {}).get("editable") and origin["url"].startswith("file://"):
            found[folder.name.split("-")[0].replace("_", "-")] = unquote(origin["url"].removeprefix("file://"))
    for link in prefix.glob("lib/python3*/site-packages/*.egg-link"):
        if source := _text(link).strip():
            found[link.stem] = source.splitlines()[0].strip()
    return found


def _origin(folder: Path) -> dict[str, Any]:
    """Where a distribution was installed from, if not from an index (PEP 610); empty if that is not known."""
    try:
        origin = json.loads(_text(folder / "direct_url.json"))
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) and isinstance(origin.get("url"), str) else {}


def _line(name: str, version: str, folder: Path) -> str:
    """The requirement line for what pip has installed: from where pip had it, never from an index that may have another of that name.

    Raises:
        UsageError: it came from a folder or file of this machine.
    """
    origin = _origin(folder)
    url = without_credentials(origin.get("url", ""))
    if not url or "/pypoetry/" in url:  # where poetry keeps what it had from an index
        return f"{name}=={version}"
    archive, vcs = origin.get("archive_info") or {}, origin.get("vcs_info") or {}
    fragment = [f"subdirectory={origin['subdirectory']}"] if origin.get("subdirectory") else []
    if vcs:
        url = f"{vcs.get('vcs')}+{url}@{vcs.get('commit_id')}"
    elif url.startswith("file:"):
        raise UsageError(
            f"{name} was installed from {unquote(url.removeprefix('file://'))} by pip, and that is what cannot be had where the "
            "conda environment is solved anew: install it there in editable mode, or describe the environment in an environment.yml"
        )
    elif sha256 := (archive.get("hashes") or {}).get("sha256") or str(archive.get("hash", "")).partition("sha256=")[2]:
        fragment.append(f"sha256={sha256}")
    return f"{name} @ {url}" + (f"#{'&'.join(fragment)}" if fragment else "")


def content(prefix: Path) -> str:
    """A digest of what is installed there: conda's notes about its packages, and the lists of files of what others installed."""
    notes = [[file.name, file_digest(file)] for file in sorted((prefix / "conda-meta").glob("*.json"))]
    others = [
        [record.parent.name, file_digest(record)]
        for record in sorted(prefix.glob("lib/python3*/site-packages/*.dist-info/RECORD"))
        if _installer(record.parent) != "conda"
    ]
    return digest([notes, others, _text(prefix / "conda-meta" / "state")])


def _installer(folder: Path) -> str:
    return _text(folder / "INSTALLER").strip() or "conda"


def requested(prefix: Path) -> tuple[list[str], list[str], list[str]]:
    """What was asked for when it was made: match specs, channels, and what pip installed, as requirement lines.

    The specs are those of conda's history; where it kept none, every package is named with its version.

    Raises:
        UsageError: pip installed something from a folder or file of this machine.
    """
    asked: dict[str, str] = {}
    for line in _text(prefix / "conda-meta" / "history").splitlines():
        if found := _UPDATE.match(line):
            asked.update((_bare(spec), spec) for spec in _items(found["list"]))
        elif found := _REMOVE.match(line):
            for spec in _items(found["list"]):
                asked.pop(_bare(spec), None)
    installed = records(prefix)
    if not asked:
        for record in installed:
            for spec in [record.get("requested_spec"), *(record.get("requested_specs") or [])]:
                if isinstance(spec, str) and spec not in ("", "None"):
                    asked[_bare(spec)] = spec
    specs = [spec for name, spec in asked.items() if name != "python"]
    if not asked:
        specs = [f"{r['name']}={r['version']}" for r in installed if r.get("name") != "python"]
    if version := python(prefix):  # the code that comes to it was written for this one
        specs.insert(0, f"python={'.'.join(version.split('.')[:2])}")
    channels = dict.fromkeys(_channel(record) for record in installed)
    linked = {canonicalize_name(name) for name in editable(prefix)}
    lines = [
        _line(name, version, folder)
        for name, version, folder in _distributions(prefix)
        if _installer(folder) != "conda" and canonicalize_name(name) not in linked
    ]
    return specs, [channel for channel in channels if channel], lines


def _channel(record: dict[str, Any]) -> str:
    """The channel that a package came from, without the platform's folder."""
    named = str(record.get("channel") or "").rstrip("/").removesuffix(f"/{record.get('subdir')}")
    url = str(record.get("url") or "")
    if "://" in named or not url.startswith("http"):
        return named
    return url.rsplit("/", 2)[0]


def _items(listed: str) -> list[str]:
    try:
        return [item for item in ast.literal_eval(listed) if isinstance(item, str)]
    except (ValueError, SyntaxError):
        return []


def _bare(spec: str) -> str:
    return re.split(r"[\s=<>!~\[]", spec.rpartition("::")[2], maxsplit=1)[0].lower()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
