"""An engine that follows a script, on virtual time, under the real ``Runner``. What it answers is judged by the judges
of the engines; what becomes of it is written down as a timeline.

A script is lines of ``TIME key=value ...``; a timeline is lines of ``TIME STATE health text``, where TIME is exact (to
a second) or a range ``FROM..TO``, and the text is a part of ``rule: reason`` (for a program that leaves, of
``phase: reason``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest

from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event, ExitStatus
from llm_supervisor.core.health import Answer, Counters, Observation, ProbeResult, Word
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan
from llm_supervisor.core.spec import HealthSpec, Kind, Launch, ProgramSpec, StopSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.engines import canary
from llm_supervisor.engines.litellm import probes as litellm_probes
from llm_supervisor.engines.vllm import probes as vllm_probes
from llm_supervisor.engines.vllm import process as vllm_process
from llm_supervisor.supervision.runner import Runner
from llm_supervisor.supervision.world import Launched, Swept
from tests.support.virtual_time import VirtualLoop, play

SERVED = "glm"
LOADS = 20.0  # seconds that an engine takes to listen, where a script does not say when it does
SIGKILL = 9

ENGINE = ProbePlan(
    ("127.0.0.1", 8000),
    (
        HttpProbe("liveness", "/health", vllm_probes.judge_health),
        HttpProbe("catalogue", "/v1/models", partial(vllm_probes.judge_models, served_names=[SERVED])),
    ),
    metrics=MetricsProbe("/metrics", vllm_probes.read_metrics),
    canary=Canary(
        "/v1/chat/completions",
        partial(canary.chat_canary, model=SERVED, vision=True),
        partial(canary.judge, expect=None),
    ),
)
GATEWAY = ProbePlan(
    "gateway.sock",
    (
        HttpProbe("liveness", "/health/liveliness", litellm_probes.judge_liveliness),
        HttpProbe(
            "catalogue",
            "/model_group/info",
            partial(litellm_probes.judge_groups, expected={SERVED: True, "cloud": None}),
        ),
    ),
)
ENGINE_SPEC = ProgramSpec(
    SERVED, Kind.VLLM, Launch(("vllm",)), HealthSpec(), stop=StopSpec(sweep_grace=0.0), vital=vllm_process.VITAL
)
GATEWAY_SPEC = replace(ENGINE_SPEC, name="gateway", kind=Kind.LITELLM, health=HealthSpec(canary=False), vital=())

Row = tuple[float, str, str, str]
Reply = tuple[int, bytes]
# Requests of others that end in a second under load
REQUESTS = 0.5


# What the script sets ---------------------------------------------------------------------------------------


@dataclass
class Facts:
    """How the engine is, in the words of the scripts. These are a fine engine's."""

    up: str = "later"  # yes, no: whether it listens; later: LOADS seconds after its spawn
    cpu: str = "on"  # off: it burns none
    health: str = "200"  # STATUS, hang, refused, garbage
    models: str = "right"  # wrong, STATUS, hang, garbage
    metrics: str = "200"  # STATUS, empty, hang
    canary: str = "ok"  # STATUS, empty, hang, 12s (answers after that)
    load: str = "none"  # RUNNING+WAITING@TOKENS/s, or @TOKENS/s,ITERATIONS/s
    engine: str = "runs"  # frozen: what it counts stands still, and a canary is not answered
    worker: str = "runs"  # stopped, D: what the kernel says; implies frozen
    leaves: str = "yes"  # no: it ignores SIGTERM

    @property
    def frozen(self) -> bool:
        return self.engine == "frozen" or self.worker != "runs"


class ScriptedWorld:
    """See ``runner.World``: one engine, or one gateway, in no process at all."""

    def __init__(self, asking: ProbePlan) -> None:
        self.facts = Facts()
        self.asking = asking
        self.runner: Runner | None = None
        self.canaries: list[float] = []  # when one was sent
        self.signals: list[tuple[float, int]] = []
        self._said: list[bytes] = []
        self._ticks = 0
        self._spawned_at = 0.0
        self._incarnation = 0
        self._post: Callable[[Event], None] = lambda event: None
        self._tokens = self._iterations = self._finished = 0.0
        self._counted_at = 0.0
        self._was_waiting = False
        self._asked = 0  # canaries on their way

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def do(self, key: str, value: str) -> None:
        """One word of the script."""
        self._count()
        match key:
            case "says":
                self._said.append(value.replace("_", " ").encode())
            case "counts":
                self._tokens = self._iterations = self._finished = float(value)
            case "clock":
                loop = asyncio.get_running_loop()
                assert isinstance(loop, VirtualLoop)
                loop._virtual += float(value)  # everything stood still but the clock
            case "leader":
                status = ExitStatus(code=int(value[4:])) if value.startswith("exit") else ExitStatus(signal=int(value))
                self._post(ev.Exited(self._incarnation, status))
            case "member":
                self._post(ev.MemberLost(self._incarnation, 7, "VLLM::" + value))
            case "route":  # the daemon asks through the gateway, and tells the gateway's runner
                assert self.runner is not None
                probe = (
                    ProbeResult(Answer.SILENT, "no answer within 30 s", 30.0)
                    if value == "hang"
                    else _canary_probe(value)
                )
                self.runner.post(ev.Observed(self._incarnation, Observation(routes={SERVED: probe})))
            case _:
                assert hasattr(self.facts, key), f"no such word: {key}"
                setattr(self.facts, key, value)

    def _count(self) -> None:
        """What it did since the last look."""
        passed, self._counted_at = self.now - self._counted_at, self.now
        if self.facts.load != "none" and not self.facts.frozen:
            tokens, _, iterations = self.facts.load.partition("@")[2].partition(",")
            self._tokens += passed * float(tokens)
            self._iterations += passed * float(iterations or tokens)
            if float(tokens):
                self._finished += passed * REQUESTS

    # Processes --------------------------------------------------------------------------------------------

    async def spawn(
        self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None], *, warm: bool
    ) -> Launched:
        """See ``runner.World``. What comes back is a fine engine, whatever became of its predecessor."""
        if incarnation > 1:
            self.facts = Facts()
        self._post, self._incarnation, self._spawned_at = post, incarnation, self.now
        self._tokens = self._iterations = self._finished = 0.0
        return Launched(100 + incarnation, warm=False)

    def signal(self, name: str, signum: int, *, tree: bool) -> None:
        """See ``runner.World``."""
        self.signals.append((self.now, signum))
        loop = asyncio.get_running_loop()
        if signum == SIGKILL:
            loop.call_soon(self._post, ev.Exited(self._incarnation, ExitStatus(signal=SIGKILL)))
        elif self.facts.leaves == "yes":
            loop.call_later(1.0, self._post, ev.Exited(self._incarnation, ExitStatus(0)))

    async def sweep(self, *_: object) -> Swept:
        """See ``runner.World``."""
        return Swept()

    async def orphans_gone(self, name: str) -> None:
        """See ``runner.World``."""

    def close_listener(self, name: str) -> None:
        """See ``runner.World``."""

    def take_baseline(self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None]) -> None:
        """See ``runner.World``."""

    async def dump_stacks(self, spec: ProgramSpec) -> None:
        """See ``runner.World``."""

    def worked(self, spec: ProgramSpec) -> int:
        """See ``runner.World``."""
        self._ticks += 1 if self.facts.cpu == "on" else 0
        return self._ticks

    def stopped(self, spec: ProgramSpec) -> tuple[str, ...]:
        """See ``runner.World``; as the real one, it believes in D when it sees it twice in a row."""
        waited, self._was_waiting = self._was_waiting, self.facts.worker == "D"
        if self.facts.worker == "stopped":
            return ("VLLM::Worker (pid 7) is stopped",)
        if self._was_waiting and waited:
            return ("VLLM::Worker (pid 7) hangs in the kernel",)
        return ()

    async def output(self, name: str) -> tuple[list[bytes], bool]:
        """See ``runner.World``."""
        said, self._said = self._said, []
        return said, bool(said)

    async def downloaded(self, spec: ProgramSpec) -> int:
        """See ``runner.World``."""
        return 0

    # Answers ----------------------------------------------------------------------------------------------

    async def ask(self, name: str, asking: ProbePlan, question: HttpProbe | None, timeout: float) -> ProbeResult:
        """See ``runner.World``."""
        assert question is not None
        wanted = self.facts.health if question.signal == "liveness" else self.facts.models
        reply = await self._reply(wanted, question.path, timeout, self._page)
        return reply if isinstance(reply, ProbeResult) else question.judge(*reply)

    async def read(
        self, name: str, asking: ProbePlan, reading: MetricsProbe, timeout: float
    ) -> tuple[ProbeResult, Counters | None]:
        """See ``runner.World``."""
        reply = await self._reply(self.facts.metrics, reading.path, timeout, self._page)
        if isinstance(reply, ProbeResult):
            return reply, None
        counters = reading.read(reply[1]) if reply[0] == 200 else None
        if counters is None:
            return ProbeResult(Answer.INVALID, f"{reading.path} ({reply[0]}) shows no counters"), None
        return ProbeResult(Answer.OK), counters

    async def send(self, name: str, asking: ProbePlan, canary: Canary, timeout: float) -> ProbeResult:
        """See ``runner.World``."""
        self.canaries.append(self.now)
        wanted = self.facts.canary
        takes = 0.0
        if wanted.endswith("s"):
            takes, wanted = float(wanted[:-1]), "ok"
        if takes >= timeout:
            wanted = "hang"
        elif takes:
            self._asked += 1
            try:
                await asyncio.sleep(takes)
            finally:
                self._asked -= 1
        if self.facts.frozen and wanted not in ("400", "404"):  # the API server refuses by itself
            wanted = "hang"
        reply = await self._reply(wanted, canary.path, timeout, self._page)
        if isinstance(reply, ProbeResult):
            return replace(reply, took=timeout if reply.answer is Answer.SILENT else takes)
        if wanted in ("ok", "empty"):
            self._count()
            self._tokens += 4
            self._iterations += 1
            self._finished += 1
        return replace(canary.judge(*reply), took=takes)

    async def _reply(
        self, wanted: str, path: str, timeout: float, page: Callable[[str, str], Reply]
    ) -> Reply | ProbeResult:
        up = self.facts.up == "yes" or (self.facts.up == "later" and self.now >= self._spawned_at + LOADS)
        if wanted == "hang" and up:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.Event().wait()
            except TimeoutError:
                return ProbeResult(Answer.SILENT, f"no answer from {path} within {timeout:g} s", timeout)
        if wanted == "refused" or not up:
            return ProbeResult(Answer.REFUSED, "127.0.0.1:8000 refuses connections (Connection refused)")
        return page(path, wanted)

    def _page(self, path: str, wanted: str) -> Reply:
        if wanted.isdecimal() and wanted != "200":
            return int(wanted), json.dumps({"error": {"message": REFUSALS.get(wanted, "it fails")}}).encode()
        match path:
            case "/metrics":
                return 200, b"" if wanted == "empty" else self._metrics()
            case "/v1/models":
                name = {"right": SERVED, "wrong": "another"}.get(wanted)
                return 200, json.dumps({"data": [{"id": name}]}).encode() if name else b"garbage"
            case "/model_group/info":
                names = {"right": [SERVED, "cloud"], "wrong": ["cloud"]}[wanted]
                shown = [{"model_group": name, "supports_vision": name == SERVED} for name in names]
                return 200, json.dumps({"data": shown}).encode()
            case "/v1/chat/completions":
                return 200, _answer(0 if wanted == "empty" else 4)
        return 200, b""

    def _metrics(self) -> bytes:
        self._count()
        running, waiting = self._asked, 0
        if self.facts.load != "none":
            running, waiting = (int(number) for number in self.facts.load.partition("@")[0].split("+"))
        series = {
            "generation_tokens_total": self._tokens,
            "prompt_tokens_total": 0.0,
            "iteration_tokens_total_count": self._iterations,
            "request_success_total": self._finished,
            "num_requests_running": running,
            "num_requests_waiting": waiting,
        }
        return "".join(f'vllm:{name}{{engine="0"}} {value:.3f}\n' for name, value in series.items()).encode()


REFUSALS = {
    "400": "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template",
    "401": "Unauthorized",
    "404": "The model `glm` does not exist.",
}


def _answer(tokens: int) -> bytes:
    message = {"content": "word " * tokens or None}
    return json.dumps({"choices": [{"message": message}], "usage": {"completion_tokens": tokens}}).encode()


def _canary_probe(wanted: str) -> ProbeResult:
    if wanted == "ok":
        return canary.judge(200, _answer(4))
    return canary.judge(int(wanted), json.dumps({"error": {"message": REFUSALS.get(wanted, "it fails")}}).encode())


# The performance --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A script and the timeline that it must lead to. ``born``: time 0 is the spawn; else it is the moment when the
    program is ready, and what was before is not shown."""

    name: str
    script: str
    timeline: str
    until: float = 250.0
    born: bool = False
    gateway: bool = False
    health: dict[str, float] = field(default_factory=dict)
    canary: bool = True
    canaries: tuple[int, int] | None = None  # how many are sent, the start's included: from, to
    bug: str = ""  # why it is known to fail

    def lines(self) -> list[tuple[float, list[tuple[str, str]]]]:
        """The script, read."""
        read = []
        for line in self.script.strip().splitlines():
            at, *words = line.split()
            pairs = [(key, value) for key, _, value in (word.partition("=") for word in words)]
            read.append((float(at), pairs))
        return read


@dataclass
class Played:
    """What came of it."""

    timeline: list[Row]
    world: ScriptedWorld
    runner: Runner
    rules: set[str]  # that decided something


def perform(scenario: Scenario) -> Played:
    """Play a scenario to its end."""
    return play(_perform(scenario))


async def _perform(scenario: Scenario) -> Played:
    loop = asyncio.get_running_loop()
    asking = GATEWAY if scenario.gateway else ENGINE
    spec = GATEWAY_SPEC if scenario.gateway else ENGINE_SPEC
    health = replace(spec.health, **scenario.health)
    if not scenario.canary:
        asking, health = replace(asking, canary=None), replace(health, canary=False)
    spec = replace(spec, health=health)
    world = ScriptedWorld(asking)
    rows: list[Row] = []
    rules: set[str] = set()
    ready = asyncio.Event()

    def publish(name: str, before: State, state: State, event: Event) -> None:
        rules.add(state.health.verdict.rule)
        if state.phase is Phase.RUNNING:
            ready.set()
        if (before.word, before.health_word) != (state.word, state.health_word):
            note(state)

    def note(state: State) -> None:
        cause = state.health.verdict.rule if state.phase is Phase.RUNNING else state.phase.value
        rows.append((loop.time(), state.word, state.health_word.value, f"{cause}: {state.reason}"))

    world.runner = runner = Runner(spec, world, publish, asking=asking, reader=vllm_probes.step)
    running = asyncio.create_task(runner.run())
    zero = 0.0
    if not scenario.born:
        await ready.wait()
        zero = loop.time()
        rows.clear()
        if runner.state.health_word is not Word.READY:
            note(runner.state)
    for at, words in [*scenario.lines(), (scenario.until, [])]:
        left = zero + at - loop.time()
        assert left >= 0 or any(key == "clock" for _, pairs in scenario.lines() for key, _ in pairs), "out of order"
        await asyncio.sleep(max(left, 0))
        assert not running.done(), running.result()
        for key, value in words:
            world.do(key, value)
    running.cancel()
    await asyncio.wait((running,))
    if not running.cancelled():
        running.result()
    return Played([(at - zero, *rest) for at, *rest in rows], world, runner, rules)  # type: ignore[misc]


def differences(scenario: Scenario, played: Played) -> list[str]:
    """Where the timeline is not the expected one; nothing when it is."""
    problems = compare(scenario.timeline, played.timeline, slack=1.0)
    sent = len(played.world.canaries)
    if scenario.canaries and not scenario.canaries[0] <= sent <= scenario.canaries[1]:
        problems.append(f"{sent} canaries, not {scenario.canaries}")
    return problems


def compare(wanted: str, found: list[Row], slack: float) -> list[str]:
    """What distinguishes a timeline from the expected one. ``slack`` is allowed at either end of a range (seconds)."""
    problems = []
    rows = [line.split(maxsplit=3) for line in wanted.strip().splitlines()]
    for expected, row in zip_longest(rows, found):
        if expected is None or row is None:
            problems.append(f"unexpected: {shown(row)}" if row else f"missing: {' '.join(expected)}")
            continue
        when, state, word, *text = expected
        first, _, last = when.partition("..")
        in_time = float(first) - slack <= row[0] <= float(last or first) + slack
        if not in_time or row[1:3] != (state, word) or not all(part in row[3] for part in text):
            problems.append(f"expected: {' '.join(expected)}; got: {shown(row)}")
    return problems


def shown(row: Row) -> str:
    """A row of a timeline, as it would be written in a table."""
    at, state, word, text = row
    return f"{at:g} {state} {word} {text}"
