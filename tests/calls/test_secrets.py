"""Secrets on a real host: what remote code finds of them, and that nothing and nobody else does."""

from __future__ import annotations

from pathlib import Path

import pytest

import runkit as rk
from runkit.errors import SecretNotFound
from tests.calls import jobs_secrets as jobs
from tests.hosts import Host

ODD = 's3cr\'et "q"\n$tail @/:%pä'
"""What a value may hold: quotes, a line break, a dollar, what a URL would have to quote, more than ASCII."""

WATCH = r"""
import glob, os, sys, time
seen = {}
print("ready", flush=True)
stop = time.monotonic() + 100
while not os.path.exists(sys.argv[1]) and time.monotonic() < stop:
    for folder in glob.glob("/proc/[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                with open(f"{folder}/{name}", "rb") as file:
                    data = file.read()
            except OSError:
                continue
            if NEEDLE in data:
                seen[folder] = (name, open(f"{folder}/cmdline", "rb").read())
print(seen)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's home, for what reads credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "HF_TOKEN", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def found_on(host: Host, needle: str) -> set[str]:
    """Files that have it in them, of all a user of the host can write: home, /tmp, runtime folder, memory."""
    places = '~ /tmp /var/tmp /dev/shm "${RUNKIT_RUNTIME_DIR:-/tmp}"'
    done = host.run(f"grep -rlaF -f - {places} 2>/dev/null", input=needle + "\n", check=False)
    return set(done.stdout.split())


def test_values_arrive(cluster: rk.Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", ODD)
    (home / "key.bin").write_bytes(b"\0\xff")
    (home / ".aws").mkdir()
    (home / ".aws/credentials").write_text("[default]\n")
    held = [
        rk.Secret("odd", env="ODD"),
        rk.Secret("bin", path="~/key.bin", env="BIN_FILE"),
        rk.Secret("call", value=lambda: "c"),
    ]
    env = rk.env(
        name="secretive", secrets=["aws", *held], root_reqs=False, setup_cmds=["test $CALL = c && test -s $BIN_FILE"]
    )
    look = rk.function(jobs.look).to(cluster, env=env)
    found = look(["ODD", "CALL", "BIN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "RUNKIT_SECRETS"])
    assert (found["ODD"], found["CALL"]) == (ODD, "c")
    folder = found["RUNKIT_SECRETS"]
    assert found["BIN_FILE"] == f"{folder}/bin/key.bin"
    assert found["AWS_SHARED_CREDENTIALS_FILE"] == f"{folder}/aws/credentials"
    assert rk.function(jobs.modes).to(cluster, env=env)(folder) == {
        "": 0o700, "aws": 0o700, "bin": 0o700, "index.json": 0o600, "aws/credentials": 0o600, "bin/key.bin": 0o600,
    }  # fmt: skip
    # Of a Secret that travelled, and of one that is named over there; in a child as well.
    value = rk.function(jobs.value).to(cluster, env=env)
    assert [value(one) for one in held[::2]] == [ODD, "c"]
    assert rk.function(jobs.data).to(cluster, env=env)("bin") == b"\0\xff"
    assert rk.function(jobs.in_a_child).to(cluster, env=env)("ODD") == ODD
    assert cluster.run('printf %s "$ODD"', env=env)[0][1] == ODD
    with pytest.raises(SecretNotFound, match="'other' has no value"):
        value("other")
