"""A host's side of making envs, in this process: a folder, real uv, the real installer. No Ray, no worker, no network port."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uv

from runkit.errors import EnvNotFound
from runkit.servlet.install import install


class Host:
    """The server's answers about envs (see `runkit.client.deploy.Api`), with a record of what was asked."""

    def __init__(self, home: Path, online: bool = True) -> None:
        self.home = home
        self.online = online
        self.blocked = False  # answers that it reaches the index, and then does not
        self.pythons = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
        self.plans: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.logs: list[str] = []

    def status(self) -> dict[str, Any]:
        glibc = [int(part) for part in platform.libc_ver()[1].split(".")[:2]]
        host = {"machine": platform.machine(), "glibc": glibc, "pythons": self.pythons, "kernel": "5.10.0"}
        return {"home": str(self.home), "host": host, "ray": None}

    def json(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> dict[str, Any]:
        self.calls.append(f"{method} {path}")
        if path == "/v1/ensure":
            plan = self.plans.get(body["env"]["name"])
            asked = body["env"]
            same = plan and asked["request"] in (None, plan["request"]) and asked.get("base") in (None, plan["base"])
            return {"env": "ready" if same else "changed" if plan else "missing", "worker": {"pid": 1}, "roots": {}}
        if path.endswith("/spec"):
            name = path.split("/")[3]
            if name not in self.plans:
                raise EnvNotFound(f"no env {name}")
            return self.plans[name]["spec"]
        if path == "/v1/pythons":
            found = self.pythons.get(".".join(body["version"].split(".")[:2]))
            return {"path": found, "version": body["version"]}
        if path == "/v1/wheels/missing":
            return {"missing": [sha for sha in body["sha256"] if not (self.home / "wheels" / sha).exists()]}
        if path == "/v1/reachable":
            return dict.fromkeys(body["urls"], self.online)
        raise AssertionError(path)

    def upload(self, method: str, path: str, chunks: Iterable[bytes], length: int) -> dict[str, Any]:
        self.calls.append(f"{method} {path}")
        data = b"".join(chunks)
        assert len(data) == length
        kept = self.home / unquote(path.removeprefix("/v1/"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        if path.startswith("/v1/wheels/"):
            assert hashlib.sha256(data).hexdigest() == kept.parent.name
            kept.write_bytes(data)
            return {}
        archive = self.home / "python.tar.gz"
        archive.write_bytes(data)
        kept.mkdir(parents=True)
        subprocess.run(["tar", "-xzf", archive, "-C", kept], check=True)
        return {"path": str(kept / "bin" / "python3")}

    def events(self, method: str, path: str, body: Any = None) -> Generator[dict[str, Any], None, None]:
        self.calls.append(f"{method} {path}")
        events: list[dict[str, Any]] = []
        if self.blocked:
            body = {**body, "lock": re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:9", body["lock"])}
        place = {"home": self.home, "uv": Path(uv.find_uv_bin())}
        built = install(body, **place, environment=os.environ, emit=events.append)
        self.logs += [event["log"] for event in events if "log" in event]
        yield from events
        self.plans[body["name"]] = body
        yield {"done": {"build": built.build, "replaced_worker": False, "lost": []}}

    def run(self, name: str, code: str) -> str:
        """Run code with an env's interpreter."""
        python = self.home / "envs" / self.plans[name]["build"] / "bin" / "python"
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
