"""The presets, and what ``init`` makes of them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import jsonschema
import pytest
import yaml

from llm_supervisor.cli import main
from llm_supervisor.config import load, plan
from llm_supervisor.config.show import json_schema
from llm_supervisor.config.specs import Pythons
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.oneshot import presets

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(presets.names())
NATIVE = "litellm_config.yaml"
KEYS = (
    "ANTHROPIC_API_KEY OPENAI_API_KEY GEMINI_API_KEY LLM_MODEL LLM_PROVIDER LLM_PROVIDER_BASE_URL LLM_PROVIDER_API_KEY"
    " EMBEDDING_MODEL EMBEDDING_PROVIDER EMBEDDING_PROVIDER_BASE_URL EMBEDDING_PROVIDER_API_KEY"
)


def test_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["init"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == NAMES
    assert all(len(line.split()) > 3 for line in said), "each says what it is"
    assert (ROOT / "configs/presets").resolve() == Path(presets.__file__).parent
    assert main.main(["init", "glm-4v"]) == 2
    assert "no such preset: glm-4v (did you mean glm-4v-9b?)" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_new_folder(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is valid as it is, once the keys that are somebody else's are there."""
    folder = tmp_path / "new/place"
    assert main.main(["init", name, str(folder)]) == 0
    said = capsys.readouterr().out
    files = {file.name for file in folder.iterdir()}
    assert files == {"supervisor.yaml", "keys.env", "litellm_config.yaml"}
    assert f"  litellm_config: {NATIVE} " in (folder / "supervisor.yaml").read_text().replace("\n", " ")
    assert all(str(folder / file) in said for file in files)
    keys = folder / "keys.env"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    written = [line for line in keys.read_text().splitlines() if not line.startswith("#")]
    lines = dict(line.split("=", 1) for line in written)
    empty = [key for key, value in lines.items() if not value]
    assert set(empty) <= set(KEYS.split())
    assert all(key in said for key in empty), "what to fill in is said"
    assert "RPM" not in said, "and what may stay empty is not"
    keys.write_text("".join(f"{key}={value or 'filled-in'}\n" for key, value in lines.items()))

    config = load(folder / "supervisor.yaml", {})
    assert config.warnings == ()
    assert config.master_key == lines["LITELLM_MASTER_KEY"]
    assert re.fullmatch(r"sk-[\w-]{40,}", config.master_key)
    jsonschema.validate(yaml.safe_load((folder / "supervisor.yaml").read_text()), json_schema())
    made = plan(config, runtime=tmp_path, pythons=Pythons("v", "l", vllm_cpu=False), master_key="k")
    argv = " ".join(word for one in made.programs.values() for word in one.spec.launch.argv)
    assert not [value for value in lines.values() if value and value in argv]

    before = {file.name: file.read_text() for file in folder.iterdir()}
    assert main.main(["init", name, str(folder)]) == 2, "nothing is overwritten"
    assert "exists already" in capsys.readouterr().err
    assert {file.name: file.read_text() for file in folder.iterdir()} == before


@pytest.mark.parametrize("name", [name for name in NAMES if not yaml.safe_load(presets.texts(name)[NATIVE] or "")])
def test_what_a_native_file_offers_works(tmp_path: Path, name: str) -> None:
    """The comments of one that says nothing, taken out."""
    assert main.main(["init", name, str(tmp_path)]) == 0
    native = tmp_path / NATIVE
    lines = native.read_text().splitlines()
    assert all(line[0] == "#" for line in lines)
    native.write_text("".join(f"{line[1:]}\n" for line in lines if not re.match(r"# \S", line)))
    config = load(tmp_path / "supervisor.yaml", {"ANTHROPIC_API_KEY": "x", "OPENAI_API_KEY": "x"})
    assert config.warnings == ()
    assert set(config.native) == {"model_list", "router_settings", "litellm_settings"}
    (alias,) = config.root.models
    made = plan(config, runtime=tmp_path, pythons=Pythons("v", "l", vllm_cpu=False), master_key="k")
    ours = {group.name for group in made.groups if group.local}
    assert len(made.groups) == 3 and alias in ours and len(ours) == 2


def test_the_clouds_are_the_same_in_every_preset() -> None:
    """Today's names are brought up to date in all of them, and what else their groups have with them."""
    cloud, coding = (yaml.safe_load(presets.texts(name)[NATIVE])["model_list"] for name in ("cloud", "coding-clients"))
    assert [{**entry, "model_name": ""} for entry in coding] == [{**entry, "model_name": ""} for entry in cloud]
    there = {entry["litellm_params"]["model"] for entry in cloud}
    for name in NAMES:
        named = re.findall(r"model: ((?:anthropic|openai|gemini)/[\w.-]+)", presets.texts(name)[NATIVE])
        assert {model for model in named if "embedding" not in model} <= there, name


def test_two_have_not_the_same_key() -> None:
    one, other = (presets.made("cloud", free=lambda port: True, gpus=True)["keys.env"] for _ in range(2))
    assert one != other


def test_ports_that_are_taken_are_left(tmp_path: Path) -> None:
    files = presets.made("several", free=lambda port: port not in (4000, 8000, 8001), gpus=True)
    config = yaml.safe_load(files["supervisor.yaml"])
    ports = [config["gateway"]["port"], *(model["port"] for model in config["models"].values())]
    assert ports == [4001, 8002, 8003, 8004]
    bases = [one["litellm_params"]["api_base"] for one in yaml.safe_load(files["litellm_config.yaml"])["model_list"]]
    assert bases == ["http://127.0.0.1:8002/v1", "http://127.0.0.1:8003/v1"], "who refers to them goes along"
    with net_listener.bind("127.0.0.1", 0) as sock:
        taken = sock.getsockname()[1]
        assert net_listener.can_bind("127.0.0.1", taken) is not None


def test_without_a_gpu_none_is_named() -> None:
    with_one, without = (presets.made("llava", free=lambda port: True, gpus=gpus) for gpus in (True, False))
    assert yaml.safe_load(with_one["supervisor.yaml"])["models"]["llava"]["gpus"] == [0]
    assert "gpus" not in yaml.safe_load(without["supervisor.yaml"])["models"]["llava"]
    assert "no NVIDIA GPU was found" in without["supervisor.yaml"]


def test_the_example_of_a_host_with_a_gpu(tmp_path: Path) -> None:
    """Valid as it stands, with the preset's own cloud models; their keys are somebody else's."""
    (tmp_path / "presets").symlink_to(ROOT / "configs/presets")
    (tmp_path / "supervisor.yaml").write_text((ROOT / "configs/gpu-host.yaml").read_text())
    (tmp_path / "keys.env").touch(0o600)
    config = load(tmp_path / "supervisor.yaml", {})
    assert [problem.message.partition(": ")[2] for problem in config.warnings] == [
        "claude-code is disabled", "codex is disabled", "gemini-cli is disabled",
    ]  # fmt: skip
