"""conda-meta: what conda, mamba, micromamba or pixi installed into a prefix, a JSON file for each package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from runkit.client.scan.cache import Cache
from runkit.client.scan.direct import without_credentials

_TOKEN = r"/t/[^/]+(?=/)"  # anaconda.org and others take one in the path


class CondaRecord(NamedTuple):
    """One package of conda-meta, of JSON's types.

    Attributes:
        name, version, build, channel, subdir, url, requested: as CondaPackage has them.
        infos: the .dist-info folders, .egg-info folders and files it brought, relative to the prefix.
        direct: of those the ones that came with a direct_url.json.
    """

    name: str
    version: str
    build: str
    channel: str
    subdir: str
    url: str
    requested: str
    infos: list[str]
    direct: list[str]


def packages(prefix: str, cache: Cache) -> list[CondaRecord]:
    """What conda installed there; nothing if it is no conda environment."""
    try:
        names = sorted(name for name in os.listdir(f"{prefix}/conda-meta") if name.endswith(".json"))
    except OSError:
        return []
    found = []
    for name in names:
        try:
            value = cache.value(f"{prefix}/conda-meta/{name}", lambda path: (), _read)
        except OSError:
            continue
        if value is not None:
            found.append(CondaRecord(*value))
    return found


def _read(path: str, _: Sequence[str]) -> CondaRecord | None:
    try:
        with open(path, "rb") as file:
            found = json.load(file)
        name, version = str(found["name"]), str(found["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    infos, direct = [], []
    for one in found.get("files") or ():
        head, _, tail = one.rpartition("/")
        if (tail == "METADATA" and head.endswith(".dist-info")) or (tail == "PKG-INFO" and head.endswith(".egg-info")):
            infos.append(head)
        elif tail.endswith(".egg-info"):
            infos.append(one)
        elif tail == "direct_url.json":
            direct.append(head)
    url = re.sub(_TOKEN, "", without_credentials(_word(found.get("url"))))
    subdir = _word(found.get("subdir"))
    specs = found.get("requested_specs")
    requested = _word(found.get("requested_spec")) or (_word(specs[0]) if isinstance(specs, list) and specs else "")
    return CondaRecord(
        name, version, _word(found.get("build")), _channel(found, subdir, url), subdir, url, requested, infos, direct
    )


def _channel(found: dict[str, Any], subdir: str, url: str) -> str:
    """A name or a URL; some tools add the subdir, some end it with a slash, some leave it out."""
    channel = re.sub(_TOKEN, "", without_credentials(_word(found.get("channel")).rstrip("/") + "/"))
    channel = channel.rstrip("/")
    if not channel and subdir and f"/{subdir}/" in url:
        channel = url.rpartition(f"/{subdir}/")[0]
    return channel[: -len(subdir) - 1] if subdir and channel.endswith(f"/{subdir}") else channel


def _word(value: object) -> str:
    """Some versions of conda and mamba wrote "None" for nothing."""
    return value if isinstance(value, str) and value != "None" else ""
