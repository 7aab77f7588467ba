"""LiteLLM's failures: of its configuration, its packages, its database and Redis, and its port.

Messages as LiteLLM 1.106, litellm-proxy-extras, prisma, redis-py, PyYAML, click and uvicorn raise them.
"""

from __future__ import annotations

import re

from llm_supervisor.diagnosis.pattern import Rank, row
from llm_supervisor.diagnosis.tables import litellm_complaints

# LiteLLM logs its upstreams' errors with their tracebacks; those of requests never say why the process ended
REQUEST_HEADS = (
    "Exception in ASGI application",
    "_handle_llm_api_exception()",
    "Exception occured",
    "Error creating deployment",
    "Got exception from REDIS",
)
MARKS = re.compile(r"LiteLLM|litellm")
# the second is said by each worker
BEGINS = tuple(re.compile(rf"INFO:\s{{1,10}}Started {of} process \[") for of in ("parent", "server"))
SERVES = re.compile(r'\S{1,100} - "(?:GET|POST) /\S{0,200} HTTP/1\.1" 2\d\d|Uvicorn running on ')
READY = "Application startup complete."
LEAVING = ("Shutting down",)

_CONFIG = re.compile(r"general_settings\.master_key in (\S{1,300}?\.ya?ml)")


def facts(text: str) -> dict[str, str]:
    """What the log says about the run itself: ``config``, the file that the master key is read from."""
    start = text.find("general_settings.master_key in ")
    found = _CONFIG.match(text, start) if start >= 0 else None
    return {"config": found[1]} if found else {}


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

CONFIGURATION = (
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

PACKAGES = (
    row(
        "database_driver_missing", "",
        r"No module named 'prisma'|Unable to find Prisma binaries|The Client hasn't been generated "
        r"yet|BinaryNotFoundError|MismatchedVersionsError",
        permanent=True, rank=Rank.CAUSE,
        summary="a database is configured, and prisma is not installed or not generated",
        advice=(
            "Install litellm[extra_proxy] into LiteLLM's environment and run `prisma generate` there, or remove "
            "DATABASE_URL."
        ),
    ),
    row(
        "database_driver_missing", "prisma CLI is neither on PATH", permanent=True, where="line",
        summary="a database is configured, and prisma is not installed",
        advice=(
            "Install litellm[extra_proxy] into LiteLLM's environment and run `prisma generate` there, or remove "
            "DATABASE_URL."
        ),
    ),
    row(
        "package_missing", "not installed, try running",
        r"(?P<what>[\w \-]{1,60}) not installed, try running ['`\"]pip install (?P<package>[\w\-\[\]<>=.]{2,80})",
        permanent=True,
        summary="{package} is not installed, which {what} needs",
        advice="Install {package} into LiteLLM's environment, or remove the callback that needs it.",
    ),
    row(
        "package_missing", "Missing dependency", r"Missing dependency No module named '(?P<package>[\w.]{1,100})'",
        permanent=True,
        summary="{package} is not installed: LiteLLM is there without its proxy",
        advice="Install litellm[proxy] (llm-supervisor install makes the whole environment); {package} comes with it.",
    ),
    row(
        "dependency_mismatch", "",
        r"cannot import name '(?P<name>\w{1,80})' from "
        r"'(?P<package>(?:fastapi|starlette|uvicorn|pydantic|openai|httpx|anyio|redis)[\w.]{0,100})'|TypeError: "
        r"(?P<call>(?:FastAPI|APIRouter|Starlette|Router|Mount)\S{0,40}\(\)) got an unexpected keyword argument "
        r"'(?P<argument>\w{1,60})'",
        permanent=True,
        summary=(
            "{name} is not in {package}: a version that this LiteLLM does not know",
            "{call} takes no {argument}: another version than LiteLLM expects",
        ),
        advice=(
            "Make LiteLLM's environment anew from its lock file (llm-supervisor install): a package was upgraded "
            "alone."
        ),
    ),
)  # fmt: skip

_DATABASE = (
    "Check that it runs and that host, port and password of DATABASE_URL are right; LiteLLM is started again when it "
    "is there."
)
SERVICES = (
    row(
        "database_unreachable", "reach database server",
        r"[Cc]an(?:'t|not) reach database server at `?(?P<host>[^`\s:]{1,200})`?:?`?(?P<port>\d{1,5})?",
        permanent=False, busy=True,
        summary=("the database at {host}:{port} cannot be reached", "the database at {host} cannot be reached"),
        advice=_DATABASE,
    ),
    row(
        "database_unreachable", "reach database server",
        r"[Cc]an(?:'t|not) reach database server at `?(?P<host>[^`\s:]{1,200})`?:?`?(?P<port>\d{1,5})?",
        permanent=False, busy=True, where="line", rank=Rank.COARSE,
        summary=("the database at {host}:{port} cannot be reached", "the database at {host} cannot be reached"),
        advice=_DATABASE,
    ),
    row(
        "database_refused", "",
        r"P1000: Authentication failed against (?:the )?database server|P1003: Database|P1010: User|permission "
        r"denied for (?:schema|table|database)|password "
        r"authentication "
        r"failed for user|database \"[^\"\n]{1,80}\" does not exist|no pg_hba\.conf entry",
        permanent=True, where="line",
        summary="the database refuses user, password or name",
        advice="Correct user, password and name of the database in DATABASE_URL.",
    ),
    row(
        "database_url", "the URL must start with the protocol", permanent=True, where="line",
        summary="DATABASE_URL does not begin with postgresql://",
        advice="Correct DATABASE_URL.",
    ),
    row(
        "migration_failed", "", r"^(?:Error: )?(?P<code>P30(?:05|06|09|18))\b",
        permanent=True, where="line", rank=Rank.COARSE,
        summary="a migration of the database's schema failed before ({code})",
        advice="Resolve it by hand in _prisma_migrations (prisma migrate resolve); a restart never heals it.",
    ),
    row(
        "database_unreachable", "",
        r"the database system is (?:starting up|shutting down|in recovery mode)|sorry, too many "
        r"clients already|remaining connection slots are reserved|server closed the connection unexpectedly|Timed "
        r"out fetching "
        r"a new connection|EngineConnectionError|advisory lock",
        permanent=False, busy=True, phase="start",
        summary="the database is not ready for LiteLLM yet",
        advice=_DATABASE,
    ),
    row(
        "database_refused", "",
        r"Authentication failed against (?:the )?database server(?: at `(?P<host>[^`\n]{1,100})`)?|password "
        r"authentication failed for user|Database `(?P<name>[^`\n]{1,100})` does not exist",
        permanent=True,
        summary=("the database refuses user or password", "the database {name} does not exist"),
        advice="Correct user, password and name of the database in DATABASE_URL.",
    ),
    row(
        "database_url", "", r"the URL must start with the protocol[^\n]{0,80}",
        permanent=True,
        summary="DATABASE_URL does not begin with postgresql://",
        advice="Correct DATABASE_URL.",
    ),
    row(
        "database_unreachable", "",
        r"Could not connect to the query engine|(?:httpx\.)?Connect(?:Error|Timeout): "
        r"[^\n]{0,100}|NotConnectedError|ClientNotConnectedError|httpx\.Read(?:Error|Timeout)",
        permanent=False, busy=True, frames=r"prisma|setup_prisma_client",
        summary="the database cannot be reached: prisma's query engine does not answer",
        advice=_DATABASE,
    ),
    row(
        "migration_failed", "Database migration cannot proceed",
        r"Database migration cannot proceed\. (?P<detail>[^\n]{1,300})",
        permanent=True, where="line",
        when=lambda values: "made no progress" not in values["detail"],
        summary="the database's schema cannot be migrated: {detail}",
        advice=(
            "Look at the failed migration in the table _prisma_migrations and resolve it by hand; a restart never "
            "heals it."
        ),
    ),
    row(
        "migration_timeout", "attempts that made no progress", permanent=False, where="line",
        summary="the migration of the database's schema timed out",
        advice=(
            "Raise LITELLM_PRISMA_MIGRATE_DEPLOY_TIMEOUT, or run the migration once by itself while LiteLLM is "
            "stopped."
        ),
    ),
    row(
        "migration_failed", "", r"(?:Error: )?(?P<code>P30(?:09|18))\b",
        permanent=True, rank=Rank.COARSE,
        summary="a migration of the database's schema failed before ({code})",
        advice="Resolve it by hand in _prisma_migrations (prisma migrate resolve); a restart never heals it.",
    ),
    row(
        "database_unreachable", "Database setup failed after multiple retries", permanent=False, busy=True,
        where="line", rank=Rank.COARSE,
        summary="the database could not be set up",
        advice=_DATABASE,
    ),
    row(
        "redis_unreachable", "",
        r"(?:redis\.exceptions\.)?(?:ConnectionError|TimeoutError): (?:Error (?P<code>-?\d{1,4}) connecting to "
        r"(?P<address>\S{1,200}?)\.(?:\s|$)|Timeout connecting to server)",
        permanent=False, busy=True, frames=r"redis",
        summary=("Redis at {address} cannot be reached", "Redis cannot be reached"),
        advice="Start Redis, or correct its host and port in the configuration.",
    ),
    row(
        "worker_loop", "Child process", r"^Child process \[(?P<pid>\d{1,9})\] died",
        permanent=False, where="notice", rank=Rank.SYMPTOM,
        summary="uvicorn's workers die or answer too late, again and again ({pid} first)",
        advice=(
            "Use one worker per process (gateway: replicas: N makes more processes), or "
            "--timeout_worker_healthcheck 60."
        ),
    ),
    row(
        "startup_failed", "Application startup failed. Exiting.", permanent=None, where="line", rank=Rank.SYMPTOM,
        summary="LiteLLM's application did not start",
        advice="The exception before that line is the cause.",
    ),
)  # fmt: skip

ROWS = CONFIGURATION + PACKAGES + SERVICES + litellm_complaints.ROWS
