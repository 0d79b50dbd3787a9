"""Secrets on a real host: what remote code finds of them, and that nothing and nobody else does."""

from __future__ import annotations

import base64
import secrets
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import runkit as rk
from runkit.errors import InstallFailed, SecretNotFound, UsageError
from tests.calls import jobs
from tests.calls import jobs_secrets as own
from tests.hosts import Host

ODD = 's3cr\'et "q"\n$tail @/:%pä'
"""What a value may hold: quotes, a line break, a dollar, what a URL would have to quote, more than ASCII."""

WATCH = """
import glob, os, subprocess, time
needle, seen = bytes.fromhex(HEX), set()

def look():
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as file:
                if needle in file.read():
                    seen.add((path, open(os.path.dirname(path) + "/comm").read()))
        except OSError:
            pass

control = subprocess.Popen(["sleep", "100"], env={"X": needle})
look()
assert {path for path, _ in seen} == {f"/proc/{control.pid}/environ"}, seen
seen.clear()
control.kill()
control.wait()
print("watching", flush=True)
until = time.monotonic() + 100
while time.monotonic() < until and not os.path.exists(STOP):
    look()
print(sorted(seen))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's home, for what reads credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "HF_TOKEN", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".aws").mkdir()
    return tmp_path


def test_values_arrive(cluster: rk.Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", ODD)
    (home / "key.bin").write_bytes(b"\0\xff")
    (home / ".aws/credentials").write_text("[default]\n")
    by_env, by_path = rk.Secret("odd", env="ODD"), rk.Secret("bin", path="~/key.bin", env="BIN_FILE")
    by_call = rk.Secret("call", value=lambda: "called")
    command = 'test "$CALL" = called && test -s "$BIN_FILE"'
    env = rk.env(name="secretive", secrets=["aws", by_env, by_path, by_call], root_reqs=False, setup_cmds=[command])
    found = rk.function(own.look).to(cluster, env=env)(
        ["ODD", "CALL", "BIN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "RUNKIT_SECRETS"]
    )
    folder = found["RUNKIT_SECRETS"]
    assert found == {
        "ODD": ODD, "CALL": "called", "BIN_FILE": f"{folder}/bin/key.bin", "AWS_SHARED_CREDENTIALS_FILE": f"{folder}/aws/credentials",
        "RUNKIT_SECRETS": folder,
    }  # fmt: skip
    assert rk.function(own.modes).to(cluster, env=env)(folder) == {
        "": 0o700, "aws": 0o700, "bin": 0o700, ".index.json": 0o600, "aws/credentials": 0o600, "bin/key.bin": 0o600,
    }  # fmt: skip
    # Of a Secret that travelled, and of one that is named over there; in children as well.
    value = rk.function(own.value).to(cluster, env=env)
    assert [value(by_env), value(by_call), value("odd"), value("call")] == [ODD, "called"] * 2
    assert rk.function(own.data).to(cluster, env=env)("bin") == b"\0\xff"
    assert rk.function(own.in_a_child).to(cluster, env=env)("ODD") == ODD
    assert cluster.run('printf %s "$ODD"', env=env, stream_logs=False)[0][1] == ODD
    with pytest.raises(SecretNotFound, match="'other' has no value"):
        value("other")
    assert rk.function(own.look).to(cluster)(["ODD", "RUNKIT_SECRETS"]) == {"ODD": None, "RUNKIT_SECRETS": None}


def test_a_missing_one_is_named_before_anything_else(cluster: rk.Cluster) -> None:
    far = rk.cluster("far", host="192.0.2.1")  # nobody is there
    env = rk.env(name="lacking", secrets=["huggingface", "aws", rk.Secret("db", env="NO_SUCH")])
    for place in (far, cluster):
        with pytest.raises(SecretNotFound) as caught:
            env.to(place)
        for words in (
            "'huggingface' has no value: looked for HF_TOKEN; or",
            "AWS_ACCESS_KEY_ID and AWS_SECRET",
            "NO_SUCH is not set",
        ):
            assert words in str(caught.value)
    with pytest.raises(SecretNotFound):
        rk.cluster("far", host="192.0.2.1", default_env=env).up_if_not()
    assert "lacking" not in cluster.status()["envs"]


def test_one_variable_has_one_source(cluster: rk.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "value-of-one")
    one, two = rk.Secret("one", env="ONE"), rk.Secret("two", env="ONE")
    for wrong, message in (
        ({"secrets": [one, two]}, "ONE comes from the secret 'one' and from the secret 'two'"),
        ({"secrets": [one], "env_vars": {"ONE": "x"}}, "ONE comes from env_vars and from the secret 'one'"),
        ({"secrets": [rk.Secret("zero", value=lambda: "a\0b")]}, "zero byte"),
    ):
        with pytest.raises(UsageError, match=message):
            rk.env(name="twice", root_reqs=False, **wrong).to(cluster)  # type: ignore[arg-type]


def test_a_changed_value_reaches_the_running_process(
    cluster: rk.Cluster, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURN", "first")
    (home / ".aws/credentials").write_text("first")
    env = rk.env(
        name="turning", secrets=["aws", rk.Secret("turn", env="TURN")], env_vars={"KEPT": "1"}, root_reqs=False
    )
    look = rk.function(own.look).to(cluster, env=env)
    before, pid = look(["TURN", "RUNKIT_SECRETS"]), rk.function(jobs.pid).to(cluster, env=env)
    process = pid()
    cluster.put("stays", 1, env=env)
    monkeypatch.setenv("TURN", ODD)
    (home / ".aws/credentials").write_text("second")
    (home / ".aws/config").write_text("[default]")
    env.to(cluster)
    folder = before["RUNKIT_SECRETS"]
    assert look(["TURN", "AWS_CONFIG_FILE"]) == {"TURN": ODD, "AWS_CONFIG_FILE": f"{folder}/aws/config"}
    assert cluster.run("cat $AWS_SHARED_CREDENTIALS_FILE", env=env, stream_logs=False)[0][1] == "second"
    # A process that takes its place has the same; one that is dropped is gone, its files too.
    with pytest.raises(rk.errors.WorkerDied):
        rk.function(jobs.die).to(cluster, env=env)("exit")
    assert look(["TURN"]) == {"TURN": ODD}
    process = pid()
    fewer = rk.env(name="turning", secrets=[rk.Secret("turn", env="TURN")], env_vars={"KEPT": "1"}, root_reqs=False)
    fewer.to(cluster)
    assert look(["TURN", "AWS_CONFIG_FILE"]) == {"TURN": ODD, "AWS_CONFIG_FILE": None}
    assert sorted(rk.function(own.modes).to(cluster, env=fewer)(folder)) == ["", ".index.json"]
    rk.env(name="turning", env_vars={"KEPT": "1"}, root_reqs=False).to(cluster)
    assert look(["TURN", "RUNKIT_SECRETS"]) == {"TURN": None, "RUNKIT_SECRETS": None}
    assert pid() == process
    assert cluster.run(f"ls {folder}", stream_logs=False)[0][0] != 0


def test_the_default_env_has_secrets_too(cluster: rk.Cluster, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = secrets.token_hex(12), secrets.token_hex(12)
    monkeypatch.setenv("TURN", first)
    secret = rk.Secret("turn", env="TURN")
    with rk.cluster("box", **cluster_place(cluster), default_env=rk.env(secrets=[secret], root_reqs=False)) as box:
        look = rk.function(own.look).to(box, env=rk.env(env_vars={"ON_TOP": "1"}, root_reqs=False))
        assert look(["TURN", "ON_TOP"]) == {"TURN": first, "ON_TOP": "1"}
        process = rk.function(jobs.pid).to(box)()
        monkeypatch.setenv("TURN", second)
        assert rk.function(own.look).to(box)(["TURN", "ON_TOP"]) == {"TURN": second, "ON_TOP": "1"}
        assert rk.function(jobs.pid).to(box)() == process
        assert rk.function(own.on_ray).to(box)("TURN") == second
        assert found_on(host, [first, second]) == set()
    cluster.remove_env("default")


def cluster_place(cluster: rk.Cluster) -> dict[str, object]:
    return {
        "host": cluster.host, "ssh_port": cluster.ssh_port, "ssh_creds": cluster.ssh_creds, "server_port": cluster.server_port
    }  # fmt: skip


def found_on(host: Host, needles: list[str]) -> set[str]:
    """Files of the last ten minutes that have one of them in them, of all that a user of the host can write."""
    places = '~ /tmp /var/tmp /dev/shm "${RUNKIT_RUNTIME_DIR:-/tmp}"'
    search = f'needles="$(cat)"; find {places} -type f -mmin -10 -print0 2>/dev/null | xargs -0 grep -laF "$needles" 2>/dev/null'
    return set(host.run(search, input="\n".join(needles), check=False).stdout.split())


@contextmanager
def watched_processes(host: Host, needle: str) -> Iterator[list[str]]:
    """Processes of the host whose command line or environment had the needle in it meanwhile; filled at the end."""
    seen: list[str] = []
    stop = f"/tmp/stop-{secrets.token_hex(4)}" if host.isolated else str(host.tmp / "stop")
    script = WATCH.replace("HEX", repr(needle.encode().hex())).replace("STOP", repr(stop))
    watch = subprocess.Popen(
        [*host.ssh(), "python3 -"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # the script goes through a pipe: no file has it
    assert watch.stdin is not None
    assert watch.stdout is not None
    watch.stdin.write(script)
    watch.stdin.close()
    assert watch.stdout.readline() == "watching\n"
    try:
        yield seen
    finally:
        host.run(f"touch {stop}")
        seen.append(watch.stdout.readline().strip())
        watch.wait(30)
        host.run(f"rm {stop}")


def test_it_is_nowhere_else(
    cluster: rk.Cluster,
    host: Host,
    home: Path,
    client_state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    core = "Zq7" + secrets.token_hex(12)
    value, content = f'it\'s "{core}"\n@/:%ä{core}', f"[default]\naws_secret_access_key = {core}\n"
    needles = [core, base64.b64encode(content.encode()).decode()[20:40]]
    monkeypatch.setenv("ODD", value)
    (home / ".aws/credentials").write_text(content)
    held = ["aws", rk.Secret("odd", env="ODD")]
    env = rk.env(name="hidden", secrets=held, root_reqs=False)
    with watched_processes(host, core) as seen:
        value_of = rk.function(own.value).to(cluster, env=env)
        with pytest.raises(ZeroDivisionError) as raised:
            rk.function(own.fail).to(cluster, env=env)("ODD")
        assert value_of("odd") == value
        folder = rk.function(own.look).to(cluster, env=env)(["RUNKIT_SECRETS"])["RUNKIT_SECRETS"] or ""
        # A process that dies, a server that dies: what comes in their places has it, and nothing was written for that.
        with pytest.raises(rk.errors.WorkerDied) as died:
            rk.function(jobs.die).to(cluster, env=env)("SIGSEGV")
        host.run(f"kill -9 {cluster.status()['pid']}")
        assert cluster.up_if_not().status()["envs"]["hidden"]["secrets_lost"] == []
        assert value_of("odd") == value
        assert rk.function(own.value).to(cluster, env=env)(rk.Secret("odd", env="ODD")) == value
    assert seen == ["[]"]
    # What a set-up command prints, and the error that it ends in.
    with pytest.raises(InstallFailed) as failed:
        rk.env(
            name="hidden",
            secrets=held,
            root_reqs=False,
            setup_cmds=['echo "$ODD"; cat "$AWS_SHARED_CREDENTIALS_FILE"; exit 3'],
        ).to(cluster)
    assert "***" in failed.value.output
    for error in (raised.value, died.value, failed.value):
        assert core not in "".join(traceback.format_exception(error))
    printed = capfd.readouterr()
    assert "***" in printed.err
    assert core not in printed.out + printed.err + repr(cluster.status()) + repr(env)
    files = found_on(host, needles)
    assert {Path(path).name for path in files} == {"credentials"}
    assert core not in "".join(path.read_text(errors="replace") for path in client_state.rglob("*") if path.is_file())
    assert value_of("odd") == value  # the failed one changed nothing
    cluster.remove_env("hidden")
    assert found_on(host, needles) == set()
    assert folder


def test_after_a_restart_it_is_missed_and_sent_again(
    cluster: rk.Cluster, host: Host, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value, content = secrets.token_hex(12), secrets.token_hex(12)
    monkeypatch.setenv("TURN", value)
    (home / ".aws/credentials").write_text(content)
    env = rk.env(name="missed", secrets=["aws", rk.Secret("turn", env="TURN")], root_reqs=False)
    need = rk.function(own.need).to(cluster, env=env)
    assert need("TURN") == value
    assert len(found_on(host, [content])) == 1
    build = cluster.status()["envs"]["missed"]["build"]
    cluster.stop_server()
    assert found_on(host, [content, value]) == set()
    cluster.up_if_not()
    capsys.readouterr()
    with pytest.raises(KeyError) as caught:
        need("TURN")
    note = "the secrets aws, turn of env 'missed' did not survive a restart of the server: send the env again"
    assert note in "".join(caught.value.__notes__)
    assert note in capsys.readouterr().err
    with pytest.raises(SecretNotFound, match="did not come with this env"):
        rk.function(own.value).to(cluster, env="missed")("turn")
    assert "without its secrets aws, turn: send it again" in repr(env.status(cluster))
    assert rk.function(own.need).to(cluster, env=env)("TURN") == value
    state = cluster.status()["envs"]["missed"]
    assert (state["build"], state["secrets_lost"]) == (build, [])
    cluster.remove_env("missed")
