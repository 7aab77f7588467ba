"""vLLM: how its log is read, and its failures that happen while its processes start or serve (``SERVING``).

Those of options are in ``options``, of quantisation in ``quantisation``, of the model and its files in ``models``, of
memory in ``memory``, of drivers and compilers in ``gpu``.

Messages as vLLM 0.32 raises them; a few of older versions where those differ.
"""

from __future__ import annotations

import re

from llm_supervisor.diagnosis.pattern import Rank, row

_AGAIN = "It is started again. If it comes back with this exception, look for it in vLLM's issues."
# What a process dies of when no row knows the exception: the message before the traceback, then the kind, whether it
# can heal, and the advice. Without one of these heads, a logged exception is somebody's who carried on.
DIED: tuple[str, bool | None, str] = ("engine_died", False, _AGAIN)
FATAL_HEADS: dict[str, tuple[str, bool | None, str]] = {
    "Error in inspecting model architecture": (
        "model_inspection_failed", True, "vLLM's environment is broken: make it anew (llm-supervisor install).",
    ),
    "EngineCore failed to start": ("unknown", None, ""),
    "WorkerProc failed to start": ("unknown", None, ""),
    "EngineCore encountered a fatal error": DIED,
    "WorkerProc failed": DIED,
    "WorkerProc hit an exception": DIED,
    "AsyncLLM output_handler failed": DIED,
    "Engine background task failed": DIED,
    "Exception in worker": ("unknown", None, ""),
}  # fmt: skip
# These say no more than that something died before
WRAPPERS = re.compile(
    r"Engine core initialization failed|Engine process failed to start|Frontend process failed during engine "
    r"core|WorkerProc initialization failed|EngineDeadError|RuntimeError: Executor failed\.|please check the stack "
    r"trace above for the root cause"
)
REQUEST_HEADS = ("Exception in ASGI application", "Error in preprocessing prompt", "Error in chat completion stream")
# the engine process of the older engine logs nothing here but its end
FATAL_PLACES = re.compile(r"[ \[]engine\.py:\d{1,5}\]")
MARKS = re.compile(r"vllm|vLLM|\(\w{1,40} pid=\d|(?:INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d [\[\w]")
_SAYS = r"(?:\([^)\n]{1,60}\) ?)?INFO \d\d-\d\d \d\d:\d\d:\d\d \S{1,80} "
BEGINS = (re.compile(_SAYS + "vLLM API server version"), re.compile(_SAYS + "(?:non-default args: |args: Namespace)"))
SERVES = re.compile(
    r'\S{1,100} - "(?:GET|POST) /\S{0,200} HTTP/1\.1" 2\d\d|(?:Engine \d{1,4}: )?Avg prompt throughput: |'
    r"Received request |Added request "
)
THREADS = re.compile(r"Exception in thread [^\n]{0,60}\((?:process_input_sockets|process_output_sockets)\)")
THREAD_DIED: tuple[str, bool | None, str] = (
    "engine_thread_died", False,
    "A thread of EngineCore has ended without which no request is answered, while its process lives on. A restart "
    "brings it back. If it comes back with this exception, look for it in vLLM's issues.",
)  # fmt: skip
READY = "Application startup complete."
LEAVING = ("[shutdown] API server: shutdown triggered", "[shutdown] EngineCore: trigger received signal")

_ARGUMENT = re.compile(r"'(model|port|tensor_parallel_size|gpu_memory_utilization|max_model_len)': '?([^',}\n]{1,300})")
_ENGINE = re.compile(r"config: model='([^'\n]{1,300})'")
_SHARD = re.compile(r"checkpoint shards:\s{1,4}\d{1,3}% Completed \| (\d{1,5})/(\d{1,5})")
_REQUEST = re.compile(r"req_id=([\w\-]{1,120})")


def facts(text: str) -> dict[str, str]:
    """What the log says about the run itself, for every template: ``model``, ``port`` (vLLM's default when it is not
    said), ``tensor_parallel_size``, ``gpu_memory_utilization``, ``shard``, ``request``, and ``usage`` for ``near``."""
    known = {"port": "8000"}
    start = text.find("non-default args: {")
    if start >= 0:
        known.update(_ARGUMENT.findall(text[start : start + 6000].partition("\n")[0]))
    elif found := _ENGINE.search(text):
        known["model"] = found[1]
    start = text.find("usage: ")
    end = text.find(": error: ", start)
    if 0 <= start < end:
        known["usage"] = text[start:end]
    if shards := _SHARD.findall(text[-200_000:]):
        done, total = shards[-1]
        known["shard"] = f"{int(done) + 1} of {total}"
    start = text.find("Dumping scheduler output for model execution")
    if start >= 0 and (found := _REQUEST.search(text, start, start + 4000)):
        known["request"] = found[1]
    return known


SERVING = (
    row(
        "shm_too_small", "Insufficient space in",
        r"Insufficient space in (?P<path>/\S{1,60}) for [^:\n]{1,80}: (?P<wanted>\d{1,9}) MiB required, "
        r"(?P<free>\d{1,9}) MiB free",
        permanent=True,
        summary="{path} is too small: {wanted} MiB wanted, {free} free",
        advice="Enlarge {path} (docker: --ipc=host or --shm-size), and remove what dead engines left there.",
    ),
    row(
        "shm_too_small", "",
        r"creating shared memory segment (?P<path>/dev/shm/\S{1,80})|unable to (?:write to|allocate shared "
        r"memory)[^\n]{0,120}|out of shared memory|insufficient shared memory|No space left on device: "
        r"'/?(?:psm_|nccl|torch_|vllm)|/dev/shm/\S{1,80}[^\n]{0,80}No space left",
        permanent=True,
        summary="/dev/shm is too small, or full",
        advice=(
            "Enlarge /dev/shm (docker: --ipc=host or --shm-size), and remove what dead engines left there "
            "(nccl-*, psm_*, torch_*)."
        ),
    ),
    row(
        "internal_port_taken", "",
        r"server socket has failed to (?:listen|bind)(?:[\s\S]{0,80}?port: "
        r"(?P<internal>\d{1,5}))?[\s\S]{0,160}?EADDRINUSE|DistNetworkError[^\n]{0,60}EADDRINUSE|ZMQError: Address "
        r"already in use(?: \(addr='(?P<address>[^'\n]{1,120})'\))?",
        permanent=False,
        summary=(
            "another process took the internal port {internal}",
            "another process took {address}",
            "another process took an internal port",
        ),
        advice="A retry picks another one. If it repeats, give each engine its own range: VLLM_PORT.",
    ),
    row(
        "distributed_timeout", "",
        r"The client socket has (?:timed out|failed to connect)[^\n]{0,120}?(?:connect to|address) "
        r"\(?(?P<host>[^\s)]{1,100})|"
        r"wait timeout after \d{1,9}ms|Timed out after \d{1,9} (?:milli)?seconds waiting "
        r"for clients",
        permanent=False, phase="start",
        summary=("the other node ({host}) does not answer", "the nodes (or the workers) do not find each other"),
        advice=(
            "Start the other node, and check the network between them; VLLM_HOST_IP and GLOO_SOCKET_IFNAME "
            "choose it."
        ),
    ),
    row(
        "startup_timeout", "Timed out waiting for engine core processes", r"Waited (?P<seconds>\d{1,7})s",
        permanent=False,
        summary="the engine was not ready after {seconds} s",
        advice="Raise VLLM_ENGINE_READY_TIMEOUT_S (it is {seconds}) when loading and compiling take longer.",
    ),
    row(
        "worker_stuck", "RPC call to", r"RPC call to (?P<method>\w{1,60}) timed out",
        permanent=False,
        summary="a worker did not answer {method} in time: it hangs",
        advice=(
            "Restart with the whole tree gone. If it repeats: look for NVRM Xid in the kernel log, try "
            "enforce-eager: true."
        ),
    ),
    row(
        "nccl_timeout", "Watchdog caught collective operation timeout",
        r"Watchdog caught collective operation timeout: "
        r"WorkNCCL\((?:[^)\n]{0,80}?OpType=(?P<operation>\w{1,40}))?[^\n]{0,160}?Timeout\(ms\)=(?P<timeout>\d{1,9})",
        permanent=False, where="line",
        summary="the GPUs waited for each other in vain ({operation}, {timeout} ms)",
        advice=(
            "One of the workers hung or died: its own last lines say why. If it repeats: NCCL_DEBUG=INFO, and "
            "NVRM Xid in the kernel log."
        ),
    ),
    row(
        "illegal_memory_access", "an illegal memory access was encountered", permanent=False,
        summary="a kernel read memory that is not its own",
        advice=(
            "Restart. If it repeats: enforce-eager: true, another attention backend, and NVRM Xid in the kernel "
            "log (a bad GPU)."
        ),
    ),
    row(
        "illegal_memory_access", "an illegal memory access was encountered", permanent=False, where="line",
        rank=Rank.COARSE,
        summary="a kernel read memory that is not its own",
        advice=(
            "Restart. If it repeats: enforce-eager: true, another attention backend, and NVRM Xid in the kernel "
            "log (a bad GPU)."
        ),
    ),
    row(
        "device_assert", "device-side assert triggered", permanent=False,
        summary="a request made a kernel's assertion fail (an index out of range)",
        advice=(
            "Restart. If it repeats: lower max-model-len to what the model supports, and look which request came "
            "last."
        ),
    ),
    row(
        "gpu_hardware", "uncorrectable", r"uncorrectable (?P<what>ECC|NVLink) error", permanent=True,
        summary="the GPU has an {what} error that it cannot correct",
        advice=(
            "Look for NVRM Xid in the kernel log; reset the GPU (nvidia-smi --gpu-reset) or reboot. If it comes back, "
            "leave the GPU out of `gpus:` and have it replaced."
        ),
    ),
    row(
        "gpu_hardware", "",
        r"(?:CUDA|HIP) error: (?:unknown error|hardware stack error|unspecified launch failure|the "
        r"launch timed out)|misaligned address|an illegal instruction was encountered",
        permanent=False,
        summary="the GPU reports an error of its own",
        advice="It is started again. If it comes back, look for NVRM Xid in the kernel log.",
    ),
    row(
        "nccl_error", "NCCL error", r"NCCL error[^\n]{0,160}?: (?P<detail>[^\n]{1,160})",
        permanent=False, rank=Rank.COARSE,
        summary="the GPUs cannot talk to each other: {detail}",
        advice=(
            "NCCL_DEBUG=INFO in the environment says which transport fails; NCCL_P2P_DISABLE=1 or "
            "NCCL_IB_DISABLE=1 avoids it."
        ),
    ),
    row(
        "multimodal_request", "Attempted to assign ",
        r"^(?P<error>[^\n]{0,60}Attempted to assign [^\n]{1,200} placeholders)",
        permanent=False,
        summary="a request with an image, video or audio killed the engine: {error}",
        advice=(
            "The request was {request}.",
            "It is started again. If one kind of picture does it each time, keep it away, and look for the exception "
            "in vLLM's issues.",
        ),
    ),
    row(
        "engine_thread_died", "Expected a cached item for", permanent=False,
        summary="EngineCore's cache of images and the API server's have come apart",
        advice=(
            "A restart brings it back. If it comes again: mm-processor-cache-gb: 0 under `vllm:` does without "
            "that cache."
        ),
    ),
    row(
        "multimodal_request", "", r"^(?P<error>[^\n]{1,300})",
        permanent=False, phase="run", rank=Rank.UNKNOWN,
        frames=r"mm_encoder|embed_multimodal|_mm_embeddings|multimodal_embeddings",
        summary="a request with an image, video or audio killed the engine: {error}",
        advice=(
            "The request was {request}.",
            "It is started again. If one kind of picture does it each time, keep it away, and look for the exception "
            "in vLLM's issues.",
        ),
    ),
    row(
        "engine_died", "engine core exited unexpectedly", permanent=False, where="line", rank=Rank.SYMPTOM,
        summary="EngineCore died without a word",
        advice="Somebody killed it, or the kernel did (out of memory?): see the kernel log. It is started again.",
    ),
    row(
        "worker_stuck", "Engine iteration timed out", permanent=False, where="line", rank=Rank.COARSE,
        summary="the engine did not finish a step in time: a worker hangs",
        advice="Restart with the whole tree gone. If it repeats: look for NVRM Xid in the kernel log.",
    ),
    row(
        "engine_died", "",
        r"MQLLMEngine is already dead|Background loop (?:has errored already|is stopped)|Engine loop has died|"
        r"Engine core proc \S{1,60} died unexpectedly",
        permanent=False, where="line", rank=Rank.SYMPTOM,
        summary="the engine died while it served",
        advice="It is started again; the root cause is not in what is left of the log.",
    ),
    row(
        "engine_died", "", r"AsyncEngineDeadError|MQEngineDeadError|EngineDeadError",
        permanent=False, rank=Rank.SYMPTOM,
        summary="the engine died while it served",
        advice="It is started again; the root cause is not in what is left of the log.",
    ),
    row(
        "engine_died", "Engine process failed to start", permanent=None, rank=Rank.SYMPTOM,
        summary="the engine process died before it was ready",
        advice="The cause stands before that line; it is not in what is left of the log.",
    ),
    row(
        "worker_died", "died unexpectedly",
        r"Worker proc (?P<worker>\S{1,60}) died unexpectedly(?: \(exit code: (?:None|(?P<status>-?\d{1,4}))\))?",
        permanent=False, where="line", rank=Rank.SYMPTOM,
        summary="the worker {worker} died without a word",
        advice=(
            "Its exit status was {status}.",
            "Somebody killed it, or the kernel did (out of memory?): see the kernel log.",
        ),
    ),
    row(
        "worker_died", "WorkerProc initialization failed", permanent=None, rank=Rank.SYMPTOM,
        summary="a worker died while it loaded, without a word",
        advice="Mostly the kernel's out-of-memory killer: see the kernel log. Loading needs memory of the host, too.",
    ),
    row(
        "killed", "Failed core proc(s)", r"Failed core proc\(s\): \{[^}\n]{0,100}'(?P<process>[\w\-]{1,60})': -9\b",
        permanent=False, rank=Rank.SYMPTOM,
        summary="{process} was killed (SIGKILL) before it was ready",
        advice="Mostly the kernel's out-of-memory killer: see the kernel log. Loading needs memory of the host, too.",
    ),
    row(
        "shm_too_small", "Failed core proc(s)",
        r"Failed core proc\(s\): \{[^}\n]{0,100}'(?P<process>[\w\-]{1,60})': -7\b",
        permanent=True, rank=Rank.SYMPTOM,
        summary="{process} died of a bus error before it was ready: mostly a full /dev/shm",
        advice="Enlarge /dev/shm (docker: --ipc=host or --shm-size), and remove what dead engines left there.",
    ),
    row(
        "engine_died", "Failed core proc(s)", r"Failed core proc\(s\): (?P<status>\{[^}\n]{0,200}\})",
        permanent=None, rank=Rank.SYMPTOM,
        summary="an engine process died before it was ready: {status}",
        advice=(
            "A negative number is the signal that killed it: -9 with nothing before it is mostly the kernel's "
            "out-of-memory killer."
        ),
    ),
    row(
        "engine_died", "EngineCore encountered an issue", permanent=False, rank=Rank.SYMPTOM,
        summary="the engine died while it served",
        advice="It is started again; the root cause is not in what is left of the log.",
    ),
    row(
        "worker_died", "",
        r"RuntimeError: cancelled|Connection (?:closed|reset) by (?:remote )?peer|remote process exited|Broken "
        r"pipe|ncclRemoteError|DistBackendError: (?!.{0,200}Watchdog)",
        permanent=False, rank=Rank.ECHO,
        summary="a worker lost the others",
        advice="The process that died first says why; its lines come before these.",
    ),
)  # fmt: skip
