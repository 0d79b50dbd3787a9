"""Changes of envs that fail halfway or meet: what is said, and that nobody else's env suffers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runkit.errors import SetupFailed
from tests.server.running import Server, plan
from tests.server.test_envs import send


def test_a_default_env_that_cannot_be_made_anew_stays(server: Server) -> None:
    """And every other env is there as before."""
    assert "done" in send(server, plan("other"))[0]
    assert "done" in send(server, plan("default", alias="ml"))[0]
    home = Path(server.api.json("GET", "/v1/status")["home"])
    first = next((home / "envs").glob("default-ray*"))
    hidden, shipped, aside = home / "hidden", home / "wheels" / "base", home / "wheels" / "aside"
    first.rename(hidden)
    if had := shipped.exists():
        shipped.rename(aside)
    shipped.mkdir(parents=True)  # holds no Ray, and nothing else is asked then
    try:
        with pytest.raises(SetupFailed):
            server.api.json("DELETE", "/v1/envs/default", timeout=None)
        asked = {"env": {"name": "other", "request": "1"}}
        assert server.api.json("POST", "/v1/ensure", asked)["env"] == "ready"
        assert server.env()["alias"] == "ml"
        with server.stream("default") as stream:
            assert stream.call("math", "sqrt", 4) == 2.0
    finally:
        shipped.rmdir()
        if had:
            aside.rename(shipped)
        if not (first / "bin" / "python").exists():
            shutil.rmtree(first, ignore_errors=True)
            hidden.rename(first)
    server.api.json("DELETE", "/v1/envs/default", timeout=None)
    assert server.env()["alias"] == ""
    with server.stream("default") as stream:
        assert stream.call("math", "sqrt", 4) == 2.0
