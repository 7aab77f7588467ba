"""Failures of vLLM's start that are about GPUs, drivers and compilers. Those of memory are in ``memory``.

Messages as vLLM 0.32, torch, Triton, NVML and the CUDA runtime raise them; a few of older versions where those differ.
"""

from __future__ import annotations

from llm_supervisor.diagnosis.pattern import row

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
        "gpu_unsupported", "No valid attention backend found",
        r"No valid attention backend found for (?P<device>\S{1,40}) with",
        permanent=True,
        summary="no attention backend fits this model, these options and this GPU",
        advice="Remove attention-backend and kv-cache-dtype, or take another dtype; the reasons are in the evidence.",
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
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|no CUDA-capable device is "
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
        "cuda_mismatch", "",
        r"(?P<library>lib(?:cudart|cublas|cublasLt|cudnn|nccl|nvrtc|cusparse|cufft|nvJitLink|cupti|torch_cuda|c10_cuda)"
        r"\S{0,40}?): cannot open shared object file",
        permanent=True,
        summary="{library} is missing: vLLM's CUDA is not this environment's",
        advice=(
            "Make the environment anew from its lock file (llm-supervisor install); do not mix wheels of "
            "different CUDA versions."
        ),
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
