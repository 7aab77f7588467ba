"""Which variables reach which program: each gets what it needs, and nobody else's keys."""

from __future__ import annotations

import pytest

from llm_supervisor.config import Config, environments, plan
from llm_supervisor.config.specs import Pythons
from llm_supervisor.core.spec import Kind
from tests.config.conftest import Place

# Ordinary variables of a system, and what users of one machine or another need for vLLM
ORDINARY = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "USER": "llm",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "http_proxy": "http://user:word@proxy:3128",
    "HTTPS_PROXY": "http://user:word@proxy:3128",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/etc/ssl/own.pem",
    "XDG_CACHE_HOME": "/big/cache",
    "CUDA_HOME": "/usr/local/cuda",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NCCL_IB_HCA": "mlx5_0",
    "UCX_NET_DEVICES": "mlx5_0:1",
    "IBV_FORK_SAFE": "1",
    "HIP_VISIBLE_DEVICES": "0",
    "ROCM_PATH": "/opt/rocm",
    "HSA_OVERRIDE_GFX_VERSION": "11.0.0",
    "TRITON_CACHE_DIR": "/fast/triton",
    "TORCHINDUCTOR_CACHE_DIR": "/fast/inductor",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "RAY_ADDRESS": "10.0.0.1:6379",
    "OMP_NUM_THREADS": "8",
    "HF_HOME": "/big/hf",
    "HF_ENDPOINT": "https://mirror",
    "VLLM_LOGGING_LEVEL": "INFO",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}
HUBS = {"HF_TOKEN": "hf_abcdefghijklmnop", "MODELSCOPE_API_TOKEN": "ms-1234567"}
OTHERS = {
    "ANTHROPIC_API_KEY": "sk-ant-1",
    "OPENAI_API_KEY": "sk-1",
    "GEMINI_API_KEY": "g-1",
    "SOMEBODYS_API_KEY": "s-1",
    "NVIDIA_API_KEY": "nvapi-1",
    "HUGGINGFACE_API_KEY": "hf-1",
    "LITELLM_MASTER_KEY": "sk-master",
    "LITELLM_SALT_KEY": "salt",
    "DATABASE_URL": "postgresql://u:p@db/x",
    "DIRECT_URL": "postgresql://u:p@db/x",
    "REDIS_URL": "redis://r:1",
    "REDIS_PASSWORD": "word",
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "AWS_SESSION_TOKEN": "aws",
    "AZURE_API_BASE": "https://a",
    "GOOGLE_APPLICATION_CREDENTIALS": "/keys.json",
    "CREDENTIALS_DIRECTORY": "/run/credentials",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=x",
    "UI_PASSWORD": "word",
    "PIP_INDEX_URL": "https://u:p@index/simple",
}
EVERYTHING = {**ORDINARY, **HUBS, **OTHERS}
MODEL = "models: {a: {model: THUDM/x, port: 8000%s}}\n"
ENV_FILE = "gateway: {}\nenv_file: keys.env\n"


def of_file(place: Place, values: dict[str, str], more: str = "", text: str = ENV_FILE) -> Config:
    """A configuration whose env file has these values."""
    place.write("".join(f"{name}={value}\n" for name, value in values.items()), "keys.env", 0o600)
    return place.load(text + MODEL % more)


def test_of_the_daemons_own_vllm_gets_all_but_the_keys_of_others(place: Place) -> None:
    made = environments.of_kinds(place.load("gateway: {}\n" + MODEL % "", EVERYTHING))
    assert made[Kind.VLLM] == {**ORDINARY, **HUBS}


def test_of_the_env_file_vllm_gets_what_it_reads(place: Place) -> None:
    plain = {"COMPANY": "x", "TPM": "80000", "TZ": "UTC", "USER": "llm"}  # not vLLM's, and harmless: still not needed
    made = environments.of_kinds(of_file(place, {**EVERYTHING, **plain}))
    assert made[Kind.VLLM] == {name: value for name, value in {**ORDINARY, **HUBS}.items() if name not in plain}


def test_litellm_gets_all_but_the_keys_of_hubs_and_engines(place: Place) -> None:
    made = environments.of_kinds(of_file(place, {**EVERYTHING, "VLLM_API_KEY": "sk-engine"}))
    assert made[Kind.LITELLM] == {**ORDINARY, **OTHERS}


@pytest.mark.parametrize(
    "params", ["{model: openai/x, api_key: os.environ/HF_TOKEN}", "{model: huggingface/together/deepseek}"]
)
def test_litellm_gets_the_key_of_a_hub_that_it_asks(place: Place, params: str) -> None:
    place.write(f"model_list: [{{model_name: x, litellm_params: {params}}}]\n", "native.yaml")
    config = of_file(place, HUBS, text=ENV_FILE.replace("{}", "{litellm_config: native.yaml}"))
    assert environments.of_kinds(config)[Kind.LITELLM]["HF_TOKEN"] == HUBS["HF_TOKEN"]


@pytest.mark.parametrize("written", ["os.environ/OPENAI_API_KEY", "${OPENAI_API_KEY}"])
@pytest.mark.parametrize("by_file", [True, False])
def test_env_adds_by_name(place: Place, written: str, by_file: bool) -> None:
    more = f', env: {{OPENAI_API_KEY: "{written}"}}'
    key = {"OPENAI_API_KEY": "sk-1"}
    config = of_file(place, key, more) if by_file else place.load("gateway: {}\n" + MODEL % more, key)
    assert "OPENAI_API_KEY" not in environments.of_vllm(config)
    assert environments.of_model(config, config.root.models["a"])["OPENAI_API_KEY"] == "sk-1"
    made = plan(config, runtime=place.folder, pythons=Pythons("v", "l", vllm_cpu=False), master_key="sk-master")
    assert dict(made.programs["a"].spec.launch.env)["OPENAI_API_KEY"] == "sk-1"


def test_a_command_gets_no_key(place: Place) -> None:
    assert environments.of_commands(EVERYTHING) == ORDINARY


def test_a_download_gets_the_hubs_keys_only(place: Place) -> None:
    config = of_file(place, {**EVERYTHING, "VLLM_API_KEY": "sk-engine"}, ", env: {S3_SECRET_ACCESS_KEY: word}")
    made = environments.of_download(environments.of_model(config, config.root.models["a"]))
    assert {name for name in made if name not in ORDINARY} == set(HUBS)
    assert environments.of_download_alone(EVERYTHING) == {**ORDINARY, **HUBS}


def digest(config: Config, place: Place) -> str:
    made = plan(config, runtime=place.folder, pythons=Pythons("v", "l", vllm_cpu=False), master_key="sk-master")
    return made.programs["a"].spec.digest


@pytest.mark.parametrize(
    ("name", "changed"), [("HF_HOME", True), ("HIP_VISIBLE_DEVICES", True), ("OPENAI_API_KEY", False), ("X", False)]
)
def test_what_does_not_reach_an_engine_is_no_reason_to_restart_it(place: Place, name: str, changed: bool) -> None:
    before = digest(of_file(place, {name: "1"}), place)
    assert (digest(of_file(place, {name: "2"}), place) != before) is changed
