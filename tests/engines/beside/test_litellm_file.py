"""What the real LiteLLM makes of files as people write them, by the dry run: refused, complained of, or taken."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.engines.inside import litellm_dry_run
from tests.engines.conftest import Engines

X = 'model_list: [{model_name: x, litellm_params: {model: hosted_vllm/x, api_base: "http://127.0.0.1:8000/v1"}}]\n'
HANDLER = "from litellm import CustomLLM\nfrom litellm.integrations.custom_logger import CustomLogger\n"
MODULES = {
    "my_handler.py": HANDLER + "video = CustomLLM()\n",
    "hooks/__init__.py": "",
    "hooks/log.py": HANDLER + "handler = CustomLogger()\n",
    "auth.py": "async def check(request, api_key):\n    return api_key\n",
    "starts.py": "import subprocess\nsubprocess.run(['true'])\nhandler = None\n",
}
Rows = dict[str, tuple[str, dict[str, str], list[str]]]
# By name: the file, the environment, and what is said (a part of the text, and its place), refusals first
FINE: Rows = {
    "a provider of one's own": (
        "model_list:\n"
        "  - {model_name: video, litellm_params: {model: my-video/v2, api_key: no-key}}\n"
        "  - {model_name: g, litellm_params: {model: vertex_ai/gemini-pro, vertex_project: p, vertex_location: eu}}\n"
        "  - {model_name: tts, litellm_params: {model: elevenlabs/eleven_flash_v2_5, api_key: no-key}}\n"
        "litellm_settings: {custom_provider_map: [{provider: my-video, custom_handler: my_handler.video}]}\n",
        {},
        [],
    ),
    "modules beside the file, in folders too": (
        X + "litellm_settings: {callbacks: [hooks.log.handler]}\ngeneral_settings: {custom_auth: auth.check}\n",
        {},
        [],
    ),
    "a provider from LiteLLM's list in JSON": (
        "model_list: [{model_name: v, litellm_params: {model: veniceai/llama, api_key: k}}]\n",
        {},
        [],
    ),
    "variables that the file sets": (
        "model_list: [{model_name: gpt, litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY}}]\n"
        "litellm_settings: {cache: true, cache_params: {host: os.environ/REDIS_HOST, port: os.environ/P}}\n"
        'environment_variables: {OPENAI_API_KEY: sk-x, REDIS_HOST: 127.0.0.1, P: "6379"}\n',
        {},
        [],
    ),
    "a team's logging without its keys": (
        X + "litellm_settings: {default_team_settings: [{team_id: api, k: os.environ/K}]}\n",
        {},
        [],
    ),
    "an empty password": (
        X + "router_settings: {redis_host: os.environ/H, redis_port: os.environ/P, redis_password: os.environ/W}\n",
        {"H": "127.0.0.1", "P": "6379", "W": ""},
        [],
    ),
    "presidio with its addresses": (
        X + "guardrails: [{guardrail_name: pii, litellm_params: {guardrail: presidio, mode: pre_call,"
        ' presidio_analyzer_api_base: "http://a", presidio_anonymizer_api_base: "http://b"}}]\n',
        {},
        [],
    ),
    "a setting that wants a licence, which is there": (
        X + "general_settings: {allowed_ips: [10.0.0.7]}\n",
        {"LITELLM_LICENSE": "one that only its makers can judge"},
        [],
    ),
    "a module that starts a program": (X + "litellm_settings: {callbacks: [starts.handler]}\n", {}, ["untried"]),
}
WRONG: Rows = {
    "modules that are not there, and no licence": (
        X + "litellm_settings: {callbacks: [billing.handler]}\n"
        "general_settings: {custom_auth: no_auth.check, allowed_ips: [10.0.0.7]}\n",
        {},
        [
            "Could not import handler from billing @ litellm_settings.callbacks.0",
            "Could not import check from no_auth @ general_settings.custom_auth",
            "allowed_ips is an Enterprise Feature @ general_settings.allowed_ips",
        ],
    ),
    "a word that names no callback": (
        X + "litellm_settings: {callbacks: [prometheus_system]}\n",
        {},
        ["Empty module name @ litellm_settings.callbacks.0"],
    ),
    "a callback that wants a licence": (
        X + "litellm_settings: {callbacks: [hide_secrets]}\n",
        {},
        ["You must be a LiteLLM Enterprise user @ litellm_settings.callbacks.0"],
    ),
    "presidio without its variables": (
        X + "guardrails: [{guardrail_name: pii, litellm_params: {guardrail: presidio, mode: pre_call}}]\n",
        {},
        ["Missing `PRESIDIO_ANALYZER_API_BASE` from environment @ guardrails.0.litellm_params.guardrail"],
    ),
    "a variable that LiteLLM looks up by its own name": (
        X + "guardrails: [{guardrail_name: a, litellm_params: {guardrail: aporia, mode: pre_call}}]\n",
        {},
        ["the variable APORIO_API_KEY is not set @ guardrails.0.guardrail_name"],
    ),
    "a routing strategy that is none": (
        X + "router_settings: {routing_strategy: latency_based_routing}\n",
        {},
        ["Invalid routing_strategy: 'latency_based_routing' @ router_settings.routing_strategy"],
    ),
    "a cache without a place": (
        X + "litellm_settings: {cache: true, cache_params: {type: redis, host: os.environ/NOWHERE}}\n",
        {},
        ["Either 'host' or 'url' must be specified for redis @ litellm_settings.cache_params.host"],
    ),
    "a number that is none": (
        X + "litellm_settings: {max_budget: lots}\n",
        {},
        ["could not convert string to float: 'lots' @ litellm_settings.max_budget"],
    ),
    "a guardrail that is left out": (
        X + "guardrails: [{guardrail_name: g, litellm_params: {guardrail: no_such_one, mode: pre_call}}]\n",
        {},
        ["starting WITHOUT this guardrail: Unsupported guardrail @ guardrails.0.litellm_params.guardrail"],
    ),
    "a provider that is none": (
        "model_list: [{model_name: a, litellm_params: {model: nosuch/b, api_key: k}}]\n",
        {},
        ["this deployment of a is left out. Error creating deployment @ model_list.0.litellm_params.model"],
    ),
    "a key of the router that is none": (
        X + "router_settings: {nonsense: 1}\n",
        {},
        ["Key 'nonsense' is not a valid argument @ router_settings.nonsense"],
    ),
    "a callback whose package is not there": (
        X + "litellm_settings: {success_callback: [mlflow]}\n",
        {},
        ["No module named 'mlflow' @ litellm_settings.success_callback.0"],
    ),
}
ROWS = FINE | WRONG


@pytest.fixture(scope="module")
def answers(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    asked = [
        {"config": yaml.safe_load(text), "environ": environ, "modules": str(folder)}
        for text, environ, _ in ROWS.values()
    ]
    runs = str(Path(__file__).with_name("dry_runs.py"))
    done = subprocess.run(
        [str(engines.litellm), runs, litellm_dry_run.__file__],
        input=json.dumps(asked).encode(),
        capture_output=True,
        timeout=240,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MASTER_KEY": "sk-a-key-for-this-test",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    assert not done.returncode, done.stderr.decode()[-4000:]
    return dict(zip(ROWS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_what_litellm_says(answers: dict[str, dict[str, Any]], name: str) -> None:
    found, expected = answers[name], ROWS[name][2]
    said = [f"{one['text']} @ {'.'.join(map(str, one['where']))}" for one in [*found["refused"], *found["said"]]]
    said += ["untried"] if found.get("kept_from") else []
    assert len(said) == len(expected), said
    for line, words in zip(said, expected, strict=True):
        text, _, where = words.partition(" @ ")
        assert text in line and line.endswith(where), line
