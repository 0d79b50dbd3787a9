"""A wheel of an editable install's metadata alone: its code is synced as a tree, and over there its version, entry points and
whatever else `importlib.metadata` tells of it are those of the install here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator, Set
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from runkit.client.lock import PROJECT_NOTE
from runkit.client.replicate import levels
from runkit.client.replicate.origins import recorded, stated_version
from runkit.client.scan import Distribution
from runkit.errors import SyncRefused

# What an installer writes anew, or what is true of this machine alone.
_OF_THE_INSTALL = {
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "WHEEL",
    "METADATA",
    "direct_url.json",
    "uv_cache.json",
    "uv_build.json",
}
_OF_THE_INSTALL |= {"PKG-INFO", "SOURCES.txt", "requires.txt", "dependency_links.txt", "not-zip-safe", "zip-safe"}
_WHEEL = "Wheel-Version: 1.0\nGenerator: runkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def metadata_wheel(one: Distribution, home: Path, replicated: Set[str]) -> Path:
    """Make the wheel, if it is not there yet; the same metadata give the same bytes.

    Args:
        one: an editable install.
        home: this client's RUNKIT_HOME.
        replicated: normalised names of what is installed here: an address that its metadata give for one of them (a folder of
            this machine, say) does not count over there.

    Raises:
        SyncRefused: its metadata cannot be read.
    """
    try:
        version = str(Version(one.version))
    except InvalidVersion:
        version = "0+unknown"
    stem = f"{re.sub(r'[-_.]+', '_', one.name)}-{version}"
    try:
        files = dict(_files(one, f"{stem}.dist-info", version, replicated))
    except (OSError, UnicodeDecodeError) as error:
        raise SyncRefused(f"{one.name}: the metadata of its editable install cannot be read: {error}") from error
    content = _zipped(files, f"{stem}.dist-info")
    sha256 = hashlib.sha256(content).hexdigest()
    kept = home / "wheels" / sha256 / f"{stem}-py3-none-any.whl"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = kept.with_name(f".{os.urandom(8).hex()}.partial")
        partial.write_bytes(content)
        partial.replace(kept)
    note = kept.with_name(PROJECT_NOTE)
    if not note.exists() or note.read_text(encoding="utf-8") != one.editable:
        partial = note.with_name(f".{os.urandom(8).hex()}.partial")
        partial.write_text(one.editable or "", encoding="utf-8")
        partial.replace(note)
    return kept


def changed_since(one: Distribution, folder: str) -> str:
    """A file of the folder a package was installed from that has another content since; "" where none is known.

    What a build made or left out is not compared: only files that lie in the folder under the path they are installed as, or below `src`.
    """
    if (stated := stated_version(folder)) and not levels.same(stated, one.version):
        return f"{folder}/pyproject.toml"
    for path, hashed in recorded(one).items():
        for place in (f"{folder}/{path}", f"{folder}/src/{path}"):
            try:
                content = Path(place).read_bytes()
            except OSError:
                continue
            if hashed != f"sha256={_hash(content)}":
                return place
            break
    return ""


def _hash(content: bytes) -> str:
    """As a RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _files(one: Distribution, info: str, version: str, replicated: Set[str]) -> Iterator[tuple[str, bytes]]:
    folder = Path(one.info)
    if folder.is_file():  # an .egg-info of distutils: the metadata and nothing else
        yield f"{info}/METADATA", _metadata(folder.read_text(encoding="utf-8"), one, version, replicated)
    else:
        main = next(
            path for path in (folder / "METADATA", folder / "PKG-INFO") if path.name == "PKG-INFO" or path.exists()
        )
        yield f"{info}/METADATA", _metadata(main.read_text(encoding="utf-8"), one, version, replicated)
        for path in sorted(folder.iterdir()):
            if path.name not in _OF_THE_INSTALL and path.is_file():
                yield f"{info}/{path.name}", path.read_bytes()
    yield f"{info}/WHEEL", _WHEEL.encode()


def _metadata(text: str, one: Distribution, version: str, replicated: Set[str]) -> bytes:
    """Its METADATA, with the requirements a scan found and without its long description."""
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0].splitlines()
    kept, skipping = [], False
    for line in head:
        skipping = (
            skipping if line[:1] in " \t" else bool(re.match(r"(Requires-Dist|Version|Description)\s*:", line, re.I))
        )
        if not skipping:
            kept.append(line)
    kept.append(f"Version: {version}")
    kept += [f"Requires-Dist: {_without_address(line, replicated)}" for line in one.requires]
    return ("\n".join(kept) + "\n").encode()


def _without_address(line: str, replicated: Set[str]) -> str:
    try:
        found = Requirement(line)
    except InvalidRequirement:
        return line
    if found.url and canonicalize_name(found.name) in replicated:
        found.url = None
    return str(found) if " @ " in line else line


def _zipped(files: dict[str, bytes], info: str) -> bytes:
    lines = []
    for name, content in files.items():
        lines.append(f"{name},sha256={_hash(content)},{len(content)}")
    files = {**files, f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()
