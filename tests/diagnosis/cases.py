"""One function per failure: from a seed to a log,
with the message as the installed source raises it and values of its own.

``rows`` names the failures of the project's collection (A vLLM at start, B vLLM serving,
C LiteLLM) that a case stands for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_supervisor.diagnosis import Component
from tests.diagnosis import written
from tests.diagnosis.written import VllmLog


@dataclass(frozen=True)
class Case:
    """A log and what must be found in it. ``told``: what the summary or the advice must say. ``root``: a part of the
    line that the evidence must hold."""

    log: str
    told: tuple[str, ...]
    root: str
    exit_code: int | None = 1
    exit_signal: int | None = None
    was_ready: bool = False


Build = Callable[[int], Case]


@dataclass(frozen=True)
class Spec:
    """What a generator makes, and what is to be found in all of it."""

    name: str
    component: Component
    kind: str
    permanent: bool | None
    busy: bool
    rows: tuple[str, ...]
    build: Build = field(compare=False)


SPECS: list[Spec] = []


def spec(
    kind: str, permanent: bool | None, *rows: str, busy: bool = False, component: Component = "vllm"
) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        SPECS.append(Spec(build.__name__, component, kind, permanent, busy, rows, build))
        return build

    return register


def _oom(
    rng: random.Random, total: float, own: float, others: float = 0.0, wanted: str = ""
) -> tuple[str, str, str, str]:
    """torch's message; returns it with what it says is wanted, the capacity and what is free."""
    free = max(total - own - others, 0.02)
    wanted = wanted or f"{rng.uniform(0.2, 3.9):.2f} GiB"
    holder = f"Process {rng.randrange(300, 99999)} has {others:.2f} GiB memory in use. " if others else ""
    shown = f"{free:.2f} GiB" if free >= 1 else rng.choice([f"{free * 1024:.2f} MiB", "0 bytes"])
    text = (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {wanted}. GPU {rng.randrange(8)} has a total "
        f"capacity of {total:.2f} GiB of which {shown} is free. {holder}Including non-PyTorch memory, this process "
        f"has {own:.2f} GiB memory in use. Of the allocated memory {own - 0.7:.2f} GiB is allocated by PyTorch, with "
        "72.00 MiB allocated in private pools (e.g., CUDA Graphs), and 96.31 MiB is reserved by PyTorch but "
        "unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for Memory "
        "Management  "
        f"(https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf)"
    )
    return text, wanted, f"{total:.2f} GiB", shown


def _capacity(rng: random.Random) -> float:
    return rng.choice([14.57, 23.55, 44.42, 79.19, 139.81])


# A: vLLM at start ----------------------------------------------------------------------------------------


@spec("weights_do_not_fit", True, "A01")
def weights_do_not_fit(seed: int) -> Case:
    log = VllmLog(seed)
    total = _capacity(log.random)
    error, wanted, capacity, free = _oom(log.random, total, total - 0.05)
    return Case(
        written.worker_cannot_start(log, error, written.CREATE_WEIGHTS), (wanted, capacity, free, log.model), "Tried to"
    )


@spec("weights_do_not_fit", True, "A01", "A33")
def weights_do_not_fit_on_one_of_four(seed: int) -> Case:
    log = VllmLog(seed, workers=4)
    total = _capacity(log.random)
    error, wanted, capacity, _ = _oom(log.random, total, total - 0.3)
    return Case(written.worker_cannot_start(log, error, written.LOAD), (wanted, capacity), "Tried to allocate")


@spec("gpu_memory_taken", False, "A01", "A04", busy=True)
def weights_meet_another_process(seed: int) -> Case:
    log = VllmLog(seed)
    total = _capacity(log.random)
    others = total * log.random.uniform(0.2, 0.7)
    error, _, capacity, free = _oom(log.random, total, total - others - 0.04, others)
    return Case(
        written.worker_cannot_start(log, error, written.CREATE_WEIGHTS), (capacity, free, "nvidia-smi"), "Tried to"
    )


@spec("cuda_oom_starting", True, "A02")
def graphs_do_not_fit(seed: int) -> Case:
    log = VllmLog(seed)
    total = _capacity(log.random)
    error, wanted, capacity, _ = _oom(log.random, total, total - 0.1)
    text = written.worker_call_fails(log, error, gpu_memory_utilization=0.97)
    return Case(text, (wanted, capacity, "0.97", "enforce-eager"), "Tried to allocate")


@spec("cuda_oom_starting", True, "A02")
def sampler_does_not_fit(seed: int) -> Case:
    log = VllmLog(seed)
    count = log.random.choice([128, 256, 1024])
    error = (
        f"RuntimeError: CUDA out of memory occurred when warming up sampler with {count} dummy requests. Please try "
        f"lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
    )
    return Case(written.worker_call_fails(log, error), (str(count), "max-num-seqs"), "warming up sampler")


@spec("no_memory_for_kv_cache", True, "A02")
def nothing_left_for_the_kv_cache(seed: int) -> Case:
    log = VllmLog(seed)
    utilization = round(log.random.uniform(0.3, 0.8), 2)
    error = (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine (this flag also controls CPU memory reservation on the CPU backend, despite its "
        "name). See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
    )
    text = written.core_cannot_start(log, error, gpu_memory_utilization=utilization)
    return Case(text, (str(utilization), "gpu-memory-utilization"), "No available memory")


@spec("no_memory_for_kv_cache", True, "A02")
def nothing_to_fit_automatically(seed: int) -> Case:
    error = (
        "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. "
        "Try increasing `gpu_memory_utilization`."
    )
    return Case(written.core_cannot_start(VllmLog(seed), error), ("gpu-memory-utilization",), "auto-fit")


def _kv_too_small(rng: random.Random, estimate: str) -> tuple[str, int, str, str]:
    length = rng.choice([8192, 32768, 131072, 262144])
    needed, there = f"{rng.uniform(4, 40):.2f}", f"{rng.uniform(0.3, 3.9):.2f}"
    return (
        f"ValueError: To serve at least one request with the model's max seq len ({length}), ({needed} GiB KV cache "
        f"is needed, which is larger than the available KV cache memory ({there} GiB). {estimate}Try increasing "
        "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing `max_model_len` "
        "when initializing the engine. See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more "
        f"details.",
        length, needed, there,
    )  # fmt: skip


@spec("kv_cache_too_small", True, "A03")
def kv_cache_too_small(seed: int) -> Case:
    log = VllmLog(seed)
    fits = log.random.randrange(16, 7000) * 16
    estimate = f"Based on the available memory, the estimated maximum model length is {fits}. "
    error, length, needed, there = _kv_too_small(log.random, estimate)
    told = (str(length), needed, there, f"Set max-model-len to {fits} or less.")
    return Case(written.core_cannot_start(log, error, max_model_len=length), told, "larger than the available KV cache")


@spec("kv_cache_too_small", True, "A03")
def kv_cache_too_small_for_any_length(seed: int) -> Case:
    log = VllmLog(seed)
    error, length, needed, there = _kv_too_small(log.random, "")
    return Case(
        written.core_cannot_start(log, error), (str(length), needed, there), "larger than the available KV cache"
    )


def _free_memory(free: float, total: float, utilization: float) -> str:
    return (
        f"ValueError: Free memory on device cuda:0 ({free:.2f}/{total:.2f} GiB) on startup is less than desired GPU "
        f"memory utilization ({utilization}, {utilization * total:.2f} GiB). Decrease GPU memory utilization or "
        f"reduce GPU memory used by other processes."
    )


@spec("gpu_memory_taken", False, "A04", busy=True)
def gpu_memory_held_at_start(seed: int) -> Case:
    log = VllmLog(seed, workers=log_workers(seed))
    total = _capacity(log.random)
    free = total * log.random.uniform(0.05, 0.6)
    error = _free_memory(free, total, 0.92)
    told = (f"{free:.2f}", f"{total:.2f}", f"{0.92 * total:.2f}", f"{total - free:.2f}"[:-1], "--query-compute-apps")
    return Case(
        written.worker_cannot_start(log, error, written.REQUEST_MEMORY), told, "on startup is less than desired"
    )


def log_workers(seed: int) -> int:
    return random.Random(f"workers {seed}").choice([1, 2, 4])


@spec("gpu_utilization_too_high", True, "A04")
def an_empty_gpu_is_too_small(seed: int) -> Case:
    log = VllmLog(seed)
    total = _capacity(log.random)
    error = _free_memory(total - 0.44, total, 0.99)
    text = written.worker_cannot_start(log, error, written.REQUEST_MEMORY, gpu_memory_utilization=0.99)
    return Case(text, ("0.99", f"{total:.2f}", "0.9"), "on startup is less than desired")


@spec("gpu_memory_taken", False, "A04", busy=True)
def gpu_memory_held_beside_external_weights(seed: int) -> Case:
    log = VllmLog(seed)
    total = _capacity(log.random)
    free, budget = total * 0.2, total * 0.5
    error = (
        f"ValueError: Free memory on device cuda:0 ({free:.2f}/{total:.2f} GiB) on startup is less than the engine's "
        f"budget after excluding external process's weights (0.92, {budget:.2f} GiB). Decrease GPU memory "
        f"utilization or reduce GPU memory used by other processes."
    )
    return Case(
        written.worker_cannot_start(log, error, written.REQUEST_MEMORY),
        (f"{free:.2f}", f"{budget:.2f}"),
        "the engine's budget",
    )


@spec("gpu_memory_taken", False, "A04", busy=True)
def no_context_can_be_made(seed: int) -> Case:
    error = (
        "torch.AcceleratorError: CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in "
        "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.\nFor more "
        "detailed error information, run with CUDA_LOG_FILE=stderr\n"
    )
    return Case(written.worker_cannot_start(VllmLog(seed), error), ("nvidia-smi",), "CUDA error: out of memory")


@spec("gpu_memory_changed", False, "A05", busy=True)
def memory_changes_while_profiling(seed: int) -> Case:
    log = VllmLog(seed)
    before = round(log.random.uniform(10, 60), 2)
    error = (
        f"AssertionError: Error in memory profiling. Initial free memory {before} GiB, current free memory "
        f"{before + 9:.2f} GiB. This happens when other processes sharing the same container release GPU memory "
        "while vLLM is profiling during initialization. To fix this, ensure consistent GPU memory allocation or "
        f"isolate vLLM in its own container."
    )
    return Case(written.worker_call_fails(log, error), (str(before),), "memory profiling")


@spec("trust_remote_code_needed", True, "A06")
def remote_code(seed: int) -> Case:
    log = VllmLog(seed)
    message = (
        f"The repository {log.model} contains custom code which must be executed to correctly load the model. You "
        f"can inspect the repository content at https://hf.co/{log.model} .\n You can inspect the repository content "
        f"at https://hf.co/{log.model}.\nPlease pass the argument `trust_remote_code=True` to allow custom code to "
        f"be run."
    )
    log.log(
        "APIServer", "ERROR", "repo_utils.py:126", f"Error parsing config for {log.model}: {message}, retrying 1 of 2"
    )
    log.log("APIServer", "ERROR", "repo_utils.py:124", f"Error parsing config for {log.model}: {message}")
    return Case(written.config_is_refused(log, message), (log.model, "trust-remote-code: true"), "contains custom code")


@spec("trust_remote_code_needed", True, "A06")
def remote_code_asked_without_a_terminal(seed: int) -> Case:
    log = VllmLog(seed)
    question = (
        f"The repository {log.model} contains custom code which must be executed to correctly load the model. You "
        f"can inspect the repository content at https://hf.co/{log.model} .\n"
    )
    places = ("transformers/dynamic_module_utils.py:resolve_trust_remote_code",)
    text = log.begin().raw(
        *written.chained(
            written.traceback("EOFError: EOF when reading a line", *places), written.DURING,
            written.traceback(
            f"ValueError: {question} You can inspect the repository content at https://hf.co/x.\nPlease pass the "
            f"argument `trust_remote_code=True` to allow custom code to be run.",
                              *written.CREATE_CONFIG, *places),
        )
    ).text()  # fmt: skip
    return Case(text, (log.model, "trust-remote-code: true"), "contains custom code")


@spec("trust_remote_code_needed", True, "A06")
def tokenizer_needs_remote_code(seed: int) -> Case:
    log = VllmLog(seed)
    error = (
        "RuntimeError: Failed to load the tokenizer. If the tokenizer is a custom tokenizer not yet available in the "
        "HuggingFace transformers library, consider setting `trust_remote_code=True` in LLM or using the "
        "`--trust-remote-code` flag in the CLI. If the model was created with a newer version of transformers, "
        "consider upgrading: `uv pip install --upgrade transformers`"
    )
    return Case(
        written.server_cannot_start(log, error), (log.model, "trust-remote-code"), "Failed to load the tokenizer"
    )


HUB = (
    "transformers/utils/hub.py:cached_files",
    "huggingface_hub/file_download.py:hf_hub_download",
    "huggingface_hub/utils/_http.py:hf_raise_for_status",
)


def _repo(log: VllmLog) -> str:
    log.model = f"{log.random.choice(['acme', 'meta-things', 'zai-org'])}/Thing-{log.random.randrange(1, 99)}B"
    return log.model


@spec("gated_repo", True, "A07")
def gated(seed: int) -> Case:
    log = VllmLog(seed)
    repo = _repo(log)
    url = f"https://huggingface.co/{repo}/resolve/main/config.json"
    status = log.random.choice([401, 403])
    first = (
        f"huggingface_hub.errors.GatedRepoError: {status} Client Error. (Request ID: Root=1-6a)\n\nCannot access "
        f"gated repo for url {url}.\nAccess to model {repo} is restricted. You must have access to it and be "
        f"authenticated to access it. Please log in."
    )
    second = (
        "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        f"https://huggingface.co/{repo}.\n{first}"
    )
    text = log.begin().raw(
        *written.chained(written.traceback(first, *HUB), written.CAUSE, written.traceback(second,
        *written.CREATE_CONFIG, *HUB[:1]))
    ).text()  # fmt: skip
    return Case(text, (repo, "HF_TOKEN"), "gated repo")


@spec("repo_not_found", True, "A08")
def no_such_repository(seed: int) -> Case:
    log = VllmLog(seed)
    repo = _repo(log)
    status = log.random.choice([401, 404])
    first = (
        f"huggingface_hub.errors.RepositoryNotFoundError: {status} Client Error. (Request ID: "
        "Root=1-6a;b)\n\nRepository Not Found for url: "
        f"https://huggingface.co/api/models/{repo}/tree/main?recursive=True&expand=False.\nPlease make sure you "
        "specified the correct `repo_id` and `repo_type`.\nIf you are trying to access a private or gated repo, "
        "make sure you are authenticated and your token has the required permissions.\nFor more details, see "
        f"https://huggingface.co/docs/huggingface_hub/authentication"
    )
    second = (
        f"OSError: {repo} is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'\nIf this is a private repository, make sure to pass a token having "
        f"permission to this repo either by logging in with `hf auth login` or by passing `token=<your_token>`"
    )
    text = log.begin().raw(
        *written.chained(written.traceback(first, *HUB), written.CAUSE, written.traceback(second,
        *written.CREATE_CONFIG, *HUB[:1]))
    ).text()  # fmt: skip
    return Case(text, (repo, str(status), "HF_TOKEN"), "Repository Not Found")


@spec("revision_not_found", True, "A08")
def no_such_revision(seed: int) -> Case:
    log = VllmLog(seed)
    repo, revision = _repo(log), f"v{log.random.randrange(9)}.{log.random.randrange(9)}"
    error = (
        f"OSError: {revision} is not a valid git identifier (branch name, tag name or commit id) that exists for "
        f"this model name. Check the model page at 'https://huggingface.co/{repo}' for available revisions."
    )
    return Case(written.server_cannot_start(log, error), (revision, repo), "valid git identifier")


@spec("model_folder_missing", True, "A09")
def folder_missing(seed: int) -> Case:
    log = VllmLog(seed)
    log.model = f"/srv/models/{log.random.choice(['a', 'b', 'c'])}/thing-{log.random.randrange(99)}"
    error = (
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
        f"'namespace/repo_name': '{log.model}'. Use `repo_type` argument if needed."
    )
    return Case(written.server_cannot_start(log, error), (log.model, "mounted"), "Repo id must be")


@spec("model_config_missing", True, "A09")
def folder_without_config(seed: int) -> Case:
    log = VllmLog(seed)
    log.model = f"/srv/models/thing-{log.random.randrange(99)}"
    message = (
        f"Invalid repository ID or local directory specified: '{log.model}'.\nPlease verify the following "
        "requirements:\n1. Provide a valid Hugging Face repository ID.\n2. Specify a local directory that contains "
        "a recognized configuration file.\n   - For Hugging Face models: ensure the presence of a 'config.json'.\n  "
        f" - For Mistral models: ensure the presence of a 'params.json'.\n"
    )
    return Case(written.config_is_refused(log, message), (log.model, "config.json"), "Invalid repository ID")


@spec("network", False, "A10")
def name_cannot_be_resolved(seed: int) -> Case:
    log = VllmLog(seed)
    repo = _repo(log)
    reason = log.random.choice(
        [
            "[Errno -2] Name or service not known",
            "[Errno -3] Temporary failure in name resolution",
            "[Errno 101] Network is unreachable",
        ]
    )
    located = (
        "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the "
        "Hub and we cannot find the requested files in the local cache. Please check your connection and try again "
        "or make sure your Internet connection is on."
    )
    last = (
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
        "cached files.\nCheck your internet connection or see how to run the library in offline mode at "
        "'https://huggingface.co/docs/transformers/installation#offline-mode'."
    )
    log.begin().raw(
        f"'{reason}' thrown while requesting HEAD https://huggingface.co/{repo}/resolve/main/config.json",
        "Retrying in 1s [Retry 1/5].",
    )
    text = log.raw(
        *written.chained(
            written.traceback(f"httpx2.ConnectError: {reason}", "httpx2/_transports/default.py:handle_request"),
            written.CAUSE,
            written.traceback(located, *HUB), written.CAUSE, written.traceback(last, *written.CREATE_CONFIG, *HUB[:1]),
        )
    ).text()  # fmt: skip
    return Case(text, (repo, "HF_HUB_OFFLINE=1"), "on the Hub")


@spec("hub_offline", True, "A10")
def offline_and_not_cached(seed: int) -> Case:
    log = VllmLog(seed)
    repo = _repo(log)
    error = (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
        "specified revision on the local disk and outgoing traffic has been disabled. To enable repo look-ups and "
        "downloads online, pass 'local_files_only=False' as input."
    )
    return Case(written.server_cannot_start(log, error), (repo, "HF_HUB_OFFLINE"), "outgoing traffic has been disabled")


@spec("hub_rate_limited", False, "A11")
def rate_limited(seed: int) -> Case:
    log = VllmLog(seed)
    repo = _repo(log)
    url = f"https://huggingface.co/api/models/{repo}/revision/main"
    error = log.random.choice([
        f"huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: {url}",
        f"huggingface_hub.errors.HfHubHTTPError: Client error '429 Too Many Requests' for url '{url}' (Request ID: "
        f"Root=1-6a)",
    ])  # fmt: skip
    return Case(
        written.server_cannot_start(log, error, (*written.CREATE_CONFIG, *HUB)),
        ("429", "restarts make it worse"),
        "429",
    )


@spec("unsupported_architecture", True, "A12")
def architecture_unknown_to_vllm(seed: int) -> Case:
    log = VllmLog(seed)
    name = f"Brand{log.random.randrange(9)}NewForCausalLM"
    supported = ", ".join(f"'Thing{number}ForCausalLM'" for number in range(250))
    message = (
        f"Model architectures ['{name}'] are not supported for now. Supported architectures: dict_keys([{supported}])"
    )
    return Case(written.config_is_refused(log, message), (name,), "are not supported for now")


@spec("unsupported_architecture", True, "A12")
def architecture_unknown_to_transformers(seed: int) -> Case:
    log = VllmLog(seed)
    name = f"brandnew{log.random.randrange(99)}"
    message = (
        f"The checkpoint you are trying to load has model type `{name}` but Transformers does not recognize this "
        "architecture. This could be because of an issue with the checkpoint, or because your version of "
        "Transformers is out of date.\n\nYou can update Transformers with the command `pip install --upgrade "
        "transformers`. If this does not work, and the checkpoint is very new, then there may not be a release "
        f"version that supports this model yet."
    )
    return Case(written.config_is_refused(log, message), (name,), "does not recognize this architecture")


@spec("unsupported_architecture", True, "A12")
def architecture_dropped(seed: int) -> Case:
    log = VllmLog(seed)
    version = f"0.{log.random.randrange(8, 31)}.{log.random.randrange(4)}"
    message = (
        f"Model architecture OldForCausalLM was supported in vLLM until v{version}, and is not supported anymore. "
        f"Please use an older version of vLLM if you want to use this model architecture."
    )
    return Case(written.config_is_refused(log, message), ("OldForCausalLM", version), "was supported in vLLM until")


def _inspection(log: VllmLog, error: str) -> str:
    """The inspection's subprocess fails: its stderr is carried in a message, and a refusal comes later."""
    name = "Glm4vForConditionalGeneration"
    inner = "\n".join(written.traceback(error, "<frozen runpy>:_run_module_as_main",
    "vllm/model_executor/models/registry.py:_run",
                                        "vllm/model_executor/models/glm4_1v.py:<module>"))  # fmt: skip
    carried = (
        "RuntimeError: Error raised in subprocess:\n<frozen runpy>:128: RuntimeWarning: 'vllm' found in "
        f"sys.modules\n{inner}"
    )
    called = (
        "subprocess.CalledProcessError: Command '['/opt/vllm/bin/python', '-m', "
        "'vllm.model_executor.models.registry']' returned non-zero exit status 1."
    )
    places = (
        "vllm/model_executor/models/registry.py:_try_inspect_model_cls",
        "vllm/model_executor/models/registry.py:_run_in_subprocess",
    )
    lines = written.chained(written.traceback(called, *places), written.CAUSE, written.traceback(carried, *places))
    log.begin().log(
        "APIServer", "ERROR", "registry.py:1120", f"Error in inspecting model architecture '{name}'", *lines
    )
    message = f"Model architectures ['{name}'] failed to be inspected. Please check the logs for more details."
    kept = "[type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]"
    last = (
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, {message} "
        f"{kept}"
    )
    return log.raw(*written.traceback(last, *written.CREATE_CONFIG)).text()


@spec("missing_library", True, "A12", "A28")
def inspection_cannot_load_cuda(seed: int) -> Case:
    log = VllmLog(seed)
    library = log.random.choice(["libcudart.so.12", "libcudart.so.13", "libcublas.so.12", "libnvrtc.so.13"])
    error = f"ImportError: {library}: cannot open shared object file: No such file or directory"
    return Case(_inspection(log, error), (library,), library)


@spec("transformers_mismatch", True, "A12", "A27")
def inspection_meets_another_transformers(seed: int) -> Case:
    log = VllmLog(seed)
    name = log.random.choice(["Glm4vImageProcessor", "ALLOWED_LAYER_TYPES", "PretrainedConfig"])
    error = (
        f"ImportError: cannot import name '{name}' from 'transformers.models.glm4v' "
        f"({written.SITE}/transformers/models/glm4v/__init__.py)"
    )
    return Case(_inspection(log, error), (name,), "cannot import name")


@spec("model_inspection_failed", True, "A12")
def inspection_fails_of_something_else(seed: int) -> Case:
    log = VllmLog(seed)
    error = f"AttributeError: module 'torch.thing{log.random.randrange(9)}' has no attribute 'other'"
    return Case(_inspection(log, error), ("AttributeError", "environment"), "has no attribute 'other'")


@spec("bad_arguments", True, "A13")
def unknown_flag(seed: int) -> Case:
    rng = random.Random(seed)
    flag, near = rng.choice(
        [
            ("--max-model-length", "--max-model-len"),
            ("--tensor-paralel-size", "--tensor-parallel-size"),
            ("--gpu_memory_utilisation", "--gpu-memory-utilization"),
        ]
    )
    flags = (
        "--model",
        "--max-model-len",
        "--max-num-seqs",
        "--tensor-parallel-size",
        "--gpu-memory-utilization",
        "--enforce-eager",
    )
    return Case(
        written.usage(f"unrecognized arguments: {flag}", *flags), (flag, f"It knows {near}."), flag, exit_code=2
    )


@spec("bad_arguments", True, "A13")
def wrong_choice(seed: int) -> Case:
    value = f"fp{seed + 3}"
    error = f"argument --kv-cache-dtype: invalid choice: '{value}' (choose from 'auto', 'bfloat16', 'fp8', 'fp8_e5m2')"
    return Case(written.usage(error, "--kv-cache-dtype"), ("--kv-cache-dtype", value, "fp8_e5m2"), value, exit_code=2)


@spec("bad_arguments", True, "A13")
def wrong_number(seed: int) -> Case:
    value = f"many{seed}"
    return Case(
        written.usage(f"argument --max-num-seqs: invalid int value: '{value}'", "--max-num-seqs"),
        ("--max-num-seqs", value),
        value,
        exit_code=2,
    )


@spec("bad_arguments", True, "A13")
def parser_of_tool_calls_unknown(seed: int) -> Case:
    name = f"thing{seed}"
    error = f"KeyError: 'invalid tool call parser: {name} (chose from {{ apertus,glm45,hermes,mistral,openai }})'"
    return Case(written.server_cannot_start(VllmLog(seed), error, written.SETUP_SERVER), (name, "hermes"), name)


@spec("bad_arguments", True, "A13")
def refused_by_a_configuration(seed: int) -> Case:
    size = 3 + 2 * seed
    message = f"data_parallel_size_local ({size}) must be <= data_parallel_size (1)"
    return Case(
        written.config_is_refused(VllmLog(seed), message, "ParallelConfig"), (f"({size})",), "data_parallel_size_local"
    )


@spec("bad_arguments", True, "A13")
def environment_names_another_quantisation(seed: int) -> Case:
    log = VllmLog(seed)
    value = f"marlin{seed}"
    message = f"Unknown quantization method: {value}. Must be one of ['awq', 'fp8', 'gptq', 'mxfp4']."
    return Case(written.config_is_refused(log, message), (value, "mxfp4"), "Unknown quantization method")


@spec("mm_limit_not_json", True, "A14")
def images_not_in_json(seed: int) -> Case:
    count = 1 + seed * 3
    error = (
        f"argument --limit-mm-per-prompt: Value image={count} cannot be converted to <function loads at "
        f"0x7f8a00c3d{seed}20>."
    )
    told = (f"image={count}", f'{{"image": {count}}}')
    return Case(written.usage(error, "--limit-mm-per-prompt"), told, "--limit-mm-per-prompt: Value", exit_code=2)


@spec("mm_limit_not_json", True, "A14")
def images_and_videos_not_in_json(seed: int) -> Case:
    error = (
        f"argument --limit-mm-per-prompt: Value image={seed + 1},video={seed + 2} cannot be converted to <function "
        f"loads at 0x7f>."
    )
    told = (f'{{"image": {seed + 1}, "video": {seed + 2}}}',)
    return Case(written.usage(error, "--limit-mm-per-prompt"), told, "--limit-mm-per-prompt: Value", exit_code=2)


@spec("mm_limit_on_text_model", True, "A15")
def images_on_a_text_model(seed: int) -> Case:
    log = VllmLog(seed)
    message = [
        "`limit_mm_per_prompt` is only supported for multimodal models.",
        "The model is not multimodal.",
        f"{log.model} is not a multimodal model",
    ]
    return Case(written.config_is_refused(log, message[seed % 3]), (log.model, "limit-mm-per-prompt"), "multimodal")


@spec("max_model_len_too_large", True, "A16")
def longer_than_the_model(seed: int) -> Case:
    log = VllmLog(seed)
    limit = log.random.choice([4096, 32768, 65536, 131072])
    wanted = limit * 2 + seed
    message = (
        f"User-specified max_model_len ({wanted}) is greater than the derived max_model_len "
        f"(max_position_embeddings={limit}.0 or model_max_length=None in model's config.json). To allow overriding "
        "this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1. VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used "
        "with extreme caution. If the model uses relative position encoding (RoPE), positions exceeding "
        f"derived_max_model_len lead to nan."
    )
    return Case(
        written.config_is_refused(log, message, max_model_len=wanted),
        (str(wanted), f"to {limit} or less"),
        "User-specified max_model_len",
    )


@spec("port_taken", False, "A17", busy=True)
def port_taken_by_another(seed: int) -> Case:
    log = VllmLog(seed)
    text = written.server_cannot_start(log, "OSError: [Errno 98] Address already in use", written.SETUP_SERVER)
    return Case(text, (str(log.port), "ss -ltnp"), "Address already in use")


@spec("internal_port_taken", False, "A19")
def store_port_taken(seed: int) -> Case:
    log = VllmLog(seed)
    port = log.random.randrange(20000, 60000)
    error = (
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
        f"port: {port}, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
    )
    return Case(written.worker_cannot_start(log, error), (str(port), "VLLM_PORT"), "EADDRINUSE")


@spec("internal_port_taken", False, "A19")
def zmq_port_taken(seed: int) -> Case:
    log = VllmLog(seed)
    address = f"tcp://127.0.0.1:{log.random.randrange(20000, 60000)}"
    error = f"zmq.error.ZMQError: Address already in use (addr='{address}')"
    return Case(written.core_cannot_start(log, error, written.ENGINE_INIT), (address,), "ZMQError")


@spec("no_gpu", True, "A20")
def no_device_inferred(seed: int) -> Case:
    error = (
        "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` "
        "to turn on verbose logging to help debug the issue."
    )
    return Case(
        written.server_cannot_start(VllmLog(seed), error), ("nvidia-smi", "--gpus all"), "Failed to infer device type"
    )


@spec("no_gpu", True, "A20")
def no_device_visible(seed: int) -> Case:
    errors = [
        "RuntimeError: No CUDA GPUs are available",
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed "
        "a driver from http://www.nvidia.com/Download/index.aspx",
        "vllm.third_party.pynvml.NVMLError_LibraryNotFound: NVML Shared Library Not Found",
        "AssertionError: Torch not compiled with CUDA enabled",
    ]
    error = errors[seed % len(errors)]
    return Case(written.worker_cannot_start(VllmLog(seed), error), ("nvidia-smi",), error.partition(": ")[2][:40])


@spec("driver_too_old", True, "A21")
def driver_older_than_cuda(seed: int) -> Case:
    version = 11040 + 10 * seed
    error = (
        f"RuntimeError: The NVIDIA driver on your system is too old (found version {version}). Please update your "
        "GPU driver by downloading and installing a new version from the URL: "
        "http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install a PyTorch "
        f"version that has been compiled with your version of the CUDA driver."
    )
    return Case(written.worker_cannot_start(VllmLog(seed), error), (str(version),), "is too old")


def _device_count(number: int, words: str) -> str:
    return (
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
        f"NumCudaDevices() that might have already set an error? Error {number}: {words}"
    )


@spec("driver_mismatch", True, "A21")
def driver_and_library_differ(seed: int) -> Case:
    errors = [
        _device_count(803, "system has unsupported display driver / cuda driver combination"),
        _device_count(804, "forward compatibility was attempted on non supported HW"),
        "vllm.third_party.pynvml.NVMLError_LibRmVersionMismatch: RM has detected an NVML/RM version mismatch.",
    ]
    error = errors[seed % 3]
    return Case(written.worker_cannot_start(VllmLog(seed), error), ("driver",), error[-30:])


@spec("fabric_manager", False, "A22")
def fabric_not_up(seed: int) -> Case:
    error = _device_count(802, "system not yet initialized")
    return Case(
        written.worker_cannot_start(VllmLog(seed), error), ("nvidia-fabricmanager",), "system not yet initialized"
    )


@spec("tp_does_not_divide", True, "A23")
def heads_cannot_be_split(seed: int) -> Case:
    heads, size, fitting = [
        (28, 8, "1, 2, 4, 7, 14, 28"),
        (40, 3, "1, 2, 4, 5, 8, 10, 20, 40"),
        (32, 6, "1, 2, 4, 8, 16, 32"),
    ][seed % 3]
    message = f"Total number of attention heads ({heads}) must be divisible by tensor parallel size ({size})."
    text = written.config_is_refused(VllmLog(seed), message, "VllmConfig", tensor_parallel_size=size)
    return Case(text, (str(heads), str(size), f"one of {fitting}"), "must be divisible")


@spec("tp_does_not_divide", True, "A23")
def a_layer_cannot_be_split(seed: int) -> Case:
    log = VllmLog(seed, workers=3)
    width = 151936 + seed
    return Case(
        written.worker_cannot_start(log, f"AssertionError: {width} is not divisible by 3", written.CREATE_WEIGHTS),
        (str(width), "3"),
        "is not divisible by 3",
    )


@spec("not_enough_gpus", True, "A24")
def world_too_large(seed: int) -> Case:
    wanted, there = 4 + seed, 1 + seed
    message = (
        f"World size ({wanted}) is larger than the number of available GPUs ({there}) in this node. If this is "
        "intentional and you are using:\n- ray, set '--distributed-executor-backend ray'.\n- multiprocessing, set "
        f"'--nnodes' appropriately."
    )
    return Case(
        written.config_is_refused(VllmLog(seed), message, "ParallelConfig"),
        (f"{wanted} GPUs", f"to {there} or less"),
        "World size",
    )


@spec("not_enough_gpus", True, "A24")
def rank_without_a_device(seed: int) -> Case:
    rank, there = 2 + seed, 1 + seed
    error = f"AssertionError: DP adjusted local rank {rank} is out of bounds for {there} devices."
    return Case(written.worker_cannot_start(VllmLog(seed), error), (str(rank), str(there)), "is out of bounds for")


@spec("not_enough_gpus", True, "A24")
def device_ordinal(seed: int) -> Case:
    error = (
        "torch.AcceleratorError: CUDA error: invalid device ordinal\nGPU device may be out of range, do you have "
        "enough GPUs?\nFor more detailed error information, run with CUDA_LOG_FILE=stderr\n"
    )
    return Case(
        written.worker_cannot_start(VllmLog(seed, workers=2), error),
        ("CUDA_VISIBLE_DEVICES",),
        "invalid device ordinal",
    )


@spec("bf16_unsupported", True, "A25")
def bfloat16_on_an_old_gpu(seed: int) -> Case:
    gpu, capability = [("Tesla T4", "7.5"), ("Tesla V100-SXM2-16GB", "7.0"), ("Quadro RTX 6000", "7.5")][seed % 3]
    error = (
        f"ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your {gpu} GPU has "
        f"compute capability {capability}. You can use float16 instead by explicitly setting the `dtype` flag in "
        f"CLI, for example: --dtype=half."
    )
    return Case(
        written.worker_cannot_start(VllmLog(seed), error),
        (gpu, capability, "dtype: half"),
        "Bfloat16 is only supported",
    )


@spec("quantisation_unsupported", True, "A26")
def quantisation_on_an_old_gpu(seed: int) -> Case:
    method, least = [("fp8", 75), ("modelopt_fp4", 100), ("gptq_marlin", 80)][seed % 3]
    message = (
        f"The quantization method {method} is not supported for the current GPU. Minimum capability: {least}. "
        f"Current capability: {least - 5}."
    )
    return Case(
        written.config_is_refused(VllmLog(seed), message, "VllmConfig"),
        (method, str(least), str(least - 5)),
        "is not supported for the current GPU",
    )


@spec("quantisation_unsupported", True, "A26")
def quantisation_on_this_platform(seed: int) -> Case:
    method = ["awq_marlin", "fp8", "bitsandbytes"][seed % 3]
    message = f"{method} quantization is currently not supported in rocm."
    return Case(written.config_is_refused(VllmLog(seed), message), (method, "rocm"), "currently not supported in")


@spec("transformers_mismatch", True, "A27")
def transformers_out_of_range(seed: int) -> Case:
    found = f"5.{seed}.1"
    error = (
        "ImportError: tokenizers>=0.23,<0.24 is required for a normal functioning of this module, but found "
        f"tokenizers=={found}.\nTry: `pip install transformers -U` or `pip install -e '.[dev]'` if you're working "
        f"with git main"
    )
    return Case(
        written.server_cannot_start(VllmLog(seed), error),
        ("tokenizers>=0.23", found),
        "is required for a normal functioning",
    )


@spec("cuda_mismatch", True, "A28")
def torch_and_extension_differ(seed: int) -> Case:
    symbol = f"_ZN3c104cuda{seed}9SetDeviceEab"
    error = f"ImportError: {written.SITE}/vllm/_C.abi3.so: undefined symbol: {symbol}"
    return Case(written.server_cannot_start(VllmLog(seed), error), (symbol,), "undefined symbol")


@spec("cuda_mismatch", True, "A28")
def torchvision_of_another_build(seed: int) -> Case:
    error = "RuntimeError: operator torchvision::nms does not exist"
    return Case(written.server_cannot_start(VllmLog(seed), error), ("torchvision",), "torchvision::nms")


@spec("gpu_unsupported", True, "A28")
def built_for_other_gpus(seed: int) -> Case:
    error = (
        "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device\nSearch for "
        "`cudaErrorNoKernelImageForDevice' in "
        "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information."
    )
    return Case(written.worker_cannot_start(VllmLog(seed), error), ("CUDA version",), "no kernel image")


@spec("no_compiler", True, "A29")
def compiler_missing(seed: int) -> Case:
    errors = [
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set "
        "triton.knobs.build.impl.",
        "torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: "
        "(None, 'g++')",
        "FileNotFoundError: nvcc not found at '/usr/local/cuda/bin/nvcc'. Ensure CUDA path '/usr/local/cuda' is "
        "correct.",
        "FileNotFoundError: [Errno 2] No such file or directory: 'ninja'",
        "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
    ]
    error = errors[seed % len(errors)]
    return Case(
        written.worker_call_fails(VllmLog(seed), error), ("gcc", "enforce-eager"), error.partition(": ")[2][:30]
    )


@spec("truncated_weights", True, "A30")
def truncated_safetensors(seed: int) -> Case:
    log = VllmLog(seed)
    details = [
        "incomplete metadata, file not fully covered",
        "invalid header length",
        "header too large",
        "invalid JSON in header: EOF while parsing",
    ]
    error = f"safetensors._safetensors_rust.SafetensorError: Error while deserializing header: {details[seed % 4]}"
    return Case(
        written.worker_cannot_start(log, error, written.READ_WEIGHTS),
        (log.model, "3 of 5", "download it again"),
        "deserializing header",
    )


@spec("truncated_weights", True, "A30")
def truncated_pickle(seed: int) -> Case:
    log = VllmLog(seed)
    errors = [
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
        f"RuntimeError: unexpected EOF, expected {seed + 7}123 more bytes. The file might be corrupted.",
    ]
    error = errors[seed % 2]
    return Case(
        written.worker_cannot_start(log, error, written.READ_WEIGHTS),
        (log.model, "download it again"),
        error.partition(": ")[2][:24],
    )


@spec("weights_missing", True, "A30")
def weights_missing(seed: int) -> Case:
    log = VllmLog(seed)
    errors = [
        f"RuntimeError: Cannot find any model weights with `{log.model}`",
        "FileNotFoundError: Weight files referenced in index but missing: "
        f"{{'{log.model}/model-0000{seed}-of-00009.safetensors'}}",
    ]
    error = errors[seed % 2]
    return Case(
        written.worker_cannot_start(log, error, written.READ_WEIGHTS), (log.model,), error.partition(": ")[2][:30]
    )


@spec("weights_mismatch", True, "A30")
def weights_of_another_revision(seed: int) -> Case:
    log = VllmLog(seed)
    name = f"model.layers.{seed}.self_attn.q_norm.weight"
    errors = [
        f"ValueError: Following weights were not initialized from checkpoint: {{'{name}'}}",
        f"ValueError: There is no module or parameter named '{name}' in Glm4vForConditionalGeneration. The available "
        f"parameters are: x",
    ]
    return Case(written.worker_cannot_start(log, errors[seed % 2], written.LOAD), (log.model, name), name)


@spec("disk_full", False, "A31", busy=True)
def cache_disk_full(seed: int) -> Case:
    log = VllmLog(seed)
    _repo(log)
    wanted, free = f"{4900 + seed}.12", f"{31 + seed}.07"
    log.raw(
        f"{written.SITE}/huggingface_hub/file_download.py:773: UserWarning: Not enough free disk space to download "
        f"the file. The expected file size is: {wanted} MB. The target location /var/cache/hf/hub/blobs only has "
        f"{free} MB free disk space."
    )
    places = (*written.CREATE_CONFIG, *HUB, "huggingface_hub/file_download.py:http_get")
    text = written.server_cannot_start(log, "OSError: [Errno 28] No space left on device", places)
    return Case(text, (wanted, free, "/var/cache/hf/hub/blobs"), "No space left on device")


@spec("shm_too_small", True, "A32")
def shared_memory_too_small(seed: int) -> Case:
    log = VllmLog(seed, workers=2)
    wanted, free = 160 + seed, 64 - seed
    error = (
        f"RuntimeError: Insufficient space in /dev/shm for shared-memory allocation: {wanted} MiB required, {free} "
        f"MiB free. Increase /dev/shm (e.g. --shm-size or --ipc=host)."
    )
    return Case(
        written.core_cannot_start(log, error, written.ENGINE_INIT),
        (f"{wanted} MiB", str(free), "--ipc=host"),
        "Insufficient space in /dev/shm",
    )


@spec("shm_too_small", True, "A32")
def nccl_cannot_share(seed: int) -> Case:
    log = VllmLog(seed, workers=2)
    error = (
        "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, "
        "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.3\nncclSystemError: "
        "System call (e.g. socket, malloc) or external library call failed or device error.\nLast error:\nError "
        f"while creating shared memory segment /dev/shm/nccl-{seed}aB3xY (size 9637888), error: No space left on "
        f"device (28)"
    )
    return Case(written.worker_cannot_start(log, error), ("--shm-size", "nccl-*"), "creating shared memory segment")


@spec("shm_too_small", True, "A32", "A33")
def a_bus_error_before_ready(seed: int) -> Case:
    text = VllmLog(seed).begin().engine().failed_core("{'EngineCore': -7}").text()
    return Case(text, ("EngineCore", "/dev/shm"), "Engine core initialization failed")


@spec("killed", False, "A33")
def killed_before_ready(seed: int) -> Case:
    name = f"EngineCore_DP{seed}"
    text = VllmLog(seed).begin().engine().failed_core(f"{{'{name}': -9}}").text()
    return Case(text, (name, "out-of-memory killer"), "Engine core initialization failed")


@spec("worker_died", None, "A33", "B13")
def worker_killed_while_loading(seed: int) -> Case:
    text = VllmLog(seed, workers=1 + seed).begin().engine().core_stops().text()
    return Case(text, ("out-of-memory killer",), "WorkerProc initialization failed")


@spec("engine_died", None, "A33")
def wrapper_alone(seed: int) -> Case:
    codes = ["{'EngineCore': 1}", "{}", "{'EngineCore_DP1': 1}"][seed % 3]
    return Case(VllmLog(seed).begin().engine().failed_core(codes).text(), (codes,), "Engine core initialization failed")


@spec("unknown", None, "A33")
def unknown_at_start(seed: int) -> Case:
    log = VllmLog(seed, workers=1 + seed % 3)
    error = f"ZeroDivisionError: something new number {seed}"
    return Case(written.worker_cannot_start(log, error, written.LOAD), (error,), error)


@spec("unknown", None, "A33")
def unknown_in_a_call(seed: int) -> Case:
    error = f"LookupError: something else number {seed}"
    return Case(written.worker_call_fails(VllmLog(seed), error), (error,), error)


@spec("chat_template_missing", True, "A34")
def chat_template_nowhere(seed: int) -> Case:
    path = f"/srv/templates/{seed}.jinja"
    error = (
        f"vllm.exceptions.VLLMValidationError: The supplied chat template string ({path}) appears path-like, but "
        f"doesn't exist! Tried: {path} and {path} (parameter=chat_template)"
    )
    return Case(written.server_cannot_start(VllmLog(seed), error), (path,), "appears path-like")


@spec("chat_template_missing", True, "A34")
def chat_template_missing_as_the_canary_hears_it(seed: int) -> Case:
    body = (
        '{"error":{"message":"As of transformers v4.44, default chat template is no longer allowed, so you must '
        "provide a chat template if "
        f'the tokenizer does not define one.","type":"BadRequestError","param":null,"code":400,"n":{seed}}}}}'
    )
    return Case(body, ("chat-template",), "default chat template is no longer allowed", exit_code=None)


@spec("startup_timeout", False, "A33")
def engine_too_slow(seed: int) -> Case:
    seconds = 600 * (seed + 1)
    error = (
        "TimeoutError: Timed out waiting for engine core processes to start. This is often caused by slow weight "
        f"loading for large models. Waited {seconds}s (configured by VLLM_ENGINE_READY_TIMEOUT_S). To increase the "
        f"timeout, set the environment variable: VLLM_ENGINE_READY_TIMEOUT_S=<seconds>"
    )
    log = VllmLog(seed).begin().engine()
    return Case(
        log.raw(*written.traceback(error, *written.SERVE)).text(),
        (str(seconds), "VLLM_ENGINE_READY_TIMEOUT_S"),
        "Timed out waiting",
    )


@spec("host_out_of_memory", False, "A01")
def host_memory_refused(seed: int) -> Case:
    size = (20 + seed) * 2**30
    error = (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        f"you tried to allocate {size} bytes. Error code 12 (Cannot allocate memory)"
    )
    return Case(written.worker_cannot_start(VllmLog(seed), error), (f"{20 + seed}.0 GiB",), "can't allocate memory")


# B: vLLM serving -----------------------------------------------------------------------------------------


@spec("engine_died", False, "B01")
def engine_dies_of_something_unknown(seed: int) -> Case:
    error = f"AssertionError: a scheduler's invariant number {seed}"
    return Case(
        written.core_dies_serving(VllmLog(seed), error), (error, "started again"), error, exit_code=0, was_ready=True
    )


@spec("engine_died", False, "B01")
def worker_dies_of_something_unknown(seed: int) -> Case:
    error = f"IndexError: list index {seed} out of range"
    return Case(written.worker_dies_serving(VllmLog(seed), error), (error,), error, exit_code=0)


@spec("engine_died", False, "B01", "B06")
def engine_killed_while_serving(seed: int) -> Case:
    log = VllmLog(seed).begin().engine().serving()
    log.log(
        "APIServer",
        "WARNING",
        "core_client.py:817",
        "[shutdown] MPClient: engine core exited unexpectedly; starting cleanup",
    )
    return Case(log.engine_dies().text(), ("kernel log",), "engine core exited unexpectedly", exit_code=0)


@spec("worker_died", False, "B01")
def worker_killed_while_serving(seed: int) -> Case:
    log = VllmLog(seed).begin().engine().serving()
    name = f"VllmWorker-{seed}"
    log.log(
        "EngineCore",
        "ERROR",
        "multiproc_executor.py:315",
        f"Worker proc {name} died unexpectedly (exit code: None), shutting down executor.",
    )
    lines = written.traceback(
        "RuntimeError: cancelled", *written.STEP, "vllm/distributed/device_communicators/shm_broadcast.py:acquire_read"
    )
    log.log("EngineCore", "ERROR", "core.py:1512", "EngineCore encountered a fatal error.", *lines)
    return Case(log.engine_dies().text(), (name,), f"Worker proc {name}", exit_code=0)


_CUDA = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\n"
)


@spec("illegal_memory_access", False, "B02")
def illegal_access(seed: int) -> Case:
    error = (
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered\nSearch for "
        "`cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for "
        f"more information.{_CUDA}For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    )
    return Case(
        written.worker_dies_serving(VllmLog(seed), error), ("enforce-eager",), "illegal memory access", exit_code=0
    )


@spec("illegal_memory_access", False, "B02", "B03")
def illegal_access_found_by_the_watchdog(seed: int) -> Case:
    log = VllmLog(seed, workers=2).begin().engine().serving()
    log.raw(
        f"[rank{seed}]:[E1120 08:00:0{seed % 10}.577587307 ProcessGroupNCCL.cpp:2093] [PG ID 2 PG GUID 3 Rank "
        f"{seed}] Process group watchdog thread terminated with exception: CUDA error: an illegal memory access was "
        f"encountered",
        "terminate called after throwing an instance of 'c10::DistBackendError'",
    )
    log.log(
        "EngineCore",
        "ERROR",
        "multiproc_executor.py:315",
        "Worker proc VllmWorker-1 died unexpectedly (exit code: -6), shutting down executor.",
    )
    return Case(log.engine_dies().text(), ("Xid",), "watchdog thread terminated", exit_code=0)


@spec("nccl_timeout", False, "B03")
def collective_times_out(seed: int) -> Case:
    log = VllmLog(seed, workers=2).begin().engine().serving()
    operation = ["ALLREDUCE", "BROADCAST", "ALLGATHER"][seed % 3]
    log.raw(
        "[rank1]:[E1120 08:00:00.577587307 ProcessGroupNCCL.cpp:629] [Rank 1] Watchdog caught collective operation "
        f"timeout: WorkNCCL(SeqNum=4711, OpType={operation}, NumelIn=8192, NumelOut=8192, Timeout(ms)=600000) ran "
        f"for 600{seed:03} milliseconds before timing out."
    )
    log.log(
        "EngineCore",
        "ERROR",
        "multiproc_executor.py:315",
        "Worker proc VllmWorker-1 died unexpectedly (exit code: -6), shutting down executor.",
    )
    return Case(log.engine_dies().text(), (operation, "600000"), "Watchdog caught", exit_code=0)


@spec("worker_stuck", False, "B04")
def worker_does_not_answer(seed: int) -> Case:
    method = ["sample_tokens", "execute_model"][seed % 2]
    log = VllmLog(seed, workers=2).begin().engine().serving()
    for _ in range(4):
        log.log(
            "EngineCore",
            "INFO",
            "shm_broadcast.py:640",
            "No available shared memory broadcast block found in 60 seconds. This typically happens when",
        )
    lines = written.chained(
        written.traceback("TimeoutError", "vllm/distributed/device_communicators/shm_broadcast.py:acquire_read"),
        written.CAUSE,
        written.traceback(f"TimeoutError: RPC call to {method} timed out.", *written.STEP),
    )  # fmt: skip
    log.log("EngineCore", "ERROR", "core.py:1512", "EngineCore encountered a fatal error.", *lines)
    return Case(log.engine_dies().text(), (method,), f"RPC call to {method} timed out", exit_code=0)


@spec("cuda_oom_serving", False, "B08")
def memory_runs_out_serving(seed: int) -> Case:
    log = VllmLog(seed)
    total = _capacity(log.random)
    error, wanted, capacity, _ = _oom(log.random, total, total - 0.2)
    return Case(
        written.worker_dies_serving(log, error),
        (wanted, capacity, "max-num-batched-tokens"),
        "Tried to allocate",
        exit_code=0,
    )


@spec("device_assert", False, "B09")
def position_out_of_range(seed: int) -> Case:
    error = (
        "torch.AcceleratorError: CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in "
        f"https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.{_CUDA}"
    )
    log = VllmLog(seed)
    text = written.worker_dies_serving(log, error)
    marker = (
        "/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1515: indexSelectSmallIndex: block: [0,0,0], thread: "
        "[32,0,0] Assertion failed.\n"
    )
    return Case(marker + text, ("max-model-len",), "device-side assert triggered", exit_code=0)


@spec("multimodal_request", False, "B11")
def a_picture_kills_the_engine(seed: int) -> Case:
    log = VllmLog(seed)
    error = f"ValueError: Attempted to assign {seed + 1} multimodal tokens to {seed} placeholders"
    text = written.worker_dies_serving(
        log, error, (*written.EXECUTE, "vllm/v1/worker/gpu_model_runner.py:_execute_mm_encoder")
    )
    request = text.partition("req_id=")[2].partition(",")[0]
    return Case(text, (request, "multimodal tokens"), "Attempted to assign", exit_code=0)


@spec("xid", True, "B12")
def the_kernel_says_that_a_gpu_is_broken(seed: int) -> Case:
    number, words = [
        (79, "GPU has fallen off the bus."),
        (48, "DBE (double bit error) ECC Error"),
        (94, "Contained ECC error"),
        (119, "Timeout waiting for RPC from GSP"),
    ][seed % 4]
    log = VllmLog(seed)
    text = written.worker_dies_serving(log, "torch.AcceleratorError: CUDA error: unspecified launch failure")
    device = f"0000:{16 + seed:02x}:00"
    text += f"[81234.5] NVRM: Xid (PCI:{device}): {number}, pid={log.pids['Worker']}, name=VLLM::Worker, {words}\n"
    return Case(text, (device, f"Xid {number}"), f"): {number}", exit_code=0)


@spec("gpu_lost", True, "B12")
def a_gpu_is_lost(seed: int) -> Case:
    error = [
        "vllm.third_party.pynvml.NVMLError_GpuIsLost: GPU is lost",
        "vllm.third_party.pynvml.NVMLError_ResetRequired: GPU requires restart",
    ][seed % 2]
    return Case(written.worker_cannot_start(VllmLog(seed), error), ("Xid",), "GPU ")


@spec("host_out_of_memory", False, "B13")
def the_kernel_kills_for_memory(seed: int) -> Case:
    log = VllmLog(seed).begin().engine().serving()
    log.log(
        "APIServer",
        "WARNING",
        "core_client.py:817",
        "[shutdown] MPClient: engine core exited unexpectedly; starting cleanup",
    )
    text = log.engine_dies().text()
    pid = log.pids["EngineCore"]
    text += (
        f"[812.3] Memory cgroup out of memory: Killed process {pid} (VLLM::EngineCor) total-vm:{seed}31kB, "
        f"anon-rss:1kB\n"
    )
    return Case(text, (str(pid), "VLLM::EngineCor"), "Killed process", exit_code=0)


# C: LiteLLM ----------------------------------------------------------------------------------------------


@spec("master_key_unset", True, "C01", component="litellm")
def master_key_unset(seed: int) -> Case:
    why = [
        "no master key is set, so every request would be accepted without authentication.",
        "the master key is empty.",
    ][seed % 2]
    error = (
        f"litellm.proxy.auth.master_key_boot_check.UnsafeMasterKeyError: LiteLLM proxy refused to start: {why} The "
        f"fix is printed once the server exits."
    )
    places = (*written.LIFESPAN, "litellm/proxy/auth/master_key_boot_check.py:enforce_master_key_boot_verdict")
    text = written.application_fails(seed, written.traceback(error, *places, site=written.LITELLM_SITE))
    path = f"/etc/gateway/{seed}.yaml"
    text += (
        f"\nLiteLLM proxy refused to start: {why}\ngeneral_settings.master_key in {path} is blank, or points at an "
        f"environment variable that is not set.\n\n1. Make sure {path} reads the key from the environment:\n"
    )
    return Case(text, ("LITELLM_MASTER_KEY", path), "UnsafeMasterKeyError", exit_code=3)


@spec("master_key_weak", True, "C01", component="litellm")
def master_key_weak(seed: int) -> Case:
    error = (
        "litellm.proxy.auth.master_key_boot_check.UnsafeMasterKeyError: LiteLLM proxy refused to start: the master "
        "key is a publicly known default. The fix is printed once the server exits."
    )
    text = written.application_fails(seed, written.traceback(error, *written.LIFESPAN, site=written.LITELLM_SITE))
    return Case(text, ("LITELLM_MASTER_KEY",), "publicly known default", exit_code=3)


CLI = (
    "/opt/litellm/bin/litellm:<module>",
    "click/core.py:__call__",
    "litellm/proxy/proxy_cli.py:run_server",
    "litellm/proxy/proxy_server.py:get_config",
)


@spec("config_missing", True, "C02", component="litellm")
def configuration_missing(seed: int) -> Case:
    path = f"/etc/gateway/{seed}/litellm_config.yaml"
    lines = written.traceback(f"Exception: Config file not found: {path}", *CLI, site=written.LITELLM_SITE)
    return Case("\n".join(lines) + "\n", (path,), path)


@spec("config_yaml", True, "C03", component="litellm")
def configuration_is_no_yaml(seed: int) -> Case:
    path, line = f"/etc/gateway/{seed}.yaml", 12 + seed
    errors = [
        f'yaml.parser.ParserError: while parsing a block collection\n  in "{path}", line {line - 1}, column '
        f"3\nexpected <block end>, but found "
        f"'<block mapping start>'\n  in \"{path}\", line {line}, column 4",
        f'yaml.scanner.ScannerError: mapping values are not allowed here\n  in "{path}", line {line}, column 9',
        "yaml.scanner.ScannerError: while scanning for the next token\nfound character '\\t' that cannot start any "
        f'token\n  in "{path}", line {line}, column 1',
    ]
    text = written.application_fails(
        seed,
        written.traceback(
            errors[seed % 3], *written.LOAD_CONFIG, "yaml/parser.py:parse_block", site=written.LITELLM_SITE
        ),
    )
    return Case(text, (path, f"line {line}"), f"line {line}", exit_code=3)


@spec("config_empty", True, "C02", component="litellm")
def configuration_empty(seed: int) -> Case:
    error = "Exception: Config cannot be None or Empty."
    text = written.application_fails(seed, written.traceback(error, *written.LOAD_CONFIG, site=written.LITELLM_SITE))
    return Case(text, ("model_list",), "Config cannot be None", exit_code=3)


@spec("config_malformed", True, "C04", component="litellm")
def an_entry_lacks_something(seed: int) -> Case:
    error, told = [
        ("KeyError: 'litellm_params'", "no litellm_params"),
        ("KeyError: 'model_name'", "no model_name"),
        ("AttributeError: 'str' object has no attribute 'get'", "'str' object"),
    ][seed % 3]
    text = written.application_fails(seed, written.traceback(error, *written.LOAD_CONFIG, site=written.LITELLM_SITE))
    return Case(text, (told, "model_list"), error, exit_code=3)


@spec("config_malformed", True, "C04", component="litellm")
def a_setting_has_the_wrong_type(seed: int) -> Case:
    field_name = ["rpm", "timeout", "tpm"][seed % 3]
    error = (
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for LiteLLM_Params\n{field_name}\n  Input "
        "should be a valid integer, unable to parse string as an integer [type=int_parsing, input_value='many', "
        f"input_type=str]"
    )
    text = written.application_fails(
        seed,
        written.traceback(error, *written.LOAD_CONFIG, "litellm/types/router.py:__init__", site=written.LITELLM_SITE),
    )
    return Case(text, (field_name, "valid integer"), "Input should be a valid integer", exit_code=3)


def _alive(seed: int, *between: str, after: tuple[str, ...] = ()) -> str:
    """A proxy that started, with these lines before (and after) it was ready."""
    first = [
        f"INFO:     Started server process [{seed + 700}]",
        "INFO:     Waiting for application startup.",
        "\x1b[32mLiteLLM: Proxy initialized with Config, Set models:\x1b[0m",
    ]
    return "\n".join([*first, *between, "INFO:     Application startup complete.", *after, ""])


@spec("unknown_provider", True, "C05", component="litellm")
def provider_unknown(seed: int) -> Case:
    model = f"nosuch{seed}/thing"
    words = (
        "litellm.BadRequestError: LLM Provider NOT provided. Pass in the LLM provider you are trying to call. You "
        f"passed model={model}\n Pass model as E.g. For 'Huggingface' inference endpoints pass in "
        f"`completion(model='huggingface/starcoder',..)` Learn more: https://docs.litellm.ai/docs/providers"
    )
    head = (
        f"09:09:54 - LiteLLM Router:ERROR: router.py:9444 - Error creating deployment: {words}, ignoring and "
        f"continuing with other deployments."
    )
    lines = written.traceback(
        f"litellm.exceptions.BadRequestError: {words}",
        "litellm/router.py:_create_deployment",
        site=written.LITELLM_SITE,
    )
    return Case(_alive(seed, *head.split("\n"), *lines), (model,), "LLM Provider NOT provided", exit_code=None)


@spec("unset_key", True, "C06", component="litellm")
def key_of_a_cloud_model_unset(seed: int) -> Case:
    line = (
        "09:10:54 - LiteLLM Proxy:ERROR: common_request_processing.py:1687 - "
        f"litellm.proxy.proxy_server._handle_llm_api_exception(): Exception occured - litellm_call_id={seed} - "
        "litellm.InternalServerError: InternalServerError: OpenAIException - Missing credentials. Please pass an "
        "`api_key`, `workload_identity`, `admin_api_key`, or set the `OPENAI_API_KEY` or `OPENAI_ADMIN_KEY` "
        f"environment variable."
    )
    return Case(_alive(seed, after=(line,)), ("OPENAI_API_KEY",), "Missing credentials", exit_code=None)


@spec("package_missing", True, "C07", component="litellm")
def proxy_extra_missing(seed: int) -> Case:
    package = ["apscheduler", "orjson", "backoff"][seed % 3]
    site = written.LITELLM_SITE
    lines = written.chained(
        written.traceback(f"ModuleNotFoundError: No module named '{package}'",
        "litellm/proxy/proxy_server.py:<module>", site=site), written.DURING,
        written.traceback(
        f"ImportError: Missing dependency No module named '{package}'. Run `pip install 'litellm[proxy]'`",
        "litellm/proxy/proxy_server.py:<module>", site=site),
    )  # fmt: skip
    return Case("\n".join(lines) + "\n", (package,), f"No module named '{package}'")


@spec("package_missing", True, "C07", component="litellm")
def litellm_missing(seed: int) -> Case:
    package = ["litellm", "uvicorn", "yaml"][seed % 3]
    lines = written.traceback(
        f"ModuleNotFoundError: No module named '{package}'", "/opt/llm-supervisor/inside/litellm_replica.py:main"
    )
    return Case("\n".join(lines) + "\n", (package,), package)


@spec("dependency_mismatch", True, "C08", component="litellm")
def fastapi_of_another_version(seed: int) -> Case:
    errors = [
        (
            "ImportError: cannot import name 'solve_dependencies' from 'fastapi.dependencies.utils' "
            "(/opt/litellm/lib/x.py)",
            "solve_dependencies",
        ),
        ("TypeError: Router.__init__() got an unexpected keyword argument 'on_startup'", "on_startup"),
        (
            "ImportError: cannot import name 'ResponseTextConfig' from 'openai.types.responses' "
            "(/opt/litellm/lib/y.py)",
            "ResponseTextConfig",
        ),
    ]
    error, told = errors[seed % 3]
    lines = written.traceback(
        error,
        "/opt/llm-supervisor/inside/litellm_replica.py:main",
        "litellm/proxy/proxy_server.py:<module>",
        site=written.LITELLM_SITE,
    )
    return Case("\n".join(lines) + "\n", (told, "lock file"), told)


PRISMA = (*written.LIFESPAN, "litellm/proxy/proxy_server.py:setup_prisma_client", "litellm/proxy/utils.py:__init__")


@spec("database_driver_missing", True, "C09", component="litellm")
def prisma_missing(seed: int) -> Case:
    site = written.LITELLM_SITE
    first = [
        "ModuleNotFoundError: No module named 'prisma'",
        "RuntimeError: The Client hasn't been generated yet, you must run `prisma generate` before you can use the "
        "client.",
    ][seed % 2]
    text = written.application_fails(
        seed, written.traceback(first, *PRISMA, site=site), written.DURING,
        written.traceback("Exception: Unable to find Prisma binaries. Please run 'prisma generate' first.", *PRISMA,
        site=site),
    )  # fmt: skip
    return Case(text, ("prisma generate",), first.partition(": ")[2][:20], exit_code=3)


@spec("database_driver_missing", True, "C09", component="litellm")
def prisma_missing_in_the_command(seed: int) -> Case:
    text = (
        f"LiteLLM Proxy: Postgres connection budget per pod = {seed} worker(s)\n\x1b[1;31mLiteLLM Proxy: a database "
        "URL is set but the prisma CLI is neither on PATH nor importable as a package, so the database cannot be "
        f"set up. Install it with `pip install 'litellm[extra_proxy]'` or run a shipped LiteLLM image.\x1b[0m\n"
    )
    return Case(text, ("extra_proxy",), "prisma CLI is neither on PATH")


@spec("database_unreachable", False, "C10", busy=True, component="litellm")
def database_down(seed: int) -> Case:
    host, port = f"db{seed}.lan", 5432 + seed
    error = (
        f"prisma.errors.PrismaError: Can't reach database server at `{host}:{port}`\n\nPlease make sure your "
        f"database server is running at `{host}:{port}`."
    )
    text = written.application_fails(
        seed, written.traceback(error, *PRISMA, "prisma/engine/_query.py:connect", site=written.LITELLM_SITE)
    )
    return Case(text, (host, str(port)), "reach database server", exit_code=3)


@spec("database_unreachable", False, "C10", busy=True, component="litellm")
def query_engine_does_not_answer(seed: int) -> Case:
    site = written.LITELLM_SITE
    text = written.application_fails(
        seed, written.traceback("httpx.ConnectError: All connection attempts failed",
        "httpx/_transports/default.py:handle_async_request", site=site), written.CAUSE,
        written.traceback("prisma.engine.errors.EngineConnectionError: Could not connect to the query engine", *PRISMA,
        "prisma/engine/_query.py:spawn", site=site),
    )  # fmt: skip
    return Case(text, ("DATABASE_URL",), "Could not connect to the query engine", exit_code=3)


@spec("database_unreachable", False, "C11", busy=True, component="litellm")
def database_lost_while_serving(seed: int) -> Case:
    times = 3 + seed
    line = (
        f"10:01:02 - LiteLLM Proxy:ERROR: utils.py:6814 - Prisma DB reconnect failed ({times} consecutive). "
        f"reason=db_health_watchdog error=Could not connect to the query engine"
    )
    return Case(_alive(seed, after=(line,)), (f"{times} attempts",), "Prisma DB reconnect failed", exit_code=None)


@spec("migration_timeout", False, "C12", component="litellm")
def migration_times_out(seed: int) -> Case:
    warning = (
        f"09:00:0{seed % 10} - LiteLLM:WARNING: utils.py:1137 - prisma migrate deploy attempt {seed % 4 + 1} timed "
        f"out after 300s, retrying."
    )
    text = (
        f"{warning}\n\x1b[1;31mLiteLLM Proxy: Database migration cannot proceed. Database migration failed after 4 "
        "attempts that made no progress (timeouts or deadlock retries). Check database connectivity, load, and "
        "_prisma_migrations ledger state, and raise LITELLM_PRISMA_MIGRATE_DEPLOY_TIMEOUT if the attempts timed "
        f"out.\x1b[0m\n"
    )
    return Case(text, ("LITELLM_PRISMA_MIGRATE_DEPLOY_TIMEOUT",), "made no progress", exit_code=2)


@spec("migration_failed", True, "C13", component="litellm")
def migration_needs_a_person(seed: int) -> Case:
    reasons = [
        "Database migration failed and cannot be auto-recovered. Manual intervention required.",
        "Migration completion could not be verified. LiteLLM startup has stopped.",
        "Database migration failed due to insufficient permissions. Please grant the required privileges and retry.",
    ]
    text = (
        f"\x1b[1;31mLiteLLM Proxy: Database migration cannot proceed. {reasons[seed % 3]}\n\nPrisma error:\nError: "
        f"P3018\n\x1b[0m\n"
    )
    return Case(text, (reasons[seed % 3], "_prisma_migrations"), "cannot proceed", exit_code=2)


@spec("redis_unreachable", False, "C14", busy=True, component="litellm")
def redis_down(seed: int) -> Case:
    address = f"10.0.0.{seed + 3}:6379"
    reason = f"Error 111 connecting to {address}. Connection refused."
    line = (
        "09:11:36 - LiteLLM:ERROR: redis_cache.py:1909 - LiteLLM Redis Cache PING: - Got exception from REDIS : "
        f"{reason}"
    )
    first = "09:11:36 - LiteLLM:ERROR: redis_cache.py:764 - Error connecting to Sync Redis client"
    return Case(_alive(seed, first, after=(line,)), (address,), "Got exception from REDIS", exit_code=None)


@spec("port_taken", False, "C16", busy=True, component="litellm")
def gateway_port_taken(seed: int) -> Case:
    port = 4001 + seed * 11
    line = (
        f"ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', {port}): address already in use"
    )
    return Case(
        _alive(seed, after=(line, "INFO:     Waiting for application shutdown.")),
        (str(port), "ss -ltnp"),
        "error while attempting to bind",
        exit_code=3,
    )


@spec("worker_loop", False, "C17", component="litellm")
def workers_die_again_and_again(seed: int) -> Case:
    pids = [1000 + seed * 10 + number for number in range(4)]
    text = "\n".join(
        ["INFO:     Started parent process [999]", *(f"INFO:     Child process [{pid}] died" for pid in pids), ""]
    )
    return Case(text, (str(pids[0]), "replicas"), "Child process", exit_code=0)


@spec("config_empty", True, "C18", component="litellm")
def a_worker_fails_and_the_parent_exits_cleanly(seed: int) -> Case:
    text = written.application_fails(
        seed,
        written.traceback(
            "Exception: Config cannot be None or Empty.", *written.LOAD_CONFIG, site=written.LITELLM_SITE
        ),
    )
    text += (
        f"ERROR:    Child process [{seed + 800}] failed to start, stopping the parent process.\nINFO:     Stopping "
        f"parent process [799]\n"
    )
    return Case(text, ("model_list",), "Config cannot be None", exit_code=0)


# Any program ---------------------------------------------------------------------------------------------


@spec("port_taken", False, busy=True, component="command")
def redis_finds_its_port_taken(seed: int) -> Case:
    port = 6379 + seed
    text = (
        f"1:M 20 Nov 2026 09:00:00.000 # Warning: Could not create server TCP listening socket *:{port}: bind: "
        f"Address already in use\n"
    )
    return Case(text, (str(port),), "Address already in use")


@spec("disk_full", False, busy=True, component="command")
def a_program_finds_the_disk_full(seed: int) -> Case:
    text = [
        "cp: error writing 'x': No space left on device\n",
        "OSError: [Errno 28] No space left on device: '/var/lib/x'\n",
        "write error: Disk quota exceeded\nNo space left on device\n",
    ][seed % 3]
    return Case(text, (), "No space left on device")


@spec("missing_library", True, component="command")
def a_program_misses_a_library(seed: int) -> Case:
    library = f"libthing.so.{seed}"
    text = (
        f"/usr/bin/thing: error while loading shared libraries: {library}: cannot open shared object file: No such "
        f"file or directory\n"
    )
    return Case(text, (library,), library, exit_code=127)


@spec("missing_executable", True, component="command")
def a_shell_finds_no_command(seed: int) -> Case:
    name = f"thing{seed}"
    return Case(f"/bin/sh: line 1: {name}: command not found\n", (name,), name, exit_code=127)


@spec("permission_denied", True, component="command")
def a_program_may_not_read(seed: int) -> Case:
    path = f"/srv/secret{seed}"
    lines = written.traceback(f"PermissionError: [Errno 13] Permission denied: '{path}'", "/srv/thing.py:main")
    return Case("\n".join(lines) + "\n", (path,), path)


@spec("unknown", None, component="command")
def a_program_raises(seed: int) -> Case:
    error = f"ValueError: number {seed} is odd"
    return Case("\n".join(["starting", *written.traceback(error, "/srv/thing.py:main"), ""]), (error,), error)
