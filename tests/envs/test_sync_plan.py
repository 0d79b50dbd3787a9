"""`runkit sync plan`, and what `runkit sync verify` compares: a plan, with what was installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import uv
from host import Host
from packages import Index, wheel
from venvs import Client, Venv, project

from runkit.cli.__main__ import main
from runkit.cli.sync_plan import differences


def test_a_plan_says_what_becomes_of_each_package(
    replicating: Client, shop: Index, venv: Venv, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.add(
        wheel(tmp_path, "medlar", "1.0", tag=f"cp{sys.version_info[0]}{sys.version_info[1]}-none-manylinux_2_17_x86_64")
    )
    mine = project(tmp_path / "mine", "mine")
    venv.install("pie", "medlar", "-e", str(mine))
    plan = ["sync", "plan", "--python", str(venv.folder)]
    assert main(plan) == 0
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines() if line}
    assert rows["package"] == "here there level why"
    assert rows["pie"] == "1.0 1.0 exact"
    assert rows["medlar"] == "1.0 1.0 exact"
    assert rows["mine"] == f"1.0 1.0 synced {mine}"
    assert rows[str(mine)] == "src"
    assert main([*plan, "--json", "--platform", "aarch64", "--ignore", "medlar", "--critical", "pie"]) == 0
    found = json.loads(capsys.readouterr().out)
    levels = {package["name"]: package["level"] for package in found["packages"]}
    assert levels == {"apple": "series", "medlar": "ignored", "mine": "synced", "pie": "critical"}
    assert (found["target"]["machine"], found["deviations"]) == ("aarch64", [])
    assert main([*plan, "--platform", "aarch64"]) == 0
    assert re.search(
        r"(?m)^medlar +1\.0 +- +left out +what is installed here is for another platform", capsys.readouterr().out
    )
    assert main([*plan, "--platform", "aarch64", "--strict"]) == 1
    assert "medlar 1.0 is left out: what is installed here is for another platform" in capsys.readouterr().err
    assert main([*plan, "--python-version", "3.5"]) == 1


def test_a_plan_as_a_lock(replicating: Client, venv: Venv, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plum = project(tmp_path / "plum", "plum")
    venv.install("pie", str(plum))
    assert main(["sync", "plan", "--python", str(venv.folder), "--pylock"]) == 0
    (tmp_path / "pylock.toml").write_text(capsys.readouterr().out)
    other = Venv(tmp_path / "other")
    sync = [
        uv.find_uv_bin(),
        "pip",
        "sync",
        "--preview",
        "-q",
        "--python",
        str(other.python),
        str(tmp_path / "pylock.toml"),
    ]
    done = subprocess.run(sync, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert other.run("import pie, plum; print(pie.__version__, plum.VALUE)") == "1.0 1"


def test_differences_are_found(replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path) -> None:
    venv.install("pie", "sourdough")
    replicating.send(venv)
    spec = host.plans["e"]["spec"]
    assert differences(replicating.plan(venv).plan, spec) == []
    shop.add(wheel(tmp_path, "quince", "1.0"))
    venv.install("quince", "pie", "--no-deps", "apple==2.0").uninstall("sourdough")
    assert differences(replicating.plan(venv).plan, spec) == [
        "apple is 2.0 here and 1.0 there",
        "quince is 1.0 here and missing there",
        "sourdough is missing here and 1.0 there",
    ]
