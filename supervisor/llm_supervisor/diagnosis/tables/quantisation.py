"""vLLM's failures that are about how a model is quantised, and over how many GPUs its layers can be split.

Messages as vLLM 0.32, torch and Triton raise them; a few of older versions where those differ.
"""

from __future__ import annotations

from llm_supervisor.diagnosis.pattern import Rank, Values, row

_ANOTHER = "Choose another quantisation of the model, or a GPU that has it."


def _divisors(values: Values) -> Values:
    heads = int(values["heads"])
    fitting = [str(size) for size in range(1, min(heads, 64) + 1) if heads % size == 0]
    return {"fitting": ", ".join(fitting)}


DIVIDING = (
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
        "tp_does_not_divide", "is not divisible by",
        r"Weight (?P<side>in|out)put_size_per_partition = (?P<heads>\d{1,7}) is not divisible "
        r"by\s{1,4}min_thread_[kn] = "
        r"(?P<size>\d{1,5})",
        permanent=True,
        summary="the quantised layers ({heads}) cannot be split so far: the kernel takes multiples of {size}",
        advice="Lower tensor-parallel-size.",
    ),
    row(
        "tp_does_not_divide", "weight quantization block_",
        r"The (?P<side>in|out)put_size of (?P<part>[^=\n]{1,60}?) ?= (?P<heads>\d{1,7}) is not divisible by "
        r"weight quantization "
        r"block_[nk] = (?P<size>\d{1,5})",
        permanent=True,
        summary="the quantised experts ({part}: {heads}) cannot be split so far: blocks of {size}",
        advice="Lower tensor-parallel-size, or set enable-expert-parallel: true, which splits the experts as wholes.",
    ),
    row(
        "tp_does_not_divide", "experts",
        r"Got (?P<heads>\d{1,6}) experts and (?P<size>\d{1,5}) EP ranks|across EP ranks: (?P<experts>\d{1,6}) experts, "
        r"(?P<ranks>\d{1,5}) ranks|Tensor parallel size (?P<wide>\d{1,5}) is greater than the number of experts "
        r"(?P<few>\d{1,5})",
        permanent=True,
        summary=(
            "{heads} experts cannot be split over {size} GPUs", "{experts} experts cannot be split over {ranks} GPUs",
            "{few} experts cannot be split over {wide} GPUs", "the experts cannot be split over so many GPUs",
        ),
        advice="Choose parallel sizes whose product divides the number of experts.",
    ),
    row(
        "tp_does_not_divide", "AssertionError",
        r"^AssertionError: assert (?P<detail>[^\n]{0,160}%\s?(?:self\.)?(?:tp_size|"
        r"tensor_parallel_size|tensor_model_parallel_world_size|tp_world_size|world_size)[^\n]{0,40})",
        permanent=True, phase="start",
        summary="a layer cannot be split over so many GPUs: {detail}",
        advice="Choose a smaller tensor-parallel-size, or one that divides the model's heads.",
    ),
    row(
        "tp_does_not_divide", "pp_size",
        r"len\(partitions\)=(?P<there>\d{1,5}) does not match pp_size=(?P<size>\d{1,5})",
        permanent=True,
        summary="VLLM_PP_LAYER_PARTITION names {there} stages, and there are {size}",
        advice="Make both the same: pipeline-parallel-size, and VLLM_PP_LAYER_PARTITION in the environment.",
    ),
    row(
        "tp_does_not_divide", "must be divisible by",
        r"^(?:AssertionError|ValueError): (?P<detail>[^\n]{0,120}(?:heads|experts|"
        r"hidden|intermediate|vocab|partition|tp_size|tensor)[^\n]{0,120}must be divisible by[^\n]{1,120})",
        permanent=True, phase="start", rank=Rank.COARSE,
        summary="a layer cannot be split over so many GPUs: {detail}",
        advice="Choose another tensor-parallel-size.",
    ),
)  # fmt: skip

QUANTISATION = (
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
        "quantisation_unsupported", "Quantization scheme is not supported for",
        r"Quantization scheme is not supported for [\s\S]{0,40}?(?:Min|Required) capability: "
        r"(?P<least>\d{1,4})[\s\S]{0,20}?"
        r"Current capability: (?P<own>\d{1,4})",
        permanent=True,
        summary="this quantisation needs a GPU of compute capability {least}, this one has {own}",
        advice=_ANOTHER,
    ),
    row(
        "quantisation_unsupported", "not supported in this architecture",
        r"type (?P<type>\w{1,20}) not supported in this architecture",
        permanent=True,
        summary="this GPU has no FP8 ({type})",
        advice=(
            "Take a model that is not quantised to FP8, and remove kv-cache-dtype: fp8 (native FP8 needs Ada "
            "or Hopper)."
        ),
    ),
    row(
        "quantisation_unsupported", "",
        r"_scaled_mm is only supported on|fp8e4nv data type is not supported on CUDA arch|(?P<cache>FP8 KV cache "
        r"is not "
        r"supported by[^\n]{0,200})|requires GPU compute capability >= (?P<least>[\d.]{1,4})|FlashAttention does "
        r"not support "
        r"(?P<dtype>\w{1,20}) kv-cache on this device",
        permanent=True,
        summary=(
            "this GPU cannot hold the KV cache in FP8: {cache}", "this needs a GPU of compute capability {least}",
            "this GPU cannot hold the KV cache as {dtype}", "this GPU has no FP8",
        ),
        advice=(
            "Remove kv-cache-dtype, or set fp8_e5m2 where {cache} says so.",
            "Take a model that is not quantised to FP8, and remove kv-cache-dtype: fp8 (native FP8 needs Ada or "
            "Hopper).",
        ),
    ),
    row(
        "quantisation_unsupported", "MoE backend",
        r"No (?P<method>[\w ]{1,30}?) MoE backend supports the deployment configuration",
        permanent=True,
        summary="no kernel for {method} experts runs on this GPU with these options",
        advice="Remove moe-backend and all2all-backend, or choose another quantisation of the model than {method}.",
    ),
    row(
        "quantisation_unsupported", "Failed to find a kernel",
        r"Failed to find a kernel that can implement the (?P<method>[\w ]{1,40}?) linear layer",
        permanent=True,
        summary="no kernel for {method} layers runs on this GPU, or with this split",
        advice="The reasons are in the log. Choose another quantisation of the model, or a lower tensor-parallel-size.",
    ),
    row(
        "quantisation_unsupported", "",
        r"does not support (?:NVFP4|MXFP4|MXFP8|FP8|INT8|AWQ|GPTQ)|(?:MXFP4|NVFP4|FP8) [^\n]{1,40} is not implemented|"
        r"Unsupported (?:quantization (?:config|scheme|type)|num_bits|FP8 scheme)[^\n]{0,120}|No "
        r"(?:\w{1,40}-compatible )?"
        r"(?:quantization|compressed-tensors) (?:scheme|compatible scheme) was found|GPTQMarlin only supports|The "
        r"quantization "
        r"method \S{1,60} is deprecated|Quantization method \S{1,60} is not supported|Detected (?:fp8|FP8) "
        r"checkpoint but|Only "
        r"support(?:s)? (?:symmetric|4bit|int4)[^\n]{0,100}|(?:is no longer supported|Sparsity support has been "
        r"removed)",
        permanent=True, phase="start", rank=Rank.COARSE, frames=r"quantization/|config/|weight_utils|model_loader",
        summary="this vLLM has no kernel for this quantisation of the model",
        advice="Choose another quantisation of the model; what is not supported is in the evidence.",
    ),
)  # fmt: skip
