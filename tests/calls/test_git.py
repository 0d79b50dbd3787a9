"""Packages from git on a real host, and the search for what their tokens could have left behind."""

from __future__ import annotations

import base64
import glob
import os
import pickle
import secrets
import shutil
import subprocess
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import cloudpickle
import pytest

import runkit as rk
from runkit.client.git import Git
from tests.calls import jobs
from tests.git_servers import Repository, package, serve
from tests.hosts import Host


@pytest.fixture
def plum(tmp_path: Path) -> Repository:
    made = Repository(tmp_path, "plum")
    made.commit(package("plum", "1.0"), "v1.0")
    return made


def forms(token: str, user: str) -> set[bytes]:
    """What the token may look like."""
    known = {token, quote(token), quote(token, safe=""), repr(token)[1:-1], token.replace("%", "%%")}
    found = {text.encode() for text in known}
    return found | {base64.b64encode(text.encode()) for text in (token, f"{user}:{token}")}


@contextmanager
def processes(needles: set[bytes]) -> Iterator[set[bytes]]:
    """Watch the arguments and environments of all processes: the needles that were in one are in the set at the end."""
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
                try:
                    content = Path(path).read_bytes()
                except OSError:
                    continue
                seen.update(needle for needle in needles if needle in content)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def files_with(needles: set[bytes], *folders: Path) -> list[str]:
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                if any(needle in os.fsencode(path.name) for needle in needles):
                    found.append(str(path))
                elif path.is_file() and not path.is_symlink():
                    content = path.read_bytes()
                    found += [str(path)] if any(needle in content for needle in needles) else []
            except OSError:
                continue
    return found


@pytest.mark.parametrize(("kind", "token"), [("smart", "{}@/:%{}"), ("dumb", "ghp_{}'\"$(x) \\{}%40:@/")])
def test_a_token_is_found_nowhere(
    kind: str,
    token: str,
    cluster: rk.Cluster,
    host: Host,
    plum: Repository,
    client_state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    # Made here: what stands in this file is synced to the host with the code.
    token = token.format(secrets.token_hex(8), secrets.token_hex(8))
    wrong = f"{secrets.token_hex(8)}/@:%"
    given, refused = rk.Secret("mine", env="RUNKIT_TEST_TOKEN"), rk.Secret("old", value=lambda: wrong)
    control = secrets.token_hex(16)
    needles = forms(token, "me") | forms(wrong, "me")
    with serve(plum.bare.parent, kind, token) as server, ExitStack() as watched:
        url = f"{server.url}/plum.git"
        jam = Repository(tmp_path / "more", "jam")  # what it depends on is as private; uv's own git fetches that
        jam.commit(package("jam", "7.0"))
        jam.bare.rename(plum.bare.parent / "jam.git")
        files = package("plum", "1.0")
        files["pyproject.toml"] = files["pyproject.toml"].replace(
            '"1.0"', f'"1.0"\ndependencies = ["jam @ git+{server.url}/jam.git"]'
        )
        plum.commit(files)
        seen = watched.enter_context(processes(needles | {control.encode()}))
        monkeypatch.setenv("RUNKIT_TEST_TOKEN", token)
        private = rk.GitPackage(url, username="me", token=given)
        local = rk.GitPackage(url, username="me", token=given, install_method="local", revision="v1.0")
        env = rk.env(name=f"private-{kind}", reqs=[private], root_reqs=False)
        with pytest.raises(rk.errors.LoginRefused) as caught:
            rk.env(name="refused", reqs=[rk.GitPackage(url, username="me", token=refused)], root_reqs=False).to(cluster)
        assert wrong in server.refused
        function = rk.function(jobs.attribute_of).to(cluster, env=env)
        assert function("plum", "__version__") == "1.0"
        assert rk.function(jobs.attribute_of).to(cluster, env=env)("jam", "__version__") == "7.0"
        again = rk.env(name=f"local-{kind}", reqs=[local], root_reqs=False)
        assert rk.function(jobs.attribute_of).to(cluster, env=again)("plum", "__version__") == "1.0"
        assert cluster.run("git --version; pip list; env", env=env, stream_logs=False)
        subprocess.run(["sleep", "0.3"], env={"CONTROL": control}, check=True)
        assert server.users == {"me"}
    assert seen == {control.encode()}, "what the watch is to see, and nothing else"
    said = "".join(capfd.readouterr())
    for error in (caught.value, caught.value.__cause__, caught.value.__context__):
        said += f"{error!s}{error!r}" + ("".join(traceback.format_exception(error)) if error else "")
    said += f"{private!s}{private!r}{env!s}{env!r}{env._repr_html_()}{function!r}{vars(private)}"
    pickles = [pickle.dumps(private), cloudpickle.dumps(private), cloudpickle.dumps(env)]
    pickles.append(said.encode())
    assert not [blob for blob in pickles for needle in needles if needle in blob]
    places = [host.home, host.tmp, client_state, tmp_path]
    (host.home / "control").write_text(control)
    assert files_with({control.encode()}, *places) == [str(host.home / "control")]
    assert files_with(needles, *places) == []
    assert not list((client_state / "home" / "git").glob("ask-*")), "helpers are gone with the command they were for"


@pytest.mark.parametrize("address", ["ssh://{user}@{host}:{port}{path}", "{user}@{host}:{path}"])
def test_a_repository_reached_over_ssh(
    address: str, host: Host, plum: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(host.known_hosts_line + "\n")
    command = f"ssh -F none -oBatchMode=yes -oUserKnownHostsFile={known} -i {host.key} -p {host.port}"
    monkeypatch.setenv("GIT_SSH_COMMAND", command)
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "client"))
    there = host.home / "plum.git"
    if not there.exists():
        shutil.copytree(plum.bare, there)
        host.run("git config --global --add safe.directory '*'")
    path = host.run("echo $HOME/plum.git").stdout.strip()
    package = rk.GitPackage(
        address.format(user=host.user, host=host.address, port=host.port, path=path), revision="v1.0"
    )
    assert (Git().checkout(package) / "plum.py").read_text() == "__version__ = '1.0'\n"
    known.write_text("")
    monkeypatch.setenv("GIT_SSH_COMMAND", f"{command} -oStrictHostKeyChecking=yes")
    with pytest.raises(rk.errors.LoginRefused, match="SSH login"):
        Git().commit(package)
