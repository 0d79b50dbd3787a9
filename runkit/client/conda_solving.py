"""Solves a conda environment with py-rattler; run as a process of its own by `runkit.client.conda_tools`.

Standard input: JSON with `channels`, `specs`, `python` (the minor version to prefer, or null), `platform`, `virtual` packages, `locked`
records, `priority`, `fresh` (whether the channels are read anew) and `cache`; or with solved `records` and `cache`. One line of standard
output holds the answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rattler import (
    Channel,
    ChannelPriority,
    Gateway,
    GenericVirtualPackage,
    MatchSpec,
    PackageName,
    Subdir,
    Version,
    solve,
)
from rattler.exceptions import GatewayError, InvalidMatchSpecError, SolverError
from rattler.networking import Client
from rattler.package import BuildString, PathsJson
from rattler.repo_data.gateway import SourceConfig

from runkit.model.conda_records import from_json, to_json

ANSWER = "runkit-answer: "
_DISTRIBUTION = re.compile(
    r"(?:.*/)?([A-Za-z0-9][\w.]*?)-(\d[^/-]*)(?:-py[\d.]+)?\.(?:dist-info/METADATA|egg-info(?:/PKG-INFO)?)"
)
_PARALLEL = 16


async def find(asked: dict[str, Any]) -> dict[str, Any]:
    """The packages that make up the environment; or, where they are given, the Python packages that they bring."""
    client = Client.default_client(max_retries=1)
    if "records" in asked:
        try:
            return {"provided": await _provided(asked["records"], client, Path(asked["cache"]))}
        except Exception as error:  # whatever py-rattler raises: it reads from channels, and nothing else can go wrong
            return {"error": "channel", "message": f"{type(error).__name__}: {error}"}
    try:
        specs = [MatchSpec(spec) for spec in asked["specs"]]
        wish = [MatchSpec(f"python={asked['python']}")] if asked.get("python") else []
    except InvalidMatchSpecError as error:
        return {"error": "spec", "message": str(error)}
    any_python = [MatchSpec("python")]
    priorities = {"strict": [ChannelPriority.Strict], "disabled": [ChannelPriority.Disabled]}
    notes: list[str] = []
    failure = ""
    # As conda's own default does: strict where that works out, and else any channel that has what is needed.
    for priority in priorities.get(asked["priority"], [ChannelPriority.Strict, ChannelPriority.Disabled]):
        for extra in [wish, any_python] if wish else [any_python]:
            try:
                records = await _solve(asked, specs + extra, priority, client)
            except SolverError as error:
                failure = failure or str(error)
                continue
            except GatewayError as error:
                return {"error": "channel", "message": str(error)}
            if priority is ChannelPriority.Disabled and asked["priority"] == "flexible":
                notes.append("the conda packages come from several channels: strict channel priority has no solution")
            found = [to_json(record) for record in records]
            return {"records": sorted(found, key=lambda one: one["name"]), "notes": notes}
        if len(asked["channels"]) == 1:
            break
    return {"error": "conflict", "message": await _explained(asked, specs, client) or failure}


async def _explained(asked: dict[str, Any], specs: list[Any], client: Any) -> str:
    """Why there is no solution, with both sides: only packages that fit a spec are loaded, unless their bare names are asked for too."""
    bare = [MatchSpec(name) for name in sorted({spec.name.normalized for spec in specs if spec.name} | {"python"})]
    strict = asked["priority"] != "disabled"
    try:
        await _solve(asked, bare + specs, ChannelPriority.Strict if strict else ChannelPriority.Disabled, client)
    except SolverError as error:
        return str(error)
    return ""


async def _solve(asked: dict[str, Any], specs: list[Any], priority: Any, client: Any) -> list[Any]:
    virtual = [
        GenericVirtualPackage(PackageName(name), Version(version), BuildString.new_unchecked(build))
        for name, version, build in asked["virtual"]
    ]
    # Shards are fast with large channels, but py-rattler 0.28 may take a server's "not modified" for an error.
    usual = "no-cache" if asked.get("fresh") else "cache-or-fetch"
    for sharded, cached in ((True, usual), (True, "no-cache"), (False, usual)):
        config = SourceConfig(sharded_enabled=sharded, cache_action=cached)
        try:
            return await solve(
                [Channel(url) for url in asked["channels"]],
                specs,
                gateway=Gateway(cache_dir=Path(asked["cache"]) / "repodata", client=client, default_config=config),
                platforms=[Subdir(asked["platform"]), Subdir("noarch")],
                locked_packages=[from_json(record) for record in asked["locked"]],
                virtual_packages=virtual,
                channel_priority=priority,
            )
        except GatewayError as error:
            if not sharded or "shards" not in str(error) or "304" not in str(error):
                raise
    raise AssertionError("unreachable")


async def _provided(records: list[dict[str, Any]], client: Any, cache: Path) -> list[list[str]]:
    """Name and version of the Python packages that conda packages bring, as pip would know them: read from their lists of files."""
    limit = asyncio.Semaphore(_PARALLEL)

    async def of(record: dict[str, Any]) -> list[list[str]]:
        kept = cache / "names" / f"{record['sha256'] or record['md5']}.json"
        try:
            known: list[list[str]] = json.loads(kept.read_bytes())
            return known
        except (OSError, ValueError):
            pass
        async with limit:
            if record["url"].startswith("file://"):
                paths = PathsJson.from_package_archive(Path(unquote(record["url"].removeprefix("file://"))))
            else:
                paths = await PathsJson.from_remote_url(client, record["url"])
        names = [str(entry.relative_path) for entry in (paths.paths if paths else [])]
        found = [[match[1], match[2]] for name in names if (match := _DISTRIBUTION.fullmatch(name))]
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(found))
        partial.replace(kept)
        return found

    mine = [r for r in records if r["noarch"] == "python" or any(re.match(r"python(_abi)?\b", d) for d in r["depends"])]
    found = await asyncio.gather(*(of(record) for record in mine))
    return sorted({(name, version): [name, version] for one in found for name, version in one}.values())


def main() -> None:
    """Answer one question, and end at once: a process that used py-rattler may crash while it ends in order."""
    answer = asyncio.run(find(json.load(sys.stdin)))
    sys.stdout.write(f"\n{ANSWER}{json.dumps(answer)}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
