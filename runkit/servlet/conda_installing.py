"""Installs solved conda packages with py-rattler; run as a process of its own by `runkit.servlet.conda`.

Standard input is not read: the one argument is a file with JSON: `records`, `files` (address to path of those that lie here), `prefix`,
`cache`. What it writes to `<that file>.done` is the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from rattler import install
from rattler.config import Config
from rattler.install import InstallerReporter
from rattler.networking import Client

from runkit.model.conda_records import from_json


class _Lines(InstallerReporter):  # type: ignore[misc]  # py-rattler is not where types are checked
    """Says which packages were linked, a line each."""

    def on_link_start(self, operation: int, package_name: str) -> int:
        sys.stdout.write(f" + {package_name}\n")
        sys.stdout.flush()
        return operation


async def make(asked: dict[str, Any]) -> None:
    """Install what is asked for.

    Raises:
        ValueError: a file that lies here is not what its hash says.
    """
    records = []
    for record in asked["records"]:
        path = asked["files"].get(record["url"])
        if path and not os.path.exists(path):  # cleared away since: the channel may still have it
            path = None
        if path:  # py-rattler takes what lies here as it is
            _check(Path(path), record)
        records.append(from_json(record, Path(path).as_uri() if path else None))
    await install(
        records,
        target_prefix=asked["prefix"],
        cache_dir=asked["cache"],
        client=Client.default_client(max_retries=2),
        execute_link_scripts=True,
        reporter=_Lines(),
        config=Config.from_toml("allow-symbolic-links = false"),  # the cache may be cleared
    )


def _check(path: Path, record: dict[str, Any]) -> None:
    kind = "sha256" if record["sha256"] else "md5"
    found = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    if record[kind] and found.hexdigest() != record[kind]:
        raise ValueError(f"Hash mismatch: {path} has the {kind} {found.hexdigest()}, and {record[kind]} was promised")


def main() -> None:
    """Do it, note that it is done, and end at once: a process that used py-rattler may crash while it ends in order."""
    question = Path(sys.argv[1])
    code = 1
    try:
        asyncio.run(make(json.loads(question.read_bytes())))
        Path(f"{question}.done").write_text("done\n")
        code = 0
    except Exception as error:  # whatever py-rattler raises: the user reads it
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
