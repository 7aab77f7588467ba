"""Ask programs over HTTP: probes, metrics and canaries, each judged by the plan that the program came with."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from llm_supervisor.core.health import Answer, Counters, ProbeResult
from llm_supervisor.core.port_use import judge_port, port_use
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan
from llm_supervisor.host import http
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.net import ports as net_ports
from llm_supervisor.host.process import Row
from llm_supervisor.supervision.local.incarnation import Incarnation


class ProbeClient:
    """Keeps one connection pool for each program. ``look`` returns the living processes of an incarnation."""

    def __init__(self, incarnations: Mapping[str, Incarnation], look: Callable[[Incarnation], list[Row]]) -> None:
        self._incarnations, self._look = incarnations, look
        self._targets: dict[str, tuple[object, http.Target]] = {}

    async def ask(self, name: str, asking: ProbePlan, question: HttpProbe | None, timeout: float) -> ProbeResult:
        """Ask one question and judge the answer; without a question, try a TCP connection."""
        if question is None:
            assert not isinstance(asking.address, str)
            return await http.connect(*asking.address, timeout)
        reply = await (await self._target(name, asking)).ask(question.path, timeout)
        if isinstance(reply, ProbeResult):
            return reply
        if question.signal == "catalogue" and (stranger := self._stranger(name)) is not None:
            return replace(stranger, took=reply.took)
        return _judged(question.judge, reply, question.path)

    async def read(
        self, name: str, asking: ProbePlan, reading: MetricsProbe, timeout: float
    ) -> tuple[ProbeResult, Counters | None]:
        """Read the counters; None where the page does not show them."""
        reply = await (await self._target(name, asking)).ask(reading.path, timeout)
        if isinstance(reply, ProbeResult):
            return reply, None
        try:
            counters = reading.read(reply.body) if reply.status == 200 else None
        except Exception:
            counters = None  # whatever was sent: it shows no counters
        if counters is None:
            return ProbeResult(Answer.INVALID, f"{reading.path} ({reply.status}) shows no counters", reply.took), None
        return ProbeResult(Answer.OK, f"{counters.running} running, {counters.waiting} waiting", reply.took), counters

    async def send(self, name: str, asking: ProbePlan, canary: Canary, timeout: float) -> ProbeResult:
        """Send a canary and judge the answer."""
        nonce = uuid.uuid4().hex[:12]
        target = await self._target(name, asking)
        body = canary.body(nonce)
        reply = await target.ask(canary.path, timeout, body, {"X-Request-Id": f"llm-supervisor-canary-{nonce}"})
        if isinstance(reply, ProbeResult):
            return reply
        return _judged(canary.judge, reply, canary.path)

    async def close(self) -> None:
        """Close all connections."""
        for _, target in self._targets.values():
            await target.close()

    async def _target(self, name: str, asking: ProbePlan) -> http.Target:
        known = self._targets.get(name)
        # only where and with which key: two plans of the same ask it by other functions, over the same connections
        where = (asking.address, asking.headers, asking.tls)
        if known is None or known[0] != where:
            address = net_listener.reachable(asking.address) if isinstance(asking.address, str) else asking.address
            before, known = known, (where, http.Target(address, dict(asking.headers), tls=asking.tls))
            self._targets[name] = known
            if before is not None:
                await before[1].close()
        return known[1]

    def _stranger(self, name: str) -> ProbeResult | None:
        """The judgement on an answer from a port on which another process listens; None where none does."""
        living = self._incarnations.get(name)
        if living is None or living.port is None:
            return None
        listening = net_ports.listening(living.port)
        ours = net_ports.held(listening, (row.pid for row in self._look(living)))
        leader = living.tree.leader
        use = port_use(listening, ours, visible=leader is not None and os.access(f"/proc/{leader[0]}/fd", os.R_OK))
        # every process is read to find the holder
        holder = net_ports.holder(living.port, listening - ours) if use.by_others else None
        return judge_port(use, living.port, name, str(holder) if holder else "another process")


def _judged(judge: Callable[[int, bytes], ProbeResult], reply: http.Reply, path: str) -> ProbeResult:
    """The judgement on an answer. One that no judge can read was sent by the program: it is invalid, and no defect of
    ours that would count against nobody."""
    try:
        return replace(judge(reply.status, reply.body), took=reply.took)
    except Exception as error:
        detail = f"{path} answers {reply.status} with something that cannot be read ({type(error).__name__})"
        return ProbeResult(Answer.INVALID, detail, reply.took)
