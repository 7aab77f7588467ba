"""vLLM's failures that are about its options.

Messages as vLLM 0.32 raises them; a few of older versions where those differ. Many reach the log inside pydantic's
``ValidationError: 1 validation error for ModelConfig``.
"""

from __future__ import annotations

import difflib
import re

from llm_supervisor.diagnosis.pattern import Rank, Values, number, row

_FLAG = re.compile(r"--[a-z][a-z0-9\-]{1,60}")


def _near(values: Values) -> Values:
    """argparse prints its usage first, so the flag that was meant is in the log."""
    flags = list(dict.fromkeys(_FLAG.findall(values.get("usage", ""))))
    near = difflib.get_close_matches(values["flag"].replace("_", "-"), flags, n=1, cutoff=0.7)
    return {"near": near[0]} if near else {}


def _whole(values: Values) -> Values:
    limit = max(number(values.get("derived")), number(values.get("own")))
    return {"limit": f"{limit:.0f}"} if limit else {}


def _as_json(value: str) -> str:
    """``image=5,video=1`` as it was written before 0.10, in JSON."""
    pairs = re.findall(r"([a-z_]{1,40})\s?[=:]\s?(\d{1,9})", value)
    return "{" + ", ".join(f'"{name}": {count}' for name, count in pairs) + "}" if pairs else '{"image": 5}'


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
        "bad_arguments", ": error: ",
        r"^(?:vllm(?: [a-z\-]{1,20})?|[\w.\-]{1,60}\.py): error: (?P<detail>[^\n]{1,300})",
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
        "mm_budget_too_small", "Chunked MM input disabled",
        r"max_tokens_per_mm_item \((?P<item>\d{1,12})\) is larger than max_num_batched_tokens \((?P<budget>\d{1,12})\)",
        permanent=True,
        summary="one image (or video) is {item} tokens, and a batch holds {budget}",
        advice=(
            "Raise max-num-batched-tokens to {item} or more.",
            "Or make the images smaller: mm-processor-kwargs (max_pixels for the Qwen models).",
        ),
    ),
    row(
        "bad_arguments", "max_num_batched_tokens",
        r"max_num_batched_tokens \((?P<budget>\d{1,12})\) (?:is smaller than|must be greater than or equal to) "
        r"(?P<what>max_\w{1,40}) \((?P<wanted>\d{1,12})\)",
        permanent=True,
        summary="max-num-batched-tokens {budget} is less than {what} {wanted}",
        advice="Raise max-num-batched-tokens to {wanted} or more, or lower the other.",
    ),
    row(
        "bad_arguments", "LoRA rank", r"LoRA rank (?P<rank>\d{1,6}) is greater than max_lora_rank (?P<most>\d{1,6})",
        permanent=True, phase="start",
        summary="the LoRA adapter has rank {rank}, and max-lora-rank is {most}",
        advice="Set max-lora-rank to {rank} or more.",
    ),
    row(
        "bad_arguments", "Loading lora", r"Loading lora (?P<name>\S{1,120}) failed: (?P<why>[^\n]{1,300})",
        permanent=True, phase="start",
        summary="the LoRA adapter {name} cannot be loaded: {why}",
        advice="Correct its path under lora-modules.",
    ),
    row(
        "bad_arguments", "FileNotFoundError", permanent=True, phase="start", frames=
        r"create_ssl_context|load_cert_chain",
        summary="a file of ssl-certfile, ssl-keyfile or ssl-ca-certs does not exist",
        advice="Correct these paths.",
    ),
    row(
        "bad_arguments", "Pipeline parallelism is not supported for this model", permanent=True,
        summary="this model cannot be split over stages",
        advice="Set pipeline-parallel-size to 1, and use tensor-parallel-size.",
    ),
    row(
        "not_supported", "",
        r"^(?:\S{1,100}\.)?(?:NotImplementedError: (?P<detail>[^\n]{1,300})|(?:ValueError|RuntimeError|"
        r"AssertionError|ImportError): (?P<said>[^\n]{0,200}?(?:not supported|[Uu]nsupported|does(?:n't| not) "
        r"support)[^\n]{0,200}))",
        permanent=True, phase="start", rank=Rank.COARSE, frames=r"vllm/|transformers/",
        derive=lambda values: {"detail": values["said"]} if values.get("said") else {},
        summary="vLLM does not support this: {detail}",
        advice="Change the option or the model that it names, or upgrade vLLM.",
    ),
    row(
        "bad_arguments", "", r"^(?:\S{1,100}\.)?(?:ValueError|NotImplementedError|AssertionError|TypeError|KeyError): "
        r"(?P<detail>[^\n]{1,300})",
        permanent=True, phase="start", rank=Rank.COARSE,
        frames=(
            r"(?:config/\w{1,40}\.py|vllm/config\.py|engine/arg_utils\.py|cli_args\.py|"
            r"transformers_utils/config\.py) \w{1,80}$"
        ),
        summary="vLLM refuses its options: {detail}",
        advice="Correct the option that it names under `vllm:` of this model.",
    ),
    row(
        "start_refused", "",
        r"^(?:\S{1,100}\.)?(?:ValueError|AssertionError|TypeError): (?P<detail>[^\n]{0,200}?(?:\bmust\b|should be|only "
        r"supports?|requires|[Ii]nvalid|does not match|mismatch|[Cc]onflict|not the same for|not allowed|cannot "
        r"be (?:used|"
        r"combined|set)|Please (?:set|use|specify|increase|decrease|reduce|lower|remove|check))[^\n]{0,300})",
        permanent=True, phase="start", rank=Rank.COARSE, frames=r"vllm/[^\n]{1,300}$",
        summary="vLLM refuses this model with these options: {detail}",
        advice="Correct the option or the model that it names.",
    ),
    # what these parts of vLLM raise at start follows from the model, the options and the machine alone
    row(
        "start_refused", "",
        r"^(?:\S{1,100}\.)?(?:ValueError|TypeError|NotImplementedError): (?P<detail>(?![^\n]{0,300}(?:connect|timed "
        r"out|[Tt]imeout|memory|socket|retry|download))[^\n]{10,300})",
        permanent=True, phase="start", rank=Rank.COARSE,
        frames=r"vllm/(?:config|model_executor|v1/attention|v1/spec_decode|v1/sample|transformers_utils|compilation|"
            r"lora|platforms)[^\n]{1,300}$",
        summary="vLLM refuses this model with these options: {detail}",
        advice="Correct the option or the model that it names, or upgrade vLLM.",
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
        r"(?:The supplied chat template \((?P<file>[^)\n]{1,300})\) looks like|The supplied chat template string "
        r"\((?P<path>[^)\n]{1,300})\) appears path-like|the supplied chat "
        r"template path doesn't exist)",
        permanent=True,
        summary=(
            "the chat template {path} does not exist", "the chat template {file} does not exist",
            "the chat template does not exist",
        ),
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
