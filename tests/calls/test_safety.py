"""Only this user gets in: sockets, files and ports of a server, seen by another local user and without the token."""

from __future__ import annotations

import json

import pytest

import runkit as rk
from tests.calls import jobs
from tests.hosts import Host

RUNTIME = "${RUNKIT_RUNTIME_DIR:-/tmp/runkit-$(id -u)}"  # on the host

KNOCK = """
import http.client, json, sys
for path, token in (("/v1/status", None), ("/v1/keys", "wrong"), ("/openapi.json", None), ("/docs", None), ("/", None), ("/v1/ws", None)):
    c = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    headers = {"Authorization": "Bearer " + token} if token else {}
    if path == "/v1/ws":
        headers.update({"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"})
    c.request("GET", path, headers=headers)
    print(c.getresponse().status)
"""


@pytest.fixture
def token(cluster: rk.Cluster, host: Host) -> str:
    found = host.run(
        f"cat ~/.runkit/servers/{cluster.server_port}/token"
    ).stdout.strip()  # by no call: what that prints is logged
    assert len(found) > 30
    return found


def test_without_the_token(cluster: rk.Cluster, host: Host) -> None:
    script = KNOCK.replace("PORT", str(cluster.server_port))
    answers = host.run("python3 -", input=script, user="other" if host.isolated else None).stdout.split()
    assert answers == ["401"] * 6


def test_another_local_user(cluster: rk.Cluster, host: Host, token: str) -> None:
    if not host.isolated:
        pytest.skip("hosts without namespaces have one user")
    cluster.put("secret", "mine")
    runtime = host.run(f"echo {RUNTIME}").stdout.strip()
    worker = cluster.status()["envs"]["default"]["worker"]["socket"]
    code_dir = host.run("ls -d ~/.runkit/code/*").stdout.split()[0]
    attempts = {
        f"cat ~node1/.runkit/servers/{cluster.server_port}/token": "Permission denied",
        "ls ~node1/.runkit": "Permission denied",
        f"ls {runtime}": "Permission denied",
        f"cat {code_dir}/runkit/__init__.py": "Permission denied",
        f"python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('{worker}')\"": "PermissionError",
        f"python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('{runtime}/{cluster.server_port}/server.sock')\"": "PermissionError",
        "cat /proc/$(pgrep -u node1 -f runkit/worker | head -1)/environ": "Permission denied",
    }
    for command, refusal in attempts.items():
        done = host.run(command, user="other", check=False)
        assert done.returncode != 0, command
        assert refusal in done.stderr, (command, done.stderr)
    cluster.clear()


def test_ports_are_on_this_host_alone(cluster: rk.Cluster, host: Host) -> None:
    script = "print([l.split()[1] for f in ('tcp', 'tcp6') for l in open('/proc/net/' + f) if ' 0A ' in l])"
    first, last = cluster.server_port, cluster.server_port + 99
    open_ones = []
    for entry in eval(host.run("python3 -", input=script).stdout):
        address, port = entry.split(":")
        if first <= int(port, 16) <= last:
            open_ones.append(address)
    assert open_ones
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert set(open_ones) <= loopback


def test_the_token_is_nowhere_else(cluster: rk.Cluster, host: Host, token: str) -> None:
    """Not in a process list, an environment, a log or a file that others may read; nor is Ray's."""
    rk.function(jobs.add).to(cluster)(1, 2)
    port = cluster.server_port
    secrets = set(host.run(f"cat ~/.runkit/servers/{port}/token; echo; cat {RUNTIME}/{port}/ray-token").stdout.split())
    assert len(secrets) == 2
    assert token in secrets
    said = host.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'", check=False).stdout
    assert "runkit" in said
    files = f"grep -rlF -f - ~/.runkit/servers {RUNTIME}/{port} ~/.runkit/envs/*.json 2>/dev/null"
    for secret in secrets:
        assert secret not in said
        found = host.run(files, input=secret + "\n", check=False).stdout.split()
        assert all("token" in name.rpartition("/")[2] for name in found), found
    modes = host.run(
        f"stat -c '%a %n' ~/.runkit ~/.runkit/servers/{port}/token {RUNTIME}/{port}/ray-token {RUNTIME} $(find {RUNTIME}/{port} -maxdepth 1 -type s)"
    )
    for line in modes.stdout.splitlines():
        assert line.split()[0] in ("600", "700"), modes.stdout


def test_secrets_of_env_vars_stay_out_of_sight(cluster: rk.Cluster, host: Host) -> None:
    env = rk.env(name="secretive", env_vars={"API_KEY": "hunter2-hunter2"}, root_reqs=False)
    assert rk.function(jobs.environ).to(cluster, env=env)("API_KEY") == "hunter2-hunter2"
    assert "hunter2-hunter2" not in json.dumps(cluster.status())
    said = host.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", check=False).stdout
    assert "hunter2-hunter2" not in said
    logs = host.run(f"grep -rl hunter2-hunter2 ~/.runkit/servers/*/log {RUNTIME}/*/ray/*/logs", check=False).stdout
    assert logs == ""
