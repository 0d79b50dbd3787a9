"""What README and docs show is run, on the embedded cluster and on a real SSH host, and prints what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import Host

from . import pages

SHOWN_HOST = 'host="gpu.example.org", ssh_creds={"ssh_user": "me", "ssh_private_key": "~/.ssh/id_ed25519"}'
RUNNABLE = [page for page in pages.pages() if pages.script(page).strip()]


@pytest.mark.timeout(600)  # the first one installs the server
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(pages.REPOSITORY)))
def test_page(page: Path, host: Host, gits: dict[str, str], tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[project]\nname = "reader"\nversion = "0"\n')
    for name, content in pages.files(page).items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    mine = f'host="{host.address}", ssh_port={host.port}, ssh_creds={host.ssh_creds!r}, server_port={host.server_port}'
    script = pages.script(page).replace(SHOWN_HOST, mine)
    assert "example.org" not in script, "a host that the tests do not put one of theirs in place of"
    (project / "page.py").write_text(script)

    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=project,
        env={**os.environ, **gits, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}\n{done.stderr}"
    printed = iter(done.stdout.splitlines())
    for expected in pages.outputs(page):
        assert any(expected in line for line in printed), f"{page.name} did not print {expected!r}:\n{done.stdout}"


def test_every_example_ends_up_in_a_page() -> None:
    assert len(RUNNABLE) >= 9
