"""Carries out what a person asks of programs by name: start, stop, restart.

What a name means and who has to wait for whom is decided in ``core.rolling``, for the command and for the HTTP API
alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from llm_supervisor.control.server import REQUESTS
from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.rolling import ANSWERS, Turn, addressed, one_by_one
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.rolling import Rolling
from llm_supervisor.daemon.runners import GONE, Runners

Answers = Mapping[str, asyncio.Future[RequestOutcome]]


class Actions:
    """The explicit requests. What one says about a program overrides what a configuration has said before."""

    def __init__(self, runners: Runners, rolling: Rolling, lifecycle: Lifecycle) -> None:
        self._runners, self._rolling, self._lifecycle = runners, rolling, lifecycle

    def addressed(self, action: str, names: Sequence[str]) -> list[str]:
        """The programs that these names mean; one that does not exist is returned as it is."""
        return addressed(action, names, self._runners.specs, self._runners.spares())

    def begin(self, action: str, names: Sequence[str], *, wait: bool) -> Answers:
        """Begin with ``action`` for these programs, all of which exist, and go on whoever listens. By name: the answer,
        which comes when the request has come about or cannot any more; without ``wait``, when it is decided."""
        answers = {name: asyncio.get_running_loop().create_future() for name in names}
        self._lifecycle.soon(self._carry_out(action, answers, wait=wait))
        return answers

    async def _carry_out(self, action: str, answers: Answers, *, wait: bool) -> None:
        """All at once, and then the replicas that are restarted one after the other."""
        replicas = one_by_one(action, answers, self._runners.specs)
        down = [name for name in replicas if self._runners.stays_down(name)]
        try:
            if not wait:
                for name in replicas:
                    answers[name].set_result(ANSWERS[Turn.PUT_OFF])
            async with asyncio.TaskGroup() as group:
                for name in answers:
                    if name not in replicas:
                        group.create_task(self._ask(name, action, answers[name], wait=wait))
            await self._rolling.roll(
                replicas, changed=False, down=down, tell=lambda name, result: self._answer(answers[name], result)
            )
        finally:
            for answer in answers.values():
                self._answer(answer, RequestOutcome(False, "failed: see the log of the daemon"))

    async def _ask(self, name: str, action: str, answer: asyncio.Future[RequestOutcome], *, wait: bool) -> None:
        if name not in self._runners:
            self._answer(answer, RequestOutcome(action == "stop", GONE))
            return
        since = self._runners[name].state.incarnation
        self._runners.overrule([name])
        await self._runners.post(name, REQUESTS[action]())
        if not wait:
            self._answer(answer, self._runners.so_far(name, action, since))
        self._answer(answer, await self._runners.came_about(name, action, since))

    def _answer(self, answer: asyncio.Future[RequestOutcome], result: RequestOutcome) -> None:
        if not answer.done():
            answer.set_result(result)
