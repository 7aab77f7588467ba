"""Checks of LiteLLM's own file, and of what ``litellm:`` of a model adds to it.

Errors are what LiteLLM refuses to start with. What it silently ignores or misunderstands is a warning, as it knows more
keys than are listed here, and another version knows other ones. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.checks.litellm_references import environ_of
from llm_supervisor.config.document import Document, Problem, Where, path_words
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import references
from llm_supervisor.suggest import near

# The keys that people write most; a key that is close to one of these is taken for a mistyped one
_TOP = "include model_list litellm_settings general_settings router_settings environment_variables guardrails".split()
_ENTRY = ("model_name", "litellm_params", "model_info")
_PARAMS = """model api_base base_url api_key dd_api_key api_version custom_llm_provider organization region_name
    aws_region_name aws_session_name s3_region_name watsonx_region_name rpm tpm itpm otpm
    weight order max_parallel_requests timeout stream_timeout
    request_timeout force_timeout max_retries num_retries cooldown_time drop_params additional_drop_params
    allowed_openai_params headers extra_headers default_headers extra_body metadata tags tag_regex max_budget
    budget_duration base_model ssl_verify mock_response mock_timeout model_info model_list
    merge_reasoning_content_in_choices temperature top_p top_k min_p max_tokens min_tokens max_completion_tokens
    max_output_tokens max_new_tokens frequency_penalty presence_penalty repetition_penalty length_penalty
    reasoning_effort verbosity
    thinking stop stop_token_ids seed n stream stream_options response_format tools tool_choice user roles rules
    logprobs top_logprobs skip_special_tokens use_litellm_proxy use_in_pass_through caching""".split()
_INFO = """id base_model mode tier team_id description max_tokens max_input_tokens max_output_tokens supports_vision
    supports_function_calling supports_parallel_function_calling supports_tool_choice supports_tool_search
    supports_reasoning supports_response_schema supports_system_messages supports_assistant_prefill
    supports_prompt_caching supports_prompt_cache_breakpoint supports_pdf_input supports_audio_input
    supports_audio_output supports_video_input
    supports_image_input supports_image_size supports_web_search supports_url_context supports_computer_use
    supports_native_streaming supports_embedding_image_input""".split()
# The providers of LiteLLM 1.106, where the installed one was not asked
_PROVIDERS = """
    a2a a2a_agent abliteration ai21 ai21_chat aihubmix aiml aiohttp_openai amazon_nova anthropic anthropic_text
    anyscale apertis assemblyai auto_router aws_polly aws_textract azure azure_ai azure_speech azure_text baseten
    bedrock bedrock_mantle black_forest_labs bytez cerebras charity_engine chatgpt chutes clarifai cloudflare
    codestral cognition cohere cohere_chat cometapi compactifai cortecs crusoe cursor custom custom_openai darkbloom
    dashscope databricks datarobot deepgram deepinfra deepseek docker_model_runner dotprompt edenai elevenlabs
    empiriolabs empower fal_ai featherless_ai fireworks_ai friendliai galadriel gdc gemini gigachat github
    github_copilot gmi gradient_ai groq helicone heroku hosted_vllm huggingface humanloop hyperbolic inception
    infinity jina_ai lambda_ai langflow langfuse langgraph lemonade libertai litellm_agent litellm_proxy llamafile
    llamagate lm_studio manus maritalk meta meta_llama milvus minimax mistral modelscope mongodb moonshot morph
    nadir nano-gpt nebius neosantara nlp_cloud novita nscale nvidia_nim nvidia_riva oci ollama ollama_chat oobabooga
    openai openai_like openrouter ovhcloud parasail perplexity petals pg_vector pinstripes poe predibase prism
    publicai qwen_ai_platform qwencloud ragflow recraft reducto reka replicate runwayml s3_vectors sagemaker
    sagemaker_chat sagemaker_nova sail sambanova sap sarvam scaleway scx-ai snowflake soniox stability
    strands_decider synthetic tencent tensormesh text-completion-codestral text-completion-inception
    text-completion-openai together_ai topaz transcribe triton typesafe v0 valkey veniceai vercel_ai_gateway
    vertex_ai vertex_ai_beta vllm volcengine voyage wandb watsonx watsonx_text xai xiaomi_mimo xinference zai""".split()
# Providers that stand for any server with OpenAI's paths
_OWN_SERVERS = ("openai", "hosted_vllm", "text-completion-openai", "custom_openai", "openai_like")
_ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/models", "/responses")


def problems(context: Context) -> Iterator[Problem]:
    """All that is wrong or doubtful in LiteLLM's own file and in the ``litellm`` blocks of the models."""
    root, native = context.root, context.native
    yield from _refused(native)
    yield from _doubts(context, native)
    yield from _deployments(native, environ_of(context))
    names = replace(native, data=references.resolved(native.data, environ_of(context)))
    yield from _aliases(context, names)
    yield from _fallback_targets(context, names)
    for alias, model in root.models.items():
        yield from _of_a_model(context, ("models", alias, "litellm"), model.litellm)


def _refused(native: Document) -> Iterator[Problem]:
    """What LiteLLM refuses to start with, or leaves a deployment out for."""
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
            # LiteLLM starts with a wrong value of this key, but makes something else of it
            harmless = key == "context_window_fallbacks"
            yield native.problem(place, "must be a list of mappings", advice, warning=harmless)
        for index, item in enumerate(value if isinstance(value, list) and key in _VALIDATED else []):
            if not isinstance(item, dict) or len(item) != 1:
                yield native.problem((*place, index), "must be a mapping of one group", "write {GROUP: [OTHER, ...]}")


_VALIDATED = ("fallbacks", "content_policy_fallbacks")
_FALLBACKS = (*_VALIDATED, "context_window_fallbacks", "default_fallbacks")


def _router(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The settings that name groups in the place of other groups: (block, key, value)."""
    for where, keys in (("router_settings", (*_FALLBACKS, "model_group_alias")), ("litellm_settings", _FALLBACKS)):
        block: Any = data.get(where)
        for key in keys if isinstance(block, dict) else ():
            if key in block:
                yield where, key, block[key]


def _fallbacks(data: Mapping[str, Any]) -> Iterator[tuple[Where, str]]:
    """Every group that is named as the fallback of another, with its place."""
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


def _doubts(context: Context, native: Document) -> Iterator[Problem]:
    """What is probably a mistake, and LiteLLM would not report."""
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
                yield from _address(context, native, (*here, "litellm_params"), params)
            if isinstance(info := entry.get("model_info"), dict):
                yield from _mistyped(native, (*here, "model_info"), info, _INFO)


def _of_a_model(context: Context, where: Where, block: Mapping[str, Any]) -> Iterator[Problem]:
    """The ``litellm`` block of a local model: more params of its deployment."""
    document = context.document
    yield from _mistyped(document, where, block, _PARAMS)
    if isinstance(info := block.get("model_info"), dict):
        yield from _mistyped(document, (*where, "model_info"), info, _INFO)
    yield from _limits(document, where, block, context.environ)


def _deployments(native: Document, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Addresses and limits of the deployments of LiteLLM's own file."""
    for index, entry in enumerate((native.data or {}).get("model_list") or []):
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        if not isinstance(params, dict):
            continue
        here: Where = ("model_list", index, "litellm_params")
        if proxy_config.lacks_version(params, environ):
            key = "api_base" if "api_base" in params else "base_url"
            base = str(params[key]).rstrip("/")
            plain = base.startswith("http") and "@" not in base
            advice = f"write {base}/v1" if plain else "let it end in /v1"
            message = "has no /v1: vLLM, and most others, answer 404 without it"
            yield native.problem((*here, key), message, advice, warning=True)
        yield from _limits(native, here, params, environ)


def _limits(
    document: Document, where: Where, params: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[Problem]:
    """Limits of requests and tokens a minute that are no whole number, themselves or by a variable."""
    for key in sorted(references.LIMITS & params.keys()):
        limit = params[key]
        values = [environ.get(name) or "0" for _, name in references.references(limit)] or [limit]
        if limit is not None and (isinstance(limit, bool) or not re.fullmatch(r"\d+(\.0+)?", str(values[0]))):
            yield document.problem((*where, key), f"must be a whole number, not {str(values[0])[:40]!r}")


_ALIASES: Where = ("router_settings", "model_group_alias")


def _written_aliases(native: Document) -> Mapping[str, Any]:
    """Other names of groups, as the file writes them; hidden ones included."""
    settings = (native.data or {}).get("router_settings")
    written = settings.get("model_group_alias") if isinstance(settings, dict) else None
    return written if isinstance(written, dict) else {}


def _native_groups(native: Document) -> dict[str, int]:
    """The groups of LiteLLM's own file, each with the index of its last entry."""
    entries = (native.data or {}).get("model_list") or []
    return {str(entry.get("model_name")): index for index, entry in enumerate(entries) if isinstance(entry, dict)}


def _aliases(context: Context, native: Document) -> Iterator[Problem]:
    """Aliases that hide a group: LiteLLM looks for a name among the aliases first. ``native`` is resolved."""
    models, natives = context.root.models, _native_groups(native)
    for alias, target in _written_aliases(native).items():
        group = target.get("model") if isinstance(target, dict) else target
        if not isinstance(group, str) or group == alias or not (alias in models or alias in natives):
            continue
        if alias in models:
            place = context.document.problem(("models", alias), "")
            whose = f"a local model, in {place.file}:{place.line}"
        else:
            place = native.problem(("model_list", natives[alias], "model_name"), "")
            whose = f"a group, in {place.file}:{place.line}"
        message = f"{alias} is also {whose}: all its requests would go to {group}"
        # Hiding a group of the same file may be meant: one line then sends its clients to another group
        meant = alias not in models
        yield native.problem((*_ALIASES, alias), message, "rename one of them", warning=meant)


def _fallback_targets(context: Context, native: Document) -> Iterator[Problem]:
    """Aliases of and fallbacks to a group that does not exist: LiteLLM leaves them out and reports nothing. ``native``
    is resolved."""
    models = context.root.models
    data = native.data or {}
    groups = [*models, *_native_groups(native)]
    if any("*" in group for group in groups):
        return  # a wildcard group may answer any name
    if proxy_config.asks_a_database(data) or context.environ.get("DATABASE_URL") or data.get("agents"):
        return  # there may be groups that are in no file
    for alias, group in proxy_config.aliases(data).items():
        if group not in groups:
            yield _no_group(native, (*_ALIASES, alias), group, groups, groups)
    entries = data.get("model_list") or []
    infos = [entry.get("model_info") for entry in entries if isinstance(entry, dict)]
    infos += [model.litellm.get("model_info") for model in models.values()]
    ids = [info.get("id") for info in infos if isinstance(info, dict)]  # a fallback may name a single deployment
    others: list[object] = [*_written_aliases(native)]
    settings = data.get("router_settings")
    routing = settings.get("routing_groups") if isinstance(settings, dict) else None
    others += [one.get("group_name") for one in routing if isinstance(one, dict)] if isinstance(routing, list) else []
    for where, group in _fallbacks(data):
        if group not in (*groups, *others, *ids):
            yield _no_group(native, where, group, [*groups, *map(str, others)], groups)


def _no_group(native: Document, where: Where, name: str, alike: list[str], groups: list[str]) -> Problem:
    """The warning for a name that no group has."""
    advice = near(name, alike) or f"there are: {', '.join(groups) or 'none'}"
    return native.problem(where, f"{name} is no group", advice, warning=True)


def _mistyped(
    document: Document, where: Where, block: Mapping[str, Any], known: list[str] | tuple[str, ...]
) -> Iterator[Problem]:
    for key in block:
        rest = [name for name in known if name not in block]
        if key in known or "_cost" in str(key):  # there are too many kinds of prices to list them
            continue
        swapped = next((f"did you mean {name}?" for name in rest if sorted(name) == sorted(str(key))), "")
        if close := near(str(key), rest, 0.8) or swapped:
            message = "LiteLLM does not know this key, and ignores it without a word"
            yield document.problem((*where, key), message, close, warning=True)


def _glued(native: Document, value: Any, where: Where) -> Iterator[Problem]:
    """Keys that hold their value, as a space is missing after the colon. The value may be a secret and is not shown."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _glued(native, item, (*where, key))
        name, colon, _ = str(key).partition(":")
        if item is None and colon:
            line = native.line((*where, key))
            advice = f"write `{name}: ` with a space"
            yield Problem(
                native.file,
                line,
                path_words(where),
                "the space between a key and its value is missing",
                advice,
                warning=True,
            )


def _texts(value: Any, where: Where) -> Iterator[tuple[Where, str]]:
    if isinstance(value, str):
        yield where, value.strip()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*where, index))


def _own_providers(native: Document) -> list[str]:
    """The providers that the file itself defines."""
    settings = (native.data or {}).get("litellm_settings")
    said = settings.get("custom_provider_map") if isinstance(settings, dict) else None
    return [str(one.get("provider")) for one in said if isinstance(one, dict)] if isinstance(said, list) else []


def _address(context: Context, native: Document, where: Where, params: Mapping[str, Any]) -> Iterator[Problem]:
    """The provider that the model names, and the address of a server of one's own."""
    environ = environ_of(context)
    model = references.resolved(params, environ).get("model")
    base = params.get("api_base")
    if not isinstance(model, str) or params.get("custom_llm_provider"):
        return
    provider, slash, _ = model.partition("/")
    providers = [*(context.providers or _PROVIDERS), *_own_providers(native)]
    here: Where = (*where, "model")
    if provider == "vllm" and base:
        message = "vllm/ is a model in LiteLLM's own process, not a server"
        yield native.problem(here, message, "write hosted_vllm/ in its place", warning=True)
    elif slash and provider not in providers and (close := near(provider, providers, 0.8)):
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
