"""Reports: logs cut down to what people send, in the words of many versions of the engines, and what is to be found.

``reports/*.txt`` hold them in a short notation, which ``expanded`` writes out: ``C|`` and its like stand for a prefix
of a logger, ``TB`` for a traceback's first line, ``F FILE FUNCTION`` for one frame, ``{FAIL}`` and its like for blocks
that occur in many logs. The head of a report is ``## NAME | COMPONENT | KINDS | yes, no or ? | STATUS [ready]``: any of
the kinds is right, ``yes`` means permanent, ``?`` that it is not known, and the status ``-`` that it still runs. A line
``told: WORDS`` names what the answer must say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_supervisor.diagnosis import Component

FOLDER = Path(__file__).parent / "reports"
SITE = "/opt/venv/lib/python3.12/site-packages"

PREFIXES = {
    "C|": "(EngineCore_DP0 pid=217) ERROR 11-28 03:10:32 [core.py:842] ",
    "W|": "(Worker_TP0 pid=301) ERROR 11-28 03:10:31 [multiproc_executor.py:772] ",
    "A|": "(APIServer pid=1) ",
    "V|": "ERROR 04-10 08:57:05 [engine.py:160] ",
}
BLOCKS = {
    "{BEGIN}": """\
(APIServer pid=1) INFO 11-28 03:10:01 [utils.py:233] non-default args: {'model': 'acme/Thing-8B'}
(APIServer pid=1) INFO 11-28 03:10:09 [model.py:547] Resolved architecture: ThingForCausalLM
(EngineCore_DP0 pid=217) INFO 11-28 03:10:12 [core.py:77] Initializing a V1 LLM engine (v0.11.0) with config: \
model='acme/Thing-8B', speculative_config=None""",
    "{SERVE}": """\
(APIServer pid=1) INFO 11-28 03:10:20 [launcher.py:42] Route: /v1/chat/completions, Methods: POST
INFO:     Started server process [1]
INFO:     Waiting for application startup.
INFO:     Application startup complete.
INFO:     10.0.0.9:51442 - "POST /v1/chat/completions HTTP/1.1" 200 OK
(APIServer pid=1) INFO 11-28 03:10:31 [loggers.py:127] Engine 000: Avg prompt throughput: 310.2 tokens/s, Avg \
generation throughput: 81.0 tokens/s, Running: 9 reqs, Waiting: 0 reqs, GPU KV cache usage: 61.0%""",
    "{FAIL}": """\
A| TB
A| F vllm/v1/engine/core_client.py __init__
A| F vllm/v1/engine/utils.py wait_for_engine_startup
A| RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': 1}""",
    "{DIED}": """\
(APIServer pid=1) ERROR 11-28 03:10:33 [async_llm.py:480] AsyncLLM output_handler failed.
(APIServer pid=1) ERROR 11-28 03:10:33 [async_llm.py:480] Traceback (most recent call last):
(APIServer pid=1) ERROR 11-28 03:10:33 [async_llm.py:480]   File "/x/vllm/v1/engine/async_llm.py", line 439, in run
(APIServer pid=1) ERROR 11-28 03:10:33 [async_llm.py:480] vllm.v1.engine.exceptions.EngineDeadError: EngineCore \
encountered an issue. See stack trace (above) for the root cause.
INFO:     10.0.0.9:51442 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error
INFO:     Shutting down
INFO:     Waiting for application shutdown.
INFO:     Application shutdown complete.
INFO:     Finished server process [1]""",
    "{LIFESPAN}": """\
INFO:     Started server process [1]
INFO:     Waiting for application startup.
ERROR:    Traceback (most recent call last):
F starlette/routing.py lifespan
F litellm/proxy/proxy_server.py proxy_startup_event
F litellm/proxy/proxy_server.py load_config""",
    "{STOPPED}": "\nERROR:    Application startup failed. Exiting.",
    "{STARTED}": """\
INFO:     Started server process [1]
INFO:     Waiting for application startup.
LiteLLM: Proxy initialized with Config, Set models:
    glm-4.1v""",
    "{READY}": """\
INFO:     Application startup complete.
INFO:     Uvicorn running on http://0.0.0.0:4000 (Press CTRL+C to quit)
INFO:     10.0.0.9:51442 - "GET /health/liveliness HTTP/1.1" 200 OK""",
}


@dataclass(frozen=True)
class Report:
    """One log, and what is right about it."""

    name: str
    component: Component
    kinds: tuple[str, ...]
    permanent: bool | None
    exit_code: int | None
    exit_signal: int | None
    was_ready: bool
    log: str
    told: tuple[str, ...]


def expanded(text: str) -> str:
    """The notation, written out."""
    for name, block in BLOCKS.items():
        text = text.replace(name, block)
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    short, rest = line[:2], line[3:]
    prefix = PREFIXES.get(short)
    if prefix is None:
        prefix, rest = "", line
    if rest == "TB":
        rest = "Traceback (most recent call last):"
    elif rest.startswith("F "):
        _, file, function = rest.split(" ")
        rest = f'  File "{SITE}/{file}", line 117, in {function}\n{prefix}    return {function}(*args, **kwargs)'
    return prefix + rest


def reports() -> Iterator[Report]:
    """All of them."""
    for path in sorted(FOLDER.glob("*.txt")):
        for part in ("\n" + path.read_text()).split("\n## ")[1:]:
            head, _, body = part.partition("\n")
            name, component, kinds, permanent, end = (word.strip() for word in head.split(" | "))
            status, _, ready = end.partition(" ")
            lines = body.strip("\n").split("\n")
            told = tuple(line.removeprefix("told: ") for line in lines if line.startswith("told: "))
            code = None if status == "-" else int(status)
            yield Report(
                name=f"{component}-{name}",
                component=component,  # type: ignore[arg-type]
                kinds=tuple(kinds.split(",")),
                permanent={"yes": True, "no": False, "?": None}[permanent],
                exit_code=code if code is not None and code >= 0 else None,
                exit_signal=-code if code is not None and code < 0 else None,
                was_ready=bool(ready),
                log=expanded("\n".join(line for line in lines if not line.startswith("told: "))) + "\n",
                told=told,
            )
