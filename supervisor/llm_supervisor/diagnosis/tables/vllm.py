"""vLLM: how its log is read, and its failures that are about options (``OPTIONS``), or happen while its processes
start or serve (``SERVING``).

Those of the model and its files are in ``models``, those of memory in ``memory``, those of drivers and compilers in
``gpu``.

Messages as vLLM 0.32 raises them; a few of older versions where those differ. Many reach the log inside pydantic's
``ValidationError: 1 validation error for ModelConfig``.
"""

from __future__ import annotations

import difflib
import re

from llm_supervisor.diagnosis.pattern import Rank, Values, number, row

_AGAIN = "It is started again. If it comes back with this exception, look for it in vLLM's issues."
# What a process dies of when no row knows the exception: the message before the traceback, then the kind, whether it
# can heal, and the advice. Without one of these heads, a logged exception is somebody's who carried on.
FATAL_HEADS: dict[str, tuple[str, bool | None, str]] = {
    "Error in inspecting model architecture": (
        "model_inspection_failed", True, "vLLM's environment is broken: make it anew (llm-supervisor install).",
    ),
    "EngineCore failed to start": ("unknown", None, ""),
    "WorkerProc failed to start": ("unknown", None, ""),
    "EngineCore encountered a fatal error": ("engine_died", False, _AGAIN),
    "WorkerProc failed": ("engine_died", False, _AGAIN),
    "WorkerProc hit an exception": ("engine_died", False, _AGAIN),
    "AsyncLLM output_handler failed": ("engine_died", False, _AGAIN),
}  # fmt: skip
# These say no more than that something died before
WRAPPERS = re.compile(
    r"Engine core initialization failed|Engine process failed to start|Frontend process failed during engine "
    r"core|WorkerProc initialization failed|EngineDeadError|RuntimeError: Executor failed\.|please check the stack "
    r"trace above for the root cause"
)
REQUEST_HEADS = ("Exception in ASGI application", "Error in preprocessing prompt", "Error in chat completion stream")
READY = "Application startup complete."
LEAVING = ("[shutdown] API server: shutdown triggered", "[shutdown] EngineCore: trigger received signal")

_ARGUMENT = re.compile(r"'(model|port|tensor_parallel_size|gpu_memory_utilization|max_model_len)': '?([^',}\n]{1,300})")
_ENGINE = re.compile(r"config: model='([^'\n]{1,300})'")
_SHARD = re.compile(r"checkpoint shards:\s{1,4}\d{1,3}% Completed \| (\d{1,5})/(\d{1,5})")
_REQUEST = re.compile(r"req_id=([\w\-]{1,120})")
_FLAG = re.compile(r"--[a-z][a-z0-9\-]{1,60}")


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


def _near(values: Values) -> Values:
    """argparse prints its usage first, so the flag that was meant is in the log."""
    flags = list(dict.fromkeys(_FLAG.findall(values.get("usage", ""))))
    near = difflib.get_close_matches(values["flag"].replace("_", "-"), flags, n=1, cutoff=0.7)
    return {"near": near[0]} if near else {}


def _whole(values: Values) -> Values:
    limit = max(number(values.get("derived")), number(values.get("own")))
    return {"limit": f"{limit:.0f}"} if limit else {}


def _divisors(values: Values) -> Values:
    heads = int(values["heads"])
    fitting = [str(size) for size in range(1, min(heads, 64) + 1) if heads % size == 0]
    return {"fitting": ", ".join(fitting)}


OPTIONS = (
    row(
        "mm_limit_not_json", "--limit-mm-per-prompt",
        r"argument --limit-mm-per-prompt: (?:Value (?P<value>[^\n]{1,200}?) cannot be converted|[^\n]{1,300})",
        permanent=True, where="line",
        derive=lambda values: {"json": _as_json(values["value"])} if values.get("value") else {},
        summary=("limit-mm-per-prompt is not JSON: {value}", "limit-mm-per-prompt is not JSON"),
        advice=(
            "Write {json} instead of {value}.",
            "In supervisor.yaml it is a mapping: limit-mm-per-prompt: {{image: 5}}.",
        ),
    ),
    row(
        "bad_arguments", "error: unrecognized arguments",
        r": error: unrecognized arguments: (?P<flag>[^\s=]{1,100})(?P<rest>[^\n]{0,300})",
        permanent=True, where="line", derive=_near,
        summary="vLLM knows no option {flag}",
        advice=("It knows {near}.", "Remove {flag}, or look up its name in this version of vLLM (options change)."),
    ),
    row(
        "bad_arguments", ": error: argument",
        r": error: argument (?P<flag>[^\s:]{1,200}): invalid choice: (?P<value>[^\n]{1,100}?) \(choose from "
        r"(?P<choices>[^)\n]{1,600})",
        permanent=True, where="line",
        summary="{flag} does not take {value}",
        advice="{flag} takes one of: {choices}.",
    ),
    row(
        "bad_arguments", ": error: ", r"^\S{1,80}: error: (?P<detail>[^\n]{1,300})",
        permanent=True, where="line", rank=Rank.COARSE,
        summary="vLLM refuses its command line: {detail}",
        advice="Correct that option under `vllm:` of this model.",
    ),
    row(
        "max_model_len_too_large", "User-specified max_model_len",
        r"User-specified max_model_len \((?P<wanted>\d{1,12})\) is greater than the derived max_model_len "
        r"\((?P<key>\w{1,60})=(?P<derived>[\d.]{1,16}|None) or model_max_length=(?P<own>[\d.]{1,16}|None)",
        permanent=True, derive=_whole,
        summary="max-model-len {wanted} is more than the model's own {limit}",
        advice=(
            "Set max-model-len to {limit} or less.",
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 would only move the failure to the first long request.",
        ),
    ),
    row(
        "mm_limit_on_text_model", "multimodal",
        r"`?limit_mm_per_prompt`? is only supported for multimodal models|The model is not multimodal\.|\S{1,200} is "
        r"not a multimodal model",
        permanent=True,
        summary=("{model} takes no images, but an option for images is set", "an option for images on a text model"),
        advice="Remove limit-mm-per-prompt and the other options for images, or serve a vision model.",
    ),
    row(
        "tp_does_not_divide", "must be divisible by tensor parallel size",
        r"Total number of attention heads \((?P<heads>\d{1,6})\)\s{0,3}must be divisible by tensor parallel size "
        r"\((?P<size>\d{1,5})\)",
        permanent=True, derive=_divisors,
        summary="{heads} attention heads cannot be split over {size} GPUs",
        advice="Set tensor-parallel-size to one of {fitting}.",
    ),
    row(
        "tp_does_not_divide", "is not divisible by",
        r"AssertionError: (?P<heads>\d{1,7}) is not divisible by (?P<size>\d{1,5})",
        permanent=True,
        summary="a layer of {heads} cannot be split over {size} GPUs",
        advice="Choose a tensor-parallel-size that divides {heads}; {size} does not.",
    ),
    row(
        "tp_does_not_divide", "Weight input_size_per_partition",
        r"Weight input_size_per_partition=(?P<heads>\d{1,7})[^\n]{0,300}? is not divisible by "
        r"group_size=(?P<size>\d{1,6})",
        permanent=True,
        summary="the quantised layers ({heads}) cannot be split so far: groups of {size}",
        advice="Lower tensor-parallel-size.",
    ),
    row(
        "quantisation_unsupported", "is not supported for the current GPU",
        r"The quantization method (?P<method>\S{1,60}) is not supported for the current GPU\. Minimum capability: "
        r"(?P<least>\d{1,4})\. Current capability: (?P<own>\d{1,4})",
        permanent=True,
        summary="{method} needs a GPU of compute capability {least}, this one has {own}",
        advice="Choose another quantisation of the model, or a newer GPU than one of capability {own}.",
    ),
    row(
        "quantisation_unsupported", "quantization",
        r"(?P<method>\S{1,60}) quantization is currently not supported in (?P<platform>\S{1,60}?)\.(?:\s|$)",
        permanent=True,
        summary="{method} does not run on {platform}",
        advice="Choose another quantisation of the model.",
    ),
    row(
        "quantisation_unsupported", "quantization method",
        r"(?P<dtype>torch\.\w{1,20}) is not supported for quantization method (?P<method>\S{1,60}?)\. Supported "
        r"dtypes: (?P<dtypes>[^\n]{1,200}?)(?: \[type|$|\n)",
        permanent=True,
        summary="{method} does not work with {dtype}",
        advice="Set dtype to one of {dtypes}.",
    ),
    row(
        "bad_arguments", "Unknown quantization method",
        r"Unknown quantization method: (?P<value>\S{1,80}?)\. Must be one of \[(?P<choices>[^\]\n]{1,900})",
        permanent=True,
        summary="vLLM knows no quantisation {value}",
        advice="It knows: {choices}.",
    ),
    row(
        "bad_arguments", "does not match the quantization",
        r"Quantization method specified in the model config \((?P<own>[^)\n]{1,60})\) does not match the "
        r"quantization method specified in the `quantization` argument \((?P<value>[^)\n]{1,60})\)",
        permanent=True,
        summary="the model is quantised with {own}, not with {value}",
        advice="Remove `quantization:`, or set it to {own}.",
    ),
    row(
        "bad_arguments", "requires --tool-call-parser", permanent=True,
        summary="enable-auto-tool-choice is set without tool-call-parser",
        advice="Add the tool-call-parser that belongs to the model.",
    ),
    row(
        "bad_arguments", "parser: ",
        r"KeyError: .invalid (?P<what>tool call|reasoning) parser: (?P<value>\S{1,80}) \(chose from \{ "
        r"(?P<choices>[^}\n]{1,1500}?) \}",
        permanent=True,
        summary="vLLM knows no {what} parser {value}",
        advice="It knows: {choices}.",
    ),
    row(
        "bad_arguments", "Unable to read the config file",
        r"Unable to read the config file at (?P<path>\S{1,300}?)\. Check path",
        permanent=True, where="line",
        summary="vLLM's own configuration file {path} cannot be read",
        advice="Check `config:`; {path} must exist and be YAML.",
    ),
    row(
        "chat_template_missing", "chat template",
        r"(?:The supplied chat template string \((?P<path>[^)\n]{1,300})\) appears path-like|the supplied chat "
        r"template path doesn't exist)",
        permanent=True,
        summary=("the chat template {path} does not exist", "the chat template does not exist"),
        advice="Correct the path in `chat-template:`.",
    ),
    row(
        "chat_template_missing", "default chat template is no longer allowed", permanent=True, where="line",
        rank=Rank.COMPLAINT,
        summary=(
            "{model} has no chat template: it starts, and refuses every chat",
            "the model has no chat template: every chat is refused",
        ),
        advice=(
            "Set `chat-template:` to a template for this model (a base model has none; its -Instruct or -Chat "
            "sibling has)."
        ),
    ),
    row(
        "bad_arguments", "validation error",
        r"ValidationError: \d{1,4} validation errors? for "
        r"(?P<what>\w{0,40}(?:Config|Args))\n(?:(?P<field>[A-Za-z_][\w.\[\],]{0,100})\n)?\s{0,8}(?:Value error, "
        r"|Assertion failed, )?(?P<detail>(?!\s|Value error|Model architectures)[^\n]{1,400}?)(?: \[type=|\n|$)",
        permanent=True, rank=Rank.COARSE,
        summary=("vLLM refuses its options: {field}: {detail}", "vLLM refuses its options: {detail}"),
        advice="Correct the option that it names under `vllm:` of this model.",
    ),
)  # fmt: skip


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
        "gpu_hardware", "",
        r"uncorrectable (?:ECC|NVLink) error|CUDA error: (?:hardware stack error|unspecified launch failure|the "
        r"launch timed out)|misaligned address|an illegal instruction was encountered",
        permanent=False,
        summary="the GPU reports an error of its own",
        advice="Look for NVRM Xid in the kernel log; with an ECC or NVLink error reset the GPU or reboot.",
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
        "multimodal_request", "", r"^(?P<error>[^\n]{1,300})",
        permanent=False, phase="run", rank=Rank.UNKNOWN,
        frames=r"mm_encoder|embed_multimodal|get_multimodal_embeddings",
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


def _as_json(value: str) -> str:
    """``image=5,video=1`` as it was written before 0.10, in JSON."""
    pairs = re.findall(r"([a-z_]{1,40})\s?[=:]\s?(\d{1,9})", value)
    return "{" + ", ".join(f'"{name}": {count}' for name, count in pairs) + "}" if pairs else '{"image": 5}'
