"""The hosts of the tests themselves: they are what they say, and nothing of them stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests import hosts as module
from tests.hosts import Host, hosts


def test_hosts_are_machines_of_their_own(hosts2: list[Host]) -> None:
    first, second = hosts2
    (first.home / "file").write_text("first")
    try:
        assert first.run("cat ~/file").stdout == "first"
        assert second.run("cat ~/file", check=False).returncode != 0
        assert first.address != second.address or first.port != second.port
        if first.isolated:
            assert first.run("hostname").stdout.strip() == first.name
            assert first.run(f"ls -A {module.REPOSITORY}", check=False).stdout == ""
            assert first.run("stat -c %i /etc").stdout.strip() != str(os.stat("/etc").st_ino)
            assert first.run("id -un", user="other").stdout.strip() == "other"
    finally:
        (first.home / "file").unlink()


def test_a_bare_host_has_a_shell_and_little_else(bare_host: Host) -> None:
    found = bare_host.run(
        "for tool in python3 python pip uv rsync curl git sh cat tar; do command -v $tool; done", check=False
    )
    assert [Path(line).name for line in found.stdout.split()] == ["sh", "cat", "tar"]


def test_an_address_keeps_its_key() -> None:
    """Whoever has noted it meets no stranger there later."""
    keys: dict[tuple[str, int], str] = {}
    for _ in range(2):
        with hosts(1) as (host,):
            key = keys.setdefault((host.address, host.port), host.host_key)
            assert host.host_key == key
            host.new_host_key()
            assert host.host_key != key


def test_a_set_ends_with_its_process() -> None:
    program = (
        "from tests.hosts import hosts\nimport time\nwith hosts(1) as (h,): print(h.folder, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(module.REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout
        folder = Path(owner.stdout.readline().decode().strip())
        assert (folder / "init").exists()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while folder.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.parent.exists()


def test_a_set_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, module.__file__]
    made = subprocess.run([*command, "up", "2", str(tmp_path)], capture_output=True, text=True, check=True)
    try:
        first, second = map(json.loads, made.stdout.splitlines())
        assert {"name", "address", "port", "user", "key"} <= set(first)
        assert Path(second["key"]).exists()
        with hosts(1) as (other,):
            assert other.folder.parent != Path(first["folder"]).parent
            assert Path(first["folder"]).exists()
    finally:
        subprocess.run([*command, "down", str(tmp_path)], check=True)
    assert not Path(first["folder"]).exists()
