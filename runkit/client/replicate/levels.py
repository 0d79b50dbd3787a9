"""How exactly a package has to be matched, and which exist on one platform only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from packaging.version import InvalidVersion, Version

CRITICAL = ("cloudpickle",)
"""Packages that carry code and results between the two sides."""

_WINDOWS = (
    "comtypes", "dxcam", "pefile-win", "pypiwin32", "pyreadline", "pyreadline3", "pywin32", "pywin32-ctypes", "pywinauto", "pywinpty",
    "win-inet-pton", "win-unicode-console", "win32-setctime", "windows-curses", "winkerberos", "winrt-*", "winsdk",
    "wmi", "xlwings",
)  # fmt: skip
_MACOS = (
    "appnope", "applaunchservices", "macfsevents", "mlx-metal", "py-applescript", "py2app",
    "pync", "pyobjc", "pyobjc-*", "rumps", "tensorflow-macos", "tensorflow-metal",
)  # fmt: skip

_NO_FILE_HERE = "there is no file of it for {target}, and what is installed here is for {here} only"


def platform_only(name: str) -> str | None:
    """What a package of this normalised name is for, where that is not Linux: "Windows" or "macOS"."""
    for system, patterns in (("Windows", _WINDOWS), ("macOS", _MACOS)):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return system
    return None


def is_portable(tags: Iterable[str]) -> bool:
    """Whether wheel tags say that what is installed runs on every platform; also where nothing is said."""
    return all(tag.endswith("-any") for tag in tags)


def platforms_of(tags: Iterable[str]) -> str:
    """The platforms that wheel tags name, for a message."""
    return ", ".join(dict.fromkeys(tag.rpartition("-")[2] for tag in tags)) or "this platform"


def same(one: str, other: str) -> bool:
    """Whether two versions are the same, however they are spelled.

    >>> same("2024.07.04", "2024.7.4")
    True
    """
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def exact(version: str) -> str:
    """The specifier that only this version satisfies.

    >>> exact("2.1.0+cu121")
    '==2.1.0+cu121'
    """
    return f"=={Version(version)}"


def series(version: str) -> str:
    """The specifier of the version's release series, from that version on (`~=` of PEP 440, which takes no local version and no
    single number).

    >>> series("1.26.4"), series("2.1.0+cu121"), series("23"), series("2.0rc1")
    ('~=1.26.4', '~=2.1.0', '>=23,==23.*', '~=2.0rc1')
    """
    found = Version(version)
    if len(found.release) > 1:
        return f"~={found.public}"
    epoch = f"{found.epoch}!" if found.epoch else ""
    return f">={found.public},=={epoch}{found.release[0]}.*"


def torch_backend(version: str) -> str | None:
    """The backend that a local version of torch or one of its relatives names, as uv calls it: "cu121", "cpu"; or None."""
    local = Version(version).local or ""
    return local if re.fullmatch(r"cpu|xpu|cu\d{2,3}|rocm\d+(\.\d+)*", local) else None
