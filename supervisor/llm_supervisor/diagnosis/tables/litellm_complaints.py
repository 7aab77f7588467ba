"""What LiteLLM complains about while it serves on: backends, providers' keys, Redis, its database, guardrails.

None of these ends it, so they are said only of a proxy that lives. Those that are about single requests count only as
long as no later request is answered. Messages as LiteLLM 1.106, redis-py, prisma and the providers' clients write them;
a few of older versions where those differ.
"""

from __future__ import annotations

from typing import Any

from llm_supervisor.diagnosis.pattern import Pattern, Rank, Values, row

_ANSWERED = r'"POST /\S{0,80} HTTP/1\.[01]" 2\d\d'
_GROUP = r"(?:[\s\S]{0,1500}?Received Model Group=(?P<group>[^\s,]{1,100}))?"
_DATABASE_BACK = r"Prisma DB reconnect succeeded"
_DATABASE = (
    "Check that it runs and that host, port and password of DATABASE_URL are right; LiteLLM connects by itself when it "
    "is there. Until then no virtual key is known."
)
_REDIS = "Start Redis, or correct its host and port in the configuration; LiteLLM connects by itself then."


def _complaint(kind: str, needle: str, regex: str | None = None, **fields: Any) -> Pattern:
    return row(kind, needle, regex, where="line", rank=Rank.COMPLAINT, **fields)


def _is_ours(values: Values) -> bool:
    """Whether it is the gateway's own key for a provider that is refused, and not a client's for the gateway."""
    return "LiteLLM Virtual Key" not in values.get("detail", "")


SETTINGS = (
    _complaint(
        "guardrail_left_out", "WITHOUT this guardrail",
        r"Skipping guardrail '(?P<name>[^'\n]{1,120})'[^\n]{0,80}?WITHOUT this guardrail: (?P<why>[^\n]{1,300})",
        permanent=True,
        summary="LiteLLM serves WITHOUT the guardrail {name}: {why}",
        advice="Correct {name} under `guardrails:`; until then its requests are not guarded.",
    ),
    _complaint(
        "guardrail_left_out", "_init_guardrails_in_db",
        r"skipping guardrail '(?P<name>[^'\n]{1,120})'[^\n]{0,120}?: (?P<why>[^\n]{1,300})",
        permanent=True,
        summary="LiteLLM serves WITHOUT the guardrail {name}: {why}",
        advice="Correct {name} in the admin UI; until then its requests are not guarded.",
    ),
    _complaint(
        "master_key_unset", "LITELLM_MASTER_KEY is not set", permanent=True,
        summary="LiteLLM has no master key: everybody may ask, and nobody is an administrator",
        advice="Set LITELLM_MASTER_KEY to a long random one, and general_settings: master_key to it.",
    ),
    _complaint(
        "salt_key_changed", "", r"Did your master_key/salt key change recently|Decryption failed\. Ciphertext failed "
        r"verification|check LITELLM_SALT_KEY",
        permanent=True,
        summary="what is encrypted in the database was encrypted with another LITELLM_SALT_KEY or master key",
        advice=(
            "Set LITELLM_SALT_KEY (or, without one, the master key) back to what it was, or enter these "
            "values anew."
        ),
    ),
    _complaint(
        "license_missing", "",
        r"PREMIUM FEATURE: (?P<what>[^\n.]{1,120})|(?P<other>[^\n]{1,120}?)(?:is an|only) [Ee]nterprise "
        r"[Ff]eature",
        permanent=True,
        summary=("LiteLLM leaves out what wants a licence: {what}", "LiteLLM leaves out what wants a licence"),
        advice="Set LITELLM_LICENSE, or remove the setting.",
    ),
)  # fmt: skip

DATABASE = (
    _complaint(
        "database_busy", "",
        r"Timed out fetching a new connection from the connection pool|sorry, too many clients already|"
        r"remaining connection slots are reserved",
        permanent=False, busy=True, phase="run",
        summary="the database has no connection left for LiteLLM",
        advice=(
            "Raise general_settings: database_connection_pool_limit, or max_connections of PostgreSQL (each replica "
            "has a pool of its own)."
        ),
    ),
    _complaint(
        "database_unreachable", "",
        r"Prisma DB reconnect failed \((?P<times>\d{1,9}) consecutive\)|prisma-query-engine PID \d{1,9} "
        r"(?:exited|gone|is dead)|Attempting Prisma DB reconnect|Client is not connected to the query engine|"
        r"ClientNotConnectedError|Error getting new models from DB|Error getting credentials from DB|[Cc]an(?:'t|"
        r"not) reach "
        r"database server at|DB transport error on read",
        permanent=False, busy=True, phase="run", healed=_DATABASE_BACK,
        summary=(
            "LiteLLM lost its database: {times} attempts to reconnect failed",
            "LiteLLM lost its database",
        ),
        advice=_DATABASE,
    ),
    _complaint(
        "schema_outdated", "", r"(?:column|table) `?(?P<what>[\w.]{1,120})`? does not exist in the current database",
        permanent=True,
        summary="the database's schema is older than this LiteLLM: {what} is missing",
        advice="Run the migrations (restart the gateway with DISABLE_SCHEMA_UPDATE unset), or use the older LiteLLM.",
    ),
    _complaint(
        "database_missing", "", r"Not connected to DB!|No DB Connected|DB not connected\. This endpoint",
        permanent=True, phase="run",
        summary="something asks for virtual keys or the admin UI, and LiteLLM has no database",
        advice="Set DATABASE_URL to a PostgreSQL, or do not use what needs it.",
    ),
)  # fmt: skip

REDIS = (
    _complaint(
        "redis_refused", "",
        r"invalid username-password pair|NOAUTH|Authentication required\.|AUTH <password> called without|"
        r"WRONGPASS|Client sent AUTH, but no password is set|NOPERM",
        permanent=True,
        summary="Redis refuses the password, or wants one; LiteLLM goes on without",
        advice="Correct REDIS_PASSWORD (and REDIS_USERNAME), or cache_params, in the configuration.",
    ),
    _complaint(
        "redis_cluster", "", r"(?:Got exception from REDIS|exception from REDIS|Error:?) ?:? ?(?:MOVED|ASK) \d{1,6} "
        r"(?P<node>[\w.\-]{1,100}:\d{1,5})|MovedError|CROSSSLOT|Redis Cluster cannot be connected|ERR This "
        r"instance has cluster "
        r"support disabled",
        permanent=True,
        summary="Redis is a cluster and is used as a single server, or the other way round",
        advice="Set redis_startup_nodes (or REDIS_CLUSTER_NODES) for a cluster, and host and port for a single server.",
    ),
    _complaint(
        "redis_read_only", "", r"You can't write against a read only replica",
        permanent=False,
        summary="this Redis is a replica that cannot be written to; LiteLLM goes on without",
        advice="Give LiteLLM the primary's address, or use redis_sentinel_nodes.",
    ),
    _complaint(
        "redis_unreachable", "",
        r"CLUSTERDOWN|MASTERDOWN|LOADING Redis is loading|Redis Cluster connection test failed",
        permanent=False, busy=True,
        summary="the Redis cluster is down, or not up yet; LiteLLM goes on without",
        advice=_REDIS,
    ),
    _complaint(
        "redis_full", "", r"OOM command not allowed when used memory|MISCONF Redis is configured to save",
        permanent=False,
        summary="Redis takes nothing more: its memory or its disk is full",
        advice="Raise maxmemory or set maxmemory-policy: allkeys-lru; see its log for its disk.",
    ),
    _complaint(
        "redis_unreachable", "",
        r"(?:Got exception from REDIS|Error connecting to (?:Async|Sync) Redis client)[ :\-]{0,6}(?:Error "
        r"(?P<code>-?\d{1,4}) "
        r"connecting to (?P<address>\S{1,200}?)\.(?:\s|$)|(?P<detail>[^\n]{1,200}))",
        permanent=False, busy=True,
        summary=(
            "Redis at {address} cannot be reached; LiteLLM goes on without",
            "Redis fails: {detail}; LiteLLM goes on without",
        ),
        advice=_REDIS,
    ),
    _complaint(
        "redis_unreachable", "",
        r"Redis circuit breaker OPENED|Redis circuit "
        r"breaker is open|Redis connection test failed|Timeout (?:reading from|connecting to) (?:server|"
        r"(?P<address>\S{1,100}))",
        permanent=False, busy=True, healed=r"Redis circuit breaker CLOSED",
        summary=("Redis at {address} is slow or gone; LiteLLM goes on without",
        "Redis is slow or gone; LiteLLM goes on without"),
        advice=_REDIS,
    ),
)  # fmt: skip

# What a provider answered, in the line that LiteLLM logs for a request that failed
PROVIDERS = (
    _complaint(
        "unset_key", "",
        r"(?:api_key client option must be set[^\n]{0,80}?setting the |no key is set[^\n]{0,120}?[Pp]lease set "
        r"`?|[Mm]issing API key[^\n]{0,60}?)(?P<variable>[A-Z][A-Z0-9_]{2,60})" + _GROUP,
        permanent=True, phase="run",
        summary="a provider has no key: {variable} is not set",
        advice=("Set {variable}, or api_key of the group {group}.", "Set {variable} in the env_file."),
    ),
    _complaint(
        "unset_key", "",
        r"Missing (?P<provider>\w{1,40}) API Key|Unable to locate credentials|default credentials were not "
        r"found|Could not load credentials|NoCredentialsError|You didn't provide an API key|x-api-key header is "
        r"required|No "
        r"API key (?:found|provided)",
        permanent=True, phase="run",
        summary=("{provider} has no key", "a provider's credentials are not there"),
        advice="Set the key or the credentials that this provider wants in the env_file, or api_key in litellm_params.",
    ),
    _complaint(
        "provider_key_refused", "",
        r"(?P<detail>Incorrect API key provided|invalid x-api-key|Invalid API [Kk]ey|invalid api "
        r"key|API key (?:not valid|expired|is invalid)|Access denied due to invalid subscription key|security "
        r"token included in "
        r"the request is (?:invalid|expired)|litellm\.AuthenticationError: (?:AuthenticationError: "
        r")?\w{1,40}Exception - "
        r"[^\n]{0,200})" + _GROUP,
        permanent=True, phase="run", when=_is_ours,
        summary=("the provider of {group} refuses the key", "a provider refuses the key"),
        advice="Put a key that is valid into the variable that its api_key names, and restart the gateway.",
    ),
    _complaint(
        "provider_no_credit", "",
        r"exceeded your current quota|insufficient_quota|credit balance is too low|Insufficient "
        r"Balance|billing_hard_limit_reached",
        permanent=True, phase="run",
        summary="a provider's account has no credit left",
        advice="Pay, or route the group to another provider (fallbacks).",
    ),
    _complaint(
        "provider_rate_limited", "RateLimitError", r"litellm\.RateLimitError: (?P<detail>[^\n]{1,200})",
        permanent=False, phase="run", healed=_ANSWERED,
        summary="a provider limits the rate of requests: {detail}",
        advice="It heals by itself. Set rpm and tpm of the group, or fallbacks.",
    ),
    _complaint(
        "backend_model_missing", "",
        r"litellm\.NotFoundError: [^\n]{0,200}?[Mm]odel `?'?(?P<model>[\w./:\-]{1,150})`?'? (?:does not "
        r"exist|not found)" + _GROUP,
        permanent=True, phase="run",
        summary=("the backend of {group} has no model {model}", "a backend has no model {model}"),
        advice="Correct `model:` in litellm_params to a name that the backend lists (GET /v1/models there).",
    ),
    _complaint(
        "backend_model_missing", "",
        r"(?:API deployment for this resource does not exist|model identifier is invalid|is not found "
        r"for API version)" + _GROUP,
        permanent=True, phase="run",
        summary=("the provider of {group} has no such model", "a provider has no such model"),
        advice="Correct `model:` (for Azure the deployment's name, api_base and api_version) in litellm_params.",
    ),
    _complaint(
        "backend_unreachable", "",
        r"No deployments available for selected model[^\n]{0,120}?Passed model=(?P<group>[^\s,]{1,100}?)\.?(?:\s|$)",
        permanent=False, phase="run", healed=_ANSWERED,
        summary="every deployment of {group} has failed and cools down",
        advice="Look why its backend fails; LiteLLM tries it again by itself.",
    ),
    _complaint(
        "backend_unreachable", "",
        r"(?:InternalServerError|APIConnectionError|ServiceUnavailableError|"
        r"BadGatewayError)\b[^\n]{0,300}?(?:Connection error|"
        r"Cannot connect to host (?P<host>\S{1,120})|Connection refused|All connection attempts failed|Server "
        r"disconnected|"
        r"Service Unavailable|Bad Gateway|EngineCore encountered an issue|Name or service not known)" + _GROUP,
        permanent=False, phase="run", healed=_ANSWERED,
        summary=(
            "the backend of {group} refuses connections, or is gone",
            "the backend {host} refuses connections, or is gone",
            "a backend refuses connections, or is gone",
        ),
        advice="Start the backend, or correct api_base; LiteLLM reaches it by itself when it is there.",
    ),
    _complaint(
        "backend_unreachable", "",
        r"litellm\.(?:ServiceUnavailableError|BadGatewayError|APIConnectionError|InternalServerError): "
        r"(?P<detail>[^\n]{1,160})"
        + _GROUP,
        permanent=False, phase="run", healed=_ANSWERED,
        summary=("the backend of {group} fails: {detail}", "a backend fails: {detail}"),
        advice="See that backend's own log; LiteLLM tries it again by itself.",
    ),
    _complaint(
        "backend_unreachable", "litellm.Timeout", r"litellm\.Timeout: [^\n]{0,300}" + _GROUP,
        permanent=False, phase="run", healed=_ANSWERED,
        summary=("the backend of {group} does not answer in time", "a backend does not answer in time"),
        advice=(
            "See whether the backend is overloaded or hangs; `timeout` in litellm_params is how long it is "
            "waited for."
        ),
    ),
)  # fmt: skip

ROWS = (*SETTINGS, *DATABASE, *REDIS, *PROVIDERS)
