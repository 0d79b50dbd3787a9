"""Servlets as the server sees them: named actors of its Ray, made, found again and asked."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from runkit.errors import RunkitError, UsageError
from runkit.server.ray_cluster import RayCluster, address, shared_variables
from runkit.server.secrets import Held
from runkit.server.settings import Settings

STOP_SECONDS = 20.0


class Servlet:
    """One env's actor, by its name."""

    def __init__(self, ray: RayCluster, actor: str):
        self.actor = actor
        self.name = actor.split(":")[1]
        self.there = False  # it may be waiting in Ray's queue
        self._ray = ray

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the servlet.

        Raises:
            ServerError: the servlet, or Ray, has ended. EnvError: as the method raises it.
        """
        return await self._ray.request("ask", actor=self.actor, method=method, args=arguments)

    async def run(
        self, method: str, plan: Mapping[str, Any], secrets: Held, given_up: asyncio.Event
    ) -> AsyncIterator[dict[str, Any]]:
        """The events of `install` or `build` as they come; what is built is ended once it is given up."""
        ticket = uuid.uuid4().hex

        async def end() -> None:
            await given_up.wait()
            with suppress(RunkitError):  # the servlet has ended, and what it built with it
                await self.ask("give_up", ticket)

        ending = asyncio.ensure_future(end())
        try:
            async for events in self._ray.stream(
                "stream", actor=self.actor, method=method, args=[dict(plan), ticket, *secrets.values()]
            ):
                for event in events:
                    yield event
        finally:
            ending.cancel()

    async def end(self) -> None:
        """End what it builds, its worker, and the actor; nobody hears of it where that fails, as the servlet is gone then."""
        with suppress(RunkitError, TimeoutError, asyncio.TimeoutError):
            if self.there:
                await asyncio.wait_for(self.ask("stop"), STOP_SECONDS)
        with suppress(RunkitError):
            await self._ray.request("kill", actor=self.actor)


async def create(ray: RayCluster, settings: Settings, name: str, compute: Mapping[str, Any]) -> Servlet:
    """Make the env's actor; it waits in Ray's queue until its resources are free."""
    place = {
        "home": str(settings.home),
        "runtime": str(settings.runtime),
        "uv": str(settings.uv),
        "sockets": str(settings.sockets),
        "control": str(settings.control),
        "log": str(settings.log),
        "code": str(settings.code),
        "vendor": str(settings.vendor),
        "mark": settings.mark,
        "variables": {
            "RAY_ADDRESS": address(settings),
            **shared_variables(settings),
            "RUNKIT_HOME": str(settings.home),
            "RUNKIT_RUNTIME_DIR": str(settings.runtime.parent),
        },
    }
    actor = await ray.request("create", name=name, place=place, compute=dict(compute), generation=_first_generation())
    return Servlet(ray, actor)


async def living(ray: RayCluster) -> list[Servlet]:
    """All servlets of this cluster."""
    return [Servlet(ray, name) for name in await ray.request("actors")]


async def missing_resources(ray: RayCluster, compute: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of `compute` the cluster does not have at all, and what of it is not free now: {kind: amount there}."""
    there = await ray.request("resources")
    never, later = (
        {kind: there[which].get(kind, 0) for kind, amount in compute.items() if amount > there[which].get(kind, 0)}
        for which in ("total", "free")
    )
    return never, later


async def affordable(ray: RayCluster, env: str, compute: Mapping[str, Any]) -> dict[str, Any]:
    """What an env asks of Ray, without what it asks nothing of.

    Raises:
        UsageError: the cluster does not have that much at all.
    """
    wanted = {kind: amount for kind, amount in compute.items() if amount}
    if wanted:
        never, _ = await missing_resources(ray, wanted)
        if never:
            there = ", ".join(
                f"{kind}: {wanted[kind]} asked for, {amount:g} in the cluster" for kind, amount in never.items()
            )
            raise UsageError(f"env {env!r} asks for more than the cluster has: {there}")
    return wanted


def _first_generation() -> int:
    """A number above every generation of any earlier servlet of the env: tenths of a second since 2026."""
    return int((time.time() - 1767225600) * 10)
