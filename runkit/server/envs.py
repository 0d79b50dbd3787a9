"""The envs of this cluster: their kept plans, their servlets, what state they are in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import nullcontext, suppress
from typing import Any

from runkit.errors import EnvError, EnvNotFound, InstallFailed, RunkitError, ServerError, UsageError
from runkit.server import default_env, servlets
from runkit.server.changes import Changes
from runkit.server.directory import Directory
from runkit.server.env import Env
from runkit.server.in_time import first_of, turn
from runkit.server.ray_cluster import RayCluster
from runkit.server.secrets import Held, completed, fingerprints, remove_files
from runkit.server.settings import Settings, read_json, write_json
from runkit.wire import problems
from runkit.wire.names import DEFAULT_ENV, check_name

WATCH_SECONDS = 60.0
LOOK_SECONDS = 1.0
WORKER_SECONDS = 10.0
"""How long whoever asks for a worker waits for one that is being started."""

DEFAULT_SECONDS = 60.0
"""How long the server's start waits for a default env that somebody asked for."""

FIRST_PLACE_SECONDS = 0.5
PLACE_SECONDS = 2.0
"""How often it is looked what a servlet waits for that Ray has not placed yet."""

log = logging.getLogger("runkit.server.envs")


class Envs:
    """All envs.

    Args:
        ray: where servlets live.
        directory: who owns which key, and the lines to the workers.

    Attributes:
        changes: what is being made of them.
        ray_up: set while servlets can be made.
        ray_lost: set once they never can be again; `trouble` says why.
    """

    def __init__(self, settings: Settings, ray: RayCluster, directory: Directory):
        self._settings = settings
        self._ray = ray
        self._directory = directory
        self._envs: dict[str, Env] = {}
        self.changes = Changes()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ray_up = asyncio.Event()
        self.ray_lost = asyncio.Event()
        self.trouble = ""
        for file in sorted(settings.envs.glob("*.json")):
            plan = read_json(file)
            if plan.get("name") == file.stem and plan.get("build"):
                self._envs[file.stem] = Env(file.stem, plan)
        if DEFAULT_ENV not in self._envs:
            self._envs[DEFAULT_ENV] = Env(DEFAULT_ENV, default_env.default_plan(settings))

    # -- looking

    def names(self) -> list[str]:
        return sorted(self._envs)

    def real_name(self, name: str) -> str:
        """The name itself, but the default env's where it is what the user calls that."""
        alias = self._envs[DEFAULT_ENV].plan.get("alias")
        return DEFAULT_ENV if name == alias and name not in self._envs else name

    def get(self, name: str) -> Env:
        """The env of that name.

        Raises:
            EnvNotFound: there is none.
        """
        try:
            return self._envs[self.real_name(name)]
        except KeyError:
            raise EnvNotFound(f"the cluster has no env {name!r}; it has {', '.join(map(repr, self.names()))}") from None

    async def worker(self, name: str) -> dict[str, Any]:
        """The env's worker, {socket, generation, pid, …}; waits for one that is being started.

        Raises:
            EnvNotFound: there is no such env. EnvError: its worker does not come up.
        """
        env = self.get(name)
        if env.servlet is None:
            await self.up(env.name)
        deadline = time.monotonic() + WORKER_SECONDS
        while env.worker is None:
            left = deadline - time.monotonic()
            if left <= 0 or (env.state["failure"] and not env.installing):
                raise EnvError(
                    f"the worker of env {name!r} does not come up:\n{env.state['failure'] or 'it was not ready in time'}"
                )
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(env.changed.wait(), left)
        return env.worker

    async def look(self, name: str) -> dict[str, Any]:
        """The env's state as its servlet sees it at this moment: memory and running calls too."""
        env = self.get(name)
        if env.servlet is not None:
            with suppress(RunkitError, TimeoutError, asyncio.TimeoutError):
                env.hear(await asyncio.wait_for(env.servlet.ask("state"), LOOK_SECONDS))
        return env.state

    def ask_state(self, name: str, request: str | None, base: str | None, secrets: Mapping[str, str]) -> str:
        """How the env compares with what a client wants: "ready", "changed" or "missing".

        Args:
            request: what it should have been asked to be; None: whatever it is.
            base: of the default env, what it should have been made of; None: whatever it is.
            secrets: name -> fingerprint, of those that the client has.
        """
        env = self._envs.get(name)
        if env is None:
            return "missing"
        wanted = {"request": request, "base": base}
        same = all(value in (None, env.plan.get(field)) for field, value in wanted.items())
        same = same and (name != DEFAULT_ENV or default_env.has_this_ray(env.plan))
        return "ready" if same and secrets.items() <= fingerprints(env.secrets).items() else "changed"

    async def death(self, name: str, generation: int) -> dict[str, Any] | None:
        """How that worker ended; None if it runs, or nobody knows."""
        env = self._envs.get(name)
        if env is None or env.servlet is None:
            return None
        with suppress(RunkitError):
            found: dict[str, Any] | None = await env.servlet.ask("death", generation, 1.0)
            return found
        return None

    # -- making

    async def prepare(self) -> None:
        """Have what the first default env needs; Ray may be on its way up."""
        if self.get(DEFAULT_ENV).plan["build"] == default_env.build_name():
            await asyncio.to_thread(default_env.ensure, self._settings)

    async def start(self) -> None:
        """Bring the default env up.

        One that somebody asked for does not keep the server from starting: who uses it hears what is wrong with it.

        Raises:
            RunkitError: the first one, which holds nothing but Ray, does not come up.
        """
        env = self.get(DEFAULT_ENV)
        plain = env.plan["build"] == default_env.build_name()
        try:
            await asyncio.wait_for(self.up(DEFAULT_ENV), None if plain else DEFAULT_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            log.warning("the default env is not up after %g s: the server starts without it", DEFAULT_SECONDS)
        except RunkitError as error:
            if plain:
                raise
            log.error("the default env does not come up: %s", error)
            env.hear({**env.state, "failure": str(error)})

    async def up(self, name: str) -> None:
        """Have the env run as its kept plan says, if it does not yet.

        It goes on where whoever asked for it goes: others may wait for it.

        Raises:
            EnvError: it cannot be built any more.
        """
        task = asyncio.get_running_loop().create_task(self._up(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _up(self, name: str) -> None:
        given_up = asyncio.Event()
        with self.changes.noted(name, given_up):
            async with self.changes.lock(name):
                await self._ray_is_up(name, given_up)  # its servlet may be taken over from an earlier server until then
                env = self.get(name)
                if env.servlet is None:
                    async for event in self._install(env, env.plan, env.secrets, given_up):
                        _raise_error(event)
                    if env.lacks:
                        log.warning("env %r runs without its secrets %s: it has to be sent again", name, env.lacks)

    async def install(
        self, plan: dict[str, Any], secrets: Held, given_up: asyncio.Event
    ) -> AsyncIterator[dict[str, Any]]:
        """Make an env what the plan says; events as they come, the last is {"done": …}, {"error": …} or {"changed": name}.

        Args:
            plan: an EnvPlan. Its `follows`, if there, is the digest of the spec it was made from: where somebody else has changed
                the env since, nothing happens, as what they asked for would be lost.
            secrets: the values of its secrets, those that are new.
            given_up: once it is set, nobody wants this any more: what is being built is ended, and the env is as it was.
        """
        name = check_name("env", plan["name"])
        if (alias := plan.get("alias")) and alias in self._envs and alias != name:
            error = UsageError(
                f"the cluster has an env {alias!r} of its own: remove it, or give the default env another name"
            )
            yield {"error": problems.to_json(error)}
            return
        with self.changes.noted(name, given_up):
            if self.changes.lock(name).locked():
                yield {"phase": "wait for another change of the same env"}
            if not await turn(self.changes.lock(name), given_up):
                yield {
                    "error": problems.to_json(InstallFailed(f"the set-up of env {name!r} was ended before it began"))
                }
                return
            try:
                env = self._envs.get(name)
                known = (env.plan.get("spec") or {}).get("digest") if env else None
                if plan.pop("follows", known) != known:
                    yield {"changed": name}
                    return
                env = env or Env(name, plan)
                held = completed(plan.get("secrets") or {}, secrets, env.secrets)
                async for event in self._install(env, plan, held, given_up):
                    yield event
            finally:
                self.changes.lock(name).release()

    async def give_up(self) -> None:
        """End whatever is being built; afterwards no env can be changed any more."""
        await self.changes.end()

    async def _install(
        self, env: Env, plan: dict[str, Any], secrets: Held, given_up: asyncio.Event
    ) -> AsyncIterator[dict[str, Any]]:
        env.installing = True
        before, lost = env.servlet, set[str]()
        try:
            await self._ray_is_up(env.name, given_up)
            with self._directory.losses(env.name) as lost:
                if env.servlet is None or (plan.get("compute") or {}) != (env.plan.get("compute") or {}):
                    compute = await servlets.affordable(self._ray, env.name, plan.get("compute") or {})
                    if env.servlet is not None:  # built before the old one goes: if that fails, nothing has happened
                        async for event in env.servlet.run("build", plan, secrets, given_up):
                            if "built" not in event:
                                yield event
                            if "error" in event:
                                return
                    had_worker = env.worker is not None
                    async for event in self._place(env, compute, given_up):
                        yield event
                assert env.servlet is not None  # placed
                async for event in env.servlet.run("install", plan, secrets, given_up):
                    if "done" in event:
                        done = await self._installed(env, plan, secrets, event["done"])
                        event = {
                            "done": {
                                **done,
                                "replaced_worker": done["replaced_worker"]
                                or (env.servlet is not before and had_worker),
                                "lost": sorted(lost),
                            }
                        }
                        if why := self._keep(env):
                            yield {"warning": why}
                    elif "error" in event:
                        async for last in self._failed(env, before, lost, event):
                            yield last
                        return  # where its servlet is gone, the stream would end in another error
                    yield event
        except Exception as error:
            if not isinstance(error, RunkitError):
                log.exception("env %r: its set-up failed", env.name)
            async for last in self._failed(env, before, lost, {"error": problems.to_json(error)}):
                yield last
        finally:
            env.installing = False

    async def _failed(
        self, env: Env, before: servlets.Servlet | None, lost: Collection[str], error: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """The last words of a set-up that failed; its error says `ended` where the env's process had to go for it."""
        if env.servlet is not before:
            await self._drop_servlet(env)
            if before is not None:
                objects = f"; objects that went with it: {', '.join(map(repr, sorted(lost)))}" if lost else ""
                back = "it starts as it was when the env is next used"
                yield {"warning": f"the process of env {env.name!r} has ended, and {back}{objects}"}
                error = {**error, "ended": True}
        yield error

    def _keep(self, env: Env) -> str:
        """Have the env there after a restart of the server; why it will not be, "" if it will."""
        try:
            write_json(self._settings.envs / f"{env.name}.json", env.plan)
        except OSError as error:
            log.warning("env %r: its plan cannot be written: %s", env.name, error)
            return f"env {env.name!r} cannot be written down ({error}): after a restart of the server it is as it was before"
        return ""

    async def _ray_is_up(self, name: str, given_up: asyncio.Event) -> None:
        await first_of(self.ray_up, self.ray_lost, given_up)
        if given_up.is_set():
            raise InstallFailed(f"the set-up of env {name!r} was ended before it began")
        if not self.ray_up.is_set():
            raise ServerError(self.trouble)

    async def _installed(self, env: Env, plan: dict[str, Any], secrets: Held, done: dict[str, Any]) -> dict[str, Any]:
        order = done.pop("switch", None)
        if order is not None:
            try:
                await self._directory.order(env.name, generation=done["worker"]["generation"], **order)
            except (ServerError, TypeError) as error:
                log.warning("env %r: the worker could not be switched (%s): it is replaced", env.name, error)
                assert env.servlet is not None  # it has just installed
                replaced = await env.servlet.ask("replace", "the worker could not be switched")
                done = {**done, **replaced, "replaced_worker": True}
        await self._directory.arrival(env.name, done["worker"]["generation"])
        env.plan, env.secrets = plan, secrets
        env.has_run = True
        env.hear(done)
        self._envs[env.name] = env
        log.info("env %r: ready", env.name)
        self._watch(env)
        return {name: done[name] for name in ("build", "created", "replaced_worker", "worker")}

    async def _place(self, env: Env, compute: dict[str, Any], given_up: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
        """Give the env a servlet with these resources; the one it has goes once the new one is there, or has to make room for it."""
        servlet = await servlets.create(self._ray, self._settings, env.name, compute)
        there_yet, gone = asyncio.ensure_future(servlet.ask("pid")), asyncio.ensure_future(given_up.wait())
        pause = FIRST_PLACE_SECONDS
        try:
            while not (await asyncio.wait({there_yet, gone}, timeout=pause, return_when="FIRST_COMPLETED"))[0]:
                pause = PLACE_SECONDS
                _, later = await servlets.missing_resources(self._ray, compute)
                held = (env.plan.get("compute") or {}) if env.servlet is not None else {}
                if env.servlet is not None and all(
                    compute[kind] <= free + held.get(kind, 0) for kind, free in later.items()
                ):
                    await self._drop_servlet(env)
                    continue
                needs = ", ".join(f"{kind} ({compute[kind]} needed, {amount:g} free)" for kind, amount in later.items())
                yield {"phase": f"wait for {needs or 'a process of Ray'}"}
            if not there_yet.done():
                raise InstallFailed(f"the set-up of env {env.name!r} was ended: nobody waits for it any more")
            there_yet.result()
        except BaseException:
            await servlet.end()
            raise
        finally:
            there_yet.cancel()
            gone.cancel()
        servlet.there = True
        await self._drop_servlet(env)
        env.servlet = servlet
        log.info("env %r: its servlet is there", env.name)

    # -- watching

    def _watch(self, env: Env) -> None:
        if env.watcher is None or env.watcher.done():
            env.watcher = asyncio.get_running_loop().create_task(self._follow(env))

    async def _follow(self, env: Env) -> None:
        servlet = env.servlet
        try:
            while servlet is not None and env.servlet is servlet:
                state = await servlet.ask("watch", env.state["version"], WATCH_SECONDS)
                if env.servlet is servlet:
                    env.hear(state)
        except RunkitError as error:
            if env.servlet is servlet and self._ray.connected:
                log.warning("env %r: %s; it is built again", env.name, error)
                self._gone(env, str(error))
                with suppress(RunkitError):
                    await self.up(env.name)

    def _gone(self, env: Env, why: str) -> None:
        env.servlet = None
        env.hear({"version": 0, "worker": None, "restarts": env.state["restarts"] + 1, "failure": ""})
        with self._directory.losses(env.name) as lost:
            self._directory.forget(env.name)
        if lost:
            log.warning("env %r lost its objects %s: %s", env.name, sorted(lost), why)

    async def _drop_servlet(self, env: Env) -> None:
        servlet, env.servlet = env.servlet, None
        if servlet is None:
            return
        if env.watcher is not None:
            env.watcher.cancel()
        await servlet.end()
        env.hear({"version": 0, "worker": None, "restarts": env.state["restarts"], "failure": ""})

    # -- ending and coming back

    async def restart(
        self, name: str, why: str, generation: int | None = None, only_call: tuple[str, int] | None = None
    ) -> dict[str, Any]:
        """Replace the env's worker (only if it is of that generation, and at that call and no other); {lost: keys, worker}."""
        name = self.real_name(name)
        # Whoever ends a call does not wait until somebody else's build has ended; the servlet replaces its worker once at a time.
        async with self.changes.lock(name) if only_call is None else nullcontext():
            env = self.get(name)
            servlet = env.servlet
            if servlet is None:
                raise EnvError(f"env {name!r} does not run")
            if generation is not None and (env.worker or {}).get("generation") != generation:
                return {"lost": [], "worker": env.worker}
            with self._directory.losses(name) as lost:
                state = await servlet.ask("replace", why, generation, only_call)
                await self._directory.arrival(name, (state["worker"] or {}).get("generation"))
            if env.servlet is servlet:
                env.hear(state)
            return {"lost": sorted(lost), "worker": state["worker"]}

    async def delete(self, name: str) -> list[str]:
        """End the env, or what is being made of it, and forget it; gives the keys that went with it.

        The default env comes back as it was before anybody asked for anything in it.

        Raises:
            SetupFailed: that cannot be made any more; the default env is as it was.
        """
        name = self.real_name(name)
        if not self.changes.under_way(name):
            self.get(name)
        self.changes.give_up(name)
        async with self.changes.lock(name):
            if (env := self._envs.get(name)) is None:
                return []
            if name == DEFAULT_ENV:  # first what takes its place: every other env is found beside a default env
                await asyncio.to_thread(default_env.ensure, self._settings)
            with self._directory.losses(name) as lost:
                await self._drop_servlet(env)
                self._directory.forget(name)
            (self._settings.envs / f"{name}.json").unlink(missing_ok=True)
            remove_files(self._settings, name)
            if name == DEFAULT_ENV:
                self._envs[name] = Env(name, default_env.default_plan(self._settings))
            else:
                del self._envs[name]
        if name == DEFAULT_ENV:
            await self.up(name)
        return sorted(lost)

    async def stop(self) -> None:
        """End all workers and servlets; the kept plans stay."""
        await asyncio.gather(*(self._drop_servlet(env) for env in self._envs.values()), return_exceptions=True)

    async def adopt(self) -> None:
        """Take over the living servlets of an earlier server on this port."""
        for servlet in await servlets.living(self._ray):
            env = self._envs.get(servlet.name)
            try:
                await asyncio.wait_for(servlet.ask("give_up"), 5.0)  # whoever wanted what it builds hears of it no more
                servlet.there = True
                state = await asyncio.wait_for(servlet.ask("state"), 5.0)
                if env is None or env.servlet is not None or state["plan"]["build"] != env.plan.get("build"):
                    raise EnvError("nobody asked for it")
                held = {one: await servlet.ask("secret", one) for one in state["secrets"]}
            except (RunkitError, TimeoutError, asyncio.TimeoutError) as error:
                log.info("servlet %s is not taken over: %s", servlet.actor, error)
                await servlet.end()
                continue
            env.servlet = servlet
            env.secrets = completed(env.plan.get("secrets") or {}, {}, held)
            env.has_run = True
            env.hear(state)
            self._watch(env)
            if env.worker is not None:  # which objects there are is known once it has said hello
                await self._directory.arrival(env.name, env.worker["generation"])

    def no_ray(self, why: str) -> None:
        """Ray does not come up again: whoever waits for it hears why."""
        self.trouble = why
        self.ray_lost.set()

    def ray_died(self) -> list[str]:
        """Ray has ended and every servlet with it; gives the names of those that ran."""
        self.ray_up.clear()
        self.ray_lost.clear()
        running = [env for env in self._envs.values() if env.has_run]
        for env in running:
            if env.servlet is not None:  # the end of its servlet may have been noticed before that of Ray
                self._gone(env, "Ray has ended")
        return [env.name for env in running]


def _raise_error(event: dict[str, Any]) -> None:
    if "error" in event:
        raise problems.from_json(event["error"])
