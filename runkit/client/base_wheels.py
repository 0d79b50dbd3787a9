"""What the server's own environment needs on a host that cannot fetch it: wheels, and uv itself."""

from __future__ import annotations

import os
import shlex
import zipfile
from pathlib import Path

from runkit.client.host_platform import Platform
from runkit.client.progress import Report
from runkit.client.resolve import resolve
from runkit.client.wheels import WheelStore
from runkit.errors import SetupFailed
from runkit.launch import code
from runkit.model.requirements import Requirements
from runkit.transport import Transport
from runkit.wire import places

REQUIREMENTS = code.PACKAGE / "launch" / "server-requirements.txt"


def requirements_checksum() -> str:
    """What setup_cluster.sh names the environment by: `cksum` of the requirements (POSIX.1-2017, the CRC and the length)."""
    return str(_cksum(REQUIREMENTS.read_bytes()))


def _cksum(data: bytes) -> int:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1
        table.append(value & 0xFFFFFFFF)
    length = len(data)
    tail = bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    crc = 0
    for byte in data + bytes(tail):
        crc = ((crc << 8) & 0xFFFFFFFF) ^ table[(crc >> 24) ^ byte]
    return ~crc & 0xFFFFFFFF


def ship(transport: Transport, home: str, target: Platform, progress: Report) -> None:
    """Bring the wheels of the server's requirements to the host: into its wheel store, and together in `wheels/base`.

    Raises:
        ResolutionFailed, InstallFailed: they cannot be found, or fetched here.
    """
    lines = tuple(
        line.strip() for line in REQUIREMENTS.read_text().splitlines() if line.strip() and not line.startswith("#")
    )
    progress({"phase": "find the server's requirements"})
    lock = resolve(Requirements(lines, origins=("the server",) * len(lines)), target, cache=places.home() / "locks")
    if lock.sources:
        raise SetupFailed(f"{lock.sources[0].name} has no wheel for {target.machine} with Python {target.python}")
    store = WheelStore(places.home() / "wheels")
    artifacts = store.fetch([package.artifact for package in lock.packages], progress)
    wheels = shlex.quote(f"{home}/wheels")
    listing = transport.run(
        f'cd {wheels} 2>/dev/null && for file in */*; do echo "$file"; done; true', timeout=60
    ).text.splitlines()
    lacking = [one for one in artifacts if f"{one.sha256}/{one.filename}" not in listing]
    total, before = sum(one.size or 0 for one in lacking), 0
    phase = "ship the server's requirements"
    for artifact in lacking:
        assert artifact.path is not None  # fetch gives a path
        done_before = before
        transport.put(
            Path(artifact.path),
            f"{home}/wheels/{artifact.sha256}/{artifact.filename}",
            progress=lambda done, _: progress({"phase": phase, "done": done_before + done, "total": total}),  # noqa: B023  (called at once)
        )
        before += artifact.size or 0
    links = "\n".join(
        f"ln -sf ../{one.sha256}/{shlex.quote(one.filename)} {shlex.quote(one.filename)}" for one in artifacts
    )
    done = transport.run(f"set -e; umask 077; mkdir -p {wheels}/base; cd {wheels}/base; rm -f ./*\n{links}", timeout=60)
    if done.returncode:
        raise SetupFailed(f"{transport.description}: {done.stderr.decode(errors='replace').strip()}")


def uv_for(target: Platform, progress: Report) -> Path:
    """uv's binary for another platform, out of its wheel; kept.

    Raises:
        SetupFailed: there is none.
    """
    folder = places.home() / "uv"
    lock = resolve(Requirements(("uv",)), target, cache=places.home() / "locks")
    kept = folder / f"uv-{lock.packages[0].version}-{target.machine}"
    if kept.exists():
        return kept
    [artifact] = WheelStore(places.home() / "wheels").fetch([lock.packages[0].artifact], progress)
    assert artifact.path is not None  # fetch gives a path
    places.private(folder)
    with zipfile.ZipFile(artifact.path) as wheel:
        name = next((one for one in wheel.namelist() if one.endswith("/scripts/uv")), None)
        if name is None:
            raise SetupFailed(f"{artifact.filename} holds no uv")
        partial = kept.with_suffix(f".{os.urandom(8).hex()}.partial")
        partial.write_bytes(wheel.read(name))
    partial.chmod(0o755)
    partial.replace(kept)
    return kept
