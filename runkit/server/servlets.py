"""Servlets as the server sees them: Ray actors, made, found again and asked without blocking the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from runkit.errors import ServerError
from runkit.server.ray_cluster import NAMESPACE, address, shared_variables
from runkit.server.settings import Settings
from runkit.servlet.actor import CONCURRENCY, EnvServlet

_RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


class Servlet:
    """One env's actor.

    Args:
        actor: Ray's handle of it.
        lost: done as soon as Ray has ended; questions then end with it instead of waiting for ever.
    """

    def __init__(self, name: str, actor: Any, lost: asyncio.Event):
        self.name = name
        self._actor = actor
        self._lost = lost

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the servlet.

        Raises:
            ServerError: the servlet, or Ray, has ended. EnvError: as the method raises it.
        """
        return await self._until_lost(self._result(getattr(self._actor, method).remote(*arguments)))

    async def install(self, plan: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events of an install, as they come."""
        stream = self._actor.install.options(num_returns="streaming").remote(dict(plan))
        while True:
            try:
                item = await self._until_lost(_next(stream))
            except StopAsyncIteration:
                return
            yield await self._until_lost(self._result(item))

    async def _result(self, reference: Any) -> Any:
        # Imported by the server's Ray thread long before there is a servlet to ask.
        import ray

        try:
            return await reference
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise cause from None
        except ray.exceptions.RayError as error:
            raise ServerError(f"the servlet of env {self.name!r} has ended: {_first_line(error)}") from error

    async def _until_lost(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ServerError(
                    f"Ray has ended, and the servlet of env {self.name!r} with it; it is being built again"
                )
            return task.result()
        finally:
            lost.cancel()
            if not task.done():
                task.cancel()

    def kill(self) -> None:
        """End the actor; its worker ends with it by its lifeline."""
        import ray

        ray.kill(self._actor, no_restart=True)


async def _next(stream: Any) -> Any:
    return await stream.__anext__()


def create(settings: Settings, name: str, compute: Mapping[str, Any], lost: asyncio.Event) -> Servlet:
    """Make the env's actor; it waits in Ray's queue until its resources are free. Blocks."""
    import ray

    place = {
        "home": str(settings.home), "uv": str(settings.uv), "sockets": str(settings.sockets), "control": str(settings.control),
        "log": str(settings.log), "code": str(settings.code), "vendor": str(settings.vendor), "mark": settings.mark,
        "variables": {
            "RAY_ADDRESS": address(settings), **shared_variables(settings),
            "RUNKIT_HOME": str(settings.home), "RUNKIT_RUNTIME_DIR": str(settings.runtime.parent),
        },
    }  # fmt: skip
    options: dict[str, Any] = {"num_cpus": 0}
    custom = {}
    for kind, amount in compute.items():
        if kind in _RESOURCES:
            options[_RESOURCES[kind]] = amount
        elif amount:
            custom[kind] = amount
    # A name is free again only some time after its actor was killed, so each one is new.
    actor = (
        ray.remote(EnvServlet)
        .options(
            name=f"env:{name}:{time.time_ns():x}",
            namespace=NAMESPACE,
            lifetime="detached",
            max_concurrency=CONCURRENCY,
            resources=custom or None,
            **options,
        )
        .remote(place, name, generation_now())
    )
    return Servlet(name, actor, lost)


def find(actor_name: str, lost: asyncio.Event) -> Servlet | None:
    """The living servlet under that actor name. Blocks."""
    import ray

    try:
        actor = ray.get_actor(actor_name, namespace=NAMESPACE)
    except ValueError:
        return None
    return Servlet(actor_name.split(":")[1], actor, lost)


def actor_names() -> list[str]:
    """The names of all living servlets of this cluster. Blocks."""
    import ray.util

    found = ray.util.list_named_actors(all_namespaces=True)
    return sorted(one["name"] for one in found if one["namespace"] == NAMESPACE and one["name"].startswith("env:"))


def missing_resources(compute: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of `compute` the cluster does not have at all, and what of it is not free now: {kind: amount there}. Blocks."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    never = {kind: total.get(kind, 0) for kind, amount in compute.items() if amount and total.get(kind, 0) < amount}
    later = {kind: free.get(kind, 0) for kind, amount in compute.items() if amount and free.get(kind, 0) < amount}
    return never, later


def generation_now() -> int:
    """A number above every generation of any earlier servlet of the env: tenths of a second since 2026."""
    return int((time.time() - 1767225600) * 10)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
