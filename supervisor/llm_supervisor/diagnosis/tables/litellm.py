"""LiteLLM: how its log is read, and its failures that are about its packages, its database and Redis, and its port.
Those of its configuration are in ``litellm_config``, what it complains about while it serves in ``litellm_complaints``.

Messages as LiteLLM 1.106, litellm-proxy-extras, prisma, redis-py, PyYAML, click and uvicorn raise them.
"""

from __future__ import annotations

import re

from llm_supervisor.diagnosis.pattern import Rank, row
from llm_supervisor.diagnosis.tables import litellm_complaints, litellm_config

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


PACKAGES = (
    row(
        "database_driver_missing", "",
        r"No module named 'prisma'|Unable to find Prisma binaries|The Client hasn't been generated "
        r"yet|BinaryNotFoundError|MismatchedVersionsError",
        permanent=True, rank=Rank.CAUSE,
        summary="a database is configured, and prisma is not installed or not generated",
        advice=(
            "llm-supervisor install -c FILE, FILE being the configuration, brings it; an environment of your own needs "
            "litellm[extra_proxy] and `prisma generate`. Or remove DATABASE_URL."
        ),
    ),
    row(
        "database_driver_missing", "prisma CLI is neither on PATH", permanent=True, where="line",
        summary="a database is configured, and prisma is not installed",
        advice=(
            "llm-supervisor install -c FILE, FILE being the configuration, brings it; an environment of your own needs "
            "litellm[extra_proxy] and `prisma generate`. Or remove DATABASE_URL."
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
        "migration_timeout", "",
        r"Timed out trying to acquire a postgres advisory lock|waiting for Prisma's migration advisory "
        r"lock|P1002\b",
        permanent=False, busy=True, where="line", rank=Rank.COARSE,
        summary="another process migrates the database, or it is too slow",
        advice="It is tried again. If it repeats, raise LITELLM_MIGRATION_LOCK_TIMEOUT.",
    ),
    row(
        "network", "", r"(?:Connect|Read)(?:Error|Timeout)|name resolution|ENOTFOUND|ETIMEDOUT",
        permanent=False, frames=r"prisma/(?:cli|binaries|_node|generator)",
        summary="prisma's programs cannot be downloaded: the network does not answer",
        advice=(
            "Check name resolution, route and HTTPS_PROXY, or bring prisma's programs along "
            "(PRISMA_BINARY_CACHE_DIR)."
        ),
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

ROWS = litellm_config.ROWS + PACKAGES + SERVICES + litellm_complaints.ROWS
