"""The machine's own OpenSSH."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runkit.errors import HostError, HostUnreachable, UsageError
from runkit.transport import Transport, make_transport
from runkit.transport.openssh import OpenSSH
from tests.hosts import Host
from tests.transport.ssh_conformance import SSHConformance


class TestOpenSSH(SSHConformance):
    backend = "openssh"


def test_it_is_the_default(host: Host) -> None:
    assert isinstance(make_transport(host.address, host.port, host.ssh_creds), OpenSSH)


def test_it_takes_no_password(host: Host) -> None:
    with pytest.raises(UsageError, match="paramiko"):
        make_transport(host.address, host.port, {"password": "x"}, backend="openssh")


def masters(host: Host) -> list[str]:
    found = subprocess.run(["ps", "-eww", "-o", "pid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    return [
        line
        for line in found
        if " -M -N " in line and f"-p {host.port} " in line and host.address in line and " Z" not in line[:20]
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_master_ends_with_its_process(own_host: Host, number: int, client_state: Path) -> None:
    program = f"""
import time
from runkit.transport import make_transport
transport = make_transport({own_host.address!r}, {own_host.port}, {own_host.ssh_creds!r}, notify=lambda text: None)
transport.connect(({own_host.address!r}, {own_host.port}))
print("open", flush=True)
time.sleep(60)
"""
    before = set((client_state / "run/ssh").glob("*"))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdout
        assert client.stdout.readline() == b"open\n"
        assert masters(own_host)
        client.send_signal(number)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (masters(own_host) or set((client_state / "run/ssh").glob("*")) - before):
        time.sleep(0.05)
    assert masters(own_host) == []
    assert set((client_state / "run/ssh").glob("*")) - before == set()


def test_a_fork_leaves_the_master_to_its_parent(host: Host) -> None:
    with make_transport(host.address, host.port, host.ssh_creds) as transport:
        if (child := os.fork()) == 0:
            transport.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert transport.alive()
        assert transport.run("echo here").text == "here"


def test_nothing_is_open_to_other_users(host: Host, client_state: Path) -> None:
    with make_transport(host.address, host.port, host.ssh_creds) as transport:
        transport.connect((host.address, host.port)).close()
        folders = [client_state / "run", *(client_state / "run" / "ssh").rglob("*")]
        assert any(path.is_socket() for path in folders)
        assert all(path.stat().st_mode & 0o077 == 0 for path in folders if path.is_dir() or path.is_socket())


def test_a_host_that_must_be_known_is_not_recorded(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("Host *\n StrictHostKeyChecking yes\n")
    monkeypatch.setenv("RUNKIT_SSH_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("RUNKIT_KNOWN_HOSTS", str(tmp_path / "known_hosts"))
    with pytest.raises(HostError, match="StrictHostKeyChecking"):
        make_transport(host.address, host.port, host.ssh_creds).open()
    assert not (tmp_path / "known_hosts").exists()


def test_a_runtime_folder_with_a_long_name(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNKIT_RUNTIME_DIR", str(tmp_path / ("x" * 80)))
    with pytest.raises(UsageError, match="RUNKIT_RUNTIME_DIR"):
        make_transport(host.address, host.port, host.ssh_creds).open()


def test_a_cut_cable_is_noticed(own_host: Host) -> None:
    """By both backends, and at once, because it takes its 15 seconds."""
    transports: list[Transport] = []
    for backend in ("openssh", "paramiko"):
        transports.append(
            make_transport(own_host.address, own_host.port, own_host.ssh_creds, backend=backend, connect_timeout=3)
        )
        transports[-1].open()
    own_host.cut()
    start = time.monotonic()
    check: Callable[[], list[Transport]] = lambda: [each for each in transports if each.alive()]  # noqa: E731
    while check() and time.monotonic() - start < 40:
        time.sleep(0.2)
    assert not check()
    for transport in transports:
        with pytest.raises(HostUnreachable):
            transport.run("true")
    own_host.mend()
    for transport in transports:
        assert transport.run("echo back").text == "back"
        transport.close()
