"""Reads the configuration again and changes only what it changes; ``core.reload`` makes the plan and its order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from llm_supervisor.config import Config, ConfigError, Plan, Problem, load, not_cached, rehearsed
from llm_supervisor.config.config import GATEWAY
from llm_supervisor.config.specs import Pythons
from llm_supervisor.control.protocol import PlannedBody, ReloadBody
from llm_supervisor.core.reload import Action, Change, absent_replica, changes, due, order
from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.rolling import left_behind
from llm_supervisor.daemon.active_config import ActiveConfig
from llm_supervisor.daemon.bootstrap import Bootstrap
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.rolling import Rolling
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.engines.litellm import dry_run
from llm_supervisor.engines.vllm import judgement
from llm_supervisor.host import bounded, log
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.resources import Refusal, check_ports, find_pythons
from llm_supervisor.supervision.snapshots import Snapshots

PATIENCE = 10.0  # seconds that the reading of a configuration may take
T = TypeVar("T")


class Reload:
    """Brings another configuration about. ``in_hand`` is held while one is read and taken, and by whoever wants the
    configuration to stay as it is."""

    def __init__(
        self,
        bootstrap: Bootstrap,
        active: ActiveConfig,
        world: LocalWorld,
        runners: Runners,
        rolling: Rolling,
        lifecycle: Lifecycle,
        snapshots: Snapshots,
        in_hand: asyncio.Lock,
    ) -> None:
        self._bootstrap, self._active, self._world = bootstrap, active, world
        self._runners, self._rolling = runners, rolling
        self._lifecycle, self._snapshots, self._in_hand = lifecycle, snapshots, in_hand
        self._log = log.get()

    # What is asked ----------------------------------------------------------------------------------------

    async def reload(self, *, dry_run: bool, wait: bool) -> ReloadBody:
        """Read the configuration again, and change only what it changes. The answer of ``POST /v1/reload``."""
        async with self._in_hand:
            if self._lifecycle.ending or self._lifecycle.handing_over:
                return {"ok": False, "problems": [], "changes": [], "error": "the daemon is about to end"}
            try:
                config, pythons, fresh, lacking = await self._read()
            except ConfigError as error:
                return self._not_reloaded([str(one) for one in error.problems])
            except (Refusal, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
                return self._not_reloaded([str(error) or repr(error)])
            todo = self._changes(fresh)
            told: list[PlannedBody] = [
                {"program": one.program, "action": one.action.value, "why": one.why} for one in todo
            ]
            warnings: list[Problem] = [*config.warnings, *lacking]
            answer: ReloadBody = {"ok": True, "problems": [str(one) for one in warnings], "changes": told}
            if dry_run:
                # the key's file may be another one
                await self._from_disk(lambda: self._active.planned(self._active.config, self._active.pythons))
                return answer
            kept = [name for name in fresh.programs if _way(self._active.plan, name) == _way(fresh, name)]
            try:
                self._take(config, pythons, fresh, todo)
            except OSError as error:
                return self._not_reloaded([f"cannot be written down: {error}"])
            self._log.info("reloaded", changes=[one for one in told if one["action"] != Action.NOTHING.value])
        # which configuration holds is settled. To bring it about may take long, and another request may come meanwhile
        if not wait:
            self._lifecycle.soon(self._carry_out(todo, kept))
            return answer
        results = await self._carry_out(todo, kept)
        for line in told:
            if (result := results.get(line["program"])) is not None:
                line["outcome"] = result.words
                line["ok"] = result.done
        return {**answer, "ok": all(result.done for result in results.values())}

    async def plan_again(self, lost: Path) -> None:
        """Plan the configuration that holds again, as the runtime folder ``lost`` was removed: it is elsewhere now, or
        empty. Programs whose private sockets were in it are started again, the replicas one after the other. Raises
        OSError when its files cannot be written."""
        async with self._in_hand:
            if self._lifecycle.ending or self._lifecycle.handing_over:
                return
            active = self._active
            fresh = active.planned(active.config, active.pythons)
            sockets = {name: spec.launch.uds or "" for name, spec in self._runners.specs.items()}
            active.take(active.config, active.pythons, fresh, active.problems)
            for name, planned in fresh.programs.items():
                if name in self._runners:
                    self._runners.renew(name, planned, moved=True)
        replicas = self._runners.replicas()
        gone = [name for name, uds in sockets.items() if Path(uds).parent == lost and not os.path.exists(uds)]
        cut_off = [name for name in gone if not self._runners.stays_down(name)]
        await self._rolling.roll([name for name in replicas if name in cut_off], changed=False)
        for name in cut_off:
            if name in self._runners and name not in replicas:
                await self._runners.ask(name, "restart")

    async def by_signal(self) -> None:
        """Reload as SIGHUP asks for it: the answer is in the log."""
        await self.reload(dry_run=False, wait=True)

    async def catch_up(self, former: fm.Former) -> None:
        """Bring about what the configuration changed while no daemon lived, and what the former daemon put off."""
        for name in former.handover.replace if former.handover is not None else ():
            self._rolling.replace_later(name)
        known = {name: one for name, one in former.programs.items() if one.state is not None and one.digest}
        new = {name: spec for name, spec in self._runners.specs.items() if name in known}
        old = {name: replace(spec, digest=known[name].digest) for name, spec in new.items()}
        todo = changes(old, new, self._runners.states, self._world.running())
        todo = [one for one in todo if one.action in (Action.START, Action.RESTART, Action.ROLLING)]
        if todo:
            self._log.info("changed while no daemon lived", programs=[one.program for one in todo])
            await self._carry_out(todo)

    # Reading and taking it --------------------------------------------------------------------------------

    async def _read(self) -> tuple[Config, Pythons, Plan, list[Problem]]:
        """The configuration as the files have it now, judged and planned, and what would have to be downloaded. Raises
        ConfigError, Refusal, OSError, or what a file raises that nobody has foreseen."""
        config, lacking = await self._from_disk(self._load)
        await self._ask_vllm(config)
        check_ports(config, self._runners.owns)
        pythons = await self._from_disk(lambda: find_pythons(config, self._bootstrap.data, self._active.pythons))
        fresh = await self._from_disk(lambda: self._active.planned(config, pythons))
        said = await self._rehearse(config, fresh, pythons)
        if not all(problem.warning for problem in said):
            raise ConfigError([*config.warnings, *said])
        return config, pythons, fresh, [*lacking, *said]

    async def _rehearse(self, config: Config, fresh: Plan, pythons: Pythons) -> list[Problem]:
        """What LiteLLM itself complains of in a configuration that changes something for it. Raises NoAnswer."""

        def asked(of: Plan) -> object:
            gateway = of.programs.get(GATEWAY)
            return of.litellm_config, gateway and (gateway.spec.launch.argv[0], gateway.spec.launch.env)

        if asked(fresh) == asked(self._active.plan):
            return []
        read = partial(rehearsed, config, fresh, pythons.litellm, self._bootstrap.data)
        thing = "LiteLLM's own loading of its file"
        said, untried = await bounded.ask(thing, read, within=dry_run.PATIENCE + PATIENCE)
        if untried:
            self._log.info(f"{thing} was not tried", why=untried)
        return said

    def _load(self) -> tuple[Config, list[Problem]]:
        config = load(
            self._active.config.files,
            self._bootstrap.environ,
            self._bootstrap.vllm_options,
            self._bootstrap.litellm_providers,
        )
        return config, not_cached(config)

    async def _ask_vllm(self, config: Config) -> None:
        """Let the installed vLLM judge the values of its options. Raises ConfigError."""
        if not any(model.vllm for model in config.root.models.values()):
            return
        bootstrap = self._bootstrap

        def judged() -> None:
            load(
                self._active.config.files,
                bootstrap.environ,
                bootstrap.vllm_options,
                bootstrap.litellm_providers,
                bootstrap.judge_options,
            )

        await bounded.ask("vLLM's check of its options", judged, within=judgement.PATIENCE + PATIENCE)

    async def _from_disk(self, read: Callable[[], T]) -> T:
        """Read files without holding up the programs. Raises NoAnswer where a disk does not answer."""
        return await bounded.ask("a disk that the configuration names", read, within=PATIENCE)

    def _not_reloaded(self, problems: list[str]) -> ReloadBody:
        self._log.error("not reloaded: the configuration is wrong, nothing has changed", problems=problems)
        return {"ok": False, "problems": problems, "changes": []}

    def _changes(self, fresh: Plan) -> list[Change]:
        specs = {name: planned.spec for name, planned in fresh.programs.items()}
        spares = self._runners.spares()  # they are part of no plan, and leave by themselves
        before = {name: spec for name, spec in self._runners.specs.items() if name in specs or name not in spares}
        return changes(before, specs, self._runners.states, self._world.running(), self._runners.dismissed)

    def _take(self, config: Config, pythons: Pythons, fresh: Plan, todo: Sequence[Change]) -> None:
        """Let this configuration hold, for the programs too; none is started, stopped or restarted yet. Raises OSError,
        and then nothing has changed."""
        self._active.take(config, pythons, fresh)
        self._bootstrap.pump.limit(fresh.logs.max_bytes, fresh.logs.backups)
        self._world.engine_environs = fresh.environs
        if self._active.wants_gpus:
            self._world.find_gpus()
        self._runners.overrule(fresh.programs)
        self._active.warn()
        for one in todo:
            if one.action is not Action.STOP:
                self._runners.renew(one.program, fresh.programs[one.program])
        self._runners.arrange(fresh.programs)

    # Bringing it about ------------------------------------------------------------------------------------

    async def _carry_out(self, todo: Sequence[Change], kept: Collection[str] = ()) -> Mapping[str, RequestOutcome]:
        """Carry a plan out in its order (``core.reload.order``), and let go of what has left. By program: what became
        of it, where something was asked of it."""
        specs = self._runners.specs
        plan = order(todo, specs, self._runners.states, kept)
        async with asyncio.TaskGroup() as group:
            rolled = group.create_task(self._rolling.roll(plan.rolling, changed=True))
            others = {one.program: group.create_task(self._do(one)) for one in plan.at_once}
        found = rolled.result() | {name: task.result() for name, task in others.items()}
        absent = absent_replica(found, specs)
        for one in plan.surplus:
            # one that is left is a spare replica now, and goes when another one is there
            found[one.program] = await self._do(one) if absent is None else left_behind(absent)
        results = await asyncio.gather(*(self._do(one) for one in plan.engines))
        found |= dict(zip((one.program for one in plan.engines), results, strict=True))
        for one in todo:
            if one.action is Action.STOP and one.program not in self._active.plan.programs:
                self._runners.drop(one.program)
        self._snapshots.publish()
        return found

    async def _do(self, change: Change) -> RequestOutcome:
        """One change, unless something else was asked for since (``core.reload.due``)."""
        name = change.program
        now = due(
            change,
            configured=name in self._active.plan.programs,
            told_down=self._runners.stays_down(name),
            is_new=name in self._runners and self._runners.is_new(name),
        )
        if isinstance(now, RequestOutcome):
            return now
        if now is Action.STOP:
            return await self._runners.dismiss(name)
        return await self._runners.ask(name, now.value)


def _way(plan: Plan, name: str) -> tuple[object, ...]:
    """How the gateway reaches an engine: where, for which model, with which key. Empty for any other program."""
    entries = (plan.litellm_config or {}).get("model_list") or []
    params = [entry["litellm_params"] for entry in entries if entry["model_name"] == name]
    asked = [(one.get("model"), one.get("api_base")) for one in params]
    asking = plan.programs[name].asking if name in plan.programs else None
    return (asked, asking.address, asking.headers) if asking is not None else ()
