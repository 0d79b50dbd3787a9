"""An interpreter of this machine, packed and run from another place."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runkit.client.elf import relocated
from runkit.client.host_platform import Platform
from runkit.client.interpreter import Packed, pack
from runkit.errors import InterpreterNotFound


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pythons")


@pytest.fixture
def packed(folder: Path, target: Platform) -> Packed:
    return pack(target.python, target, folder)


def test_it_runs_elsewhere_and_needs_nothing_of_the_original(packed: Packed, tmp_path: Path) -> None:
    place = tmp_path / "another place"
    place.mkdir()
    subprocess.run(["tar", "-xzf", packed.path, "-C", place], check=True)
    code = "import sys, ssl, sqlite3, ctypes, json; print(sys.version.split()[0], sys.prefix)"
    said = subprocess.check_output([place / "bin" / "python3", "-I", "-B", "-c", code], env={}, text=True)
    assert said.split(" ", 1) == [packed.version, f"{place}\n"]
    assert packed.version.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    for unwanted in ("test", "idlelib", "tkinter", "ensurepip", "__pycache__"):
        assert not list(place.glob(f"lib/python3*/{unwanted}"))
    assert list(place.glob("include/python3*/Python.h"))


def test_it_is_packed_once(packed: Packed, target: Platform, folder: Path) -> None:
    before = packed.path.stat().st_mtime_ns
    again = pack(packed.version, target, folder)
    assert again == packed
    assert again.path.stat().st_mtime_ns == before


def test_another_platform_is_refused_in_words(target: Platform, folder: Path) -> None:
    for far in (replace(target, glibc=(2, 5)), replace(target, machine="riscv64")):
        with pytest.raises(InterpreterNotFound, match="would not run there"):
            pack(target.python, far, folder)


def test_a_version_that_nobody_has_is_refused_in_words(target: Platform, folder: Path) -> None:
    with pytest.raises(InterpreterNotFound, match=r"no Python 3\.99 on the host.*none on this machine"):
        pack("3.99", target, folder)


def test_what_is_no_program_stays_as_it_is() -> None:
    assert relocated(b"#!/bin/sh\n", "$ORIGIN") == (b"#!/bin/sh\n", False)


def test_this_machine_is_known() -> None:
    libc = platform.libc_ver()
    here = Platform(platform.machine(), tuple(int(part) for part in libc[1].split(".")[:2]), platform.python_version())  # type: ignore[arg-type]
    assert here.is_here
    assert here.is_this_python
    assert not replace(here, python="3.99").is_this_python
    assert replace(here, glibc=(2, 26)).uv_platform.endswith("manylinux_2_17")
    assert replace(here, glibc=(2, 99)).uv_platform.endswith("manylinux_2_40")
