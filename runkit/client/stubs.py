"""Wheels that hold nothing but a name and a version: they stand for what is installed already while uv resolves the rest."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from packaging.version import InvalidVersion, Version


def stub(folder: Path, name: str, version: str) -> Path:
    """The wheel that stands for a package; the same content on every machine and day."""
    name = re.sub(r"[-_.]+", "_", name).lower()
    try:
        version = str(Version(version))
    except InvalidVersion:  # of a package that pip could not compare either
        version = "0"
    path = folder / f"{name}-{version}-0runkit-py3-none-any.whl"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    content = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: runkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    partial = path.with_suffix(f".{os.urandom(8).hex()}.partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for inside, text in content.items():
            archive.writestr(zipfile.ZipInfo(inside), text)
    partial.replace(path)
    return path
