"""Failures of vLLM's start that are about GPUs, drivers and compilers. Those of memory are in ``memory``.

Messages as vLLM 0.32, torch, Triton, NVML and the CUDA runtime raise them; a few of older versions where those differ.
"""

from __future__ import annotations

from llm_supervisor.diagnosis.pattern import Rank, row

ROWS = (
    row(
        "not_enough_gpus", "World size",
        r"World size \((?P<wanted>\d{1,5})\) is larger than the number of available GPUs \((?P<there>\d{1,4})\)",
        permanent=True,
        summary="{wanted} GPUs are wanted, {there} can be seen",
        advice=(
            "Set tensor-parallel-size x pipeline-parallel-size to {there} or less, or list more in `gpus:` (it "
            "sets CUDA_VISIBLE_DEVICES)."
        ),
    ),
    row(
        "not_enough_gpus", "DP adjusted local rank",
        r"DP adjusted local rank (?P<wanted>\d{1,5}) is out of bounds for (?P<there>\d{1,4}) devices",
        permanent=True,
        summary="rank {wanted} has no GPU: {there} can be seen",
        advice="Lower the parallel sizes to {there} GPUs, or list more in `gpus:`.",
    ),
    row(
        "not_enough_gpus", "",
        r"invalid device ordinal|Cannot provide a placement group requiring (?P<wanted>\d{1,5}) GPUs|(?:Tensor "
        r"parallel size \((?P<size>\d{1,5})\) cannot be larger than|exceeds) the (?:total )?number of available GPUs",
        permanent=True,
        summary=("{wanted} GPUs are wanted, fewer can be had", "more GPUs are wanted than can be seen"),
        advice="Lower tensor-parallel-size or list more in `gpus:` (it sets CUDA_VISIBLE_DEVICES).",
    ),
    row(
        "not_enough_gpus", "Current node has no", r"Current node has no (?P<device>\S{1,20}) available",
        permanent=True,
        summary="Ray's node has no {device}",
        advice="Start Ray on a machine with GPUs (ray status shows them), or remove distributed-executor-backend: ray.",
    ),
    row(
        "ray_unreachable", "Ray",
        r"Could not find any running Ray instance|Failed to connect to (?:the )?GCS|Unable to connect to GCS|Ray has "
        r"not been started yet",
        permanent=False,
        summary="no Ray cluster can be reached",
        advice="Start it (ray start --head), or set RAY_ADDRESS; without Ray, remove distributed-executor-backend.",
    ),
    row(
        "bf16_unsupported", "Bfloat16 is only supported",
        r"Your (?P<gpu>[^\n]{1,80}?) GPU (?:has compute capability (?P<capability>[\d.]{1,6})|does not)",
        permanent=True,
        summary=("{gpu} (compute capability {capability}) cannot do bfloat16", "{gpu} cannot do bfloat16"),
        advice="Set dtype: half.",
    ),
    row(
        "gpu_unsupported", "no kernel image is available", permanent=True,
        summary="this vLLM was not built for this GPU",
        advice="Install the vLLM (and torch) whose CUDA version supports this GPU's architecture.",
    ),
    row(
        "gpu_unsupported", "out of resource: ",
        r"out of resource: (?P<what>[\w ]{1,40}), Required: (?P<wanted>\d{1,12}), Hardware limit: (?P<there>\d{1,12})",
        permanent=True, phase="start",
        summary="a kernel wants {wanted} of {what}, and this GPU has {there}",
        advice="Set attention-backend to another one, lower block-size, or use a newer vLLM or another GPU.",
    ),
    row(
        "gpu_unsupported", "only supports", r"(?P<what>\w{1,40}) only supports (?P<least>\w{1,20}) GPUs or newer",
        permanent=True,
        summary="{what} needs a GPU of the generation {least} or newer",
        advice="Set attention-backend to another one (TRITON_ATTN, FLASHINFER), or use a newer GPU.",
    ),
    row(
        "gpu_unsupported", "is not valid for this configuration",
        r"Selected backend (?P<backend>\S{1,80}) is not valid for this configuration\. Reason: (?P<why>[^\n]{1,300})",
        permanent=True,
        summary="the attention backend {backend} does not fit: {why}",
        advice="Remove attention-backend, then vLLM chooses one that fits.",
    ),
    row(
        "gpu_unsupported", "", r"invalid device function|the provided PTX was compiled with an unsupported "
        r"toolchain|device kernel image is invalid",
        permanent=True,
        summary="this vLLM was not built for this GPU, or for this driver",
        advice="Install the vLLM (and torch) whose CUDA version supports this GPU, or upgrade the driver.",
    ),
    row(
        "gpu_unsupported", "No valid attention backend found",
        r"No valid attention backend found for (?P<device>\S{1,40}) with",
        permanent=True,
        summary="no attention backend fits this model, these options and this GPU",
        advice="Remove attention-backend and kv-cache-dtype, or take another dtype; the reasons are in the evidence.",
    ),
    # torch says these as a warning, and then only that there is no GPU
    row(
        "driver_too_old", "NVIDIA driver on your system is too old",
        r"NVIDIA driver on your system is too old \(found version (?P<version>\d{1,8})\)",
        permanent=True, where="line", phase="start",
        summary="the NVIDIA driver (for CUDA {version}) is older than this vLLM's CUDA",
        advice="Upgrade the driver, or install a vLLM built for CUDA {version} or older.",
    ),
    row(
        "fabric_manager", "system not yet initialized", permanent=False, where="line", phase="start",
        summary="the NVSwitch fabric is not up yet (CUDA error 802)",
        advice=(
            "Wait for nvidia-fabricmanager: systemctl status nvidia-fabricmanager. If it is not installed, "
            "install the one of the driver's version."
        ),
    ),
    row(
        "driver_mismatch", "Error 80",
        r"Error 803: system has unsupported display driver|Error 804: forward compatibility was attempted",
        permanent=True, where="line", phase="start",
        summary="the driver's library and the driver in the kernel are of different versions",
        advice=(
            "Reboot if the driver was upgraded. Else remove CUDA's compatibility libraries (/usr/local/cuda/compat) "
            "from the library path."
        ),
    ),
    row(
        "driver_too_old", "NVIDIA driver on your system is too old",
        r"NVIDIA driver on your system is too old \(found version (?P<version>\d{1,8})\)",
        permanent=True,
        summary="the NVIDIA driver (for CUDA {version}) is older than this vLLM's CUDA",
        advice="Upgrade the driver, or install a vLLM built for CUDA {version} or older.",
    ),
    row(
        "driver_too_old", "CUDA driver version is insufficient", permanent=True,
        summary="the NVIDIA driver is older than this vLLM's CUDA",
        advice="Upgrade the driver, or install a vLLM built for an older CUDA.",
    ),
    row(
        "driver_mismatch", "",
        r"unsupported display driver / cuda driver combination|NVML/RM version mismatch|Driver/library version "
        r"mismatch|LibRmVersionMismatch",
        permanent=True,
        summary="the driver's library and the driver in the kernel are of different versions",
        advice="Reboot: the driver was upgraded while the old one is loaded.",
    ),
    row(
        "driver_mismatch", "forward compatibility was attempted", permanent=True,
        summary="CUDA's compatibility libraries do not work on this GPU",
        advice="Remove /usr/local/cuda/compat from the library path, or upgrade the driver.",
    ),
    row(
        "fabric_manager", "system not yet initialized", permanent=False,
        summary="the NVSwitch fabric is not up yet (CUDA error 802)",
        advice=(
            "Wait for nvidia-fabricmanager: systemctl status nvidia-fabricmanager. If it is not installed, "
            "install the one of the driver's version."
        ),
    ),
    row(
        "no_gpu", "",
        r"Failed to infer device type|No (?:CUDA|HIP|XPU) (?:GPUs|devices) are available|Found no NVIDIA driver|"
        r"no CUDA-capable device is "
        r"detected|Torch not compiled with CUDA|NVML Shared Library Not "
        r"Found|NVMLError_DriverNotLoaded|NVMLError_LibraryNotFound|CUDA driver initialization failed|CUDA unknown "
        r"error|is only supported with GPUs, no GPUs found",
        permanent=True,
        summary="no GPU can be seen",
        advice=(
            "Run nvidia-smi as this program's user. In a container: --gpus all. Check `gpus:` and "
            "CUDA_VISIBLE_DEVICES, and that torch is the CUDA build."
        ),
    ),
    row(
        "gpu_lost", "", r"GPU is lost|GPU requires restart|NVMLError_GpuIsLost|NVMLError_ResetRequired",
        permanent=True,
        summary="a GPU has fallen off the bus or wants a reset",
        advice=(
            "Look for NVRM Xid in the kernel log (dmesg); reset the GPU or reboot, and leave it out of `gpus:` "
            "until then."
        ),
    ),
    row(
        "gpu_unsupported", "peer access is not supported", permanent=True, phase="start",
        summary="these GPUs cannot read each other's memory",
        advice="Set disable-custom-all-reduce: true; NCCL_P2P_DISABLE=1 in the environment if NCCL fails as well.",
    ),
    row(
        "cuda_mismatch", "object has no attribute",
        r"'_OpNamespace' '(?P<module>\w{1,40})' object has no attribute '(?P<kernel>\w{1,80})'",
        permanent=True,
        summary="vLLM's compiled kernels ({module}.{kernel}) are not there, or could not be loaded",
        advice="Make the environment anew from its lock file (llm-supervisor install); do not upgrade torch alone.",
    ),
    row(
        "gpu_busy", "busy or unavailable", permanent=False, busy=True,
        summary="another process has the GPU for itself alone",
        advice=(
            "Find it: nvidia-smi --query-compute-apps=pid,name --format=csv. The mode of the GPU: nvidia-smi "
            "--query-gpu=compute_mode --format=csv; DEFAULT lets several share it."
        ),
    ),
    row(
        "missing_library", "libcuda.so", r"(?P<library>libcuda\.so\S{0,20}?): cannot open shared object file",
        permanent=True,
        summary="{library}, the driver's library, cannot be found",
        advice="Install the NVIDIA driver; in a container: --gpus all and the NVIDIA container toolkit.",
    ),
    row(
        "missing_library", "cannot open shared object file",
        r"(?P<library>lib(?:cudart|cublas|cublasLt|cudnn|nccl|nvrtc|cusparse|cufft|nvJitLink|cupti|torch_cuda|c10_cuda)"
        r"\S{0,40}?): cannot open shared object file",
        permanent=True,
        summary="the library {library} is missing: what was built for one CUDA version runs with another",
        advice=(
            "Make the environment anew from its lock file (llm-supervisor install); do not mix wheels of "
            "different CUDA versions."
        ),
    ),
    row(
        "missing_library", "' not found (required by",
        r"(?P<library>\S{1,200}): version `(?P<version>\S{1,60})' not found \(required by (?P<by>\S{1,300}?)\)",
        permanent=True,
        summary="{library} is too old: {by} wants {version}",
        advice="Use a newer system or image, or a build for this one; conda's libstdcxx-ng brings newer GLIBCXX.",
    ),
    row(
        "cuda_mismatch", "",
        r"undefined symbol: (?P<symbol>\S{1,120})|operator (?P<operator>torchvision::\w{1,40}) does not exist|The "
        r"detected CUDA version \((?P<version>[\d.]{1,8})\) mismatches",
        permanent=True,
        summary=(
            "torch and a package built for another torch are mixed: {symbol}",
            "torch and torchvision are of different builds",
            "the CUDA toolkit {version} is not the one of torch",
        ),
        advice="Make the environment anew from its lock file (llm-supervisor install); do not upgrade torch alone.",
    ),
    row(
        "host_out_of_memory", "illed",
        r"died due to signal 9|fatal error: Killed signal terminated program|(?:^|"
        r"\n)Killed\s{0,4}\n[\s\S]{0,400}?ninja: "
        r"build stopped",
        permanent=False,
        summary="the compiler of the kernels was killed: mostly the machine has no memory left for so many at once",
        advice="Set MAX_JOBS=2 in the environment of this model, or give the machine more memory.",
    ),
    row(
        "compiler_too_old", "",
        r"(?P<tool>nvcc|ptxas) fatal\s{1,6}: (?P<detail>(?:Unsupported gpu architecture|Value) '(?P<gpu>\w{1,40})'"
        r"[^\n]{0,100})|(?P<other>NVCC) version should be >= (?P<least>[\d.]{1,10})|nvcc fatal\s{1,6}: "
        r"(?P<option>Unknown "
        r"option '[^'\n]{1,80}')",
        permanent=True, derive=lambda values: {"tool": values["other"]} if values.get("other") else {},
        summary=(
            "{tool} is older than the GPU: {detail}", "{tool} is too old: {least} is wanted",
            "nvcc is too old: {option}",
        ),
        advice=(
            "Install a CUDA toolkit that knows {gpu}, and set CUDA_HOME to it; for Triton also TRITON_PTXAS_PATH.",
            "Install CUDA {least} or newer, and set CUDA_HOME to it.",
            "Make nvcc the one of torch's CUDA version; it says: {option}.",
            "If only FlashInfer's sampler is compiled, VLLM_USE_FLASHINFER_SAMPLER=0 does without.",
        ),
    ),
    row(
        "compiler_too_old", "",
        r"(?:nvcc|ptxas) fatal\s{1,6}: (?P<detail>(?:Unsupported gpu architecture|Value '\w{1,40}' "
        r"is not defined)[^\n]{0,100})",
        permanent=True, where="line", phase="start", rank=Rank.COARSE,
        summary="the compiler is older than the GPU: {detail}",
        advice="Install a CUDA toolkit that knows this GPU, and set CUDA_HOME (for Triton TRITON_PTXAS_PATH) to it.",
    ),
    row(
        "no_compiler", "",
        r"Failed to find (?P<what>C|C\+\+) compiler|(?P<cxx>No working C\+\+ compiler found)|Compiler: \S{1,60} is "
        r"not found|Could not find (?P<nvcc>nvcc)|(?P<path>nvcc) not found at|CUDA_HOME environment variable is not "
        r"set|CUDA was not found on the system|(?P<ninja>Ninja) is required|No such file or directory: "
        r"'(?:ninja|gcc|g\+\+|nvcc|cc)'|fatal error: (?P<header>Python\.h)",
        permanent=True,
        summary=(
            "kernels are compiled at start, and there is no {what} compiler",
            "Python.h is missing ({header})",
            "kernels are compiled at start, and a compiler is missing",
        ),
        advice=(
            "Install python3-dev for {header}.",
            "Install gcc and g++ (and nvcc for FlashInfer, of torch's CUDA version; ninja with pip), or set "
            "enforce-eager: true.",
        ),
    ),
    row(
        "compile_failed", "",
        r"Ninja build failed|Error building extension|ninja: build stopped|CppCompileError|NVCC compilation "
        r"failed|Error "
        r"compiling objects for extension|CalledProcessError: Command '\[[^\n]{0,60}(?:gcc|g\+\+|cc|clang|nvcc|ninja)'",
        permanent=True, rank=Rank.COARSE,
        summary="kernels are compiled at start, and the compiler fails",
        advice=(
            "The compiler's own words are in the log: a header or a library of CUDA's toolkit is missing, or it is of "
            "another version than torch's. For FlashInfer, VLLM_USE_FLASHINFER_SAMPLER=0 and another attention-backend "
            "do without; enforce-eager: true does without torch's compiler."
        ),
    ),
    row(
        "transformers_mismatch", "",
        r"has no attribute '?(?:all_special_tokens_extended|_extra_special_tokens)|'(?P<name>\w{1,80})' is "
        r"already used "
        r"by a Transformers config|No module named '(?P<module>transformers\.[\w.]{1,120})'|data did not match any "
        r"variant of untagged enum",
        permanent=True,
        summary=(
            "the installed transformers is newer than this vLLM: it has a {name} of its own",
            "the installed transformers is not the one this vLLM was made for: it has no {module}",
            "the installed transformers is not the one that this vLLM, or this model, was made for",
        ),
        advice=(
            "Make vLLM's environment anew from its lock file (llm-supervisor install): transformers was changed "
            "alone, or the model wants a newer vLLM."
        ),
    ),
    row(
        "transformers_mismatch", "",
        r"AttributeError: '?(?P<name>\w{0,80}(?:Config|Tokenizer|TokenizerFast|Processor|ImageProcessor|"
        r"TokenizersBackend))'?"
        r"(?: object)? has no attribute '?(?P<attribute>\w{1,80})|TypeError: (?P<call>\w{0,80}(?:Config|Processor|"
        r"Tokenizer"
        r"\w{0,10})\.\w{1,40}\(\)) got (?:an unexpected keyword argument|multiple values for)",
        permanent=True, rank=Rank.COARSE, phase="start", frames=r"transformers/|vllm/",
        summary=(
            "vLLM and the installed transformers do not fit: {name} has no {attribute}",
            "vLLM and the installed transformers do not fit: {call}",
        ),
        advice=(
            "Make vLLM's environment anew from its lock file (llm-supervisor install). If it was made so, the model's "
            "files are for another version of transformers."
        ),
    ),
    row(
        "dependency_mismatch", "",
        r"numpy\.core\.multiarray failed to import|numpy\.dtype size changed|module 'cv2\.dnn' has no "
        r"attribute|module compiled against (?:ABI|API) version|cannot import name '(?P<name>\w{1,80})' from "
        r"'(?P<package>(?:openai|pydantic|fastapi|starlette|numpy|huggingface_hub|tokenizers|mistral_common|xgrammar|"
        r"compressed_tensors|flashinfer|triton|outlines|numba|ray|torch)[\w.]{0,100})'",
        permanent=True,
        summary=(
            "{name} is not in {package}: a version that this vLLM does not know",
            "two packages of vLLM's environment do not fit together",
        ),
        advice=(
            "Make vLLM's environment anew from its lock file (llm-supervisor install): a package was upgraded alone."
        ),
    ),
    row(
        "transformers_mismatch", "transformers",
        r"cannot import name '(?P<name>\w{1,80})' from '(?P<module>transformers[\w.]{0,120})'",
        permanent=True,
        summary="the installed transformers is not the one this vLLM was made for ({name} is not in {module})",
        advice=(
            "Make vLLM's environment anew from its lock file (llm-supervisor install): transformers was changed "
            "alone."
        ),
    ),
    row(
        "transformers_mismatch", "required for a normal functioning",
        r"(?P<wanted>\S{1,80}) is required for a normal functioning of this module, but found (?P<found>\S{1,60})",
        permanent=True,
        summary="{wanted} is required, {found} is installed",
        advice="Make vLLM's environment anew from its lock file (llm-supervisor install).",
    ),
)  # fmt: skip
