"""What the metadata of one distribution says: a .dist-info folder, an .egg-info folder or file, the EGG-INFO of an egg.

Metadata is mail headers, but Python's parser of those takes longer than everything else in a scan together. Here the headers
end at the first blank line, and of them only the lines that are asked for are looked at.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from runkit.client.scan.direct import without_credentials

_BLOCK = 1 << 14  # most headers end before
_READ = ("METADATA", "PKG-INFO", "WHEEL", "INSTALLER", "direct_url.json", "REQUESTED", "requires.txt")


class Record(NamedTuple):
    """One distribution's metadata, of JSON's types, as it is kept in the cache.

    Attributes:
        name: as it is written there; "" without readable metadata.
        version: the same.
        installer: INSTALLER's line.
        requires: Requires-Dist lines.
        direct_url: as it is written there, without credentials; None without.
        pure: Root-Is-Purelib; None without WHEEL.
        tags: of WHEEL.
        requested: whether REQUESTED is there; None unless pip was the installer.
    """

    name: str
    version: str
    installer: str
    requires: list[str]
    direct_url: dict[str, Any] | None
    pure: bool | None
    tags: list[str]
    requested: bool | None


def files(info: str) -> list[str]:
    """The files in it that decide what is read; nothing for an .egg-info that is a file itself.

    Raises:
        OSError: it is gone, or may not be read.
    """
    try:
        present = os.listdir(info)
    except NotADirectoryError:
        return []
    return [name for name in _READ if name in present]


def read(info: str, present: Sequence[str]) -> Record:
    """Read the metadata; `present` is what `files` gave."""
    return parse(info, present, lambda name: content(f"{info}/{name}" if name else info))


def parse(info: str, present: Sequence[str], load: Any) -> Record:
    """The same from any kind of storage: `load(name)` gives a file's bytes, with the name "" those of `info` itself."""
    main = "METADATA" if "METADATA" in present else "PKG-INFO" if "PKG-INFO" in present else "" if not present else None
    name, version, requires = _headers(load(main)) if main is not None else ("", "", [])
    if main != "METADATA" and "requires.txt" in present and not requires:
        requires = list(_from_sections(_text(load("requires.txt"))))
    pure, tags = _wheel(load("WHEEL")) if "WHEEL" in present else (None, [])
    installer = _text(load("INSTALLER")).strip() if "INSTALLER" in present else ""
    return Record(
        name,
        version,
        installer.splitlines()[0] if installer else "",
        requires,
        _url(load("direct_url.json")) if "direct_url.json" in present else None,
        pure,
        tags,
        "REQUESTED" in present if installer == "pip" else None,  # uv writes it for everything
    )


def content(path: str) -> bytes:
    """A small file's bytes up to the first blank line at least; nothing if it cannot be read."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.read(number, _BLOCK)
        while data and b"\n\n" not in data and b"\n\r\n" not in data:
            more = os.read(number, _BLOCK)
            if not more:
                break
            data += more
        return data
    except OSError:  # a folder
        return b""
    finally:
        os.close(number)


def whole(path: str) -> str:
    """A small text file; nothing if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _text(file.read())
    except OSError:
        return ""


def named(info: str) -> tuple[str, str]:
    """Name and version as the folder or file is called; the version may be ""."""
    stem = os.path.basename(info)
    for ending in (".dist-info", ".egg-info", ".egg"):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
            break
    parts = stem.split("-")
    return parts[0], parts[1] if len(parts) > 1 else ""


def normalised(name: str) -> str:
    """After PEP 503; packaging's function for it brings a dozen modules along."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")  # from before metadata had an encoding


def _headers(data: bytes) -> tuple[str, str, list[str]]:
    text = _text(data)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    head = text.partition("\n\n")[0]
    name = version = ""
    requires = []
    for line in head.split("\n"):
        if line[:14] == "Requires-Dist:":
            requires.append(line[14:].strip())
        elif not version and line[:8] == "Version:":
            version = line[8:].strip()
        elif not name and line[:5] == "Name:":
            name = line[5:].strip()
    if not name or not version:  # headers may be written in any case
        for line in head.split("\n"):
            key, _, value = line.partition(":")
            if key.lower() == "name":
                name = name or value.strip()
            elif key.lower() == "version":
                version = version or value.strip()
    return name, version, requires


def _wheel(data: bytes) -> tuple[bool | None, list[str]]:
    pure: bool | None = None
    tags = []
    for line in _text(data).splitlines():
        key, _, value = line.partition(":")
        if key == "Tag":
            tags.append(value.strip())
        elif key == "Root-Is-Purelib":
            pure = value.strip().lower() == "true"
    return pure, tags


def _url(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:  # also what is no UTF-8
        return None
    if not isinstance(found, dict) or not isinstance(found.get("url"), str) or not found["url"]:
        return None
    return {**found, "url": without_credentials(found["url"])}  # tools should have left them out, not all did


def _from_sections(text: str) -> list[str]:
    """An egg-info's requires.txt (`[extra:marker]` sections) as Requires-Dist lines."""
    found = []
    condition = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            extra, _, marker = line[1:-1].partition(":")
            wanted = [f"({marker})" if extra else marker] if marker else []
            wanted += [f'extra == "{extra}"'] if extra else []
            condition = f"; {' and '.join(wanted)}" if wanted else ""
        elif line and not line.startswith("#"):
            found.append(line + (" " if condition and "@" in line else "") + condition)
    return found
