"""What LiteLLM needs for some settings only: which settings, and what `check` says where it is not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.cli import main
from llm_supervisor.config import lacking_packages, load, plan
from llm_supervisor.config.specs import Pythons
from llm_supervisor.daemon.routes import WITHOUT
from llm_supervisor.engines.litellm import database, packages

URL = "postgresql://litellm:x@127.0.0.1:5432/litellm"
MODEL = {"model_name": "x", "litellm_params": {"model": "hosted_vllm/x", "api_base": "http://127.0.0.1:8000/v1"}}


def guardrail(kind: str) -> dict[str, Any]:
    return {"guardrails": [{"guardrail_name": "g", "litellm_params": {"guardrail": kind, "mode": "pre_call"}}]}


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"model_list": [{"model_name": "m", "litellm_params": {"model": name, **more}}]}


def settings(**more: Any) -> dict[str, Any]:
    return {"litellm_settings": more}


def general(**more: Any) -> dict[str, Any]:
    return {"general_settings": more}


# The file, the environment, and what is needed: the distribution and the place that asks for it
NEEDS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str]]] = {
    "nothing": ({"model_list": [MODEL]}, {}, {}),
    "database_url": (general(database_url=URL), {}, {"prisma": "general_settings.database_url"}),
    "database_url by reference": (
        general(database_url="os.environ/DB"), {"DB": URL}, {"prisma": "general_settings.database_url"},
    ),
    "a reference to nothing": (general(database_url="os.environ/DB"), {}, {}),
    "DATABASE_URL": ({}, {"DATABASE_URL": URL}, {"prisma": ""}),
    "an empty DATABASE_URL": ({}, {"DATABASE_URL": ""}, {}),
    "DATABASE_HOST and its companions": (
        {}, {"DATABASE_HOST": "db", "DATABASE_USERNAME": "u", "DATABASE_NAME": "n"}, {"prisma": ""},
    ),
    "a host alone": ({}, {"DATABASE_HOST": "db"}, {}),
    "environment_variables": (
        {"environment_variables": {"DATABASE_URL": URL}}, {}, {"prisma": "environment_variables.DATABASE_URL"},
    ),
    "callbacks": (
        settings(callbacks=["prometheus"]), {}, {"prometheus-client": "litellm_settings.callbacks[0]"},
    ),
    "callbacks, one word": (
        settings(callbacks="prometheus"), {}, {"prometheus-client": "litellm_settings.callbacks"},
    ),
    "success_callback": (
        settings(success_callback=["langfuse", "prometheus"]), {},
        {
            "langfuse": "litellm_settings.success_callback[0]",
            "prometheus-client": "litellm_settings.success_callback[1]",
        },
    ),
    "failure_callback": (
        settings(failure_callback=["sentry"]), {}, {"sentry-sdk": "litellm_settings.failure_callback[0]"},
    ),
    "service_callback": (
        settings(service_callback=["prometheus_system"]), {},
        {"prometheus-client": "litellm_settings.service_callback[0]"},
    ),
    "a service callback elsewhere is a module": (settings(callbacks=["prometheus_system"]), {}, {}),
    "otel": (settings(callbacks=["otel"]), {}, {"opentelemetry-sdk": "litellm_settings.callbacks[0]"}),
    "weave": (settings(callbacks=["weave_otel"]), {}, {"opentelemetry-sdk": "litellm_settings.callbacks[0]"}),
    "each once": (
        settings(callbacks=["otel", "arize"]), {}, {"opentelemetry-sdk": "litellm_settings.callbacks[0]"},
    ),
    "a module of one's own": (settings(callbacks=["billing.handler"]), {}, {}),
    "an http logger": (settings(success_callback=["langsmith", "datadog", "s3_v2"]), {}, {}),
    "semantic cache": (
        settings(cache=True, cache_params={"type": "redis-semantic"}), {},
        {"redisvl": "litellm_settings.cache_params.type"},
    ),
    "disk cache": (
        settings(cache=True, cache_params={"type": "disk"}), {}, {"diskcache": "litellm_settings.cache_params.type"},
    ),
    "redis": (settings(cache=True, cache_params={"type": "redis"}), {}, {}),
    "a cache that is off": (settings(cache=False, cache_params={"type": "disk"}), {}, {}),
    "auto router": (
        model("auto_router/mine"), {}, {"semantic-router": "model_list[0].litellm_params.model"},
    ),
    "plain routers": (model("auto_router/complexity_router/mine"), {}, {}),
    "semantic guard": (
        guardrail("semantic_guard"), {}, {"semantic-router": "guardrails[0].litellm_params.guardrail"},
    ),
    "hide-secrets": (guardrail("hide-secrets"), {}, {"detect-secrets": "guardrails[0].litellm_params.guardrail"}),
    "presidio is asked by http": (guardrail("presidio"), {}, {}),
    "vertex": (model("vertex_ai/gemini-2.5-pro"), {}, {"google-auth": "model_list[0].litellm_params.model"}),
    "vertex by provider": (
        model("gemini-2.5-pro", custom_llm_provider="vertex_ai"), {},
        {"google-auth": "model_list[0].litellm_params.model"},
    ),
    "gemini has a key": (model("gemini/gemini-2.5-pro"), {}, {}),
    "key vault": (
        general(key_management_system="azure_key_vault"), {},
        {"azure-keyvault-secrets": "general_settings.key_management_system"},
    ),
    "kms": (general(use_google_kms=True), {}, {"google-cloud-kms": "general_settings.use_google_kms"}),
    "aws comes with LiteLLM": (general(key_management_system="aws_secret_manager"), {}, {}),
    "other types": (settings(callbacks=[3, None], cache_params=3) | {"guardrails": 3, "model_list": None}, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", NEEDS)
def test_what_a_setting_needs(name: str) -> None:
    native, environ, expected = NEEDS[name]
    found = packages.needs(native, environ)
    places = {need.package.distribution: need.place for need in found}
    assert {what: words(place) for what, place in places.items()} == expected


def words(place: tuple[str | int, ...]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@pytest.mark.parametrize(
    ("native", "environ", "address"),
    [
        (general(database_url="postgresql://u:p@db.example.org/x"), {}, ("db.example.org", 5432)),
        (general(database_url="os.environ/DB"), {"DB": "postgresql://u@[::1]:6000/x?schema=y"}, ("::1", 6000)),
        (general(database_url=URL), {"DATABASE_URL": "postgresql://other/x"}, ("127.0.0.1", 5432)),
        ({}, {"DATABASE_HOST": "db:6000", "DATABASE_USERNAME": "u", "DATABASE_NAME": "n"}, ("db", 6000)),
        (general(database_url="postgresql://u@localhost/x?host=/run/postgresql"), {}, None),
        (general(database_url="postgresql://u@db:port/x"), {}, None),
        (general(database_url=None), {}, None),
    ],
)
def test_where_the_database_is(
    native: dict[str, Any], environ: dict[str, str], address: tuple[str, int] | None
) -> None:
    assert database.address(native, environ) == address


def test_the_gateway_is_watched_for_its_database(tmp_path: Path) -> None:
    """So that it is degraded by name when the database is lost, and shows how far a migration is."""
    config = load(configuration(tmp_path, DATABASE), {"DB_URL": URL})
    pythons = Pythons("/vllm/python", "/litellm/python", vllm_cpu=True)
    gateway = plan(config, runtime=tmp_path, pythons=pythons, master_key="sk-x").programs["gateway"]
    assert gateway.asking is not None and gateway.asking.needs == {"database": ("127.0.0.1", 5432)}
    assert set(gateway.asking.needs) <= set(WITHOUT), "each has a text that says what does not work without it"
    assert gateway.reader is not None
    step = gateway.reader(b"llm-supervisor: migrating the database 3/9\n")
    assert step is not None and (step.doing, step.done, step.total) == ("migrating the database", 3, 9)
    assert gateway.reader(b"INFO: llm-supervisor: migrating the database") is None


# What `check` says


def environment(folder: Path, *distributions: str, modules: tuple[str, ...] = ()) -> Path:
    """An environment with these distributions beside LiteLLM; its interpreter."""
    places = folder / "env/lib/python3.11/site-packages"
    python = folder / "env/bin/python"
    for one in ("litellm-1.106.2", *distributions):
        (places / f"{one}.dist-info").mkdir(parents=True)
    for one in modules:
        (places / one).parent.mkdir(parents=True, exist_ok=True)
        (places / one).write_text("")
    python.parent.mkdir(parents=True)
    python.touch(0o755)
    return python


def configuration(folder: Path, native: dict[str, Any], python: Path | None = None) -> Path:
    """The files of a gateway with LiteLLM's own file."""
    said: dict[str, Any] = {"gateway": {"port": 4101, "litellm_config": "litellm_config.yaml"}}
    if python is not None:
        said["engines"] = {"litellm": {"python": str(python)}}
    (folder / "litellm_config.yaml").write_text(yaml.safe_dump(native, sort_keys=False))
    (folder / "supervisor.yaml").write_text(yaml.safe_dump(said))
    return folder / "supervisor.yaml"


DATABASE = {
    "model_list": [MODEL],
    "general_settings": {"database_url": "os.environ/DB_URL", "store_model_in_db": True},
    "litellm_settings": {"callbacks": ["prometheus"]},
}
BOTH = ("prisma-0.15.0", "prometheus_client-0.23")


def test_what_lacks_is_named_with_its_line(tmp_path: Path) -> None:
    file = configuration(tmp_path, DATABASE)
    config = load(file, {"DB_URL": URL})
    problems = lacking_packages(config, environment(tmp_path))
    lines = (tmp_path / "litellm_config.yaml").read_text().splitlines()
    said = {one.path: (lines[one.line - 1].strip(), one.message, one.advice, one.warning) for one in problems}
    assert said == {
        "general_settings.database_url": (
            "database_url: os.environ/DB_URL",
            "database_url needs prisma with a client that was generated, which LiteLLM's environment does not have",
            f"`llm-supervisor install -c {file}` adds it",
            False,
        ),
        "litellm_settings.callbacks[0]": (
            "- prometheus",
            "callbacks: prometheus needs prometheus-client, which LiteLLM's environment does not have",
            f"`llm-supervisor install -c {file}` adds it",
            False,
        ),
    }


def test_what_is_there_is_not_named(tmp_path: Path) -> None:
    config = load(configuration(tmp_path, DATABASE), {"DB_URL": URL})
    assert lacking_packages(config, environment(tmp_path, *BOTH, modules=("prisma/client.py",))) == []


def test_prisma_without_its_client_lacks(tmp_path: Path) -> None:
    config = load(configuration(tmp_path, DATABASE), {"DB_URL": URL})
    (problem,) = lacking_packages(config, environment(tmp_path, *BOTH, modules=("prisma/__init__.py",)))
    assert problem.path == "general_settings.database_url"


def test_a_module_of_another_distribution_counts(tmp_path: Path) -> None:
    native = {"litellm_settings": {"callbacks": ["prometheus"]}}
    config = load(configuration(tmp_path, native), {})
    assert lacking_packages(config, environment(tmp_path, modules=("prometheus_client/__init__.py",))) == []


def test_an_environment_of_ones_own_is_left_to_its_owner(tmp_path: Path) -> None:
    python = environment(tmp_path)
    config = load(configuration(tmp_path, DATABASE, python), {"DB_URL": URL})
    advice = [one.advice for one in lacking_packages(config, python)]
    assert advice == [
        f"install prisma beside {python}, and run `prisma generate` for litellm/proxy/schema.prisma",
        f"install prometheus-client beside {python}",
    ]


def test_a_variable_that_configures_a_database_is_named(tmp_path: Path) -> None:
    file = configuration(tmp_path, {"model_list": [MODEL]})
    (problem,) = lacking_packages(load(file, {"DATABASE_URL": URL}), environment(tmp_path))
    assert (problem.file, problem.path) == (str(file), "gateway")
    assert problem.message.startswith("DATABASE_URL needs prisma") and URL not in str(problem)


def test_one_that_install_does_not_bring(tmp_path: Path) -> None:
    config = load(configuration(tmp_path, {"litellm_settings": {"callbacks": ["mlflow"]}}), {})
    (problem,) = lacking_packages(config, environment(tmp_path))
    assert "name an environment of your own" in problem.advice


def test_one_that_is_missed_later_is_a_warning(tmp_path: Path) -> None:
    native = {"model_list": [{"model_name": "m", "litellm_params": {"model": "vertex_ai/gemini-2.5-pro"}}]}
    (problem,) = lacking_packages(load(configuration(tmp_path, native), {}), environment(tmp_path))
    assert problem.warning


def test_check_is_an_error_where_litellm_would_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUNTIME_DIRECTORY", "LOGS_DIRECTORY", "LLM_SUPERVISOR_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("DB_URL", URL)
    file = configuration(tmp_path, DATABASE, environment(tmp_path))
    assert main.main(["check", "-c", str(file), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    rows = [row for row in said["problems"] if row["severity"] == "error"]
    assert {row["path"] for row in rows} == {"general_settings.database_url", "litellm_settings.callbacks[0]"}
    assert not os.path.exists(tmp_path / "LLM_SUPERVISOR_HOME"), "nothing was made"
