"""LiteLLM's failures that are about its configuration: the file, its settings, and what these need.

Messages as LiteLLM 1.106, PyYAML, pydantic and click raise them; a few of older versions where those differ.
"""

from __future__ import annotations

from llm_supervisor.diagnosis.pattern import Rank, row

_KEY = (
    "Set LITELLM_MASTER_KEY to a long random one (llm-supervisor makes and keeps one when none is given): python3 -c "
    "\"import secrets; print('sk-' + secrets.token_hex(32))\"."
)

# Where LiteLLM raises what it does not like about a setting, and which one that is
_SETTINGS = (
    (r"callback_utils\.py|integrations/|litellm_logging\.py", "litellm_settings: callbacks (or success_callback)"),
    (r"guardrails/", "guardrails"),
    (r"caching/|_redis", "litellm_settings: cache_params (or the settings of Redis)"),
    (r"secret_managers/|initialize_secret_manager|load_\w{1,40}_kms", "general_settings: key_management_system"),
    (r"router_utils/|router_strategy/", "router_settings"),
    (r"mcp_server", "mcp_servers"),
    (r"pass_through_endpoints", "general_settings: pass_through_endpoints"),
)

ROWS = (
    row(
        "master_key_unset", "LiteLLM proxy refused to start",
        r"refused to start: (?P<why>no master key is set|the master key is empty)",
        permanent=True,
        summary="LiteLLM has no master key: {why}",
        advice=(_KEY, "{config} must read it: general_settings: master_key: os.environ/LITELLM_MASTER_KEY."),
    ),
    row(
        "master_key_weak", "LiteLLM proxy refused to start",
        r"refused to start: the master key is a publicly known default",
        permanent=True,
        summary="LiteLLM's master key is one that everybody knows",
        advice=(_KEY, "It is set in {config}: put os.environ/LITELLM_MASTER_KEY there."),
    ),
    row(
        "config_missing", "Config file not found", r"Config file not found: (?P<path>[^\n]{1,300})",
        permanent=True,
        summary="LiteLLM's configuration {path} does not exist",
        advice="Check `gateway: litellm_config:`; {path} must exist.",
    ),
    row(
        "config_missing", "",
        r"(?:Included (?:file not found|config could not be read[^:\n]{0,60})): (?P<path>[^\n]{1,300})",
        permanent=True,
        summary="LiteLLM's configuration includes {path}, which cannot be read",
        advice="Check `include:` in the configuration; the path of {path} is relative to that file.",
    ),
    row(
        "config_yaml", "yaml.",
        r"yaml\.(?:scanner|parser|composer|constructor|reader)\.\w{1,30}: "
        r"(?P<what>[^\n]{0,200})(?:[\s\S]{0,400}?\n(?P<problem>[^\s][^\n]{1,200}))?\s{1,8}in "
        r"\"(?P<path>[^\"\n]{1,300})\", line (?P<line>\d{1,7}), column (?P<column>\d{1,5})(?!\n\S)",
        permanent=True,
        summary=("{path}, line {line}, column {column}: {problem}", "{path}, line {line}, column {column}: {what}"),
        advice="Correct the YAML at line {line} of {path} (indentation, quotes, a missing bracket).",
    ),
    row(
        "config_yaml", "yaml.",
        r"yaml\.(?:scanner|parser|composer|constructor|reader)\.\w{1,30}: (?P<what>[^\n]{1,300})",
        permanent=True, rank=Rank.COARSE,
        summary="the configuration is no YAML: {what}",
        advice="Correct the YAML of LiteLLM's configuration.",
    ),
    row(
        "config_empty", "Config cannot be None or Empty", permanent=True,
        summary="LiteLLM's configuration file is empty",
        advice="Write at least a model_list into it, or restore it; see `gateway: litellm_config:`.",
    ),
    row(
        "license_missing", "",
        r"(?:^|\n)[\w.]{1,80}: (?:Missing)?(?:Trying to use )?(?P<what>[^\n]{1,120}?)(?:,|\.| is an| is only)? "
        r"?(?:You must be "
        r"a LiteLLM Enterprise user|[Ee]nterprise (?:[Oo]nly )?[Ff]eature|Missing litellm-enterprise package|"
        r"[Oo]nly available "
        r"(?:in litellm-enterprise|for (?:premium|enterprise))|This uses the enterprise folder)",
        permanent=True,
        summary=("LiteLLM wants a licence for: {what}", "a setting wants LiteLLM's licence"),
        advice=(
            "Set LITELLM_LICENSE in the env_file (and install litellm-enterprise), or remove the setting: it is under "
            "litellm_settings: callbacks, or in general_settings.",
        ),
    ),
    row(
        "license_missing", "LITELLM_LICENSE", r"LITELLM_LICENSE|You must be a (?:LiteLLM )?(?:Enterprise|premium) user",
        permanent=True, rank=Rank.COARSE,
        summary="a setting wants LiteLLM's licence",
        advice="Set LITELLM_LICENSE in the env_file, or remove the setting that the evidence names.",
    ),
    row(
        "bad_routing_strategy", "routing_strategy",
        r"Invalid routing_strategy: '?(?P<value>[^'\n]{1,80}?)'?\. Valid options: \[(?P<choices>[^\]\n]{1,600})",
        permanent=True,
        summary="LiteLLM knows no routing_strategy {value}",
        advice="Set router_settings: routing_strategy to one of: {choices}.",
    ),
    row(
        "variable_missing", "from environment", r"Missing `?(?P<variable>[A-Z][A-Z0-9_]{2,80})`? from environment",
        permanent=True,
        summary="LiteLLM does not start without {variable}",
        advice="Set {variable} in the env_file, or remove the guardrail or callback that needs it.",
    ),
    row(
        "variable_missing", "",
        r"^[\w.]{1,100}: [^\n]{0,200}?(?P<variable>[A-Z][A-Z0-9]{1,20}(?:_[A-Z0-9]{1,30}){1,6})\b[^\n]{0,60}?(?:(?"
        r":is |are |must "
        r"be )?(?:not set|not found|required|set\b(?! to)|missing|unset)|environment variable)",
        permanent=True, phase="start", rank=Rank.COARSE, frames=r"litellm",
        summary="LiteLLM does not start without {variable}",
        advice="Set {variable} in the env_file, or remove the setting that needs it.",
    ),
    row(
        "callback_missing", "",
        r"^(?:ValueError: (?P<empty>Empty module name)|AttributeError: module '(?P<module>[\w.]{1,150})' has "
        r"no attribute '(?P<name>\w{1,100})'|ValueError: (?P<detail>litellm_settings\.callbacks entry[^\n]{1,300}))",
        permanent=True, frames=r"get_instance_fn|callback_utils\.py",
        summary=(
            "an entry of litellm_settings: callbacks names neither a callback of LiteLLM nor a module",
            "the module {module} has no {name}", "{detail}",
        ),
        advice=(
            "Correct litellm_settings: callbacks (or custom_auth): a name is one of LiteLLM's own, or "
            "FILE.INSTANCE of a "
            "file beside the configuration. Some names belong under service_callback, success_callback or "
            "failure_callback.",
        ),
    ),
    row(
        "config_malformed", "uardrail",
        r"^ValueError: (?P<detail>(?:Unsupported guardrail: |Event hook \S{1,100} is not in the "
        r"supported|mode is required for guardrail|[Gg]uardrail)[^\n]{1,300})",
        permanent=True, phase="start",
        summary="LiteLLM refuses a guardrail: {detail}",
        advice="Correct it under `guardrails:`; the evidence says what it takes.",
    ),
    row(
        "config_malformed", "edis", r"^ValueError: (?P<detail>[^\n]{0,120}[Rr]edis[^\n]{1,300})",
        permanent=True, phase="start",
        summary="LiteLLM refuses its settings of Redis: {detail}",
        advice="Correct litellm_settings: cache_params, router_settings: redis_host and redis_port, or REDIS_HOST.",
    ),
    row(
        "config_malformed", "ey Management System",
        r"^ValueError: (?P<detail>[^\n]{0,60}Key Management System[^\n]{0,200})",
        permanent=True, phase="start",
        summary="LiteLLM refuses its secret manager: {detail}",
        advice="Correct general_settings: key_management_system.",
    ),
    row(
        "config_missing", "Is a directory",
        r"IsADirectoryError: \[Errno 21\] Is a directory: '(?P<path>[^'\n]{1,300})'",
        permanent=True,
        summary="LiteLLM's configuration {path} is a folder",
        advice="Docker makes a folder where a mounted file does not exist: check the path on the host of {path}.",
    ),
    row(
        "config_yaml", "UnicodeDecodeError", permanent=True, phase="start", frames=
        r"yaml|proxy_server\.py _?(?:get|load)",
        summary="LiteLLM's configuration is no text in UTF-8",
        advice="Save it as UTF-8.",
    ),
    row(
        "config_empty", "'NoneType'",
        r"TypeError: (?:argument of type 'NoneType' is not (?:iterable|a container)|'NoneType' object is not "
        r"(?:subscriptable|"
        r"iterable))|AttributeError: 'NoneType' object has no attribute '(?:get|items|keys)'",
        permanent=True, phase="start", rank=Rank.COARSE,
        frames=r"proxy_cli\.py run_server$|proxy_server\.py (?:load_config|_?get_config\w{0,30})$",
        summary="LiteLLM's configuration, or a section of it, is empty",
        advice="Fill the section that has nothing below it, or remove it; a file needs at least a model_list.",
    ),
    *(
        row(
            "config_malformed", "",
            r"^(?:[\w.]{1,100}\.)?(?P<detail>(?:ValueError|Exception|TypeError|KeyError|AttributeError|AssertionError|"
            r"NotImplementedError): [^\n]{1,300})",
            permanent=True, phase="start", rank=Rank.COARSE, frames=
            rf"proxy_server\.py load_config[\s\S]{{0,4000}}(?:{frames})",
            summary=f"LiteLLM refuses {setting}: {{detail}}",
            advice=f"Correct {setting} in LiteLLM's configuration.",
        )
        for frames, setting in _SETTINGS
    ),
    row(
        "config_malformed", "",
        r"(?:KeyError: "
        r"'(?P<key>model_name|litellm_params|model)'|(?P<detail>(?:AttributeError|TypeError|KeyError|ValueError): "
        r"[^\n]{1,200}))",
        permanent=True, phase="start", rank=Rank.COARSE, frames=r"proxy_server\.py "
            r"(?:load_config|_load|get_config|_get_config|_init|_process)",
        summary=(
            "an entry of model_list has no {key}",
            "LiteLLM's configuration has another shape than LiteLLM expects: {detail}",
        ),
        advice=(
            "Every entry of model_list is a mapping with model_name and litellm_params: {{model: PROVIDER/NAME}}.",
        ),
    ),
    row(
        "config_malformed", "", r"^(?:[\w.]{1,100}\.)?(?P<detail>(?:Exception|AssertionError|NotImplementedError): "
        r"[^\n]{1,300})",
        permanent=True, phase="start", rank=Rank.COARSE, frames=r"proxy_server\.py load_config",
        summary="LiteLLM refuses its configuration: {detail}",
        advice="Correct the setting that it names in LiteLLM's configuration.",
    ),
    row(
        "config_malformed", "validation error",
        r"ValidationError: \d{1,4} validation errors? for "
        r"(?P<what>\w{1,60})\n(?:(?P<field>[A-Za-z_][\w.\[\]]{0,100})\n)?\s{0,8}(?P<detail>[^\n]{1,300}?)(?: "
        r"\[type=|\n|$)",
        permanent=True, phase="start", rank=Rank.COARSE,
        summary=(
            "LiteLLM refuses its configuration: {what}.{field}: {detail}",
            "LiteLLM refuses its configuration: {what}: {detail}",
        ),
        advice="Correct that setting in LiteLLM's configuration.",
    ),
    row(
        "callback_missing", "Could not import",
        r"ImportError: Could not import (?P<name>\S{1,100}) from (?P<module>\S{1,150})",
        permanent=True,
        summary="the callback {name} of {module} cannot be imported",
        advice="Put {module}.py beside the configuration or install it, or remove it from litellm_settings: callbacks.",
    ),
    row(
        "bad_arguments", "No such option",
        r"Error: No such option:? '?(?P<flag>--?[\w\-]{1,60})'?(?:[^\n]{0,40}Did you mean (?P<near>[^?\n]{1,120}))?",
        permanent=True, where="line",
        summary="LiteLLM knows no option {flag}",
        advice=("It knows {near}.", "Remove {flag}, or look up its name in this version of LiteLLM."),
    ),
    row(
        "bad_arguments", "Error: Invalid value",
        r"^Error: Invalid value for '?(?P<flag>[^':\n]{1,80})'?: (?P<detail>[^\n]{1,200})",
        permanent=True, where="line",
        summary="LiteLLM refuses {flag}: {detail}",
        advice="Correct {flag}.",
    ),
    row(
        "unknown_provider", "LLM Provider NOT provided",
        r"LLM Provider NOT provided\.[^\n]{0,200}?You passed model=(?P<name>\S{1,200})",
        permanent=True, where="line", phase="start", rank=Rank.COMPLAINT,
        summary="LiteLLM knows no provider for {name}, and serves without that model",
        advice=(
            "Write it as PROVIDER/NAME with a provider that LiteLLM knows (openai/, anthropic/, hosted_vllm/ "
            "...), not {name}."
        ),
    ),
    row(
        "deployment_dropped", "Error creating deployment",
        r"Error creating deployment: (?P<detail>[^\n]{1,300}?)(?:, ignoring and continuing|\n|$)",
        permanent=True, where="line", phase="start", rank=Rank.COMPLAINT,
        summary="LiteLLM dropped a model of the configuration: {detail}",
        advice="Correct that entry of model_list; LiteLLM serves the others.",
    ),
    row(
        "unset_key", "Missing credentials",
        r"Missing credentials\. Please pass[\s\S]{0,120}? or set the `(?P<variable>[A-Z][A-Z0-9_]{2,60})`",
        permanent=True, where="line", rank=Rank.COMPLAINT,
        summary="a cloud model has no key: {variable} and what its api_key refers to are not set",
        advice="Set the variable that its api_key names (os.environ/NAME), or {variable}, in the env_file.",
    ),
    row(
        "unset_key", "environment variable",
        r"(?:Set|set) (?:the )?`?(?P<variable>[A-Z][A-Z0-9_]{2,60}_(?:KEY|TOKEN))`? (?:in your "
        r"environment|environment variable)",
        permanent=True, where="line", rank=Rank.COMPLAINT,
        summary="a cloud model has no key: {variable} is not set",
        advice="Set {variable} in the env_file.",
    ),
)  # fmt: skip
