"""Packs a conda environment of this machine with conda-pack; run as a process of its own by `runkit.client.conda_tools`.

Standard input: JSON with `prefix`, and, unless the question is only whether it can be packed, with `place`, the folder it will lie in
on the host, and `out`, the archive to write.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from conda_pack import CondaEnv, CondaPackException

ANSWER = "runkit-answer: "


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Whether it can be packed, or that it was."""
    # What pip has overwritten of conda's files is what runs here, and is to run there.
    options = {"ignore_editable_packages": True, "ignore_missing_files": True}
    try:
        found = CondaEnv.from_prefix(asked["prefix"], on_missing_cache="raise", **options)
        if "out" in asked:
            found.pack(output=asked["out"], format="tar.gz", compress_level=1, n_threads=-1, dest_prefix=asked["place"])
    except CondaPackException as error:
        return {"error": " ".join(str(error).split())}
    return {"packed": True}


def main() -> None:
    """Answer one question."""
    found = answer(json.load(sys.stdin))
    sys.stdout.write(f"\n{ANSWER}{json.dumps(found)}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
