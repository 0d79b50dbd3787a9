"""PyTorch and its relatives, for the GPU of a host: which of PyTorch's own indexes they come from is uv's choice.

PyTorch is built once per CUDA version, and each build has an index of its own. uv knows them, and which one a driver can run
(`uv pip compile --torch-backend`, https://docs.astral.sh/uv/guides/integration/pytorch/); what uv would find out about this machine
is told to it about the host. Tested here is what uv is asked: download.pytorch.org itself, and hosts with AMD or Intel GPUs, are not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from runkit.client import pip_settings
from runkit.client.uvtool import configurations

INDEX = "download.pytorch.org"
PYPI = "https://pypi.org/simple"
_PYPI_FILES = "files.pythonhosted.org"

# The packages that `--torch-backend` moves to PyTorch's indexes.
_RELATIVES = re.compile(
    r"torch(vision|audio|text|data|ao|arrow|csprng|distx|serve|-model-archiver|-tb-profiler)?|pytorch-triton(-rocm|-xpu)?"
)
_BUILD = re.compile(r"([A-Za-z][\w.-]*)\s*(\[[^\]]*\])?\s*={2,3}[^;#]*\+(cpu|cu\d+|rocm[\d.]+|xpu)\b")


def backend(driver: str | None, cwd: str | Path) -> tuple[str, str] | None:
    """What uv is asked for a host: the value of `--torch-backend` and the version of the host's driver ("" without a GPU).

    Args:
        driver: see `Platform.driver`.
        cwd: the folder whose uv configuration counts.

    Returns:
        None where nothing is known about the host, or the user has chosen a backend or a default index: theirs is taken.
    """
    if driver is None:
        return None
    contents = [content for _, content in configurations(cwd)]
    chosen = [table for content in contents for table in (content, content.get("pip", {})) if "torch-backend" in table]
    of_pip, options = pip_settings.for_uv(contents)
    variables = {**os.environ, **of_pip}
    names = ("UV_TORCH_BACKEND", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_OFFLINE")
    if chosen or options or any(variables.get(name) for name in names):
        return None
    if "torch" in variables.get("UV_EXTRA_INDEX_URL", "") + variables.get("UV_INDEX", ""):
        return None  # PyTorch's own, or a mirror of it
    if any({"index-url", "no-index"} & {*content, *content.get("pip", {})} for content in contents):
        return None
    if any(index.get("default") for content in contents for index in content.get("index", [])):
        return None
    return ("auto", driver) if driver else ("cpu", "")


def names_own_index(lines: Iterable[str]) -> bool:
    """Whether requirement lines choose the default index, or one of PyTorch's."""
    return any(
        line.startswith(("--index-url", "-i ", "-i=", "--no-index"))
        or (line.startswith("--extra-index-url") and "torch" in line)
        for line in lines
    )


def wants_build(lines: Iterable[str]) -> bool:
    """Whether a line names a build ("torch==2.6.0+cpu") that only PyTorch's own indexes have."""
    return any(
        (found := _BUILD.match(line)) is not None and _RELATIVES.fullmatch(canonicalize_name(found[1]))
        for line in lines
    )


def from_pypi(packages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a relative of PyTorch would come from PyPI (and not from an index or file of the user's)."""
    relatives = [package for package in packages if _RELATIVES.fullmatch(canonicalize_name(package["name"]))]
    files = [file for package in relatives for file in (*package.get("wheels", []), package.get("sdist", {}))]
    return any(urlsplit(file.get("url", "")).hostname == _PYPI_FILES for file in files)


def hint(asked: tuple[str, str] | None) -> str:
    """What to say where resolving failed that asked for a backend, and what to do."""
    if not asked:
        return ""
    of = f"what the driver {asked[1]} runs" if asked[1] else "a host without a GPU"
    return (
        f"\nPyTorch was looked for at {INDEX}, in a build for {of}. To take it from elsewhere, name the index, as in "
        f"reqs=[..., '--index-url {PYPI}'], or set UV_TORCH_BACKEND"
    )
