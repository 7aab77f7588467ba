"""The real LiteLLM with a database: PostgreSQL, prisma's own client and engine, and LiteLLM's own migrations.

Two of prisma's programs come from binaries.prisma.sh alone, which not every machine reaches. What takes their place is
in ``tests/support/prisma_engine``: the query engine as the npm registry has it, and ``migrate deploy``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llm_supervisor.engines import environment as envs
from llm_supervisor.engines.litellm.packages import PRISMA, PROMETHEUS
from tests.engines.conftest import ROOT
from tests.support import postgres
from tests.support.harness import Daemon, free_port
from tests.support.postgres import Postgres

SOURCE = ROOT / "tests/support/prisma_engine"
BUILT = ROOT / ".demo/prisma-engine"
MASTER_KEY = "sk-master-of-the-test"
REPLICAS = ("gateway", "gateway-2")
WHY = "needs PostgreSQL (Debian: postgresql), node and npm"
HERE = postgres.programs() is not None and shutil.which("node") is not None and shutil.which("npm") is not None
pytestmark = [pytest.mark.real, pytest.mark.skipif(not HERE, reason=WHY)]


@pytest.fixture(scope="module")
def engine() -> Path:
    """prisma's query engine: a program."""
    BUILT.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "query-engine.mjs"):
        shutil.copyfile(SOURCE / name, BUILT / name)
    if not (BUILT / "node_modules/@prisma/client").is_dir():
        words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(words, cwd=BUILT, check=True, timeout=300, capture_output=True)
    return script(BUILT / "query-engine", "node", str(BUILT / "query-engine.mjs"))


def script(path: Path, *command: str) -> Path:
    """A program that is another command."""
    words = " ".join(f'"{word}"' for word in command)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """PostgreSQL."""
    programs = postgres.programs()
    assert programs is not None
    with Postgres(programs) as running:
        yield running


def native(more: dict[str, Any] | None = None) -> dict[str, Any]:
    """LiteLLM's own file. Its models answer from a script."""
    models = {"m": "hello", **(more or {})}
    params = {"model": "openai/m", "api_key": "none"}
    return {
        "model_list": [
            {"model_name": name, "litellm_params": {**params, "mock_response": answer}}
            for name, answer in models.items()
        ],
        "general_settings": {
            "database_url": "os.environ/DB_URL",
            "database_connection_pool_limit": 3,
            "proxy_batch_write_at": 1,
        },
        "litellm_settings": {"callbacks": ["prometheus"]},
    }


@pytest.fixture(scope="module")
def daemon(engine: Path, server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway of two replicas with the database, in an environment that `install` has made for it. The database is
    away when it starts."""
    folder = tmp_path_factory.mktemp("database")
    python = envs.environment("litellm", folder / "home").python
    prisma = script(folder / "prisma", str(python), str(SOURCE / "prisma.py"))
    env = {
        "PRISMA_QUERY_ENGINE_BINARY": str(engine),
        "PRISMA_SCHEMA_ENGINE_BINARY": str(engine),
        "PRISMA_OFFLINE_MODE": "true",  # LiteLLM's own switch for a command that is elsewhere
        "PRISMA_CLI_PATH": str(prisma),
        "PRISMA_CALLS": str(folder / "calls"),
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "DB_URL": server.url,
    }
    fast = {"period": 1, "startup_period": 0.2}
    settings = {
        "gateway": {
            "port": free_port(),
            "replicas": len(REPLICAS),
            "litellm_config": "litellm.yaml",
            "restart": {"backoff": 1, "backoff_cap": 1, "intensity": 1000},
            "health": fast,
        }
    }
    (folder / "litellm.yaml").write_text(yaml.safe_dump(native()))
    made = Daemon(folder, settings, env=env)
    done = made.cli("check", "-c", str(made.config_file))
    assert "llm-supervisor install litellm" in done.stdout, "there is no environment at all yet"
    done = made.cli("install", "litellm", "-c", str(made.config_file), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(envs.additions(envs.environment("litellm", made.home))) == {PRISMA.lock, PROMETHEUS.lock}
    assert "needs" not in made.cli("check", "-c", str(made.config_file)).stderr
    server.stop()
    with made:
        yield made


def client(daemon: Daemon, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=daemon.status()["endpoint"], headers=headers, timeout=60, trust_env=False)


def chats(daemon: Daemon, key: str, model: str = "m") -> tuple[int, str]:
    """How a completion with that key is answered."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    with client(daemon, key) as http:
        answer = http.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.text


def progress(daemon: Daemon) -> str:
    """What the replicas say that they are doing."""
    return " ".join(str(daemon.program(name).get("progress")) for name in REPLICAS)


def migrations(daemon: Daemon) -> int:
    return (daemon.folder / "calls").read_text().splitlines().count("migrate deploy")


def test_a_database_that_is_away_is_waited_for(daemon: Daemon, server: Postgres) -> None:
    """By the start itself, as long as a database takes to start."""
    daemon.wait_up()
    says = f"waiting for the database at 127.0.0.1:{server.port}"
    daemon.wait_for(lambda: says in progress(daemon), "it says so", 90)
    server.start()
    daemon.wait_ready(120)


def test_one_replica_migrated_it_and_showed_how_far_it_was(daemon: Daemon, server: Postgres) -> None:
    assert migrations(daemon) == 1
    said = b"".join(daemon.log(name) for name in REPLICAS)
    assert b"migrating the database 0/" in said
    applied = server.ask("SELECT count(*) FROM _prisma_migrations WHERE finished_at IS NOT NULL")
    assert int(applied) > 200
    assert b"writer connection_limit 3 " in said, "the settings of the pool"


@pytest.fixture(scope="module")
def key(daemon: Daemon) -> str:
    """A virtual key."""
    with client(daemon, MASTER_KEY) as http:
        answer = http.post("/key/generate", json={"models": ["m", "n"], "key_alias": "of-the-test"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["key"])


def test_a_virtual_key_works(daemon: Daemon, key: str) -> None:
    status, text = chats(daemon, key)
    assert status == 200 and "hello" in text, text
    assert chats(daemon, "sk-nobody-made-this")[0] == 401


def test_spend_is_written(daemon: Daemon, server: Postgres, key: str) -> None:
    chats(daemon, key)
    daemon.wait_for(lambda: int(server.ask('SELECT count(*) FROM "LiteLLM_SpendLogs"')) > 0, "a row of spend", 60)


def test_the_admin_can_log_in(daemon: Daemon) -> None:
    with client(daemon, "") as http:
        answer = http.post("/v2/login", json={"username": "admin", "password": MASTER_KEY})
        assert answer.status_code == 200 and "token" in answer.text, answer.text
        assert http.post("/v2/login", json={"username": "admin", "password": "wrong"}).status_code == 401


def test_prometheus_is_there(daemon: Daemon) -> None:
    with client(daemon, MASTER_KEY) as http:
        answer = http.get("/metrics/")
    assert answer.status_code == 200 and "litellm_" in answer.text


def test_a_key_survives_killed_replicas(daemon: Daemon, key: str) -> None:
    for name in REPLICAS:
        before = daemon.program(name)
        os.kill(before["pid"], signal.SIGKILL)
        daemon.wait_for(lambda name=name, n=before["restarts"]: daemon.program(name)["restarts"] > n, "its end")
        daemon.wait(name, state="RUNNING", health="ready")
        assert chats(daemon, key)[0] == 200
    assert migrations(daemon) == 1


def test_a_key_survives_a_reload(daemon: Daemon, key: str) -> None:
    (daemon.folder / "litellm.yaml").write_text(yaml.safe_dump(native({"n": "from the new one"})))
    done = daemon.cli("reload")
    assert done.returncode == 0, done.stderr
    daemon.wait_ready()
    status, text = chats(daemon, key, "n")
    assert status == 200 and "from the new one" in text, text
    assert migrations(daemon) == 1


def test_a_database_that_is_lost_degrades_by_name(daemon: Daemon, server: Postgres, key: str) -> None:
    before = {name: daemon.program(name)["restarts"] for name in REPLICAS}
    server.stop()
    try:
        seen = daemon.wait("gateway", timeout=60, state="RUNNING", health="degraded")
        assert "database" in seen["reason"] and f"127.0.0.1:{server.port}" in seen["reason"]
    finally:
        server.start()
    daemon.wait_ready(120)
    daemon.wait_for(lambda: chats(daemon, key)[0] == 200, "the key works again", 60)
    assert {name: daemon.program(name)["restarts"] for name in REPLICAS} == before


def test_nothing_of_a_replica_is_left(daemon: Daemon) -> None:
    """prisma's engine is a process of its own, which does not end with a replica that is killed."""
    engines = {pid: cookie for pid, cookie in daemon.children().items() if b"query-engine.mjs" in command_of(pid)}
    present = {f"{name}/{daemon.program(name)['incarnation']}" for name in REPLICAS}
    assert set(engines.values()) == present


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
