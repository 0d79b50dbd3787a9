"""Channels of conda packages as addresses, as the user's own settings of conda have them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runkit.model.urls import without_credentials

ALIAS = "https://conda.anaconda.org"
DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
"""What "defaults" means (https://docs.conda.io/projects/conda/en/stable/user-guide/configuration/settings.html)."""

FALLBACK = "conda-forge"
"""Where packages come from if neither the environment nor the user's `.condarc` says it."""

_TOKEN = re.compile(r"/t/[^/\s]+(?=/|$)")
_CHANNEL = re.compile(r"(?P<channel>[^\s\[\]]+)::(?P<rest>.*)")


def addresses(channels: Sequence[str], condarc: Mapping[str, Any]) -> list[str]:
    """The addresses of these channels, most important first, with the credentials that the user's settings give them.

    Args:
        channels: as an `environment.yml` writes them; none: those of the user's settings, else conda-forge.
        condarc: the content of the user's `.condarc`; its channels, aliases and mirrors count.
    """
    named = list(channels) or _listed(condarc, "channels") or [FALLBACK]
    found = [address for name in named for address in _expanded(name, condarc)]
    return list(dict.fromkeys(found))


def with_channels(
    specs: Sequence[str], channels: Sequence[str], condarc: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Match specs with addresses for the channels they name, and all channels they are solved with: `chan::pkg` needs `chan` too."""
    written, everything = [], addresses(channels, condarc)
    for spec in specs:
        found = _CHANNEL.fullmatch(spec)
        if found and found["channel"] != "*":
            own = _expanded(found["channel"], condarc)
            everything += [one for one in own if one not in everything]
            spec = f"{own[0]}::{found['rest']}" if own else found["rest"]
        written.append(spec)
    return written, everything


def plain(url: str) -> str:
    """An address without user name, password and token."""
    return _TOKEN.sub("", without_credentials(url))


def hidden(text: str) -> str:
    """A text with the credentials taken out of the addresses in it."""
    return _TOKEN.sub("/t/***", without_credentials(text))


def with_login(url: str, channels: Sequence[str]) -> str:
    """The address of a package with the credentials of its channel."""
    if url != plain(url):
        return url  # the solver has kept them
    for channel in sorted(channels, key=lambda one: len(plain(one)), reverse=True):
        if url.startswith(f"{plain(channel).rstrip('/')}/"):
            return channel.rstrip("/") + url.removeprefix(plain(channel).rstrip("/"))
    return url


def _expanded(name: str, condarc: Mapping[str, Any]) -> list[str]:
    name = os.path.expandvars(name.strip())
    if name == "nodefaults":
        return []
    if name == "defaults":
        listed = _listed(condarc, "default_channels")
        return [one for part in listed for one in _expanded(part, condarc)] if listed else list(DEFAULTS)
    if "://" in name:
        return [name.rstrip("/")]
    if name.startswith(("/", "./", "../", "~")):
        return [Path(os.path.abspath(Path(name).expanduser())).as_uri()]
    if several := _listed(_mapped(condarc, "custom_multichannels"), name):
        return [one for part in several for one in _expanded(part, condarc)]
    for custom, base in _mapped(condarc, "custom_channels").items():
        if name == custom or name.startswith(f"{custom}/"):
            return [f"{_absolute(base)}/{name}"]
    return [f"{_absolute(condarc.get('channel_alias') or ALIAS)}/{name}"]


def _listed(settings: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts, which may be written as one text; conda itself says what is wrong with anything else."""
    value = settings.get(name)
    return [value] if isinstance(value, str) else [one for one in value or () if isinstance(one, str)]


def _mapped(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = settings.get(name)
    return value if isinstance(value, Mapping) else {}


def _absolute(base: str) -> str:
    base = os.path.expandvars(str(base)).rstrip("/")
    return base if "://" in base else f"https://{base}"
