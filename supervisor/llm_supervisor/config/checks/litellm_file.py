"""What is wrong in LiteLLM's own file: what it refuses to start with (errors), and what is probably wrong and it would
not say, as it skips what it does not understand (warnings: it knows more words, and other ones tomorrow). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm_supervisor.config.source import Document, Problem, Where, path_words
from llm_supervisor.suggest import near

# The words that people write most; a word near one of them is that one, mistyped
_TOP = "include model_list litellm_settings general_settings router_settings environment_variables guardrails".split()
_ENTRY = ("model_name", "litellm_params", "model_info")
_PARAMS = """model api_base base_url api_key dd_api_key api_version custom_llm_provider organization region_name
    aws_region_name aws_session_name s3_region_name watsonx_region_name rpm tpm itpm otpm
    weight order max_parallel_requests timeout stream_timeout
    request_timeout force_timeout max_retries num_retries cooldown_time drop_params additional_drop_params
    allowed_openai_params headers extra_headers default_headers extra_body metadata tags tag_regex max_budget
    budget_duration base_model ssl_verify mock_response mock_timeout model_info model_list
    merge_reasoning_content_in_choices temperature top_p top_k min_p max_tokens min_tokens max_completion_tokens
    max_output_tokens frequency_penalty presence_penalty repetition_penalty length_penalty reasoning_effort verbosity
    thinking stop stop_token_ids seed n stream stream_options response_format tools tool_choice user roles rules
    logprobs top_logprobs skip_special_tokens use_litellm_proxy use_in_pass_through caching""".split()
_INFO = """id base_model mode tier team_id description max_tokens max_input_tokens max_output_tokens supports_vision
    supports_function_calling supports_parallel_function_calling supports_tool_choice supports_tool_search
    supports_reasoning supports_response_schema supports_system_messages supports_assistant_prefill
    supports_prompt_caching supports_prompt_cache_breakpoint supports_pdf_input supports_audio_input
    supports_audio_output supports_video_input
    supports_image_input supports_image_size supports_web_search supports_url_context supports_computer_use
    supports_native_streaming supports_embedding_image_input""".split()
_PROVIDERS = """openai anthropic gemini vertex_ai azure azure_ai bedrock mistral groq deepseek openrouter together_ai
    fireworks_ai cohere xai perplexity ollama ollama_chat huggingface hosted_vllm litellm_proxy replicate sagemaker
    nvidia_nim cerebras databricks moonshot dashscope deepinfra""".split()
# Providers whose servers are somebody's own, with the paths of OpenAI's
_OWN_SERVERS = ("openai", "hosted_vllm", "text-completion-openai", "custom_openai", "openai_like")
_ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/models", "/responses")


def refused(native: Document) -> Iterator[Problem]:
    """What LiteLLM does not start with, or leaves a deployment out for."""
    data = native.data if isinstance(native.data, dict) else {}
    if data.get("environment_variables") and not isinstance(data["environment_variables"], dict):
        yield native.problem(("environment_variables",), "must be a mapping", "write `NAME: value` lines")
    entries = data.get("model_list")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict):
            continue
        params = entry.get("litellm_params")
        params = params if isinstance(params, dict) else {}
        here: Where = ("model_list", index)
        if isinstance(name := entry.get("model_name"), str) and not name.strip():
            yield native.problem((*here, "model_name"), "is empty")
        if isinstance(model := params.get("model"), str) and not model.strip():
            yield native.problem((*here, "litellm_params", "model"), "is empty", "write PROVIDER/MODEL")
        for key in ("api_key", "api_base", "base_url", "api_version"):
            if isinstance(params.get(key), (list, dict, bool)):
                yield native.problem((*here, "litellm_params", key), "must be text")
    for where, key, value in _router(data):
        place: Where = (where, key)
        if key == "model_group_alias":
            if value and not isinstance(value, dict):
                yield native.problem(place, "must be a mapping", "write `NAME: GROUP` lines")
        elif key == "default_fallbacks":
            if value and not isinstance(value, list):
                yield native.problem(place, "must be a list of groups", "write [GROUP]", warning=True)
        elif value and not isinstance(value, list):
            advice = "write [{GROUP: [OTHER, ...]}]"
            # of this one LiteLLM makes something else
            harmless = key == "context_window_fallbacks"
            yield native.problem(place, "must be a list of mappings", advice, warning=harmless)
        for index, item in enumerate(value if isinstance(value, list) and key in _VALIDATED else []):
            if not isinstance(item, dict) or len(item) != 1:
                yield native.problem((*place, index), "must be a mapping of one group", "write {GROUP: [OTHER, ...]}")


_VALIDATED = ("fallbacks", "content_policy_fallbacks")
_FALLBACKS = (*_VALIDATED, "context_window_fallbacks", "default_fallbacks")


def _router(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What is said of groups that stand for others: (block, key, value)."""
    for where, keys in (("router_settings", (*_FALLBACKS, "model_group_alias")), ("litellm_settings", _FALLBACKS)):
        block: Any = data.get(where)
        for key in keys if isinstance(block, dict) else ():
            if key in block:
                yield where, key, block[key]


def fallbacks(data: Mapping[str, Any]) -> Iterator[tuple[Where, str]]:
    """Every group that others fall back to, with its place."""
    for where, key, value in _router(data):
        if key == "default_fallbacks":
            value = [{"*": value}]
        if key == "model_group_alias" or not isinstance(value, list):
            continue
        for index, item in enumerate(value):
            for group, targets in item.items() if isinstance(item, dict) else ():
                here: Where = (where, key) if key == "default_fallbacks" else (where, key, index, group)
                for number, target in enumerate(targets if isinstance(targets, list) else []):
                    name = target.get("model") if isinstance(target, dict) else target
                    if isinstance(name, str):
                        yield (*here, number), name


def doubts(native: Document) -> Iterator[Problem]:
    """What looks wrong in it."""
    data = native.data if isinstance(native.data, dict) else {}
    yield from _mistyped(native, (), data, _TOP)
    for where, text in _texts(data, ()):
        if name := re.search(r"\$\{([A-Za-z_][A-Za-z0-9_]*)", text):
            message = "LiteLLM takes ${...} for plain text"
            yield native.problem(where, message, f"write os.environ/{name[1]}, as the whole value", warning=True)
        elif re.match(r"(?:os\.environ|env)[./\[(:]", text) and not re.fullmatch(r"os\.environ/[A-Za-z_]\w*", text):
            yield native.problem(where, "LiteLLM takes it for plain text", "write os.environ/NAME", warning=True)
    yield from _glued(native, data, ())
    entries = data.get("model_list")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            here: Where = ("model_list", index)
            yield from _mistyped(native, here, entry, _ENTRY)
            if isinstance(params := entry.get("litellm_params"), dict):
                yield from _mistyped(native, (*here, "litellm_params"), params, _PARAMS)
                yield from _address(native, (*here, "litellm_params"), params)
            if isinstance(info := entry.get("model_info"), dict):
                yield from _mistyped(native, (*here, "model_info"), info, _INFO)


def doubts_of_ours(document: Document, where: Where, said: Mapping[str, Any]) -> Iterator[Problem]:
    """What looks wrong in what our own file says for LiteLLM, under a model."""
    yield from _mistyped(document, where, said, _PARAMS)
    if isinstance(info := said.get("model_info"), dict):
        yield from _mistyped(document, (*where, "model_info"), info, _INFO)


def _mistyped(
    document: Document, where: Where, block: Mapping[str, Any], known: list[str] | tuple[str, ...]
) -> Iterator[Problem]:
    for key in block:
        rest = [name for name in known if name not in block]
        if key in known or "_cost" in str(key):  # of prices there are too many kinds
            continue
        swapped = next((f"did you mean {name}?" for name in rest if sorted(name) == sorted(str(key))), "")
        if close := near(str(key), rest, 0.8) or swapped:
            message = "LiteLLM knows no such key, and does not say so"
            yield document.problem((*where, key), message, close, warning=True)


def _glued(native: Document, value: Any, where: Where) -> Iterator[Problem]:
    """Keys with their value in them: never said as they are, it may be a secret."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _glued(native, item, (*where, key))
        name, colon, _ = str(key).partition(":")
        if item is None and colon:
            line = native.line((*where, key))
            advice = f"write `{name}: ` with a space"
            yield Problem(native.file, line, path_words(where), "a key and its value in one", advice, warning=True)


def _texts(value: Any, where: Where) -> Iterator[tuple[Where, str]]:
    if isinstance(value, str):
        yield where, value.strip()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*where, index))


def _address(native: Document, where: Where, params: Mapping[str, Any]) -> Iterator[Problem]:
    """The provider, and the address of an own server."""
    model, base = params.get("model"), params.get("api_base")
    if not isinstance(model, str) or params.get("custom_llm_provider"):
        return
    provider, slash, _ = model.partition("/")
    here: Where = (*where, "model")
    if provider == "vllm" and base:
        message = "vllm/ is a model in LiteLLM's own process, not a server"
        yield native.problem(here, message, "write hosted_vllm/ in its place", warning=True)
    elif slash and provider not in _PROVIDERS and (close := near(provider, _PROVIDERS, 0.8)):
        message = f"LiteLLM leaves a model of an unknown provider out: {provider}"
        yield native.problem(here, message, close, warning=True)
    if not isinstance(base, str) or provider not in _OWN_SERVERS or base.startswith("os.environ/") or "${" in base:
        return
    here = (*where, "api_base")
    try:
        parts = urlsplit(base)
    except ValueError:
        parts = urlsplit("")
    path = parts.path.rstrip("/")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        yield native.problem(here, "is no http:// or https:// URL", "write http://HOST:PORT/v1", warning=True)
    elif path.endswith(_ENDPOINTS):
        message = "LiteLLM adds the endpoint's own path to this"
        whole = next(path.removesuffix(end) for end in _ENDPOINTS if path.endswith(end))
        yield native.problem(here, message, f"write {parts.scheme}://{parts.netloc}{whole}", warning=True)
