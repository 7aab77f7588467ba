"""What the daemon runs for a configuration: argv, environment, LiteLLM's file, and what is expected of them."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_supervisor.config import Plan, plan
from llm_supervisor.config.environments import around_proxies
from llm_supervisor.config.specs import Pythons, key_variable
from llm_supervisor.core.probe import ProbePlan
from llm_supervisor.core.spec import HealthSpec, Kind, RestartSpec, StopSpec
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import references
from llm_supervisor.engines.vllm import process as vllm_process
from tests.config.conftest import GOOD, Place

PYTHONS = Pythons("/envs/vllm/bin/python", "/envs/litellm/bin/python", vllm_cpu=False)
RUN = Path("/run/llm-supervisor")
KEY = "sk-the-master-key"


def made(place: Place, text: str, environ: dict[str, str] | None = None, **pythons: bool) -> Plan:
    config = place.load(text, {"PATH": "/bin", **(environ or {})})
    used = Pythons(PYTHONS.vllm, PYTHONS.litellm, pythons.get("vllm_cpu", False), pythons.get("vllm_forks", False))
    return plan(config, runtime=RUN, pythons=used, master_key=KEY)


def one_model(
    place: Place, more: str, environ: dict[str, str] | None = None, *, at: str = "port: 8000", **pythons: bool
) -> Plan:
    return made(place, f"gateway: {{}}\nmodels:\n  a: {{model: org/name, {at}, {more}}}\n", environ, **pythons)


def argv(made: Plan, name: str = "a") -> tuple[str, ...]:
    return made.programs[name].spec.launch.argv


def env(made: Plan, name: str = "a") -> dict[str, str]:
    return dict(made.programs[name].spec.launch.env)


def asking(made: Plan, name: str = "a") -> ProbePlan:
    found = made.programs[name].asking
    assert found is not None
    return found


def test_a_default_is_the_same_in_the_file_and_in_the_specification(place: Place) -> None:
    spec = made(place, "programs: {p: {command: [sh]}}\n").programs["p"].spec
    assert (spec.restart, spec.stop) == (RestartSpec(), StopSpec())
    assert spec.health == replace(HealthSpec(), readiness_period=3 * spec.health.period, canary=False)


# vLLM -------------------------------------------------------------------------------------------------------


SERVE = str(files("llm_supervisor.engines.inside") / "vllm_serve.py")


def test_vllms_command_line(place: Place) -> None:
    text = "served_model_name: Name, stop: {grace: 60s}, vllm: {max-model-len: 25000, dtype: bfloat16}"
    assert argv(one_model(place, text)) == (
        "/envs/vllm/bin/python", SERVE, "org/name",
        "--served-model-name", "Name", "--host", "127.0.0.1", "--port", "8000",
        "--max-model-len", "25000", "--dtype", "bfloat16", "--shutdown-timeout", "55",
    )  # fmt: skip


def test_an_engine_on_a_unix_socket(place: Place) -> None:
    """LiteLLM knows it by a name that is nobody's; the replica knows where that is."""
    made = one_model(place, "", at="uds: true")
    path = f"{RUN}/a.vllm.sock"
    words = argv(made)
    assert words[words.index("--uds") + 1] == path
    assert not {"--host", "--port"} & set(words)
    launch = made.programs["a"].spec.launch
    assert (launch.uds, launch.port, asking(made).address) == (path, None, path)
    assert made.litellm_config is not None
    base = made.litellm_config["model_list"][0]["litellm_params"]["api_base"]
    host = base.removeprefix("http://").removesuffix("/v1")
    assert host.endswith(".invalid")
    gateway = made.programs["gateway"].spec.launch.argv
    assert gateway[gateway.index("--engine") + 1] == f"{host}={path}"
    named = one_model(place, "", at=f"uds: {place.folder}/e.sock")
    assert named.programs["a"].spec.launch.uds == f"{place.folder}/e.sock"
    hosts = {proxy_config.socket_host(alias) for alias in ("a", "A", "a.b", "a-b", "a_b", "-")}
    assert len(hosts) == 6


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"NO_PROXY": "x"}, None),
        ({"http_proxy": ""}, None),
        ({"HTTP_PROXY": "http://p"}, "127.0.0.1,localhost,::1"),
        ({"https_proxy": "http://p", "no_proxy": "a, b"}, "a,b,127.0.0.1,localhost,::1"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "a,b", "no_proxy": "b,c"}, "a,b,c,127.0.0.1,localhost,::1"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "*"}, "*"),
    ],
)
def test_no_proxy_is_between_what_is_here(environ: dict[str, str], expected: str | None) -> None:
    found = around_proxies(environ)
    assert found == ({} if expected is None else {"NO_PROXY": expected, "no_proxy": expected})


OPTIONS = [
    ("{enforce-eager: true}", ["--enforce-eager"]),
    ("{enable-prefix-caching: false}", ["--no-enable-prefix-caching"]),
    ("{quantization: null}", []),
    ("{max_model_len: 1}", ["--max-model-len", "1"]),
    ("{--max-model-len: 1}", ["--max-model-len", "1"]),
    ("{gpu-memory-utilization: 0.9}", ["--gpu-memory-utilization", "0.9"]),
    ("{limit-mm-per-prompt: {image: 32, video: 1}}", ["--limit-mm-per-prompt", '{"image":32,"video":1}']),
    ("{limit_mm_per_prompt: {}}", ["--limit-mm-per-prompt", "{}"]),
    ("{lora-modules: [a=/x, b=/y]}", ["--lora-modules", "a=/x", "b=/y"]),
    ("{cudagraph-capture-sizes: [1, 2, 4]}", ["--cudagraph-capture-sizes", "1", "2", "4"]),
    ("{lora-modules: [{name: a, path: /x}]}", ["--lora-modules", '{"name":"a","path":"/x"}']),
    ("{middleware: []}", []),
    ("{chat-template: 'two words'}", ["--chat-template", "two words"]),
    ("{seed: 0}", ["--seed", "0"]),
    ("{revision: ''}", ["--revision", ""]),
]


@pytest.mark.parametrize(("written", "words"), OPTIONS, ids=[row[0] for row in OPTIONS])
def test_an_option_of_vllm(place: Place, written: str, words: list[str]) -> None:
    said = argv(one_model(place, f"vllm: {written}"))
    assert list(said[said.index("8000") + 1 : -2]) == words
    assert said[-2:] == ("--shutdown-timeout", "25")


@pytest.mark.parametrize("grace", ["0", "3", "5", "30"])
def test_vllm_is_told_to_end_before_it_is_killed(place: Place, grace: str) -> None:
    said = argv(one_model(place, f"stop: {{grace: {grace}}}"))
    assert said[-2:] == ("--shutdown-timeout", str(max(int(grace) - 5, 0)))


def test_a_shutdown_timeout_of_ones_own(place: Place) -> None:
    said = argv(one_model(place, "vllm: {shutdown_timeout: 7}"))
    assert [said[n + 1] for n, word in enumerate(said) if word == "--shutdown-timeout"] == ["7"]


def test_a_vllm_without_that_option_is_not_told() -> None:
    """Before 0.18; what it has is known after `install` or `check`."""
    of = ("python", "org/a", ["a"], 8000, {}, 30.0)
    assert "--shutdown-timeout" not in vllm_process.argv(*of, {"max-model-len": "values"})
    assert "--shutdown-timeout" in vllm_process.argv(*of, {"shutdown-timeout": "values"})
    assert "--shutdown-timeout" in vllm_process.argv(*of, {}), "nothing is known"


@pytest.mark.parametrize(
    "written", ["vllm: {api-key: sk-secret}", "vllm: {api_key: sk-secret}", "env: {VLLM_API_KEY: sk-secret}"]
)
def test_a_key_is_in_the_environment_and_never_in_argv(place: Place, written: str) -> None:
    made = one_model(place, written)
    for planned in made.programs.values():
        assert "sk-secret" not in " ".join(planned.spec.launch.argv)
        assert "sk-secret" not in repr(planned.spec)
        assert "sk-secret" not in repr(planned.asking)
    assert env(made)["VLLM_API_KEY"] == "sk-secret"
    assert dict(asking(made).headers) == {"Authorization": "Bearer sk-secret"}
    assert "sk-secret" not in yaml.safe_dump(made.litellm_config)
    assert env(made, "gateway")[key_variable("a")] == "sk-secret"
    assert KEY not in repr(made.programs)


def test_a_key_of_the_daemons_does_not_become_an_engines(place: Place) -> None:
    made = one_model(place, "gpus: []", {"VLLM_API_KEY": "sk-stray"})
    assert made.programs["a"].spec.launch.unset == ("VLLM_API_KEY",)
    assert asking(made).headers == ()


def test_the_environment_of_vllm(place: Place) -> None:
    base = {"VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1", "SPT_NOENV": "1"}
    base |= {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
    base["PATH"] = "/envs/vllm/bin:/bin"
    assert env(one_model(place, "vision: true")) == base
    gpus = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}
    assert env(one_model(place, "gpus: [1, 0]")) == base | gpus
    assert env(one_model(place, "vision: true", vllm_cpu=True)) == base | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    local = made(place, "gateway: {}\nmodels: {a: {model: tiny, port: 8000}}\n")
    assert env(local) == base | {"HF_HUB_OFFLINE": "1"}
    assert argv(local)[2] == str(place.folder / "tiny")


def test_what_a_person_says_wins(place: Place) -> None:
    """In the model's env, then in the daemon's own; but GPUs are numbered as the configuration means it."""
    own = {"VLLM_CPU_KVCACHE_SPACE": "8", "CUDA_VISIBLE_DEVICES": "7", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    seen = env(one_model(place, "gpus: [0]", own, vllm_cpu=True))
    assert "VLLM_CPU_KVCACHE_SPACE" not in seen, "it is inherited"
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == ("0", "PCI_BUS_ID")
    seen = env(one_model(place, "gpus: [0], env: {CUDA_VISIBLE_DEVICES: '3', VLLM_NO_USAGE_STATS: 0}"))
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["VLLM_NO_USAGE_STATS"]) == ("3", "0")


def test_a_models_specification(place: Place) -> None:
    more = "gpus: [1], restart: {intensity: 2}, stop: {signal: INT, grace: 9}, autostart: false"
    spec = one_model(place, more).programs["a"].spec
    assert (spec.kind, spec.launch.port, spec.gpus, spec.autostart) == (Kind.VLLM, 8000, (1,), False)
    assert (spec.stop.signal, spec.stop.grace, spec.stop.sweep_grace) == (2, 9, 0)
    assert (spec.restart.intensity, spec.vital, spec.ready_after) == (2, ("VLLM::", "vllm-rs"), None)


def test_what_health_does_not_say_is_derived(place: Place) -> None:
    health = one_model(place, "health: {period: 3, timeout: 2, failure_threshold: 5}").programs["a"].spec.health
    assert (health.readiness_period, health.readiness_timeout, health.readiness_threshold) == (9, 2, 5)
    assert health.startup_timeout == 2
    more = "readiness_period: 7, readiness_timeout: 6, readiness_threshold: 1, startup_timeout: 9"
    health = one_model(place, f"health: {{period: 3, {more}}}").programs["a"].spec.health
    assert (health.readiness_period, health.readiness_timeout, health.readiness_threshold) == (7, 6, 1)
    assert health.startup_timeout == 9


# The gateway ------------------------------------------------------------------------------------------------


def test_litellms_file_is_the_native_one_and_the_local_models(place: Place) -> None:
    made_ = made(place, GOOD)
    assert made_.litellm_config == {
        "model_list": [
            {
                "model_name": "glm-4.1v",
                "litellm_params": {
                    "model": "hosted_vllm/GLM-4.1V-9B-Thinking", "api_base": "http://127.0.0.1:8000/v1",
                    "api_key": "none", "max_retries": 0, "num_retries": 3, "cooldown_time": 0, "rpm": 60, "tpm": 80000,
                },
                "model_info": {"supports_vision": True},
            },
            {
                "model_name": "tiny",
                "litellm_params": {
                    "model": "hosted_vllm/tiny", "api_base": "http://127.0.0.1:8001/v1", "api_key": "none",
                    "max_retries": 0, "num_retries": 3, "cooldown_time": 0,
                },
                "model_info": {"supports_vision": False},
            },
            {
                "model_name": "claude",
                "litellm_params": {
                    "model": "anthropic/claude-sonnet-4-5", "api_key": "os.environ/ANTHROPIC_API_KEY",
                },
            },
            {"model_name": "openai/*", "litellm_params": {"model": "openai/*"}},
        ],
        "router_settings": {"num_retries": 2},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }  # fmt: skip
    assert made_.litellm_file == RUN / "litellm_config.yaml"
    assert [(group.name, group.local, group.vision) for group in made_.groups] == [
        ("glm-4.1v", True, True), ("tiny", True, False), ("claude", False, None),
    ]  # fmt: skip


def test_keys_are_in_litellms_file_by_reference_only(place: Place) -> None:
    place.write("general_settings: {master_key: sk-written, other: 1}\n", "native.yaml", 0o600)
    text = "gateway: {litellm_config: native.yaml}\nmodels:\n  a-b: {model: org/x, port: 1, vllm: {api-key: sk-one}}\n"
    made_ = made(place, text)
    written = yaml.safe_dump(made_.litellm_config)
    assert "sk-" not in written
    assert made_.litellm_config is not None
    assert made_.litellm_config["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY", "other": 1}
    (entry,) = made_.litellm_config["model_list"]
    name = entry["litellm_params"]["api_key"].removeprefix("os.environ/")
    assert env(made_, "gateway")[name] == "sk-one"
    assert env(made_, "gateway")["LITELLM_MASTER_KEY"] == KEY


def test_no_two_aliases_share_a_keys_variable() -> None:
    aliases = ["a.b", "a-b", "a_b", "A.B", "ab", "a..b", "a_2eb"]
    names = {key_variable(alias) for alias in aliases}
    assert len(names) == len(aliases)
    for name in names:
        assert list(references.references(f"os.environ/{name}")) == [((), name)], "LiteLLM's own word for a variable"


def test_the_gateways_specification(place: Place) -> None:
    made_ = made(place, "gateway: {port: 4001, stop: {grace: 40}, env: {LITELLM_LOG: INFO}}\n")
    spec = made_.programs["gateway"].spec
    assert spec.kind is Kind.LITELLM
    assert spec.launch.listener == ("127.0.0.1", 4001)
    assert spec.launch.uds == f"{RUN}/gateway.sock" == asking(made_, "gateway").address
    python, replica, *rest = spec.launch.argv
    assert python == PYTHONS.litellm
    assert Path(replica).is_file()
    *rest, media = rest
    assert rest == [
        "--listen-fd", "3", "--uds", f"{RUN}/gateway.sock", "--drain", "35", "--hold", f"{RUN}/engines.json", "--media",
    ]  # fmt: skip
    limits = {"body": 512 << 20, "files": 1000, "pixels": 1_000_000_000}
    assert json.loads(media) == {"allow": [], "elsewhere": [], **limits}
    assert env(made_, "gateway") == {
        "CONFIG_FILE_PATH": f"{RUN}/litellm_config.yaml",
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONUNBUFFERED": "1",
        "PATH": "/envs/litellm/bin:/bin",
        "LITELLM_LOG": "INFO",
    }
    assert dict(asking(made_, "gateway").headers) == {"Authorization": f"Bearer {KEY}"}
    questions = [question.path for question in asking(made_, "gateway").probes]
    assert questions == ["/health/liveliness", "/model_group/info"]
    general = {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    assert made_.litellm_config == {"model_list": [], "general_settings": general}


def test_what_clients_may_send_and_have_fetched(place: Place) -> None:
    def told(media: str) -> tuple[dict[str, Any], str]:
        spec = made(place, f"gateway: {{port: 4001{media}}}\n").programs["gateway"].spec
        said: dict[str, Any] = json.loads(spec.launch.argv[spec.launch.argv.index("--media") + 1])
        return said, spec.digest

    usual, digest = told("")
    assert told(", media: {}") == (usual, digest) == told(", media: {max_body: 512MB, allow_hosts: []}")
    given = ", media: {allow_hosts: ['*.lan', 10.0.0.0/8], max_body: 1MB, max_files: 2, max_pixels: 3}"
    changed, other = told(given)
    assert changed == {"allow": ["*.lan", "10.0.0.0/8"], "body": 1 << 20, "files": 2, "pixels": 3, "elsewhere": []}
    assert other != digest, "a replica has it for life"
    assert told(", media: {allow_hosts: all}")[0]["allow"] == "all"


def group(name: str, base: str = "https://cloud/v1") -> str:
    return f"{{model_name: {name}, litellm_params: {{model: openai/x, api_key: k, api_base: '{base}'}}}}"


ENGINE = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("groups", "more", "elsewhere"),
    [
        ([group("x"), group("y"), group("'z/*'")], "", ["x", "y"]),
        ([group("x"), group("x", ENGINE)], "", []),
        ([group("x"), group("y")], "router_settings: {fallbacks: [{x: [a]}]}", ["y"]),
        ([group("x"), group("y")], "litellm_settings: {context_window_fallbacks: [{x: [{model: y}]}, {y: [a]}]}", []),
        ([group("x"), group("y")], "router_settings: {fallbacks: [{x: [y]}]}", ["x", "y"]),
        ([group("x")], "router_settings: {fallbacks: [{'*': [a]}]}", []),
        ([group("x")], "litellm_settings: {default_fallbacks: [a]}", []),
        ([group("x")], "router_settings: {model_group_alias: {other: x, mine: a}}", ["other", "x"]),
        ([group("x")], "router_settings: {model_group_alias: {mine: a}, fallbacks: [{x: [mine]}]}", []),
        ([group("x")], "general_settings: {completion_model: a}", []),
    ],
)
def test_groups_that_lead_to_no_engine_of_ours(
    place: Place, groups: list[str], more: str, elsewhere: list[str]
) -> None:
    place.write(f"model_list: [{', '.join(groups)}]\n{more}\n", "native.yaml")
    launch = (
        made(place, "gateway: {litellm_config: native.yaml}\nmodels: {a: {model: o/a, port: 8000}}\n")
        .programs["gateway"]
        .spec.launch
    )
    assert json.loads(launch.argv[launch.argv.index("--media") + 1])["elsewhere"] == elsewhere


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("'::'", "127.0.0.1"), ("'::1'", "[::1]"), ("gpu1", "gpu1")],
)
def test_the_endpoint_that_is_shown(place: Place, host: str, shown: str) -> None:
    assert made(place, f"gateway: {{host: {host}}}\n").endpoint == f"http://{shown}:4000"


def test_without_a_gateway_there_is_no_endpoint(place: Place) -> None:
    made_ = made(place, "programs: {p: {command: [sh]}}\n")
    assert (made_.endpoint, made_.litellm_config, made_.groups) == (None, None, ())
    assert list(made_.programs) == ["p"]


GROUPS = [
    ([("a", True)], {"a": True}),
    ([("a", False)], {"a": False}),
    ([("a", None)], {"a": None}),
    ([("a", True), ("a", False)], {"a": True}),
    ([("a", False), ("a", True)], {"a": True}),
    # what LiteLLM itself thinks of a deployment may be yes, so only a yes of another one settles it
    ([("a", None), ("a", False)], {"a": None}),
    ([("a", False), ("a", None)], {"a": None}),
    ([("a", None), ("a", True)], {"a": True}),
    ([("a", True), ("a", None), ("b", False)], {"a": True, "b": False}),
    ([("openai/*", None), ("*", True), ("a", True)], {"a": True}),
]


@pytest.mark.parametrize(("entries", "expected"), GROUPS)
def test_the_expected_groups(entries: list[tuple[str, bool | None]], expected: dict[str, bool | None]) -> None:
    model_list: list[dict[str, object]] = [{"model_name": name, "litellm_params": {}} for name, _ in entries]
    for entry, (_, vision) in zip(model_list, entries, strict=True):
        if vision is not None:
            entry["model_info"] = {"supports_vision": vision}
    assert proxy_config.expected_groups({"model_list": model_list}) == expected


def test_another_name_of_a_group(place: Place) -> None:
    """LiteLLM lists it beside the groups, as what its group is; a hidden one, and one of nothing, it does not."""
    aliases = "{a: m, b: {model: cloud, hidden: false}, c: {model: m, hidden: true}, d: nothing}"
    place.write(
        "model_list: [{model_name: cloud, litellm_params: {model: openai/x}}]\n"
        f"router_settings: {{model_group_alias: {aliases}}}\n",
        "native.yaml",
    )
    gateway = "gateway: {litellm_config: native.yaml}\n"
    made_ = made(place, gateway + "models:\n  m: {model: org/m, port: 8000, vision: true}\n")
    assert [(group.name, group.vision, group.engines) for group in made_.groups] == [
        ("m", True, ("m",)),
        ("cloud", None, ()),
        ("a", True, ("m",)),
        ("b", None, ()),
    ]


@pytest.mark.parametrize(
    ("bases", "engines"),
    [
        (["http://127.0.0.1:8000/v1"], ("m",)),
        (["http://localhost:8001/v1", "http://127.0.0.1:8000/v1"], ("n", "m")),
        (["http://127.0.0.1:8000/v1", "http://127.0.0.1:9000/v1"], ()),
        (["http://127.0.0.1:8000/v1", None], ()),
        (["http://example.org:8000/v1"], ()),
        (["http://127.0.0.1:x/v1"], ()),
    ],
)
def test_a_group_of_ones_own_over_local_engines(
    place: Place, bases: list[str | None], engines: tuple[str, ...]
) -> None:
    """It is local, and free, when nothing else is behind it."""
    entries = [{"model_name": "g", "litellm_params": {"model": "hosted_vllm/m", "api_base": base}} for base in bases]
    place.write(yaml.safe_dump({"model_list": entries}), "native.yaml")
    gateway = "gateway: {litellm_config: native.yaml}\n"
    made_ = made(place, gateway + "models: {m: {model: org/m, port: 8000}, n: {model: org/n, port: 8001}}\n")
    assert {group.name: group.engines for group in made_.groups} == {"m": ("m",), "n": ("n",), "g": engines}


def test_more_model_info(place: Place) -> None:
    made_ = one_model(place, "vision: true, litellm: {rpm: 1, model_info: {mode: chat, supports_vision: false}}")
    assert made_.litellm_config is not None
    (entry,) = made_.litellm_config["model_list"]
    assert entry["model_info"] == {"supports_vision": False, "mode": "chat"}
    assert "model_info" not in entry["litellm_params"]
    assert made_.groups[0].vision is False


# Programs ---------------------------------------------------------------------------------------------------


def test_programs(place: Place) -> None:
    made_ = made(place, GOOD)
    redis, web = made_.programs["redis"], made_.programs["web"]
    assert redis.spec.launch.argv == ("redis-server", "--port", "6379")
    assert (redis.asking, redis.spec.ready_after) == (ProbePlan(("127.0.0.1", 6379)), None)
    assert (redis.spec.launch.cwd, web.spec.launch.cwd) == (None, str(place.folder / "tiny"))
    assert env(made_, "web") == {"DEBUG": "1"}
    assert asking(made_, "web").address == ("localhost", 8080)
    assert [question.path for question in asking(made_, "web").probes] == ["/health"]


@pytest.mark.parametrize(
    ("ready", "address", "path"),
    [
        ("tcp: 'localhost:6379'", ("localhost", 6379), None),
        ("tcp: '[::1]:6379'", ("::1", 6379), None),
        ("http: 'http://localhost'", ("localhost", 80), "/"),
        ("http: 'http://127.0.0.1:8080'", ("127.0.0.1", 8080), "/"),
        ("http: 'http://[::1]:8080/a/b?c=d#e'", ("::1", 8080), "/a/b?c=d"),
    ],
)
def test_ways_of_being_ready(place: Place, ready: str, address: tuple[str, int], path: str | None) -> None:
    found = asking(made(place, f"programs:\n  p:\n    command: [sh]\n    ready: {{{ready}}}\n"), "p")
    assert found.address == address
    assert [question.path for question in found.probes] == ([] if path is None else [path])


def test_ready_by_age(place: Place) -> None:
    made_ = made(place, "programs:\n  p: {command: [sh]}\n  q: {command: [sh], ready: {after: 0}, stop: {grace: 2}}\n")
    assert [made_.programs[name].spec.ready_after for name in "pq"] == [1.0, 0.0]
    assert [made_.programs[name].spec.stop.sweep_grace for name in "pq"] == [5.0, 2.0]


def test_the_plan_can_be_shown_without_its_secrets(place: Place) -> None:
    made_ = made(place, GOOD, {"ANTHROPIC_API_KEY": "sk-ant-secret"})
    assert "secret" not in repr(made_)
    assert json.dumps(made_.litellm_config)


def test_another_key_is_no_reason_to_import_litellm_again(place: Place) -> None:
    """What its fork server has imported does for every key, and for what the configuration itself refers to."""
    params = (
        "{model: openai/x, api_key: os.environ/OPENAI_API_KEY, api_base: os.environ/ADDRESS, rpm: os.environ/LITELLM_X}"
    )
    place.write(f"model_list: [{{model_name: x, litellm_params: {params}}}]\n", "native.yaml")
    text = "gateway: {litellm_config: native.yaml}\nenv_file: keys.env\nmodels:\n"
    text += "  a: {model: org/x, port: 1, vllm: {api-key: '${VLLM_KEY}'}}\n"
    seen = []
    for key in ("one", "another"):
        values = {
            "OPENAI_API_KEY": key,
            "ADDRESS": f"http://{key}/v1",
            "VLLM_KEY": key,
            "OTHER_API_KEY": key,
            "PLAIN": "x",
        }
        place.write("".join(f"{name}={value}\n" for name, value in values.items()), "keys.env", 0o600)
        made_ = made(place, text)
        launch = made_.programs["gateway"].spec.launch
        late = {
            "CONFIG_FILE_PATH",
            "LITELLM_MASTER_KEY",
            "OPENAI_API_KEY",
            "ADDRESS",
            "OTHER_API_KEY",
            key_variable("a"),
        }
        assert late <= launch.late
        assert not {"PLAIN", "LITELLM_X", "LITELLM_LOCAL_MODEL_COST_MAP", "PATH"} & launch.late
        everything = {**made_.environs[Kind.LITELLM], **dict(launch.env)}
        seen.append({name: value for name, value in everything.items() if name not in launch.late})
    assert "PLAIN" in seen[0]
    assert seen[0] == seen[1]


def test_replicas_share_an_address_and_a_fork_server(place: Place) -> None:
    made_ = made(place, "gateway: {port: 4001, replicas: 3}\n")
    launches = [one.spec.launch for one in made_.programs.values() if one.spec.kind is Kind.LITELLM]
    assert [name for name in made_.programs if name.startswith("gateway")] == ["gateway", "gateway-2", "gateway-3"]
    assert {launch.listener for launch in launches} == {("127.0.0.1", 4001)}
    assert len({launch.uds for launch in launches}) == 3
    assert len({(launch.warm, launch.env) for launch in launches}) == 1


@pytest.mark.parametrize(("redis", "warned"), [("", True), ("router_settings: {redis_host: 127.0.0.1}\n", False)])
def test_replicas_count_limits_each_for_itself(place: Place, redis: str, warned: bool) -> None:
    entry = "model_list: [{model_name: x, litellm_params: {model: openai/x, api_key: k, rpm: 5}}]\n"
    (place.folder / "native.yaml").write_text(entry + redis)
    config = place.load("gateway: {replicas: 2, litellm_config: native.yaml}\n")
    assert any("counts rpm and tpm" in problem.message for problem in config.warnings) is warned


@pytest.mark.parametrize(
    ("more", "tried", "how"),
    [
        ("", False, "api"),
        ("", True, "full"),
        ("warm: full", False, "full"),
        ("warm: api", True, "api"),
        ("warm: off", True, "off"),
        ("warm: full, env: {VLLM_WORKER_MULTIPROC_METHOD: spawn}", True, "api"),
    ],
)
def test_how_a_model_is_started_again(place: Place, more: str, tried: bool, how: str) -> None:
    """``auto`` forks all of vLLM where that was tried on this machine."""
    launch = one_model(place, more, vllm_forks=tried).programs["a"].spec.launch
    seen = "off" if not launch.warm else "api" if "--spawn" in launch.warm else "full"
    assert seen == how
    assert (("VLLM_WORKER_MULTIPROC_METHOD", "fork") in launch.warm_env) is (how == "full")


def test_what_a_gateway_was_started_with(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said makes it another one; what this version makes of it does not: an upgrade restarts nothing."""
    usual = one_model(place, "").programs["gateway"].spec.digest
    for more in ("vision: true", "served_model_name: x", "litellm: {rpm: 5}", "env: {VLLM_API_KEY: x}"):
        assert one_model(place, more).programs["gateway"].spec.digest != usual
    assert one_model(place, "", at="port: 8001").programs["gateway"].spec.digest != usual
    assert one_model(place, "", at="uds: true").programs["gateway"].spec.digest != usual
    for more in ("gpus: [1]", "vllm: {max-model-len: 5}", "health: {period: 3s}"):
        assert one_model(place, more).programs["gateway"].spec.digest == usual
    entry = proxy_config._entry
    monkeypatch.setattr(proxy_config, "_entry", lambda group: entry(group) | {"another": "default"})
    assert one_model(place, "").programs["gateway"].spec.digest == usual


def listed(model_list: list[dict[str, object]], **settings: object) -> dict[str, bool | None]:
    return proxy_config.expected_groups({"model_list": model_list, "general_settings": settings})


def entry(name: object, vision: bool | None = None, **info: object) -> dict[str, object]:
    seen = {} if vision is None else {"supports_vision": vision}
    return {"model_name": name, "litellm_params": {"model": "openai/x"}, "model_info": {**seen, **info}}


def test_what_a_team_has_is_in_no_list_but_its_own() -> None:
    teams = entry("a", True, team_id="t")
    assert listed([teams]) == {}
    assert listed([teams, entry("a", False)]) == {"a": None}, "others may see another deployment of it"
    assert listed([entry("b", False, team_public_model_name="c", team_id="t"), entry("d")]) == {"d": None}
    assert list(proxy_config.configured_groups({"model_list": [teams, entry("d")]})) == ["a", "d"]


def test_a_database_may_add_to_a_group() -> None:
    both = [entry("a", False), entry("b", True)]
    assert listed(both) == {"a": False, "b": True}
    assert listed(both, store_model_in_db=True) == {"a": None, "b": True}


def test_what_is_not_resolved_is_not_expected() -> None:
    assert listed([entry(None), entry("openai/*"), entry("gpt-*"), entry("x", access_groups=["beta"])]) == {"x": None}


def test_the_daemon_is_let_in_where_only_some_addresses_are() -> None:
    """By a replica's private socket it comes without an address, or it is asked for one in a header."""
    native = {"general_settings": {"allowed_ips": ["10.0.0.7"]}}
    assert proxy_config.compose(native, [])["general_settings"]["allowed_ips"] == ["10.0.0.7", ""]
    assert proxy_config.our_address(native) == ()
    behind: dict[str, Any] = {"general_settings": {"allowed_ips": ["10.0.0.7"], "use_x_forwarded_for": True}}
    assert proxy_config.compose(behind, [])["general_settings"]["allowed_ips"] == ["10.0.0.7"]
    assert proxy_config.our_address(behind) == (("X-Forwarded-For", "10.0.0.7"),)
    assert proxy_config.may_refuse_us(behind) == ""
    assert proxy_config.may_refuse_us({"general_settings": {"custom_auth": "a.b"}}) == "general_settings.custom_auth"


def test_a_database_or_an_agent_may_be_a_fallback(place: Place) -> None:
    native = "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: no-key}}]\n"
    wrong = native + "router_settings: {fallbacks: [{a: [b]}]}\n"
    text = "gateway: {litellm_config: native.yaml}\n"
    for more, said in (
        ("", ["b is no group"]),
        ("general_settings: {store_model_in_db: true}\n", []),
        ("agents: [{agent_name: b}]\n", []),
    ):
        place.write(wrong + more, "native.yaml")
        assert [problem.message for problem in place.problems(text)] == said
