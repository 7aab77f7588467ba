"""Logs in the form in which vLLM 0.32 and LiteLLM 1.106 write them, around a message: prefixes, tracebacks,
wrappers, noise.

The forms are those of the recorded logs in ``data``; pids, times, ports and paths vary with the seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

SITE = "/opt/vllm/lib/python3.11/site-packages"
LITELLM_SITE = "/opt/litellm/lib/python3.11/site-packages"
PYTHON = "/usr/lib/python3.11"


def frames(*places: str, site: str = SITE) -> list[str]:
    """Lines of a stack: each place is ``file.py:function``, relative to site-packages unless it is absolute."""
    lines = []
    for number, place in enumerate(places):
        file, _, function = place.rpartition(":")
        path = file if file.startswith(("/", "<")) else f"{site}/{file}"
        lines += [
            f'  File "{path}", line {100 + 37 * number}, in {function}',
            f"    return {function}(*args, **kwargs)",
        ]
        lines += ["           ^" + "^" * len(function)] if number % 2 else []
    return lines


def traceback(error: str, *places: str, site: str = SITE) -> list[str]:
    """One traceback; ``error`` is "Type: message", with further lines."""
    return ["Traceback (most recent call last):", *frames(*places, site=site), *error.split("\n")]


CAUSE = "\nThe above exception was the direct cause of the following exception:\n"
DURING = "\nDuring handling of the above exception, another exception occurred:\n"


def chained(*parts: list[str] | str) -> list[str]:
    """Tracebacks with what connects them in between."""
    lines: list[str] = []
    for part in parts:
        lines += part.split("\n") if isinstance(part, str) else part
    return lines


WORKER_INIT = ("vllm/v1/executor/multiproc_executor.py:worker_main", "vllm/v1/executor/multiproc_executor.py:__init__")
INIT_DEVICE = (*WORKER_INIT, "vllm/v1/worker/worker_base.py:init_device", "vllm/v1/worker/gpu_worker.py:init_device")
REQUEST_MEMORY = (*INIT_DEVICE, "vllm/v1/worker/utils.py:request_memory")
LOAD = (
    *WORKER_INIT, "vllm/v1/worker/gpu_worker.py:load_model", "vllm/v1/worker/gpu_model_runner.py:load_model",
    "vllm/model_executor/model_loader/base_loader.py:load_model",
)  # fmt: skip
CREATE_WEIGHTS = (
    *LOAD,
    "vllm/model_executor/layers/linear.py:create_weights",
    "torch/utils/_device.py:__torch_function__",
)
READ_WEIGHTS = (*LOAD, "vllm/model_executor/model_loader/weight_utils.py:safetensors_weights_iterator")
WARM_UP = (
    "vllm/v1/executor/multiproc_executor.py:_execute_worker_rpc",
    "vllm/v1/worker/gpu_worker.py:compile_or_warm_up_model",
    "vllm/v1/worker/gpu_model_runner.py:capture_model",
)  # fmt: skip
ENGINE_INIT = ("vllm/v1/engine/core.py:run_engine_core", "vllm/v1/engine/core.py:__init__")
KV_CACHES = (
    *ENGINE_INIT, "vllm/v1/engine/core.py:_initialize_kv_caches", "vllm/v1/core/kv_cache_utils.py:get_kv_cache_configs",
    "vllm/v1/core/kv_cache_utils.py:_check_enough_kv_cache_memory",
)  # fmt: skip
STEP = (
    "vllm/v1/engine/core.py:run_engine_core", "vllm/v1/engine/core.py:run_busy_loop",
    "vllm/v1/engine/core.py:_process_engine_step", "vllm/v1/engine/core.py:step",
)  # fmt: skip
EXECUTE = (
    "vllm/v1/executor/multiproc_executor.py:_execute_worker_rpc", "vllm/v1/worker/gpu_worker.py:execute_model",
    "vllm/v1/worker/gpu_model_runner.py:execute_model",
)  # fmt: skip
SERVE = (
    "<frozen runpy>:_run_module_as_main", "vllm/entrypoints/openai/api_server.py:<module>",
    "vllm/entrypoints/launchers/api_server/entry.py:main", f"{PYTHON}/asyncio/runners.py:run",
    "vllm/entrypoints/launchers/api_server/entry.py:run_server",
)  # fmt: skip
CREATE_CONFIG = (
    *SERVE,
    "vllm/engine/arg_utils.py:create_engine_config",
    "vllm/engine/arg_utils.py:create_model_config",
)
SETUP_SERVER = (
    *SERVE, "vllm/entrypoints/launchers/launcher.py:setup_server",
    "vllm/entrypoints/launchers/launcher.py:create_server_socket",
)  # fmt: skip


class VllmLog:
    """A log of one incarnation, written by and by."""

    def __init__(self, seed: int, workers: int = 1) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.clock = self.random.randrange(0, 80_000)
        pid = self.random.randrange(300, 4_000_000)
        self.pids = {"APIServer": pid, "EngineCore": pid + self.random.randrange(20, 90)}
        self.workers = ["Worker"] if workers == 1 else [f"Worker_TP{rank}" for rank in range(workers)]
        for rank, name in enumerate(self.workers):
            self.pids[name] = self.pids["EngineCore"] + 30 + rank
        self.port = self.random.randrange(1024, 65535)
        owner, size = self.random.choice(["acme", "Qwen", "zai-org"]), self.random.choice([1, 7, 9, 32, 72])
        self.model = self.random.choice(
            [f"{owner}/Thing-{size}B", f"/srv/models/thing-{size}b", f"{owner}/thing.v2-{size}b"]
        )

    def prefix(self, process: str, level: str, place: str) -> str:
        moment = (
            f"11-{self.clock // 86_400 + 10} "
            f"{self.clock // 3600 % 24:02}:{self.clock // 60 % 60:02}:{self.clock % 60:02}"
        )
        return f"({process} pid={self.pids[process]}) {level} {moment} [{place}] "

    def log(self, process: str, level: str, place: str, *message: str) -> VllmLog:
        """One record: each further line has the prefix again, after CR LF."""
        self.clock += self.random.randrange(0, 3)
        prefix = self.prefix(process, level, place)
        self.lines.append("\r\n".join(prefix + part for text in message for part in text.split("\n")))
        return self

    def raw(self, *lines: str) -> VllmLog:
        self.lines.extend(lines)
        return self

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    # The parts, in the order in which they come

    def begin(self, **arguments: Any) -> VllmLog:
        """The API server up to the engine's start, with lines that look worse than they are."""
        given = {
            "host": "127.0.0.1",
            "port": self.port,
            "model": self.model,
            **arguments,
            "served_model_name": ["thing"],
        }
        self.raw(
            "/opt/vllm/lib/python3.11/site-packages/vllm/entrypoints/openai/api_server.py:24: DeprecationWarning: old"
        )
        self.log("APIServer", "INFO", "api_utils.py:347", "", "   █▄█▀ █     █     █     █  model   " + self.model, "")
        self.log("APIServer", "INFO", "api_utils.py:286", f"non-default args: {given}")
        self.log(
            "APIServer", "WARNING", "system_utils.py:255",
            "Found ulimit of 1024 and failed to automatically increase with error current limit exceeds maximum "
            "limit. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider "
            "increasing with ulimit -n",
        )  # fmt: skip
        self.log("APIServer", "WARNING", "parallel.py:745", "Address already in use. Retrying with a new port.")
        return self.log("APIServer", "INFO", "model.py:733", "Resolved architecture: Glm4vForConditionalGeneration")

    def engine(self) -> VllmLog:
        """EngineCore and its workers begin."""
        self.log(
            "EngineCore", "INFO", "core.py:133",
            f"Initializing a V1 LLM engine (v0.32.0) with config: model='{self.model}', speculative_config=None, "
            f"tokenizer=None",
        )  # fmt: skip
        for worker in self.workers:
            self.log(worker, "INFO", "gpu_model_runner.py:5080", f"Starting to load model {self.model}...")
        self.raw("Loading safetensors checkpoint shards:   0% Completed | 0/5 [00:00<?, ?it/s]")
        self.raw("Loading safetensors checkpoint shards:  40% Completed | 2/5 [00:07<00:11,  3.86s/it]", "")
        waits = (
            "No available shared memory broadcast block found in 60 seconds. This typically happens when some "
            "processes are "
        )
        return self.log(
            "EngineCore", "INFO", "shm_broadcast.py:640", waits + "hanging or doing some time-consuming work."
        )

    def serving(self) -> VllmLog:
        """Ready, and some requests, one of which fails by itself."""
        self.log(
            "EngineCore", "INFO", "core.py:402", "init engine (profile, create kv cache, warmup model) took 41.87 s"
        )
        self.log("APIServer", "INFO", "entry.py:140", f"Starting vLLM server on http://127.0.0.1:{self.port}")
        self.raw(
            f"INFO:     Started server process [{self.pids['APIServer']}]", "INFO:     Waiting for application startup."
        )
        self.raw("INFO:     Application startup complete.", 'INFO:     127.0.0.1:4242 - "GET /health HTTP/1.1" 200 OK')
        self.log(
            "APIServer",
            "INFO",
            "logger.py:48",
            "Received request chatcmpl-1: prompt: 'CUDA out of memory. RuntimeError: x'",
        )
        self.raw('INFO:     127.0.0.1:4242 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error')
        self.raw(
            "ERROR:    Exception in ASGI application",
            *traceback("ValueError: no such picture", "uvicorn/x.py:run_asgi"),
        )
        return self.raw('INFO:     127.0.0.1:4242 - "POST /v1/chat/completions HTTP/1.1" 200 OK')

    def failed_core(self, codes: str = "{'EngineCore': 1}") -> VllmLog:
        """The API server's wrapper, and what is left over at the end."""
        text = f"RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {codes}"
        self.raw(*traceback(text, *SERVE, "vllm/v1/engine/utils.py:wait_for_engine_startup"))
        return self.leftovers()

    def leftovers(self) -> VllmLog:
        path = f"{PYTHON}/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker:"
        self.raw(f"{path} There appear to be 1 leaked shared_memory objects to clean up at shutdown")
        return self.raw("  warnings.warn('resource_tracker: There appear to be %d '")

    def core_stops(self, *, of: str | None = None) -> VllmLog:
        """EngineCore's word that it could not start, because of its workers (or of ``of``, a worker's exception)."""
        wrapper = (
            "Exception: WorkerProc initialization failed due to an exception in a background process. See stack "
            "trace for root cause."
            if of is None
            else f"RuntimeError: Worker failed with error '{of}', please check the stack trace above for the root cause"
        )
        lines = traceback(wrapper, *ENGINE_INIT, "vllm/v1/executor/multiproc_executor.py:_init_executor")
        self.log("EngineCore", "ERROR", "core.py:1510", "EngineCore failed to start.", *lines)
        self.raw("Process EngineCore:", *lines)
        return self.failed_core()

    def engine_dies(self) -> VllmLog:
        """What the API server does when its engine has died, which reads like a clean shutdown."""
        dead = (
            "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for "
            "the root cause."
        )
        lines = traceback(
            dead, "vllm/v1/engine/async_llm.py:output_handler", "vllm/v1/engine/core_client.py:get_output_async"
        )
        self.log("APIServer", "ERROR", "async_llm.py:906", "AsyncLLM output_handler failed.", *lines)
        self.raw('INFO:     127.0.0.1:4250 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error')
        self.raw(
            "INFO:     Shutting down",
            "INFO:     Waiting for application shutdown.",
            "INFO:     Application shutdown complete.",
        )
        self.raw(f"INFO:     Finished server process [{self.pids['APIServer']}]")
        self.log("APIServer", "INFO", "core_client.py:772", "[shutdown] MPClient: stopping engine manager")
        return self.leftovers()


# Whole logs around one error. ``error`` is "Type: message".


def worker_cannot_start(log: VllmLog, error: str, places: Sequence[str] = INIT_DEVICE, **arguments: Any) -> str:
    """The first worker's __init__ raises; others lose it."""
    log.begin(**arguments).engine()
    log.log(
        log.workers[0], "ERROR", "multiproc_executor.py:953", "WorkerProc failed to start.", *traceback(error, *places)
    )
    for worker in log.workers[1:]:
        lost = "torch.distributed.DistNetworkError: Connection closed by remote peer, tcp store is down"
        log.log(
            worker, "ERROR", "multiproc_executor.py:953", "WorkerProc failed to start.", *traceback(lost, *INIT_DEVICE)
        )
    return log.core_stops().text()


def worker_call_fails(log: VllmLog, error: str, places: Sequence[str] = WARM_UP, **arguments: Any) -> str:
    """A call into a worker raises while the engine starts: logged with a note that repeats it, then wrapped."""
    log.begin(**arguments).engine()
    lines = traceback(error, *places)
    worker = log.workers[0]
    log.log(worker, "ERROR", "multiproc_executor.py:1063", "WorkerProc hit an exception.", *lines, *lines, "")
    return log.core_stops(of=error.partition(": ")[2].replace("\n", "\\n")).text()


def core_cannot_start(log: VllmLog, error: str, places: Sequence[str] = KV_CACHES, **arguments: Any) -> str:
    """EngineCore itself raises."""
    log.begin(**arguments).engine()
    lines = traceback(error, *places)
    log.log("EngineCore", "ERROR", "core.py:1510", "EngineCore failed to start.", *lines)
    log.log(log.workers[0], "INFO", "multiproc_executor.py:843", "Parent process exited, terminating worker queues")
    log.raw("Process EngineCore:", *traceback("", f"{PYTHON}/multiprocessing/process.py:_bootstrap")[:-1], *lines[1:])
    return log.failed_core().text()


def server_cannot_start(log: VllmLog, error: str, places: Sequence[str] = CREATE_CONFIG, **arguments: Any) -> str:
    """The API server raises before there is an engine."""
    return log.begin(**arguments).raw(*traceback(error, *places)).text()


def config_is_refused(log: VllmLog, message: str, model: str = "ModelConfig", **arguments: Any) -> str:
    """A ValueError inside a validated configuration."""
    kept = "[type=value_error, input_value=ArgsKwargs((), {'model': ...nderer_num_workers': 1}), input_type=ArgsKwargs]"
    link = "    For further information visit https://errors.pydantic.dev/2.13/v/value_error"
    error = (
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {model}\n  Value error, {message} "
        f"{kept}\n{link}"
    )
    return server_cannot_start(log, error, **arguments)


def worker_dies_serving(log: VllmLog, error: str, places: Sequence[str] = EXECUTE, **arguments: Any) -> str:
    """A worker's exception kills the engine while it serves."""
    log.begin(**arguments).engine().serving()
    lines, worker = traceback(error, *places), log.workers[0]
    log.log(worker, "ERROR", "multiproc_executor.py:1063", "WorkerProc hit an exception.", *lines, *lines, "")
    request = f"chatcmpl-{log.random.randrange(16**16):016x}"
    log.log(
        "EngineCore", "ERROR", "dump_input.py:79",
        "Dumping scheduler output for model execution: "
        f"SchedulerOutput(scheduled_new_reqs=[NewRequestData(req_id={request},",
    )  # fmt: skip
    failed = error.partition(": ")[2].replace("\n", "\\n")
    wrapper = (
        f"RuntimeError: Worker failed with error '{failed}', please check the stack trace above for the root cause"
    )
    log.log("EngineCore", "ERROR", "core.py:1512", "EngineCore encountered a fatal error.", *traceback(wrapper, *STEP))
    return log.engine_dies().text()


def core_dies_serving(log: VllmLog, error: str, places: Sequence[str] = STEP, **arguments: Any) -> str:
    """EngineCore's own exception while it serves."""
    log.begin(**arguments).engine().serving()
    log.log("EngineCore", "ERROR", "core.py:1512", "EngineCore encountered a fatal error.", *traceback(error, *places))
    return log.engine_dies().text()


def usage(error: str, *flags: str) -> str:
    """argparse's last words."""
    known = "\n                     ".join(f"[{flag} {flag[2:].upper()}]" for flag in flags)
    return (
        f"usage: api_server.py [-h] [--headless]\n                     {known}\n                     "
        f"[model_tag]\napi_server.py: error: {error}\n"
    )


# LiteLLM


LIFESPAN = (
    "starlette/routing.py:lifespan", "fastapi/routing.py:merged_lifespan", f"{PYTHON}/contextlib.py:__aenter__",
    "litellm/proxy/proxy_server.py:proxy_startup_event",
)  # fmt: skip
LOAD_CONFIG = (*LIFESPAN, "litellm/proxy/proxy_server.py:load_config")


def application_fails(seed: int, *tracebacks: list[str] | str) -> str:
    """LiteLLM's lifespan raises: uvicorn logs the traceback without a message of its own, and exits with 3."""
    pid = random.Random(seed).randrange(300, 4_000_000)
    lines = [f"INFO:     Started server process [{pid}]", "INFO:     Waiting for application startup."]
    lines.append(
        "09:09:06 - LiteLLM Proxy:WARNING: login_throttle.py:126 - trusted_proxy_ranges is not set or not a valid "
        "list of ranges"
    )
    lines += ["\x1b[32mLiteLLM: Proxy initialized with Config, Set models:\x1b[0m", "\x1b[32m    thing\x1b[0m"]
    whole = chained(*tracebacks)
    return "\n".join(
        [*lines, "ERROR:    " + whole[0], *whole[1:], "", "ERROR:    Application startup failed. Exiting.", ""]
    )
