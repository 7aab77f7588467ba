"""How vLLM is started: its command line, its environment, and the processes that it cannot do without. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from llm_supervisor.engines.vllm.options import flags, normal

# What `vllm serve` does, without the rest of the `vllm` command: see the file
SERVE = "vllm_serve.py"
# All API keys where there are several, as a JSON list (`vllm_serve.py` reads it)
ALL_KEYS = "LLM_SUPERVISOR_API_KEYS"
# vLLM's children call themselves VLLM::EngineCore, VLLM::Worker...; comm is cut to 15 characters. Without one of them
# no request is answered, while /v1/models says 200 for seconds (ENGINES: the API server notices after about 5 s).
VITAL = ("VLLM::", "vllm-rs")


def argv(
    python: str,
    model: str,
    served_names: Sequence[str],
    place: int | str,
    options: Mapping[str, object],
    grace: float,
    lists: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """The whole command line. ``place`` is its loopback port, or the path of its unix socket. ``grace`` (seconds) is
    how long the daemon waits after SIGTERM: vLLM aborts what is in flight at once unless it is told to wait (0.18 and
    later), so it is told to, a little shorter. ``lists``: see ``flags``; an older vLLM ends at an option that it does
    not have, so where its options are known and that one is not among them, it is not told."""
    names = {normal(name) for name in options}
    left_out = "shutdown-timeout" in names or (lists and "shutdown-timeout" not in lists)
    extra = [] if left_out else ["--shutdown-timeout", str(max(int(grace) - 5, 0))]
    return (
        python, str(files("llm_supervisor.engines.inside") / SERVE),
        model,
        "--served-model-name", *served_names,
        *(("--uds", place) if isinstance(place, str) else ("--host", "127.0.0.1", "--port", str(place))),
        *flags({name: value for name, value in options.items() if normal(name) != "api-key"}, lists),
        *extra,
    )  # fmt: skip


# Read after the start only, so that one fork server can serve engines that differ in them. Not CUDA_VISIBLE_DEVICES:
# modules of vLLM ask for the capability of the first visible GPU while they are imported, and the answer is kept
LATE = frozenset({"VLLM_API_KEY", ALL_KEYS})
# Beginnings of the variables that it or its libraries read. Of an env file, which may hold a cloud's keys too, it gets
# no others. The second group is for AMD, Intel and TPU, the third for networks between GPUs, the fourth for libraries
READS = tuple(
    """VLLM_ CUDA_ NVIDIA_ NCCL_ GLOO_ UCX_ HF_ HUGGING_FACE_ HUGGINGFACE_ TRANSFORMERS_ TOKENIZERS_ MODELSCOPE_ TORCH
    PYTORCH_ TRITON_ FLASHINFER_ OMP_ MKL_ KMP_ RAY_ LD_ PYTHON SSL_ REQUESTS_ TMP TEMP HOME XDG_ PATH LANG LC_
    HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy

    HIP_ HSA_ ROCM_ ROCR_ MIOPEN_ AITER_ AMD_ GPU_ HIPBLASLT_ ONEAPI_ SYCL_ ZE_ CCL_ XPU_ TPU_ XLA_ PJRT_ JAX_

    RCCL_ IBV_ MLX5_ FI_ UCC_ NVSHMEM_ NIXL_ EP_ MOONCAKE_ LMCACHE_

    CUDNN_ CUBLAS CUTLASS_ NVTE_ DG_ FLASH_ATTENTION_ FLA_ OPENBLAS_ NUMEXPR_ NUMBA_ MALLOC_ SAFETENSORS_ RUNAI_
    TIKTOKEN_ OUTLINES_ XGRAMMAR_ LLGUIDANCE_ PROMETHEUS_ DO_NOT_TRACK""".split()
)
# The keys among them: a provider's key may begin like one (NVIDIA_API_KEY, HUGGINGFACE_API_KEY), and is not for vLLM
HUB_KEYS = frozenset(
    """HF_TOKEN HUGGING_FACE_HUB_TOKEN HUGGINGFACE_HUB_TOKEN MODELSCOPE_API_TOKEN MODELSCOPE_SDK_TOKEN""".split()
)
KEYS = HUB_KEYS | {"VLLM_API_KEY", "RAY_AUTH_TOKEN"}
FORK = (("VLLM_WORKER_MULTIPROC_METHOD", "fork"),)


def fork_server(python: str, model: str, *, whole: bool) -> tuple[str, ...]:
    """The command line of the fork server, which imports vLLM once for all starts. ``whole``: EngineCore and Workers
    are forked too, not only the API server."""
    script = str(files("llm_supervisor.engines.inside") / "fork_server.py")
    return (python, script, "--engine", "vllm", "--model", model, *([] if whole else ["--spawn"]))


def environment(
    *, gpus: Sequence[int], api_keys: Sequence[str], cpu: bool, offline: bool, modelscope: bool = False
) -> dict[str, str]:
    """What vLLM needs in its environment. ``offline``: the model is a folder, so no hub is to be asked; ``modelscope``:
    that hub is."""
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        # seconds; longer than the gateway keeps an idle connection (120): by default vLLM closes it after 5, perhaps
        # just when the gateway sends the next request on it
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
        # an address that clients name may be looked at before; where it sends vLLM to may not
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "PYTHONUNBUFFERED": "1",
        # setproctitle otherwise overwrites the environment area of /proc, and our cookie with it
        "SPT_NOENV": "1",
    }
    if gpus:
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in gpus)
    if api_keys:
        env["VLLM_API_KEY"] = api_keys[0]
    if len(api_keys) > 1:
        env[ALL_KEYS] = json.dumps(list(api_keys))
    if cpu:
        env["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB; the default takes half of the machine
    if offline:
        env["HF_HUB_OFFLINE"] = "1"
    if modelscope:
        env["VLLM_USE_MODELSCOPE"] = "True"
    return env
