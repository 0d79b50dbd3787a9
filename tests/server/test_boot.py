"""A default env out of a file, as cloud-init has it made, and the server that comes back when its host starts."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from runkit.client.env_status import EnvStatus
from runkit.errors import SetupFailed, UsageError
from runkit.model.env_file import read_env
from runkit.server import boot
from runkit.server.settings import Settings
from tests.docs import pages
from tests.hosts import REPOSITORY, Host

PAGE = pages.REPOSITORY / "docs/how-to/looking-after-envs.md"

FILE = """
name = "cluster_default"
reqs = ["./tools"]
setup_cmds = ["echo made by $OF_BOOT >made-at-boot"]
working_dir = "work"
secrets = [{ name = "boot", env = "BOOT_TOKEN" }]

[env_vars]
OF_BOOT = "it's \\"here\\", $HOME %h"
"""

TOKEN = "t0ken-" + secrets.token_hex(8)

# There is no cron on this machine, and none would run in a host's namespace: what `crontab` keeps, a file keeps.
CRONTAB = '#!/bin/sh\n[ "$1" = -l ] && exec cat ~/crontab\ncat >~/crontab\n'


@pytest.fixture(scope="module")
def lone_host(hosts2: list[Host]) -> Iterator[Host]:
    """A host of its own, set up by a client once."""
    host = hosts2[1]
    place = rk.cluster("lone", **host.place)
    place.up_if_not()
    yield host
    host.start() if not _runs(host) else None
    place.stop_server()


def _runs(host: Host) -> bool:
    return host.run("true", check=False).returncode == 0


def set_up(host: Host, *options: str) -> tuple[int, list[str], dict[str, Any]]:
    """Run setup_cluster.sh there as it lies there: its status, what it says, its answer."""
    script = host.run("ls -d ~/.runkit/code/*/runkit/launch/setup_cluster.sh").stdout.split()[-1]
    done = host.run(
        f"BOOT_TOKEN={TOKEN} PATH=$HOME/bin:$PATH sh {script} --offline --port {host.server_port} {' '.join(options)}",
        check=False,
    )
    *said, last = done.stdout.splitlines()
    return done.returncode, said, json.loads(last)


def test_from_a_file_and_back_after_a_boot(lone_host: Host) -> None:
    host = lone_host
    put(host, "init/tools/helper_of_boot.py", "WORD = 'found'\n")
    put(host, "init/work/data.txt", "data\n")
    put(host, "init/default.toml", FILE)
    put(host, "bin/crontab", CRONTAB)
    put(host, "crontab", "@daily /bin/true\n")

    status, said, answer = set_up(host, "--default-env", "~/init/default.toml", "--boot")
    assert status == 0, [*said, answer]
    assert answer["ready"]["port"] == host.server_port
    assert any("by cron" in line for line in said)
    assert set_up(host, "--default-env", "~/init/default.toml", "--boot")[0] == 0  # changes nothing
    before, env = look(host)
    assert env.secrets_lost == ()
    with rk.cluster("lone", **host.place) as box:
        assert box.run("echo ${#BOOT_TOKEN}", stream_logs=False)[0][1] == f"{len(TOKEN)}\n"
    daily, line = (host.home / "crontab").read_text().splitlines()
    assert daily == "@daily /bin/true"
    plan = host.home / f".runkit/servers/{host.server_port}/envs/default.json"
    assert plan.stat().st_mode & 0o077 == 0

    host.kill()
    for path in host.tmp.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    host.start()
    assert rk.cluster("lone", **host.place).is_up() is False
    # What cron does: the line without its time, with few variables, in the user's home.
    host.run(
        "env -i HOME=$HOME LOGNAME=$USER PATH=/usr/bin:/bin SHELL=/bin/sh /bin/sh -c "
        + _quoted(line.removeprefix("@reboot "))
    )
    after, env = look(host)
    assert after == before
    assert env.secrets_lost == ("boot",)  # the values of secrets are on no disk
    assert host.run(f"grep -rl {TOKEN} ~ /tmp 2>/dev/null", check=False).stdout == ""


def put(host: Host, name: str, text: str) -> None:
    path = f"~/{name}"
    host.run(f"mkdir -p $(dirname {path}) && cat >{path} && chmod 755 {path}", input=text)


def look(host: Host) -> tuple[str, EnvStatus]:
    """What a client that knows nothing of the file finds there."""
    with rk.cluster("lone", **host.place) as box:
        lines = [
            "import helper_of_boot, os, sys",
            "print(helper_of_boot.WORD, os.environ['OF_BOOT'], sys.prefix)",
            "print(open('data.txt').read(), open('made-at-boot').read())",
        ]
        [(code, out, err)] = box.run_python(lines, env="cluster_default", stream_logs=False)
        assert code == 0, err
        env = box.env_status()
        assert (env.state, env.alias) == ("ready", "cluster_default")
        return out, env


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_what_is_wrong_is_said(lone_host: Host) -> None:
    """Before anything where that can be seen; the server stays up in any case."""
    host = lone_host
    put(host, "init/wrong.toml", 'req = ["numpy"]\n')
    status, _, answer = set_up(host, "--default-env", "~/init/wrong.toml")
    assert status == 1
    assert "did you mean 'reqs'" in answer["error"]["message"]
    status, _, answer = set_up(host, "--default-env", "~/init/nothing.toml")
    assert (status, "no such file" in answer["error"]["message"]) == (1, True)
    put(host, "init/wrong.toml", 'setup_cmds = ["no-such-program-of-runkit"]\n')
    script = REPOSITORY / "runkit/launch/setup_cluster.sh"
    done = subprocess.run(["sh", str(script), "--default-env"], capture_output=True, text=True)
    assert (done.returncode, "--default-env wants a value" in done.stderr) == (2, True)
    pid = rk.cluster("lone", **host.place).up_if_not().status()["pid"]
    status, _, answer = set_up(host, "--default-env", "~/init/wrong.toml")
    assert (status, answer["error"]["type"]) == (1, "InstallFailed")
    assert "no-such-program-of-runkit" in answer["error"]["message"]
    assert rk.cluster("lone", **host.place).status()["pid"] == pid


def test_files(tmp_path: Path) -> None:
    [shown] = [one for one in pages.blocks(PAGE) if one.title and one.title.endswith(".toml")]
    (tmp_path / "requirements.txt").write_text("six\n")
    (tmp_path / "shown.toml").write_text(shown.body)
    assert read_env(tmp_path / "shown.toml").env_vars == {"MODE": "shared"}
    (tmp_path / "here").mkdir()
    file = tmp_path / "env.toml"
    file.write_text(
        'name = "x"\nreqs = ["./here", "six>=1"]\ncompute = { CPU = 1 }\nsetup_cmds = "true"\nenv_vars = { A = "b" }\n'
    )
    env = read_env(file)
    assert (env.name, env.folder, env.compute, env.env_vars) == ("x", str(tmp_path), {"CPU": 1}, {"A": "b"})
    assert env.local_folders() == [str(tmp_path / "here")]
    as_json = tmp_path / "env.json"
    as_json.write_text(
        json.dumps(
            {
                "name": "x",
                "reqs": ["./here", "six>=1"],
                "compute": {"CPU": 1},
                "setup_cmds": "true",
                "env_vars": {"A": "b"},
            }
        )
    )
    assert read_env(as_json) == env
    described = tmp_path / "environment.yml"
    described.write_text("name: x\ndependencies: [python]\n")
    with pytest.raises(UsageError, match='conda_env = "environment.yml"'):
        read_env(described)
    for text, words in (
        ("name = x\n", r"env\.toml is no TOML: .*line 1"),
        ('pyhton = "3.12"\n', "unknown key 'pyhton' .did you mean 'python'"),
        ("python = 3.10\n", r"env\.toml: python=3\.1 .*a string"),
        ("env_vars = { A = 1 }\n", "must be a string"),
        ('working_dir = "nowhere"\n', "there is no folder"),
        ("package_sync = true\n", "give it to rk.cluster"),
        ('secrets = [{ nam = "x" }]\n', "not nam"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=words):
            read_env(file)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's own checker")
@pytest.mark.parametrize("system", [True, False])
def test_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: bool) -> None:
    home = tmp_path / "a home, 100% $odd"
    monkeypatch.setenv("RUNKIT_HOME", str(home))
    settings = Settings.of(32300)
    boot.write_script(settings)
    unit = tmp_path / "runkit-32300.service"
    unit.write_text(boot.unit(settings, system))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    check = ["systemd-analyze", "verify", *([] if system else ["--user"]), str(unit)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert (done.returncode, "runkit-32300" in done.stderr) == (0, False), done.stderr
    status = subprocess.run(["/bin/sh", boot.script_of(settings), "status"], capture_output=True, text=True, env={})
    assert json.loads(status.stdout) == {"running": False}, status.stderr
    assert boot.script_of(settings).stat().st_mode & 0o077 == 0


def test_where_nothing_starts_programs_at_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(boot, "SYSTEMD_RUNS", tmp_path / "nothing")
    with pytest.raises(SetupFailed, match=r"no cron.*run, as .*: sh .*/servers/32300/boot"):
        boot.enable(32300)
    assert not boot.disable(32300)


FULL = b"@daily /bin/true # caf\xe9\x0c\n30 2 * * * echo a\xe2\x80\xa8b\n"


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this user's crontab holds, on a machine with nothing but cron."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "crontab"
    program.write_text(CRONTAB)
    program.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(boot, "SYSTEMD_RUNS", tmp_path / "nothing")
    return tmp_path / "crontab"


def test_a_crontab_stays_as_it_is_but_for_one_line(crontab: Path) -> None:
    crontab.write_bytes(FULL)
    assert boot.enable(32300) == "cron"
    said: list[str] = []
    assert boot.enable(32300, said.append) == "cron"
    assert any("no cron daemon" in line for line in said) is not boot._cron_runs()
    before, _, added = crontab.read_bytes().rpartition(b"@reboot")
    assert before == FULL
    assert b"/servers/32300/boot start" in added
    assert boot.disable(32300)
    assert crontab.read_bytes() == FULL


def test_a_crontab_that_cannot_be_read_is_not_written(crontab: Path) -> None:
    program = crontab.parent / "bin" / "crontab"
    crontab.write_bytes(FULL)
    program.write_text('#!/bin/sh\n[ "$1" = -l ] && { echo cannot open the spool >&2; exit 1; }\ncat >~/crontab\n')
    with pytest.raises(SetupFailed, match="cannot open the spool"):
        boot.enable(32300)
    assert crontab.read_bytes() == FULL
    program.write_text('#!/bin/sh\n[ "$1" = -l ] && { echo no crontab for you >&2; exit 1; }\ncat >~/crontab\n')
    assert boot.enable(32300) == "cron"
    assert crontab.read_bytes().startswith(b"@reboot")


def test_a_server_started_at_boot_reaches_what_it_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path))
    kept = {
        "https_proxy": "http://me:p'ss@proxy:3128",
        "NO_PROXY": "localhost",
        "UV_OFFLINE": "1",
        "UV_NATIVE_TLS": "1",
    }
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("A_TOKEN", "secret")
    script = boot.write_script(Settings.of(32300))
    exports = "".join(line for line in script.read_text().splitlines(keepends=True) if line.startswith("export "))
    shown = subprocess.run(["/bin/sh", "-c", f"{exports}env"], env={}, capture_output=True, text=True).stdout
    assert {f"{name}={value}" for name, value in kept.items()} <= set(shown.splitlines())
    assert "A_TOKEN" not in shown
    assert script.stat().st_mode & 0o077 == 0


def test_the_unit_of_another_home_stays(crontab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = crontab.parent / ".config/systemd/user"
    units.mkdir(parents=True)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(boot, "SYSTEM_UNITS", crontab.parent / "system")
    crontab.write_text("")
    unit = units / "runkit-32300.service"
    unit.write_text(boot.unit(Settings.of(32300), system=False))
    monkeypatch.setenv("RUNKIT_HOME", str(crontab.parent / "other"))
    assert not boot.disable(32300)
    assert unit.exists()
    monkeypatch.setenv("RUNKIT_HOME", str(crontab.parent / "home"))
    assert boot.disable(32300)
    assert not unit.exists()
