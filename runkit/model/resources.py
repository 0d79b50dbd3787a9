"""What an env holds for itself of a host: CPUs, GPUs, memory, and whatever the cluster's owner named."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from runkit.errors import UsageError

KNOWN = ("CPU", "GPU", "memory")
"""The resources every Ray cluster knows; other names are the cluster's own."""

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{p}{s}": n for i, p in enumerate("KMGT", 1) for s, n in (("iB", 1024**i), ("B", 1000**i), ("", 1024**i))},
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_ALIASES = {
    "cpu": "CPU",
    "cpus": "CPU",
    "num_cpus": "CPU",
    "gpu": "GPU",
    "gpus": "GPU",
    "num_gpus": "GPU",
    "mem": "memory",
    "ram": "memory",
}


def check_compute(compute: Any) -> dict[str, float]:
    """Check a request for resources and give it back in numbers.

    Args:
        compute: "CPU" and "GPU" (how many), "memory" (bytes, or text such as "2GiB"), and custom Ray resources; or None.

    Raises:
        UsageError: an unknown name that looks like a known one, or an amount that is no number or is negative.
    """
    if compute is None:
        return {}
    if not isinstance(compute, Mapping):
        raise UsageError(f'compute is a mapping such as {{"CPU": 1, "GPU": 0}}, not {type(compute).__name__}')
    return {_name(name): _amount(name, value) for name, value in compute.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:\-]*", name):
        raise UsageError(f"compute: {name!r} cannot be the name of a resource")
    meant = _ALIASES.get(name.lower(), name if name.lower() != "memory" else "memory")
    if meant != name:
        raise UsageError(
            f"compute: {name!r} is not known, did you mean {meant!r}? ({', '.join(KNOWN)}, or a custom Ray resource)"
        )
    return name


def _amount(name: str, value: Any) -> float:
    if name == "memory" and isinstance(value, str):
        size = _SIZE.fullmatch(value)
        if not size or size[2] not in _UNITS:
            raise UsageError(f'compute: {value!r} is no amount of memory: use bytes, or text such as "2GiB"')
        return int(float(size[1]) * _UNITS[size[2]])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise UsageError(f"compute: {name} must be a number that is not negative, not {value!r}")
    if name == "GPU" and value > 1 and value != int(value):
        raise UsageError(f"compute: more than one GPU can only be asked for in whole numbers, not {value!r}")
    return value
