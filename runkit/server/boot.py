"""The server comes back when its host starts: by systemd where that runs, otherwise by cron.

Both run `servers/<port>/boot`, which every start of the server writes anew, so that it is the runkit of today that comes back.
The secrets of envs are not in it; a proxy may have a password, and only this user can read the file. The envs' plans are kept, with
their variables; secrets are not.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runkit.errors import SetupFailed
from runkit.server.settings import Settings, write_private

SYSTEM_UNITS = Path("/etc/systemd/system")
SYSTEMD_RUNS = Path("/run/systemd/system")
"""There where systemd is the one that starts services (sd_booted(3))."""

# What the server, and so every env, should find as it is now.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_KEPT_VARIABLES = (
    *("HOME", "PATH", "LANG", "LC_ALL", "TZ", "RUNKIT_RUNTIME_DIR", "LD_LIBRARY_PATH"),
    *("UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_OFFLINE", "UV_PYTHON_INSTALL_MIRROR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *_PROXIES,
    *(name.lower() for name in _PROXIES),
)

_UNIT = """\
# Made by runkit (`runkit server enable`); `runkit server disable` removes it.
[Unit]
Description=runkit's server on port {port}
{network}RequiresMountsFor={home}

[Service]
# The server detaches itself, and is ready when this has ended.
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {script} start
ExecStop=/bin/sh {script} stop
TimeoutStartSec=300
LimitNOFILE=65536
# A call that takes too much memory ends its env's process, not the server.
OOMPolicy=continue

[Install]
WantedBy={target}
"""

Say = Callable[[str], None]


def script_of(settings: Settings) -> Path:
    """What is run at boot."""
    return settings.lasting / "boot"


def write_script(settings: Settings) -> Path:
    """Write what starts this server with this code and this Python."""
    variables = {name: os.environ[name] for name in _KEPT_VARIABLES if os.environ.get(name)}
    variables["RUNKIT_HOME"] = str(settings.home)
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    command = f"{shlex.quote(sys.executable)} -m runkit.server"
    path = script_of(settings)
    text = (
        f"# Starts or stops runkit's server on port {settings.port} as it ran last. Every start writes this file anew.\n"
        f'{exports}cd /\nPYTHONPATH={shlex.quote(str(settings.code))} exec {command} "${{1:-start}}" --port {settings.port}\n'
    )
    write_private(path, text.encode())
    return path


def enable(port: int, say: Say = lambda text: None) -> str:
    """Have the server start with this host; "systemd", "systemd --user" or "cron", whichever does it.

    Raises:
        SetupFailed: neither is there, or they refuse; the message says what to do by hand.
    """
    settings = Settings.of(port)
    script = write_script(settings)
    tried = []
    for way in (_by_system_unit, _by_user_unit, _by_cron):
        try:
            how = way(settings)
        except SetupFailed as error:
            tried.append(str(error))
            continue
        say(f"the server on port {port} starts with this host, by {how}")
        if how == "cron" and not _cron_runs():
            say(
                "no cron daemon is seen to run here (containers have none, as a rule): without one nothing is started at boot"
            )
        return how
    raise SetupFailed(
        f"nothing on this machine can start the server at boot: {'; '.join(tried)}. "
        f"Have whatever starts programs here run, as {getpass.getuser()}: sh {shlex.quote(str(script))}"
    )


def disable(port: int) -> bool:
    """Undo `enable`; False if there was nothing to undo."""
    settings = Settings.of(port)
    found = False
    for folder, scope in ((SYSTEM_UNITS, ()), (_user_units(), ("--user",))):
        unit = folder / _unit_name(settings)
        if _is_ours(unit, settings) and os.access(folder, os.W_OK):
            found = True
            _try("systemctl", *scope, "disable", unit.name)
            unit.unlink()
            _try("systemctl", *scope, "daemon-reload")
    if shutil.which("crontab"):
        lines = _crontab()
        others = [line for line in lines if not line.endswith(_mark(settings))]
        if others != lines:
            found = True
            _write_crontab(others)
    return found


def unit(settings: Settings, system: bool) -> str:
    """The text of the systemd unit.

    Args:
        system: for the host's systemd, else for the user's own.
    """
    network = "Wants=network-online.target\nAfter=network-online.target\n" if system else ""
    return _UNIT.format(
        port=settings.port,
        home=_in_unit(str(settings.home)),
        script=_in_unit(str(script_of(settings))),
        network=network,
        target="multi-user.target" if system else "default.target",
    )


def cron_line(settings: Settings) -> str:
    """The line of the crontab."""
    script, log = (shlex.quote(str(path)) for path in (script_of(settings), settings.log / "boot.log"))
    command = f"/bin/sh {script} start >>{log} 2>&1"
    return f"@reboot {command.replace('%', chr(92) + '%')} {_mark(settings)}"  # a bare % ends the command (crontab(5))


def _by_system_unit(settings: Settings) -> str:
    if not SYSTEMD_RUNS.is_dir():
        raise SetupFailed("systemd does not run here")
    if os.getuid() != 0:
        raise SetupFailed("only root may add to the host's systemd")
    _install_unit(SYSTEM_UNITS, settings, system=True)
    return "systemd"


def _by_user_unit(settings: Settings) -> str:
    if not SYSTEMD_RUNS.is_dir() or os.getuid() == 0:
        raise SetupFailed("no systemd of this user runs here")
    # Without lingering it would start at the first login, and end with the last.
    if why := _try("loginctl", "enable-linger"):
        raise SetupFailed(f"systemd does not let this user's services run without a login ({why})")
    _install_unit(_user_units(), settings, system=False)
    return "systemd --user"


def _install_unit(folder: Path, settings: Settings, system: bool) -> None:
    scope = () if system else ("--user",)
    path = folder / _unit_name(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(unit(settings, system))
        path.chmod(0o644)
    except OSError as error:
        raise SetupFailed(f"{path} cannot be written: {error.strerror}") from error
    why = _try("systemctl", *scope, "daemon-reload") or _try("systemctl", *scope, "enable", path.name)
    if why:
        path.unlink(missing_ok=True)
        raise SetupFailed(f"systemd refuses the unit: {why}")


def _is_ours(unit: Path, settings: Settings) -> bool:
    """Whether a unit is there and starts this server: one on the same port may have another RUNKIT_HOME."""
    try:
        return _in_unit(str(script_of(settings))) in unit.read_text()
    except OSError:
        return False


def _cron_runs() -> bool:
    """Whether a cron daemon is seen, by its process or by what it notes of itself."""
    if any(Path("/run").glob("*cron*.pid")):
        return True
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if re.fullmatch("(a|f|b|s)?crond?|cronie", comm.read_text().strip()):
                return True
    return False


def _by_cron(settings: Settings) -> str:
    if not shutil.which("crontab"):
        raise SetupFailed("there is no cron")
    lines = [line for line in _crontab() if not line.endswith(_mark(settings))]
    _write_crontab([*lines, cron_line(settings)])
    return "cron"


def _crontab() -> list[str]:
    """The lines of this user's crontab, byte for byte.

    Raises:
        SetupFailed: it cannot be read: to write it anew would lose it.
    """
    done = _run_crontab("-l")
    if done.returncode == 0:
        return os.fsdecode(done.stdout).removesuffix("\n").split("\n") if done.stdout else []
    said = os.fsdecode(done.stderr).strip()
    if re.search("no crontab|no such file", said.lower()):  # the latter is busybox's
        return []
    raise SetupFailed(f"the crontab cannot be read: {said or f'crontab ended with {done.returncode}'}")


def _write_crontab(lines: list[str]) -> None:
    done = _run_crontab("-", os.fsencode("".join(f"{line}\n" for line in lines)))
    if done.returncode:
        raise SetupFailed(f"crontab refuses: {os.fsdecode(done.stderr).strip()}")


def _run_crontab(what: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}  # what it says is looked at
    try:
        return subprocess.run(["crontab", what], input=given, capture_output=True, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupFailed(f"crontab does not work: {error}") from error


def _try(*command: str) -> str:
    """Run a command; why it failed, "" if it did not."""
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or f"{command[0]} ended with {done.returncode}") if done.returncode else ""


def _user_units() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "systemd" / "user"


def _unit_name(settings: Settings) -> str:
    return f"runkit-{settings.port}.service"


def _mark(settings: Settings) -> str:
    return f"# runkit {settings.port} {settings.home}"


def _in_unit(path: str) -> str:
    """A path as one word of a unit file (systemd.syntax(7), systemd.unit(5) on specifiers)."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
