"""What is kept of a configuration for a daemon that finds its files broken: all of it, but for the secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_supervisor.cli import main
from llm_supervisor.config import keep, load, restore
from llm_supervisor.oneshot import presets

KEY = "sk-of-the-gateway-0123456789"
CLOUD = "sk-ant-of-a-cloud"
TOKEN = "hf_of-the-environment"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "keys.env").write_text(f"LITELLM_MASTER_KEY={KEY}\nCLOUD={CLOUD}\nCLOUD_LONG={CLOUD}-and-more\nN=1\n")
    (tmp_path / "keys.env").chmod(0o600)
    (tmp_path / "litellm.yaml").write_text(
        "model_list:\n- model_name: c\n  litellm_params: {model: anthropic/x, api_key: os.environ/CLOUD}\n"
        "- model_name: d\n  litellm_params: {model: openai/x, api_key: sk-as-such, made: 2026-01-01}\n"
    )
    file = tmp_path / "supervisor.yaml"
    file.write_text(
        "gateway: {litellm_config: litellm.yaml}\nenv_file: keys.env\nmodels:\n  m:\n    model: org/m\n    port: 8000\n"
        "    vllm: {api-key: '${CLOUD}', max-model-len: '${N}'}\n"
        "    env: {HEADER: 'Bearer ${CLOUD_LONG}', DOUBTFUL: $HOME/x, T: '${HF_TOKEN}'}\n"
    )
    return file


def test_no_secret_is_in_it(place: Path) -> None:
    config = load(place, {"HF_TOKEN": TOKEN, "HOME": "/home/of-somebody"})
    text = keep(config)
    assert not [secret for secret in (KEY, CLOUD, TOKEN) if secret in text]
    assert "/home/of-somebody" not in text
    assert "sk-as-such" in text, "which is in a file anyway"


def test_it_is_the_same_configuration(place: Path) -> None:
    environ = {"HF_TOKEN": TOKEN}
    config = load(place, environ)
    for name in ("supervisor.yaml", "litellm.yaml"):
        (place.parent / name).write_text("broken: [")
    again = restore(keep(config), environ)
    assert again.root == config.root
    assert again.root.models["m"].env["HEADER"] == f"Bearer {CLOUD}-and-more"
    assert again.root.models["m"].vllm == {"api-key": CLOUD, "max-model-len": 1}
    assert again.native == json.loads(json.dumps(config.native, default=str))
    assert (again.master_key, again.env_values, again.files) == (KEY, config.env_values, config.files)
    assert dict(again.environ) == dict(config.environ)


def test_values_that_are_found_elsewhere(place: Path) -> None:
    """A variable's value in a text that does not name it is that text's own."""
    keys = place.parent / "keys.env"
    keys.write_text(f"{keys.read_text()}WORK={place.parent}\nPROVIDER=anthropic\nTEAM=CLOUD_LONG\n")
    config = load(place, {"HF_TOKEN": TOKEN})
    text = keep(config)
    keys.write_text(keys.read_text().replace("PROVIDER=anthropic", "PROVIDER=deepseek"))
    again = restore(text, {"HF_TOKEN": TOKEN})
    assert again.files == config.files
    assert again.native["model_list"][0]["litellm_params"]["model"] == "anthropic/x"


def test_a_key_that_has_changed_since(place: Path) -> None:
    text = keep(load(place, {"HF_TOKEN": TOKEN}))
    keys = place.parent / "keys.env"
    keys.write_text(keys.read_text().replace(KEY, "sk-another-one-9876543210"))
    assert restore(text, {"HF_TOKEN": TOKEN}).master_key == "sk-another-one-9876543210"


@pytest.mark.parametrize("gone", ["the file", "a line of it", "a variable of the environment"])
def test_a_secret_that_is_gone(place: Path, gone: str) -> None:
    environ = {"HF_TOKEN": TOKEN}
    text = keep(load(place, environ))
    keys = place.parent / "keys.env"
    if gone == "the file":
        keys.unlink()
    elif gone == "a line of it":
        keys.write_text(keys.read_text().replace("CLOUD=", "# "))
    else:
        environ = {}
    with pytest.raises(ValueError, match="not a configuration"):
        restore(text, environ)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', "[" * 100_000])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a configuration"):
        restore(text, {})


@pytest.mark.parametrize("name", sorted(presets.names()))
def test_every_preset(tmp_path: Path, name: str) -> None:
    assert main.main(["init", name, str(tmp_path)]) == 0
    keys = tmp_path / "keys.env"
    filled = [line + "filled-in" if line.endswith("=") else line for line in keys.read_text().splitlines()]
    keys.write_text("\n".join(filled))
    config = load(tmp_path / "supervisor.yaml", {})
    text = keep(config)
    assert config.master_key and config.master_key not in text
    again = restore(text, {})
    assert (again.root, again.native, again.master_key) == (config.root, config.native, config.master_key)
