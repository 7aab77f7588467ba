"""What a replica has of LiteLLM's own command before it serves, with the real LiteLLM: its environment, and how it
writes. LiteLLM is imported once; each configuration is prepared in a process that is forked from there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.engines import environment as envs
from tests.engines.conftest import Engines

URL = "postgresql://litellm:x@127.0.0.1:5432/litellm"
POOL = "connection_limit=10&pool_timeout=60"
IDLE = "max_idle_connection_lifetime=60"

# LiteLLM's own file, its environment, and what is so before it serves
CASES: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "nothing": ({}, {}, {"url": None, "json": False, "given": ["server_header"]}),
    "database_url": ({"general_settings": {"database_url": URL}}, {}, {"url": f"{URL}?{POOL}&{IDLE}"}),
    "database_url by reference": (
        {"general_settings": {"database_url": "os.environ/DB_URL"}}, {"DB_URL": URL}, {"url": f"{URL}?{POOL}&{IDLE}"},
    ),
    "DATABASE_URL": ({}, {"DATABASE_URL": URL}, {"url": f"{URL}?{POOL}&{IDLE}"}),
    "its parts": (
        {},
        {
            "DATABASE_HOST": "127.0.0.1:5432",
            "DATABASE_USERNAME": "litellm",
            "DATABASE_PASSWORD": "x",
            "DATABASE_NAME": "litellm",
        },
        {"url": f"{URL}?{POOL}&{IDLE}"},
    ),
    "settings of the pool": (
        {
            "general_settings": {
                "database_url": URL,
                "database_connection_pool_limit": 7,
                "database_connection_timeout": 20,
                "database_socket_timeout": 5,
            }
        },
        {},
        {"url": f"{URL}?connection_limit=7&pool_timeout=20&socket_timeout=5&{IDLE}"},
    ),
    "json_logs": (
        {"litellm_settings": {"json_logs": True}}, {}, {"json": True, "given": ["log_config", "server_header"]},
    ),
    "LITELLM_LOG": ({}, {"LITELLM_LOG": "DEBUG"}, {"given": ["log_level", "server_header"]}),
    "KEEPALIVE_TIMEOUT": ({}, {"KEEPALIVE_TIMEOUT": "20"}, {"given": ["server_header", "timeout_keep_alive"]}),
    "options of its own server": (
        {}, {"SSL_KEYFILE_PATH": "/k", "SSL_CERTFILE_PATH": "/c", "NUM_WORKERS": "8", "LIMIT_CONCURRENCY": "1"},
        {"given": ["server_header"]},
    ),
    "another address": ({"general_settings": {"database_url": "mysql://a/b"}}, {}, {"exit": 1}),
    "a manager of secrets that is not there": (
        {"general_settings": {"key_management_system": "google_kms"}}, {}, {"fails": "No module named 'google'"},
    ),
}  # fmt: skip

PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import litellm.proxy.proxy_server
import litellm_command
for name, file, environ in json.load(sys.stdin):
    sys.stdout.flush()
    read, write = os.pipe()
    if os.fork() == 0:
        os.environ.update(environ)
        try:
            given = litellm_command.prepare(file, None)
            import litellm
            said = {"url": os.environ.get("DATABASE_URL"), "json": litellm.json_logs, "given": sorted(given)}
        except SystemExit as end:
            said = {"exit": end.code}
        except Exception as error:
            said = {"fails": str(error)}
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        print("SAID", json.dumps([name, json.load(told)]), flush=True)
    os.wait()
"""


@pytest.fixture(scope="module")
def said(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each case."""
    folder = tmp_path_factory.mktemp("start")
    prisma = folder / "prisma"
    prisma.symlink_to("/bin/true")  # that there is one is all that is looked at
    jobs = []
    for number, (name, (native, environ, _)) in enumerate(CASES.items()):
        file = folder / f"{number}.yaml"
        file.write_text(yaml.safe_dump({"model_list": [], **native}))
        jobs.append([name, str(file), environ])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "DATABASE_"))}
    done = subprocess.run(
        [engines.litellm, "-c", PROGRAM, str(Path(envs.INSIDE))],
        input=json.dumps(jobs), capture_output=True, text=True, timeout=120, check=True,
        env={**kept, "PATH": f"{folder}:{kept['PATH']}", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    lines = [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]
    return dict(map(json.loads, lines))


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_after_the_command(said: dict[str, Any], name: str) -> None:
    expected = CASES[name][2]
    if "fails" in expected:
        assert expected["fails"] in said[name].get("fails", ""), said[name]
    else:
        assert {key: said[name].get(key) for key in expected} == expected, said[name]
