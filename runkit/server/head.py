"""The parts of the server put together: Ray, envs, directory, clients; how they start, fail and end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from contextlib import suppress
from typing import Any

from runkit import __version__
from runkit.errors import RunkitError, ServerError
from runkit.server import gc, incoming
from runkit.server.directory import Directory
from runkit.server.envs import Envs
from runkit.server.hostinfo import host_facts
from runkit.server.mirror import Mirror
from runkit.server.ray_cluster import RayCluster, address
from runkit.server.relay import Client
from runkit.server.settings import Settings

FIRST_COLLECT_SECONDS = 60.0
COLLECT_SECONDS = 3600.0
"""After its start, and how often from then on, the server looks for what is of no more use."""

TOUCH_SECONDS = 900.0
"""How often other hosts with the same home are told that this server's code is in use; they leave alone what was within the hour."""

log = logging.getLogger("runkit.server")


class Head:
    """Everything one server holds.

    Attributes:
        clients: those whose WebSocket is open.
        trouble: what is wrong with Ray at the moment, for status; empty as a rule.
    """

    def __init__(self, settings: Settings, ray: RayCluster):
        self.settings = settings
        self.started = time.time()
        self.clients: set[Client] = set()
        self.trouble = ""
        self.ending = asyncio.Event()
        self.keep_ray = False
        self.mirror = Mirror(settings.home)
        self.ray = ray
        ray.on_death = self._ray_ended
        self.directory = Directory(self.worker, self._replace)
        self.envs = Envs(settings, ray, self.directory)
        self._control: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- start

    async def start(self) -> None:
        """Join Ray and bring the default env up; afterwards calls can run.

        Raises:
            RunkitError: Ray did not come up, or the default env did not.
        """
        self._control = await self.directory.listen(self.settings.control)
        for folder in ("wheels", "python"):
            self.spawn(asyncio.to_thread(incoming.sweep, self.settings.home / folder))
        self.spawn(self._stay())
        # What is asked of the host once may take seconds: nobody who asks for the status waits for it.
        facts = asyncio.to_thread(host_facts, self.settings)
        await asyncio.gather(self._connect_to_ray(), self.envs.prepare(), facts)
        self.directory.settled.set()
        self.envs.ray_up.set()
        await self.envs.start()
        self.spawn(self._collect())

    async def _stay(self) -> None:
        """Note every now and then that this code is in use."""
        while True:
            await asyncio.to_thread(gc.touch_code, self.settings.code)
            await asyncio.sleep(TOUCH_SECONDS)

    async def _collect(self) -> None:
        """Remove now and then what nobody uses any more."""
        for pause in itertools.chain([FIRST_COLLECT_SECONDS], itertools.repeat(COLLECT_SECONDS)):
            await asyncio.sleep(pause)
            removed = await asyncio.to_thread(gc.collect, self.settings.home)
            if removed:
                size = sum(one.size for one in removed)
                log.info("removed %d folders that nobody uses, %.0f MB", len(removed), size / 1e6)

    async def _connect_to_ray(self) -> None:
        try:
            await self.ray.connect()
            if self.ray.adopted:
                await self.envs.adopt()
        except ServerError as error:
            if not self.ray.adopted:
                raise
            log.warning("the Ray of an earlier server was about to end (%s): a new one is started", error)
            self.ray.disconnect()
            await self._start_ray_anew()

    # -- Ray's death

    def _ray_ended(self) -> None:
        if self.ending.is_set():
            return
        running = self.envs.ray_died()
        self.trouble = (
            f"Ray ended at {time.strftime('%H:%M:%S')}; it and the envs {', '.join(running)} are being started again"
        )
        log.error("%s", self.trouble)
        self.spawn(self._rebuild(running))

    async def _rebuild(self, names: list[str]) -> None:
        try:
            await self._start_ray_anew()
        except RunkitError as error:
            self.trouble = f"Ray ended and could not be started again: {error}. Restart the server."
            log.error("%s", self.trouble)
            self.envs.no_ray(self.trouble)
            return
        self.envs.ray_up.set()
        for name in names:
            with suppress(RunkitError):
                await self.envs.up(name)
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        self.trouble = f"Ray ended and was started again at {when}: objects that envs held then are gone"
        log.warning("%s", self.trouble)

    async def _start_ray_anew(self) -> None:
        await asyncio.to_thread(self.ray.stop)
        await asyncio.to_thread(self.ray.launch)
        await self.ray.connect()

    # -- end

    async def stop(self) -> None:
        """End: all of it, or, with `keep_ray`, only this process."""
        self.ending.set()
        if self._control is not None:
            self._control.close()
        await self.envs.give_up()
        if self.keep_ray:
            self.ray.disconnect()
            return
        await self.envs.stop()
        await asyncio.to_thread(self.ray.stop)
        self.settings.state.unlink(missing_ok=True)
        self.settings.control.unlink(missing_ok=True)

    # -- what the parts ask of each other

    async def worker(self, env: str) -> dict[str, Any]:
        """The env's worker: {socket, generation, pid, …}."""
        return await self.envs.worker(env)

    async def _replace(self, env: str, generation: int, why: str, call: tuple[str, int]) -> dict[str, Any]:
        return await self.envs.restart(env, why, generation, call)

    def spawn(self, work: Any) -> None:
        """Run a coroutine beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- status

    async def status(self) -> dict[str, Any]:
        """What `GET /v1/status` answers."""
        await asyncio.gather(*(self.envs.look(name) for name in self.envs.names()))
        settings = self.settings
        keys = self.directory.keys()
        by_env: dict[str, list[str]] = {}
        for key, env in keys.items():
            by_env.setdefault(env, []).append(key)
        return {
            "version": __version__,
            "code": settings.code_digest,
            "pid": os.getpid(),
            "started": round(self.started, 3),
            "uptime_s": round(time.time() - self.started, 3),
            "port": settings.port,
            "home": str(settings.home),
            "log": str(settings.log),
            "host": await asyncio.to_thread(host_facts, settings),
            "ray": {
                "version": self.ray.version,
                "address": address(settings),
                "up": self.ray.connected,
                "trouble": self.trouble,
            },
            "envs": {name: self.envs.get(name).summary(by_env.get(name, [])) for name in self.envs.names()},
            "installing": self.envs.changes.names(),
            "clients": [client.as_json() for client in self.clients],
        }
