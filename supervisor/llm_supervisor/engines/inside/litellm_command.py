"""What LiteLLM's own command does with its configuration before it serves, done by that command itself.

``litellm --config FILE`` copies the database's address and its pool settings to the environment, opens a secret
manager, switches JSON logs on, migrates the database, starts a connection pooler ... and then starts uvicorn. So it is
called here up to that place. Nothing of it is repeated: another version of LiteLLM does other things.

Run in LiteLLM's own environment: standard library, uvicorn and litellm only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

# Options of the command that concern its own server, by their variable. The gateway's daemon decides about these: its
# replicas share one address, are restarted one after the other, and speak plain HTTP to each other.
NOT_HERE = (
    "LIMIT_CONCURRENCY",
    "MAX_REQUESTS_BEFORE_RESTART",
    "MAX_REQUESTS_BEFORE_RESTART_JITTER",
    "PROMETHEUS_METRICS_PORT",
    "SSL_CERTFILE_PATH",
    "SSL_KEYFILE_PATH",
)
SERVER_OPTIONS = ("log_config", "log_level", "server_header", "timeout_keep_alive")
DATABASE_PATIENCE = 5.0  # seconds that the database may take to accept a connection
DATABASE_WAIT = 30.0  # seconds that it is waited for: it may be starting, too. The next start waits again
PULSE = 2.0  # seconds between two lines about a migration that goes on
DATABASE_AWAY = 3  # exit status


def prepare(config_file: str, migrated: str | None) -> dict[str, Any]:
    """Let the command prepare this process for ``config_file``, its database included.

    Returns the options that it would start uvicorn with, those of ``SERVER_OPTIONS``. ``migrated`` is the file in which
    the replicas note which database was migrated, so that one of them does it and the others wait; None leaves the
    database as it is (for a trial of a configuration). Raises SystemExit where the command ends by itself.
    """
    use_own_programs()
    folder, before = os.getcwd(), list(sys.path)
    cli = importlib.import_module("litellm.proxy.proxy_cli")
    if folder not in before and folder in sys.path:
        sys.path.remove(folder)  # the command imports from the folder that it is started in; nobody chose ours
    migrate_once(migrated)
    words = ["--config", config_file, "--host", "127.0.0.1", "--port", "1", "--num_workers", "1"]
    with without_server_options(), instead_of_serving() as said:
        cli.run_server.main(words, prog_name="litellm", standalone_mode=False)
    return {name: said[name] for name in SERVER_OPTIONS if name in said}


def use_own_programs() -> None:
    """Let the programs of this environment be found first: the database's client calls `prisma` by its name, and that
    finds its engines where `install` has put them."""
    engines = os.path.join(sys.prefix, "prisma")
    if os.path.isdir(engines):
        os.environ.setdefault("PRISMA_BINARY_CACHE_DIR", engines)
    own = os.path.dirname(sys.executable)
    path = os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = os.pathsep.join((own, path))


@contextlib.contextmanager
def without_server_options() -> Iterator[None]:
    """Hide the variables of ``NOT_HERE`` from the command; those that are set are named in the log."""
    hidden = {name: value for name in NOT_HERE if (value := os.environ.pop(name, None)) is not None}
    if hidden:
        print(f"llm-supervisor: {', '.join(sorted(hidden))} has no effect on the gateway's server", flush=True)
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def instead_of_serving() -> Iterator[dict[str, Any]]:
    """What the command calls uvicorn with at its end, in place of a server that it would start."""
    import uvicorn

    said: dict[str, Any] = {}
    run = uvicorn.run
    uvicorn.run = lambda *_, **options: said.update(options)
    try:
        yield said
    finally:
        uvicorn.run = run


# The database ------------------------------------------------------------------------------------------------


def migrate_once(migrated: str | None) -> None:
    """Let the command's migration, and its comparison of the schema, be done by one replica for all. It also waits for
    the building of indexes, which then goes on while this replica serves."""
    prisma_client: Any = importlib.import_module("litellm.proxy.db.prisma_client")
    check_migration: Any = importlib.import_module("litellm.proxy.db.check_migration")
    manager = prisma_client.PrismaManager
    setup, compare = manager.setup_database, check_migration.check_prisma_schema_diff
    build = getattr(manager, "start_request_log_index_build", None)
    did_it = False

    def once(what: str, do: Callable[..., Any], *args: Any, **options: Any) -> Any:
        nonlocal did_it
        if migrated is None:
            return True
        name = f"{what} {database_identity()}"
        if not is_done(migrated, name):
            require_database()
        with turn(migrated):
            if is_done(migrated, name):
                return True
            with told(what):
                done = do(*args, **options)
            if done is not False:
                did_it = True
                write_notes(migrated, {**notes(migrated), name: migrations_applied() or 0})
            return done

    def build_indexes() -> None:
        if did_it and build is not None:
            build()

    manager.setup_database = staticmethod(lambda **options: once("migrated", setup, **options))
    check_migration.check_prisma_schema_diff = lambda *args, **options: once("compared", compare, *args, **options)
    if build is not None:
        manager.start_request_log_index_build = staticmethod(build_indexes)


def require_database() -> None:
    """Wait until something accepts connections at the database's address, and end this process with the reason where
    nothing does. The command itself would try a few times in a minute, and would not say which address it tries."""
    for variable in ("DIRECT_URL", "DATABASE_URL"):
        address = address_of(os.environ.get(variable) or "")
        end = time.monotonic() + DATABASE_WAIT
        while address is not None and (why := refusal_of(address)):
            if time.monotonic() >= end:
                where = f"`{address[0]}`:`{address[1]}`"
                print(f"Can't reach database server at {where} ({why})", file=sys.stderr, flush=True)
                raise SystemExit(DATABASE_AWAY)
            print(f"llm-supervisor: waiting for the database at {address[0]}:{address[1]}", flush=True)
            time.sleep(min(PULSE, DATABASE_WAIT))


def refusal_of(address: tuple[str, int]) -> str:
    """Why a connection to that address does not come about; empty where it does."""
    try:
        socket.create_connection(address, DATABASE_PATIENCE).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def address_of(url: str) -> tuple[str, int] | None:
    """The host and the port of a database's URL; None where it has none, as on a unix socket."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or any(key == "host" for key, _ in parse_qsl(parts.query)):
            return None
        return parts.hostname, parts.port or 5432
    except ValueError:
        return None  # prisma will say so


def database_identity() -> str:
    """A digest of what a migration depends on: which database and schema, and the versions that migrate it. Without the
    password, which may be another token at every start."""
    parts = []
    for variable in ("DATABASE_URL", "DIRECT_URL"):
        url = urlsplit(os.environ.get(variable) or "")
        schema = [value for key, value in parse_qsl(url.query) if key in ("schema", "host")]
        parts += [variable, url.netloc.rpartition("@")[2], url.path, *schema]
    for distribution in ("litellm", "litellm-proxy-extras", "prisma"):
        try:
            parts.append(importlib.metadata.version(distribution))
        except importlib.metadata.PackageNotFoundError:
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_done(file: str, name: str) -> bool:
    """Whether that was done already. A database that has fewer migrations than then was made anew, or restored."""
    noted = notes(file).get(name)
    if noted is None:
        return False
    applied = migrations_applied()
    return applied is None or applied >= noted


def notes(file: str) -> dict[str, int]:
    """What was done to which databases, and how many migrations each had then; nothing where nothing was done."""
    try:
        with open(file, encoding="utf-8") as written:
            said = json.load(written)
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def write_notes(file: str, said: dict[str, int]) -> None:
    """Write the notes so that a reader sees the former ones or these."""
    with open(f"{file}.new", "w", encoding="utf-8") as written:
        json.dump(said, written)
    os.replace(f"{file}.new", file)


@contextlib.contextmanager
def turn(file: str) -> Iterator[None]:
    """One replica at a time. The kernel ends the turn of one that dies."""
    lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        said = 0.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= said + PULSE:
                    said = time.monotonic()
                    print("llm-supervisor: waiting for the replica that migrates the database", flush=True)
                time.sleep(0.1)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Print how far a migration is, as long as it goes on: LiteLLM shows prisma's output at its end."""
    if what != "migrated":
        yield
        return
    over = threading.Event()
    total = migrations_there()

    def tell() -> None:
        while True:
            done = migrations_applied()
            far = f" {min(done, total)}/{total}" if done is not None and total else ""
            print(f"llm-supervisor: migrating the database{far}", flush=True)
            if over.wait(PULSE):
                return

    teller = threading.Thread(target=tell, name="migration", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join(DATABASE_PATIENCE)


def migrations_there() -> int:
    """How many migrations LiteLLM brings."""
    try:
        extras = importlib.import_module("litellm_proxy_extras")
        folder = os.path.join(os.path.dirname(extras.__file__ or ""), "migrations")
        return sum(entry.is_dir() for entry in os.scandir(folder))
    except (ImportError, OSError):
        return 0


def migrations_applied() -> int | None:
    """How many of them the database has; None where it cannot be asked. It is not asked through LiteLLM, which has no
    connection yet."""
    url = urlsplit(os.environ.get("DIRECT_URL") or os.environ.get("DATABASE_URL") or "")
    query = dict(parse_qsl(url.query))
    try:
        psycopg = importlib.import_module("psycopg")
        sql = importlib.import_module("psycopg.sql")
        table = sql.Identifier(query.get("schema", "public"), "_prisma_migrations")
        with psycopg.connect(
            host=query.get("host") or url.hostname,
            port=url.port or 5432,
            user=unquote(url.username or ""),
            password=unquote(url.password or ""),
            dbname=unquote(url.path.lstrip("/")),
            connect_timeout=int(DATABASE_PATIENCE),
            **{name: query[name] for name in ("sslmode", "sslrootcert") if name in query},
        ) as connection:
            count = sql.SQL("SELECT count(*) FROM {} WHERE finished_at IS NOT NULL").format(table)
            return int(connection.execute(count).fetchone()[0])
    except Exception as error:
        # Another kind of login, perhaps: then it is only shown that a migration goes on
        return 0 if type(error).__name__ == "UndefinedTable" else None
