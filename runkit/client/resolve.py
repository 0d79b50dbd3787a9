"""Requirements resolved to exact files, for a host's platform and Python.

uv resolves, with the user's own configuration and index credentials, and says which files make up the env. A conflict is found
here, before anything on a host changes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from runkit.client import line_options, torch
from runkit.client.git_requirements import installs
from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Lock, Locked, quoted, version_of
from runkit.client.logins import Logins
from runkit.client.remote_lines import RemoteLines
from runkit.client.set_up import current
from runkit.client.trees import Trees
from runkit.client.unsolved import unsolved
from runkit.client.uvtool import configurations, explanation, index_settings, run_uv, warnings
from runkit.client.wheels import WheelStore
from runkit.errors import ResolutionFailed, UsageError
from runkit.model.digest import digest
from runkit.model.requirements import FILE, Requirements
from runkit.model.urls import without_credentials
from runkit.wire import places

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CACHE_SECONDS = 24 * 3600
"""How long a resolution is used again for another env with the same requirements."""


def resolve(
    requirements: Requirements,
    target: Platform,
    *,
    cwd: str | Path = ".",
    prefer: Sequence[Sequence[str]] = (),
    cache: Path | None = None,
    upgrade: bool = False,
    trees: Trees | None = None,
    options: Sequence[str] = (),
) -> Lock:
    """Find the exact files that satisfy the requirements on a host.

    Args:
        requirements: see `runkit.model.requirements.read`; the files it names must exist.
        target: the host's platform and Python.
        cwd: the folder whose uv configuration counts, besides the user's and the system's.
        prefer: names and versions to keep where the requirements allow it, so that an env grows rather than changes.
        cache: a folder for resolutions of the last day.
        upgrade: resolve anew, with the newest versions.
        trees: the source trees among the requirements; made of these when not given.
        options: further ones for uv, as "--no-deps".

    Raises:
        ResolutionFailed: something that is asked for does not exist. RequirementsConflict: the requirements contradict each
            other; the message names both sides and has uv's explanation.
        FetchFailed, LoginRefused, BuildFailed, DiskFull: what happened on the way to know.
        UsageError: a requirement that is not available yet.
    """
    if not any(installs(line) for line in requirements.lines):
        return Lock(target.python, target.uv_platform, ())
    backend = None if "--torch-backend" in options else torch.backend(target.driver, cwd)
    settings = index_settings(cwd, requirements)
    key = digest(
        [requirements.portable(), asdict(target), settings, [list(pair) for pair in prefer], backend, list(options)]
    )
    kept = cache / f"{key}.json" if cache else None
    if kept and not upgrade and (found := _cached(kept)):
        lock, said = _with_local_files(found[0], requirements), found[1]
    else:
        with trees or Trees(requirements, target, WheelStore(places.home() / "wheels"), cwd) as offered:
            kept_versions = () if upgrade else prefer
            lock, said = _compile(requirements, target, Path(cwd), kept_versions, upgrade, offered, options, backend)
            portable = all(
                offered.is_portable(one.artifact)
                and (one.artifact.url or one.artifact.tree or _is_named(one, requirements))
                for one in lock.packages
            )
        if kept and portable:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(f".{os.urandom(8).hex()}.partial")
            partial.write_text(json.dumps({"lock": lock.to_json(), "warnings": said}))
            partial.replace(kept)
    for warning in said:
        current()({"warning": warning})
    return lock


def _cached(path: Path) -> tuple[Lock, list[str]] | None:
    try:
        if time.time() - path.stat().st_mtime > CACHE_SECONDS:
            return None
        content = json.loads(path.read_text())
        return Lock.from_json(content["lock"]), list(content["warnings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_named(package: Locked, requirements: Requirements) -> bool:
    """Whether the requirements say where the file lies; those of an index in a folder do not, and a kept lock has no paths."""
    return package.artifact.sha256 in requirements.files


def _with_local_files(lock: Lock, requirements: Requirements) -> Lock:
    """Say again where the local files lie: a kept lock knows only their hashes."""
    local = requirements.files
    return lock.with_artifacts(
        {
            p.name: replace(p.artifact, path=local[p.artifact.sha256])
            for p in lock.packages
            if p.artifact.sha256 in local
        }
    )


def _compile(
    requirements: Requirements,
    target: Platform,
    cwd: Path,
    prefer: Sequence[Sequence[str]],
    upgrade: bool,
    trees: Trees,
    options: Sequence[str],
    backend: tuple[str, str] | None,
) -> tuple[Lock, list[str]]:
    with tempfile.TemporaryDirectory(prefix="runkit-lock-") as folder:
        wanted, limits, out = (Path(folder) / name for name in ("requirements.txt", "constraints.txt", "pylock.toml"))
        offered = [trees.line(line) for line in requirements.lines]
        lines = [
            _local_line(line, requirements) if offer is None else offer
            for line, offer in zip(requirements.lines, offered, strict=True)
        ]
        wanted.touch(0o600)  # an index URL in it may carry a password
        given, stated = line_options.without_options(lines)
        logins = Logins(lines, [content for _, content in configurations(cwd)])
        remote = RemoteLines(Path(folder), WheelStore(places.home() / "wheels", logins).read)
        given = [remote.local(line) for line in given]
        stated += remote.options
        wanted.write_text("\n".join(given) + "\n", encoding="utf-8")
        if requirements.constraints:
            limits.touch(0o600)
            limiting = [_local_line(line, requirements) for line in requirements.constraints]
            limits.write_text("\n".join(limiting) + "\n", encoding="utf-8")
            stated += ["--constraints", str(limits)]
        arguments = ["pip", "compile", "--no-header", "--format", "pylock.toml", "--output-file", str(out)]
        arguments += ["--python", sys.executable, "--python-version", target.python]
        arguments += ["--python-platform", target.uv_platform, *stated, *options]
        arguments += [*(["--upgrade"] if upgrade else []), str(wanted)]

        def solved(of_torch: tuple[str, str] | None = None) -> dict[str, Any]:
            """uv's answer; with the index for PyTorch chosen by what the host's driver runs."""
            out.unlink(missing_ok=True)
            if prefer:
                out.write_text(_preferences(prefer), encoding="utf-8")
            further = ["--torch-backend", of_torch[0]] if of_torch else []
            driver = {"UV_CUDA_DRIVER_VERSION": of_torch[1]} if of_torch and of_torch[1] else {}
            with trees.answering() as variables:
                done = run_uv(arguments + further, cwd=cwd, env={**variables, **driver}, lines=[*lines, *remote.lines])
            if done.returncode:
                said = in_words(explanation(done.stderr)) + torch.hint(of_torch)
                where = f"Python {target.python} on Linux {target.machine}"
                raise unsolved(said, requirements, where)
            warned.update(dict.fromkeys(in_words(warning) for warning in warnings(done.stderr)))
            return tomllib.loads(out.read_text(encoding="utf-8"))

        def in_words(said: str) -> str:
            said = remote.in_words(_in_the_users_words(said, str(wanted), lines, requirements))
            return without_credentials(said.replace(str(limits), "your constraints"))

        warned: dict[str, None] = {}
        backend = None if torch.names_own_index([*lines, *remote.lines]) else backend
        try:
            content = solved()
        except ResolutionFailed:
            if not backend or not torch.wants_build([*lines, *remote.lines]):
                raise
            content = solved(backend)
        if backend and torch.from_pypi(content.get("packages", [])):
            content = solved(backend)
        return _read(content, target, out.parent, requirements, trees, remote.lines), list(warned)


def _preferences(prefer: Sequence[Sequence[str]]) -> str:
    """An output file of "last time": uv keeps the versions in it."""
    kept = [
        f"[[packages]]\nname = {quoted(name)}\nversion = {quoted(version)}\n" for name, version in prefer if version
    ]
    return 'lock-version = "1.0"\ncreated-by = "runkit"\n' + "\n".join(kept)


def _local_line(line: str, requirements: Requirements) -> str:
    if not line.startswith(FILE):
        return line
    sha256, _, rest = line[len(FILE) :].partition("/")
    if sha256 not in requirements.files:
        name = rest.split(" ;")[0]
        raise UsageError(
            f"the env holds the file {name}, which another client installed and this machine does not have: name the env"
        )
    found = re.fullmatch(r"(?P<file>.*?)(?P<extras>\[[^\]]*\])?(?P<marker> ;.*)?", rest)
    assert found is not None  # every part but the first is optional
    uri = Path(requirements.files[sha256]).as_uri()
    name = re.split(r"-(?=\d)", found["file"])[0]
    return f"{name}{found['extras'] or ''} @ {uri}{found['marker'] or ''}"


def _in_the_users_words(said: str, path: str, lines: Sequence[str], requirements: Requirements) -> str:
    """Say where the user wrote it instead of naming our temporary file."""

    def origin(found: re.Match[str]) -> str:
        at, number = int(found[1] or 0), int(found[2] or 0)
        if found[1]:
            number = "\n".join(lines)[:at].count("\n") + 1
        index = min(max(number - 1, 0), len(requirements.origins) - 1)
        return requirements.origins[index] if requirements.origins else "the requirements"

    said = re.sub(rf"`?{re.escape(path)}`?(?: at position (\d+)|:(\d+)(?::\d+)?)", origin, said)
    return said.replace(path, "the requirements")


def _read(
    content: Mapping[str, Any],
    target: Platform,
    folder: Path,
    requirements: Requirements,
    trees: Trees,
    remote: Sequence[str],
) -> Lock:
    pins, packages = line_options.pins(requirements, remote), []
    for package in content.get("packages", []):
        name, version = canonicalize_name(package["name"]), package.get("version", "")
        if (tree := trees.artifact(package, folder)) is not None:
            packages.append(Locked(name, version_of(tree, version), tree))
            continue
        files = [*package.get("wheels", []), *(package[key] for key in ("sdist", "archive") if key in package)]
        found = [_artifact(entry, folder, requirements) for entry in files]
        allowed = [artifact for artifact in found if name not in pins or artifact.sha256 in pins[name]]
        if found and not allowed:
            raise ResolutionFailed(
                f"no file of {name} {version} for this host has a hash that the requirements ask for"
            )
        artifact = _pick(allowed, target)
        if artifact is None:
            raise ResolutionFailed(
                f"{name} {version} has neither a wheel for {target.uv_platform} nor a source distribution"
            )
        packages.append(Locked(name, version_of(artifact, version), artifact))
    bare = [p.name for p in packages if p.name not in pins and p.artifact.sha256 not in requirements.files]
    if bare and line_options.wants_hashes([*requirements.lines, *remote]):
        raise ResolutionFailed(f"--require-hashes is given, and these have none: {', '.join(bare)}")
    return Lock(target.python, target.uv_platform, tuple(sorted(packages, key=lambda package: package.name)))


def _pick(artifacts: Sequence[Artifact], target: Platform) -> Artifact | None:
    """The best wheel for the host, else the source distribution; a file that was named itself is taken as it is."""
    if len(artifacts) == 1 and (artifacts[0].path or not artifacts[0].is_wheel):
        return artifacts[0]
    by_name = {artifact.filename: artifact for artifact in artifacts}
    best = target.best([name for name, artifact in by_name.items() if artifact.is_wheel])
    sources = [artifact for artifact in artifacts if not artifact.is_wheel]
    return by_name[best] if best else sources[0] if sources else None


def _artifact(entry: Mapping[str, Any], folder: Path, requirements: Requirements) -> Artifact:
    url: str | None = entry.get("url")
    path: str | None = entry.get("path")
    if url and url.startswith("file://"):
        path, url = unquote(url[len("file://") :]), None
    filename = entry.get("name") or Path(path or str(url).split("#")[0].split("?")[0]).name
    sha256 = entry.get("hashes", {}).get("sha256", "")
    local = requirements.files.get(sha256) or (str((folder / path).resolve()) if path else None)
    below = entry.get("subdirectory") or ""
    return Artifact(unquote(filename), sha256, url, local, entry.get("size"), subdirectory=below)
