"""Secrets in the server: taken out of a plan before it is kept, and held in memory alone."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

from runkit.errors import UsageError
from runkit.server.settings import Settings
from runkit.servlet.secrets import remove
from runkit.servlet.spawn import short
from runkit.wire.names import check_name

Held = dict[str, dict[str, Any]]
"""What secrets are made of, by their names: {name, fingerprint, variables, settings, files}."""

_MOST_BYTES = 96_000
"""Of one secret as it travels. Ray sends what is smaller than 100 KiB with the call itself; the rest goes through its object store,
which it may write to the disk."""


def taken(plan: Mapping[str, Any]) -> tuple[dict[str, Any], Held]:
    """A client's plan as it may be kept (its secrets: name -> fingerprint), and the values that came with it.

    Raises:
        UsageError: a secret is malformed; its value is not in the message.
    """
    wanted: dict[str, str] = {}
    held: Held = {}
    given = plan.get("secrets") or {}
    if not isinstance(given, Mapping):
        raise UsageError("the secrets of a plan are an object: name -> {fingerprint, variables, files}")
    for name, secret in given.items():
        check_name("secret", name)
        try:
            wanted[name] = str(secret.get("fingerprint") or "")
            if "variables" in secret or "files" in secret:
                held[name] = {"name": name, "fingerprint": wanted[name], **_checked(secret)}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UsageError(f"the secret {name!r} of the plan is malformed") from None
    return {**plan, "secrets": wanted}, held


def _checked(secret: Mapping[str, Any]) -> dict[str, Any]:
    variables, settings = ({**(secret.get(part) or {})} for part in ("variables", "settings"))
    if not all(
        isinstance(text, str) and text and "\0" not in text
        for pair in (*variables.items(), *settings.items())
        for text in pair
    ):
        raise ValueError
    files = []
    for file in secret.get("files") or ():
        if file["name"] in ("", ".", "..") or "/" in file["name"] or "\0" in file["name"]:
            raise ValueError
        base64.b64decode(file["content"], validate=True)
        files.append({part: file.get(part) for part in ("name", "content", "variable", "folder")})
    texts = (*variables.values(), *settings.values(), *(file["content"] for file in files))
    if sum(len(os.fsencode(text)) for text in texts) > _MOST_BYTES:
        raise ValueError
    return {"variables": variables, "settings": settings, "files": files}


def completed(wanted: Mapping[str, str], given: Held, before: Held) -> Held:
    """What an env holds from now on: what was given, and of what it held what is wanted still."""
    kept = {name: held for name, held in before.items() if wanted.get(name) == held["fingerprint"]}
    return {name: secret for name, secret in {**kept, **given}.items() if name in wanted}


def fingerprints(held: Held) -> dict[str, str]:
    """Name -> fingerprint."""
    return {name: secret["fingerprint"] for name, secret in held.items()}


def remove_files(settings: Settings, env: str) -> None:
    """Remove the files of an env's secrets, should its servlet have ended without doing it."""
    remove(settings.runtime, short(env))
