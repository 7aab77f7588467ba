"""Record how a real vLLM behaves while things are done to it, as data for ``test_recorded``. A script, not a test.

    python -m tests.health.record PYTHON_OF_A_VLLM_ENVIRONMENT FOLDER_OF_A_TINY_MODEL

It starts that vLLM four times on loopback (argv and environment are the daemon's own), asks it every half second by the
daemon's own client, and writes one file a story to ``data/``: times relative to the story's begin, answers and
counters; no paths, no process numbers. Only what it started is signalled, and nothing of it is left.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llm_supervisor.core.health import ProbeResult
from llm_supervisor.core.probe import Step
from llm_supervisor.engines import canary
from llm_supervisor.engines.vllm import probes as vllm_probes
from llm_supervisor.engines.vllm import process as vllm_process
from llm_supervisor.host.http import Target
from tests.support.harness import free_port

DATA = Path(__file__).parent / "data"
SERVED = "tiny"
OPTIONS: dict[str, object] = {
    "dtype": "bfloat16",
    "enforce-eager": True,
    "max-model-len": 2048,
    "limit-mm-per-prompt": {"image": 4, "video": 1},
}
PACE = 0.5  # seconds between two questions of one kind
TIMEOUT = 2.0
READING_TIMEOUT = 20.0  # the daemon waits for the counters longer than for anything else
CANARY_TIMEOUT = 4.0
PARALLEL = 32  # completions at a time while it is loaded
SERIES = re.compile(rb"^(?:# (?:HELP|TYPE) )?vllm:(?:generation|prompt|iteration)_tokens|^vllm:num_requests", re.M)

Row = dict[str, Any]


class Engine:
    """One vLLM in a session of its own."""

    def __init__(self, python: str, model: str, log: Path) -> None:
        self.port = free_port()
        self.log = log
        argv = vllm_process.argv(python, model, [SERVED], self.port, OPTIONS, grace=10)
        env = {**os.environ, **vllm_process.environment(gpus=(), api_keys=(), cpu=True, offline=True)}
        env.pop("PYTHONPATH", None)
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.ready = False
        self.read = 0
        self.cpu = 0

    def members(self) -> dict[str, tuple[int, str, int]]:
        """Who is alive in its session, by name: pid, state, CPU ticks."""
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdecimal():
                continue
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            name = stat[stat.index("(") + 1 : stat.rindex(")")]
            state, _, _, session, *rest = stat[stat.rindex(")") + 2 :].split()
            pid = int(entry)
            if int(session) == self.process.pid and state not in "ZX":
                found["leader" if pid == self.process.pid else name] = (pid, state, int(rest[7]) + int(rest[8]))
        return found

    def said(self) -> tuple[Step | None, bool]:
        """The last step of its loading since the last call, and whether it wrote anything."""
        data = self.log.read_bytes()
        fresh, self.read = data[self.read :], len(data)
        step = None
        for line in fresh.replace(b"\r", b"\n").split(b"\n"):
            step = vllm_probes.step(line) or step
        return step, bool(fresh)

    def burned(self) -> bool:
        """Whether its processes used CPU time since the last call."""
        now = sum(cpu for _, _, cpu in self.members().values())
        before, self.cpu = self.cpu, max(now, self.cpu)
        return now > before

    def end(self) -> None:
        """Nothing of it is left."""
        while members := self.members():
            for pid, _, _ in members.values():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)
        self.process.wait()


class Recorder:
    """Asks at a steady pace and writes down what came back."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rows: list[Row] = []
        self._began = time.monotonic()
        self._target = Target(("127.0.0.1", engine.port))
        self._seen: dict[str, str] = {}

    @property
    def now(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def note(self, kind: str, **facts: Any) -> None:
        self.rows.append({"at": self.now, "signal": kind, **facts})

    def do(self, name: str, signum: int) -> None:
        """Signal one of its processes."""
        os.kill(self.engine.members()[name][0], signum)
        self.note("done", what=f"{signal.Signals(signum).name} to {name}")

    async def sees(self, what: Callable[[Row], bool]) -> None:
        """Return when a row is such."""
        while not any(what(row) for row in self.rows):
            assert self.engine.process.poll() is None, self.engine.log.read_text()[-3000:]
            await asyncio.sleep(0.05)

    async def ask(self, kind: str, path: str, timeout: float, body: dict[str, object] | None = None) -> None:
        at = self.now
        reply = await self._target.ask(path, timeout, body)
        row: Row = {"at": at, "signal": kind, "took": round(reply.took, 3)}
        if isinstance(reply, ProbeResult):
            row["none"] = reply.answer.value
        else:
            row["status"] = reply.status
            row |= _kept(kind, reply.status, reply.body)
        self.rows.append(row)

    async def ask_for_ever(self, kind: str, path: str, timeout: float, pace: float) -> None:
        due = time.monotonic()
        number = 0
        while True:
            body = None
            if kind == "canary":
                number += 1
                body = canary.chat_canary(f"{self._began:.0f}-{number}", model=SERVED, vision=True)
            await self.ask(kind, path, timeout, body)
            due = max(due + pace, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def watch_for_ever(self) -> None:
        """Processes that appear, stop or die."""
        while True:
            members = self.engine.members()
            states = {name: "stopped" if state in "Tt" else "alive" for name, (_, state, _) in members.items()}
            states |= {name: "gone" for name in self._seen if name not in states}
            for name, state in states.items():
                if name != "leader" and not name.startswith("VLLM::"):
                    continue
                if self._seen.get(name) != state:
                    self._seen[name] = state
                    self.note("process", name=name, state=state)
            await asyncio.sleep(0.05)

    async def listen_for_ever(self) -> None:
        """Signs of life while it starts."""
        while True:
            step, wrote = self.engine.said()
            burned = self.engine.burned()
            if step is not None:
                self.note("life", doing=step.doing, done=step.done, total=step.total)
            elif wrote or burned:
                self.note("life")
            await asyncio.sleep(PACE)

    @asynccontextmanager
    async def recording(self, *, canaries: float | None, starting: bool = False) -> AsyncIterator[None]:
        """Everything that goes on meanwhile."""
        work = [
            self.ask_for_ever("liveness", "/health", TIMEOUT, PACE),
            self.ask_for_ever("catalogue", "/v1/models", TIMEOUT, PACE),
            self.ask_for_ever("metrics", "/metrics", READING_TIMEOUT, PACE),
            self.watch_for_ever(),
        ]
        if canaries is not None:
            work.append(self.ask_for_ever("canary", "/v1/chat/completions", CANARY_TIMEOUT, canaries))
        if starting:
            work.append(self.listen_for_ever())
        tasks = [asyncio.create_task(one) for one in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._target.close()


def _kept(kind: str, status: int, body: bytes) -> Row:
    """What is kept of a body."""
    if kind == "metrics" and (counters := vllm_probes.read_metrics(body)) is not None:
        return {"counters": [*counters.work, counters.running, counters.waiting]}
    if kind == "catalogue" and status == 200:
        return {"body": {"data": [{"id": entry["id"]} for entry in json.loads(body)["data"]]}}
    if kind == "canary":
        answer = json.loads(body)
        if status != 200:
            return {"body": answer}
        message = answer["choices"][0]["message"]
        text = {name: message.get(name) for name in ("content", "reasoning", "reasoning_content") if name in message}
        usage = {"completion_tokens": answer["usage"]["completion_tokens"]}
        return {"body": {"choices": [{"message": text}], "usage": usage}}
    return {}


def write(name: str, what: str, rows: list[Row]) -> None:
    """One story, a row a line."""
    rows.sort(key=lambda row: row["at"])
    head = {"what": what, "engine": "vLLM 0.32.0 (CPU)", "timeout": TIMEOUT, "canary_timeout": CANARY_TIMEOUT}
    lines = ",\n".join(json.dumps(row) for row in rows)
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(head)[:-1] + f', "rows": [\n{lines}\n]}}\n')
    print(f"{name}: {len(rows)} rows, {rows[-1]['at']} s", flush=True)


async def ready(recorder: Recorder) -> None:
    """Return when a canary was answered."""
    await recorder.sees(lambda row: row["signal"] == "canary" and row.get("status") == 200)


@asynccontextmanager
async def loaded(port: int, parallel: int, prompt: str, tokens: Sequence[int]) -> AsyncIterator[None]:
    """So many requests at any time, of these lengths in turn."""
    target = Target(("127.0.0.1", port))
    lengths = itertools.cycle(tokens)

    async def for_ever() -> None:
        while True:
            text = f"{time.monotonic_ns()} {prompt}"
            body = canary.chat(SERVED, text, vision=False, max_tokens=next(lengths))
            await target.ask("/v1/chat/completions", 300, {**body, "ignore_eos": True})

    tasks = [asyncio.create_task(for_ever()) for _ in range(parallel)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await target.close()


async def keep_page(port: int) -> None:
    """The lines of a real page that matter, with their neighbours."""
    target = Target(("127.0.0.1", port))
    reply = await target.ask("/metrics", 10)
    assert not isinstance(reply, ProbeResult)
    lines = [line for line in reply.body.split(b"\n") if SERIES.search(line)]
    (DATA / "metrics.txt").write_bytes(b"\n".join(lines) + b"\n")
    await target.close()


async def first_life(engine: Engine) -> None:
    """Everything that it survives, then the death of EngineCore."""
    recorder = Recorder(engine)
    async with recorder.recording(canaries=PACE, starting=True):
        await ready(recorder)
        await asyncio.sleep(1)
    engine.ready = True
    write("start", "a cold start, until the first canary is answered", recorder.rows)

    recorder = Recorder(engine)
    async with recorder.recording(canaries=5.0):
        await asyncio.sleep(12)
    write("idle", "nothing but a canary every 5 s", recorder.rows)
    await keep_page(engine.port)

    recorder = Recorder(engine)
    async with recorder.recording(canaries=2.0), loaded(engine.port, PARALLEL, "go on", range(200, 1800, 70)):
        await asyncio.sleep(20)
    write("load", f"{PARALLEL} completions at a time, of many lengths", recorder.rows)
    await asyncio.sleep(3)

    recorder = Recorder(engine)
    async with recorder.recording(canaries=2.0), loaded(engine.port, PARALLEL, "tell me a story. " * 40, (300,)):
        await asyncio.sleep(20)
    write("load_in_bursts", f"{PARALLEL} long prompts at a time, whose answers end together", recorder.rows)
    await asyncio.sleep(3)

    recorder = Recorder(engine)
    async with recorder.recording(canaries=PACE):
        await asyncio.sleep(2)
        recorder.do("VLLM::Worker", signal.SIGSTOP)
        await asyncio.sleep(22)
        recorder.do("VLLM::Worker", signal.SIGCONT)
        await asyncio.sleep(4)
    write("worker_stopped_idle", "the Worker is stopped, and goes on after 22 s", recorder.rows)

    recorder = Recorder(engine)
    async with recorder.recording(canaries=PACE), loaded(engine.port, 4, "go on", (1900,)):
        await recorder.sees(lambda row: row.get("counters", [0, 0])[-2] > 0)
        recorder.do("VLLM::Worker", signal.SIGSTOP)
        await asyncio.sleep(22)
        recorder.do("VLLM::Worker", signal.SIGCONT)
        await asyncio.sleep(4)
    write("worker_stopped_in_flight", "the same, while requests are in flight", recorder.rows)

    await killed(engine, "VLLM::EngineCor", 8, "engine_core_killed", "EngineCore is killed; nobody asks for tokens")


async def killed(engine: Engine, name: str, then: float, story: str, what: str, canaries: float | None = None) -> None:
    """One of its processes is killed."""
    recorder = Recorder(engine)
    if not engine.ready:
        async with recorder.recording(canaries=PACE):
            await ready(recorder)
        recorder = Recorder(engine)
    async with recorder.recording(canaries=canaries):
        await asyncio.sleep(2)
        recorder.do(name, signal.SIGKILL)
        await asyncio.sleep(then)
    write(story, what, recorder.rows)


async def second_life(engine: Engine) -> None:
    await killed(engine, "leader", 3, "api_server_killed", "the API server is killed", PACE)


async def third_life(engine: Engine) -> None:
    await killed(engine, "VLLM::EngineCor", 8, "engine_core_killed_asked", "EngineCore is killed; canaries go on", PACE)


async def fourth_life(engine: Engine) -> None:
    await killed(engine, "VLLM::Worker", 8, "worker_killed", "the Worker is killed; nobody asks for tokens")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="interpreter of a vLLM environment")
    parser.add_argument("model", help="folder of a tiny vision model")
    parser.add_argument("--life", type=int, choices=range(1, 5), help="only the stories of this one of its four lives")
    options = parser.parse_args()
    lives = (first_life, second_life, third_life, fourth_life)
    for life in lives if options.life is None else lives[options.life - 1 : options.life]:
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(options.python, os.path.abspath(options.model), Path(folder) / "log")
            try:
                asyncio.run(life(engine))
            finally:
                engine.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
