"""Requirements resolved to exact files, for a host's platform and Python.

uv resolves, with the user's own configuration and index credentials, and says which files make up the env (PEP 751). A conflict
is found here, before anything on a host changes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from runkit.client.target import Target
from runkit.client.uvtool import explanation, run_uv
from runkit.errors import ResolutionFailed, UsageError
from runkit.model.digest import digest
from runkit.model.package import without_credentials
from runkit.model.requirements import FILE, Requirements

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CACHE_SECONDS = 24 * 3600
"""How long a resolution is used again for another env with the same requirements."""


@dataclass(frozen=True)
class Artifact:
    """A wheel or a source distribution.

    Attributes:
        filename: its name, which tells what it is.
        sha256: of its bytes; empty where the index gave none.
        url: where it can be fetched from, or None.
        path: where it lies on this machine, or None.
        size: bytes, or None where unknown.
    """

    filename: str
    sha256: str
    url: str | None = None
    path: str | None = None
    size: int | None = None

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


@dataclass(frozen=True)
class Locked:
    """One package of a lock: what is to be installed, as a wheel or from source."""

    name: str
    version: str
    artifact: Artifact


@dataclass(frozen=True)
class Lock:
    """What an env is made of, exactly.

    Attributes:
        python: the Python version it was resolved for.
        platform: uv's name of the platform it was resolved for.
        packages: sorted by name.
    """

    python: str
    platform: str
    packages: tuple[Locked, ...]

    def fits(self, target: Target) -> bool:
        """Whether it was made for a host and a Python minor version like this."""
        return self.platform == target.uv_platform and self.python.split(".")[:2] == target.python.split(".")[:2]

    @property
    def pairs(self) -> list[list[str]]:
        """Names and versions."""
        return [[package.name, package.version] for package in self.packages]

    @property
    def sources(self) -> list[Locked]:
        """The packages that have no wheel for the host."""
        return [package for package in self.packages if not package.artifact.is_wheel]

    @property
    def digest(self) -> str:
        """Names the content: every file by its hash, not by where it comes from."""
        return digest([[p.name, p.version, p.artifact.filename, p.artifact.sha256] for p in self.packages])

    def with_artifacts(self, replaced: Mapping[str, Artifact]) -> Lock:
        """The lock with other files for some packages (by name)."""
        return replace(
            self,
            packages=tuple(
                replace(p, artifact=replaced[p.name], version=_version(replaced[p.name], p.version))
                if p.name in replaced
                else p
                for p in self.packages
            ),
        )

    def text(self, shipped: frozenset[str] | set[str] = frozenset()) -> str:
        """The lock as a `pylock.toml` (PEP 751).

        Args:
            shipped: SHA-256 of the files that lie in the host's wheel store; they are named by their path in it.
        """
        minor = ".".join(self.python.split(".")[:2])
        out = ['lock-version = "1.0"', 'created-by = "runkit"', f'requires-python = ">={minor}"']
        for package in self.packages:
            artifact = package.artifact
            at = (
                f"path = {_quoted(f'{artifact.sha256}/{artifact.filename}')}"
                if artifact.sha256 in shipped or not artifact.url
                else f"url = {_quoted(without_credentials(artifact.url))}"
            )
            hashes = f"hashes = {{ sha256 = {_quoted(artifact.sha256)} }}"
            size = f", size = {artifact.size}" if artifact.size else ""
            entry = f"{{ name = {_quoted(artifact.filename)}, {at}{size}, {hashes} }}"
            out += ["", "[[packages]]", f"name = {_quoted(package.name)}"]
            if package.version:
                out.append(f"version = {_quoted(package.version)}")
            if at.startswith("url") and urlsplit(artifact.url or "").hostname == "files.pythonhosted.org":
                # With the index named, uv on the host finds what its cache has; without, it fetches again.
                out.append('index = "https://pypi.org/simple"')
            out.append(f"wheels = [{entry}]" if artifact.is_wheel else f"sdist = {entry}")
        return "\n".join(out) + "\n"

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads, without credentials and without paths of this machine."""
        packages = []
        for package in asdict(self)["packages"]:
            artifact = package["artifact"]
            artifact["url"] = without_credentials(artifact["url"]) if artifact["url"] else None
            packages.append({**package, "artifact": {**artifact, "path": None}})
        return {"python": self.python, "platform": self.platform, "packages": packages}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lock:
        """Read what `to_json` wrote."""
        packages = tuple(Locked(p["name"], p["version"], Artifact(**p["artifact"])) for p in value["packages"])
        return cls(value["python"], value["platform"], packages)


def resolve(
    requirements: Requirements,
    target: Target,
    *,
    cwd: str | Path = ".",
    prefer: Sequence[Sequence[str]] = (),
    cache: Path | None = None,
    upgrade: bool = False,
) -> Lock:
    """Find the exact files that satisfy the requirements on a host.

    Args:
        requirements: see `runkit.model.requirements.read`; the files it names must exist.
        target: the host's platform and Python.
        cwd: the folder whose uv configuration counts, besides the user's and the system's.
        prefer: names and versions to keep where the requirements allow it, so that an env grows rather than changes.
        cache: a folder for resolutions of the last day.
        upgrade: resolve anew, with the newest versions.

    Raises:
        ResolutionFailed: the requirements contradict each other, or something does not exist; the message is uv's explanation.
        UsageError: a requirement that is not available yet.
    """
    if not requirements.lines:
        return Lock(target.python, target.uv_platform, ())
    key = digest([requirements.portable(), asdict(target), index_settings(cwd), [list(pair) for pair in prefer]])
    kept = cache / f"{key}.json" if cache else None
    if kept and not upgrade and (found := _cached(kept)):
        return _with_local_files(found, requirements)
    lock = _compile(requirements, target, Path(cwd), () if upgrade else prefer, upgrade)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(lock.to_json()))
        partial.replace(kept)
    return lock


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


_HARMLESS = {
    "UV_CACHE_DIR",
    "UV_NO_PROGRESS",
    "UV_LINK_MODE",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_PROJECT_ENVIRONMENT",
    "UV",
}


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


def _cached(path: Path) -> Lock | None:
    try:
        if time.time() - path.stat().st_mtime > CACHE_SECONDS:
            return None
        return Lock.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    requirements: Requirements, target: Target, cwd: Path, prefer: Sequence[Sequence[str]], upgrade: bool
) -> Lock:
    with tempfile.TemporaryDirectory(prefix="runkit-lock-") as folder:
        wanted, limits, out = (Path(folder) / name for name in ("requirements.txt", "constraints.txt", "pylock.toml"))
        lines = [_local_line(line, requirements) for line in requirements.lines]
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        wanted.chmod(0o600)  # an index URL in it may carry a password
        limits.write_text("\n".join(requirements.constraints) + "\n", encoding="utf-8")
        if prefer:  # uv takes the versions in the output file of last time as the ones to keep
            kept = [
                f"[[packages]]\nname = {_quoted(name)}\nversion = {_quoted(version)}\n"
                for name, version in prefer
                if version
            ]
            out.write_text('lock-version = "1.0"\ncreated-by = "runkit"\n' + "\n".join(kept), encoding="utf-8")
        arguments = ["pip", "compile", "--quiet", "--no-header", "--format", "pylock.toml", "--output-file", str(out)]
        arguments += [
            "--python",
            sys.executable,
            "--python-version",
            target.python,
            "--python-platform",
            target.uv_platform,
        ]
        arguments += ["--constraints", str(limits), *(["--upgrade"] if upgrade else []), str(wanted)]
        done = run_uv(arguments, cwd=cwd)
        if done.returncode:
            said = _in_the_users_words(explanation(done.stderr), str(wanted), lines, requirements)
            said = without_credentials(said.replace(str(limits), "your constraints"))
            where = f"Python {target.python} on Linux {target.machine}"
            raise ResolutionFailed(f"the requirements cannot be resolved for {where}.\n{said}", output=said)
        return _read(tomllib.loads(out.read_text(encoding="utf-8")), target, out.parent, requirements)


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


def _read(content: Mapping[str, Any], target: Target, folder: Path, requirements: Requirements) -> Lock:
    packages = []
    for package in content.get("packages", []):
        name, version = package["name"], package.get("version", "")
        if "vcs" in package:
            raise UsageError(f"{name} comes from git: packages from git are not available yet")
        if "directory" in package:
            raise UsageError(
                f"{name} is a folder ({package['directory'].get('path')}): name it as an entry of reqs, './folder'"
            )
        artifact = _pick(package, target, folder, requirements)
        if artifact is None:
            raise ResolutionFailed(
                f"{name} {version} has neither a wheel for {target.uv_platform} nor a source distribution"
            )
        packages.append(Locked(canonicalize_name(name), _version(artifact, version), artifact))
    return Lock(target.python, target.uv_platform, tuple(sorted(packages, key=lambda package: package.name)))


def _pick(package: Mapping[str, Any], target: Target, folder: Path, requirements: Requirements) -> Artifact | None:
    if "archive" in package:
        return _artifact(package["archive"], folder, requirements)
    wheels = {
        wheel.filename: wheel
        for wheel in (_artifact(entry, folder, requirements) for entry in package.get("wheels", []))
    }
    best = target.best(list(wheels))
    if best:
        return wheels[best]
    return _artifact(package["sdist"], folder, requirements) if "sdist" in package else None


def _artifact(entry: Mapping[str, Any], folder: Path, requirements: Requirements) -> Artifact:
    url: str | None = entry.get("url")
    path: str | None = entry.get("path")
    if url and url.startswith("file://"):
        path, url = unquote(url[len("file://") :]), None
    filename = entry.get("name") or Path(path or str(url).split("#")[0].split("?")[0]).name
    sha256 = entry.get("hashes", {}).get("sha256", "")
    local = requirements.files.get(sha256) or (str((folder / path).resolve()) if path else None)
    return Artifact(unquote(filename), sha256, url, local, entry.get("size"))


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _version(artifact: Artifact, stated: str) -> str:
    if not artifact.is_wheel:
        return stated
    try:
        return str(parse_wheel_filename(artifact.filename)[1])
    except InvalidWheelFilename:
        return stated
