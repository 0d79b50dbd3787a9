"""Secrets on their way: read here, all of them before anything else happens, and put into a form that goes with an env's plan."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runkit.errors import SecretNotFound, UsageError
from runkit.model.providers import Material
from runkit.model.secret import Secret

Materials = Mapping[str, Material]
"""What secrets are made of, by their names."""


def gather(secrets: Sequence[Secret]) -> dict[str, Material]:
    """Read the secrets.

    Raises:
        SecretNotFound: some have no value here; the message names all of these, and where they were looked for.
    """
    found: dict[str, Material] = {}
    lacking: list[SecretNotFound] = []
    for secret in secrets:
        try:
            found[secret.name] = secret.read()
        except SecretNotFound as error:
            lacking.append(error)
    if len(lacking) == 1:
        raise lacking[0]
    if lacking:
        raise SecretNotFound("\n".join(map(str, lacking)))
    return found


class Packed:
    """The secrets of one env in the form that travels. It has no repr of its own, and so shows nothing.

    Args:
        materials: of `gather`.
        env_vars: the env's own variables; a setting that goes along with a secret gives way to them.
        token: the server's: a fingerprint made with it tells those who do not have it nothing about a value.

    Raises:
        UsageError: two of them, or one and `env_vars`, give the same variable, or a value cannot be a variable's.
    """

    def __init__(self, materials: Materials, env_vars: Mapping[str, str], token: str):
        owners = dict.fromkeys(env_vars, "env_vars")
        for name, material in materials.items():
            pointers = {file.variable for file in material.files if file.variable}
            for variable in {*material.variables, *pointers}:
                if variable in owners:
                    first = owners[variable]
                    other = first if first == "env_vars" else f"the secret {first!r}"
                    raise UsageError(
                        f"the variable {variable} comes from {other} and from the secret {name!r}: name it once"
                    )
                owners[variable] = name
        self._payloads = {name: _payload(name, material, owners) for name, material in materials.items()}
        self.fingerprints = {name: _fingerprint(payload, token) for name, payload in self._payloads.items()}
        """Name -> what tells one value from another."""
        self.left_out = [path for material in materials.values() for path in material.left_out]
        """Files that are too long to go along with their secrets."""

    def for_plan(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """What the plan of an env with these secrets (name -> fingerprint) says: those that are not here are there already."""
        return {name: {"fingerprint": mark, **self._payloads.get(name, {})} for name, mark in wanted.items()}


def _payload(name: str, material: Material, owners: Mapping[str, str]) -> dict[str, Any]:
    settings = {variable: value for variable, value in material.settings.items() if variable not in owners}
    for variable, value in {**material.variables, **settings}.items():
        if "\0" in value:
            raise UsageError(
                f"the secret {name!r} has a zero byte in it, which no environment variable ({variable}) can hold"
            )
    files = [
        {
            "name": file.name,
            "content": base64.b64encode(file.content).decode(),
            "variable": file.variable,
            "folder": file.folder,
        }
        for file in material.files
    ]
    return {"variables": dict(material.variables), "settings": settings, "files": files}


def _fingerprint(payload: Mapping[str, Any], token: str) -> str:
    return hmac.digest(token.encode(), json.dumps(payload, sort_keys=True).encode(), "sha256").hex()
