"""paramiko and sshtunnel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runkit.errors import AuthenticationFailed
from runkit.transport import make_transport
from tests.hosts import Host
from tests.transport.ssh_conformance import SSHConformance


class TestParamiko(SSHConformance):
    backend = "paramiko"


def password_of(host: Host) -> str:
    if host.password is None:
        pytest.skip("an ordinary user's sshd cannot check passwords: run the tests as root for this one")
    return host.password


def test_a_password(host: Host) -> None:
    creds = {"ssh_user": host.user, "password": password_of(host)}
    with make_transport(host.address, host.port, creds, notify=lambda text: None) as transport:
        assert type(transport).__name__ == "Paramiko"
        assert transport.run("id -un").text == host.user
        with transport.connect((host.address, host.port)) as stream:
            assert stream.recv(4) == b"SSH-"
        with transport.forward(host.port):  # a second connection, with the same password
            arguments = subprocess.run(["ps", "-eww", "-o", "args", "e"], capture_output=True, text=True).stdout
        assert creds["password"] not in arguments
        assert creds["password"] not in repr(transport)


def test_a_refused_password(host: Host) -> None:
    password_of(host)
    creds = {"ssh_user": host.user, "password": "not-the-password"}
    with pytest.raises(AuthenticationFailed) as caught:
        make_transport(host.address, host.port, creds, notify=lambda text: None).open()
    assert host.user in str(caught.value)
    assert "not-the-password" not in str(caught.value)
    assert str(caught.value).count("the password") == 1


def test_the_passphrase_of_a_key(host: Host, tmp_path: Path) -> None:
    key = tmp_path / "locked"
    key.write_bytes(host.key.read_bytes())
    key.chmod(0o600)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(key)], check=True, capture_output=True
    )
    creds = {"ssh_user": host.user, "ssh_private_key": str(key), "password": "open sesame"}
    with make_transport(host.address, host.port, creds, notify=lambda text: None) as transport:
        assert transport.run("echo in").text == "in"


def test_it_is_not_imported_without_need(host: Host) -> None:
    program = """
import sys
from runkit.transport import make_transport
make_transport("x")
make_transport(None)
print("paramiko" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
