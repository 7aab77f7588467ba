"""A full run, with everything that can go wrong on the way: every key is in ``keys.env`` and nowhere else."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.engines.conftest import ALIAS, Engines, config
from tests.support.harness import Daemon
from tests.support.programs import free_port

SECRETS = {
    "LITELLM_MASTER_KEY": "sk-of-the-gateway-8d1f0a7c55e94b27",
    "ENGINE_KEY": "key-of-the-engine-3b9e6f2d71",
    "OPENAI_API_KEY": "sk-proj-of-a-cloud-5a40c98e1f",
    "HF_TOKEN": "hf_OfTheHub77c2d05b3e",
}
CLOUD: dict[str, Any] = {"model": "openai/gpt-5", "api_key": "os.environ/OPENAI_API_KEY"}


def leaks(what: str, content: str | bytes) -> list[str]:
    """Which of the keys are in it."""
    raw = content.encode(errors="replace") if isinstance(content, str) else content
    return [f"{name} in {what}" for name, value in SECRETS.items() if value.encode() in raw]


def files_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                yield path
        except FileNotFoundError:
            continue


def command_lines() -> Iterator[tuple[str, bytes]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield folder.name, (folder / "cmdline").read_bytes()
        except OSError:
            continue


@pytest.fixture(scope="module")
def daemon(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("secrets")
    keys = folder / "keys.env"
    keys.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    keys.chmod(0o600)
    nobody = f"http://127.0.0.1:{free_port()}/v1"  # the cloud cannot be reached: LiteLLM says so at length
    native = {"model_list": [{"model_name": "cloud", "litellm_params": {**CLOUD, "api_base": nobody}}]}
    (folder / "litellm.yaml").write_text(yaml.safe_dump(native))
    settings = config(engines, env_file="keys.env")
    settings["gateway"]["litellm_config"] = "litellm.yaml"
    model = settings["models"][ALIAS]
    model["env"] = {"VLLM_API_KEY": "${ENGINE_KEY}"}
    # nobody else on this machine reaches the engine, and a proxy that is on the way out is not asked for the way in
    del model["port"]
    model["uds"] = True
    proxy = f"http://127.0.0.1:{free_port()}"
    with Daemon(folder, settings, env={"TMPDIR": str(folder), "HTTP_PROXY": proxy, "http_proxy": proxy}) as running:
        running.wait_ready(timeout=300)
        yield running


def test_a_key_is_in_one_place(daemon: Daemon) -> None:
    found: list[str] = []
    said = 0

    def look(what: str, content: str | bytes) -> None:
        nonlocal said
        said += len(content)
        found.extend(leaks(what, content))

    def look_everywhere(when: str) -> None:
        for path in files_below(daemon.folder):
            if path.name != "keys.env":
                look(f"{path}, {when}", path.read_bytes())
        for pid, line in command_lines():
            look(f"the command line of {pid}, {when}", line)

    def cli(*words: str, code: int | None = 0) -> None:
        done = daemon.cli(*words, timeout=300)
        assert code is None or done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        look(f"what {' '.join(words)} prints", done.stdout + done.stderr)

    headers = {"Authorization": f"Bearer {SECRETS['LITELLM_MASTER_KEY']}"}
    ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    with httpx.Client(base_url=daemon.status()["endpoint"], timeout=60, trust_env=False) as gateway:
        for model, status in ((ALIAS, 200), ("cloud", 500), ("none", 400)):
            answer = gateway.post("/v1/chat/completions", headers=headers, json={**ask, "model": model})
            assert answer.status_code == status, answer.text
            look(f"the answer of {model}", answer.text + str(answer.headers))
        wrong = gateway.post(
            "/v1/chat/completions", headers={"Authorization": "Bearer sk-x"}, json={**ask, "model": ALIAS}
        )
        assert wrong.status_code in (400, 401)
        for path in ("/v1/models", "/v1/model/info", "/model_group/info", "/health/readiness", "/openapi.json"):
            answer = gateway.get(path, headers=headers)
            assert answer.status_code == 200, (path, answer.text)
            look(path, answer.text)
    # what was sent straight to the engine, rightly and wrongly
    uds = daemon.runtime / f"{ALIAS}.vllm.sock"
    assert stat.S_IMODE(uds.stat().st_mode) & 0o022 == 0, "who cannot write to a socket cannot connect to it"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://engine", trust_env=False) as engine:
        for bearer, status in ((SECRETS["ENGINE_KEY"], 200), ("wrong", 401)):
            answer = engine.get("/v1/models", headers={"Authorization": f"Bearer {bearer}"})
            assert answer.status_code == status
            look("the engine's answer", answer.text)
    look_everywhere("while all is well")

    look("/v1/status", json.dumps(daemon.status()))
    for words in (
        "status --json",
        "events --json",
        "config show",
        "config show --json",
        "check --json",
        "logs -n 100000",
    ):
        cli(*words.split(), code=None if words.startswith("check") else 0)
    cli("verify", "--json")
    cli("reload", "--dry-run", "--json")

    # deaths, and what is written about them
    for name in ("gateway", ALIAS):
        before = daemon.program(name)
        os.kill(before["pid"], signal.SIGKILL)
        daemon.wait_for(
            lambda name=name, before=before: daemon.program(name)["restarts"] > before["restarts"], "a restart"
        )
        with httpx.Client(base_url=daemon.status()["endpoint"], timeout=120, trust_env=False) as gateway:
            answer = gateway.post("/v1/chat/completions", headers=headers, json={**ask, "model": ALIAS})
        assert answer.status_code == 200, answer.text  # it has waited
        daemon.wait_ready(timeout=120)
        cli("explain", name, "--json")
    cli("upgrade")
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text.replace("${ENGINE_KEY}", "${ENGINE_KEYS}"))
    cli("reload", code=2)
    cli("check", "--json", code=2)

    # the next daemon finds the file broken: it has the keys from their place
    assert daemon.process is not None
    engine = daemon.program(ALIAS)["pid"]
    daemon.end(signal.SIGKILL)
    cli("status", code=4)
    look_everywhere("while no daemon lives")
    daemon.start()
    daemon.wait_ready(timeout=60)
    assert daemon.program(ALIAS)["pid"] == engine
    assert daemon.status()["supervisor"]["config_problems"]
    cli("status", code=None)
    daemon.config_file.write_text(text)
    cli("reload")
    daemon.wait_ready(timeout=60)
    look_everywhere("at the end")
    assert daemon.end() == 0
    look_everywhere("when all has ended")
    assert said > 1_000_000, "that was a look at something"
    assert found == []
    assert leaks("keys.env", (daemon.folder / "keys.env").read_bytes()) == [f"{name} in keys.env" for name in SECRETS]
