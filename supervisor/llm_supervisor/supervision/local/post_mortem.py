"""Finding out why a program left: its log and the kernel's are diagnosed, and the result is kept as an incident."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Cause, Departure, State
from llm_supervisor.diagnosis import Component, Diagnosis, diagnose
from llm_supervisor.host import bounded, incident, kmsg
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.host.output.reader import excerpt
from llm_supervisor.supervision.local.incarnation import Incarnation
from llm_supervisor.supervision.local.watch import DISK_WITHIN

COMPONENTS: Mapping[Kind, Component] = {Kind.VLLM: "vllm", Kind.LITELLM: "litellm", Kind.COMMAND: "command"}


class PostMortem:
    """``incidents`` is the folder of the incidents; ``gpu_facts`` describes a GPU, given baselines."""

    def __init__(
        self,
        pump: Pump,
        incidents: Path,
        gpu_facts: Callable[[int, list[tuple[int, int]]], Awaitable[dict[str, Any]]],
    ) -> None:
        self._pump, self._incidents, self._gpu_facts = pump, incidents, gpu_facts

    async def examine(self, spec: ProgramSpec, state: State, living: Incarnation) -> Failure | None:
        """Why the incarnation left, once all of its processes are dead; None when that was no failure."""
        leaving = state.leaving
        if leaving is None or not leaving.failed:
            return None
        log = await self._log(spec.name, living)
        exited = state.exited if leaving.cause is Cause.EXITED else None
        kernel_says = _kernel_says(spec, living)
        killed = _killed_by_oom(kernel_says, living)
        found = _diagnose(spec, leaving, exited, log, kernel_says, oom_killed=bool(killed))
        failure = leaving.failure or _named(leaving, found)
        facts = {
            "kind": failure.kind,
            "permanent": failure.permanent,
            "summary": failure.summary,
            "advice": failure.advice,
            "evidence": killed or list(found.evidence),
            "cause": leaving.cause.value,
            "left": leaving.summary,
            "was_ready": leaving.was_ready,
            "exit": str(exited) if exited else None,
            "incarnation": living.uuid,
            "verdict": {"rule": state.health.verdict.rule, "reason": state.health.verdict.reason},
            "probes": {name: [one.answer.value, one.detail] for name, one in state.health.probes.items()},
            "tree": living.outlived,
            "gpus": [await self._gpu_facts(index, living.baselines) for index in spec.gpus],
            "kernel": kernel_says,
        }
        more = {"stacks.txt": living.stacks.encode()} if living.stacks else {}
        try:
            written = await bounded.ask(
                f"the folder {self._incidents}",
                lambda: incident.write(self._incidents, spec.name, facts, log, more),
                within=DISK_WITHIN,
            )
        except OSError:
            return failure  # there is no room for an incident; the status and the log say what is known all the same
        return replace(failure, incident=written)

    async def _log(self, name: str, living: Incarnation) -> bytes:
        """What the incarnation wrote; nothing where the disk does not answer."""
        folder, end = self._pump.folder(name), self._pump.position(name)
        try:
            return await bounded.ask(f"the folder {folder}", excerpt, folder, living.log_from, end, within=DISK_WITHIN)
        except bounded.NoAnswer:
            return b""


def _kernel_says(spec: ProgramSpec, living: Incarnation) -> list[str]:
    """Telling lines of the kernel's log since the leader's start."""
    if living.first is None or spec.kind is Kind.COMMAND:
        return []
    return kmsg.telling_lines(living.first[1] / os.sysconf("SC_CLK_TCK"))


def _killed_by_oom(kernel_says: list[str], living: Incarnation) -> list[str]:
    """The lines that say that the kernel killed a process of this tree because memory was short."""
    tree = living.tree
    mine = {pid for pid, *_ in (*tree.seen, *tree.gone, *living.expected, *filter(None, [living.first]))}
    return [line for line in kernel_says if kmsg.oom_victims([line]) & mine]


def _diagnose(
    spec: ProgramSpec,
    leaving: Departure,
    exited: ExitStatus | None,
    log: bytes,
    kernel_says: list[str],
    *,
    oom_killed: bool,
) -> Diagnosis:
    untold = exited == ExitStatus()  # of an adopted program, which is not our child: nobody says how it ended
    found = diagnose(
        b"\n".join([log, *(line.encode() for line in kernel_says if "Xid" in line)]),
        COMPONENTS[spec.kind],
        exit_code=1 if untold else exited.code if exited else None,
        exit_signal=exited.signal if exited else None,
        was_ready=leaving.was_ready,
        oom_killed=oom_killed,
    )
    if untold and found.kind == "exited":
        return replace(found, kind="none")  # the status 1 was only assumed
    return found


def _named(leaving: Departure, found: Diagnosis) -> Failure:
    """The failure as the log explains it; where the log explains nothing, as the way in which the program left."""
    if found.kind == "none" or (found.kind == "unknown" and leaving.cause is not Cause.EXITED):
        return Failure(leaving.cause.value, leaving.summary)
    summary = f"{leaving.summary}: {found.summary}" if found.kind == "unknown" else found.summary
    return Failure(found.kind, summary, found.advice, found.permanent, busy=found.busy)
