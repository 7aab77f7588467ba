"""How much memory a model needs: figures of real models' configurations, against what is known of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.engines import memory_estimate
from llm_supervisor.units import GIB

# As in their repositories, as far as it matters here
GLM_41V: dict[str, Any] = {
    "model_type": "glm4v",
    "text_config": {
        "model_type": "glm4v_text", "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696,
        "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 2, "dtype": "bfloat16",
        "max_position_embeddings": 65536, "tie_word_embeddings": False,
    },
    "vision_config": {"hidden_size": 1536, "depth": 24},
}  # fmt: skip
GLM_4V: dict[str, Any] = {
    "model_type": "chatglm", "architectures": ["ChatGLMModel"], "hidden_size": 4096, "ffn_hidden_size": 13696,
    "num_layers": 40, "num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2,
    "kv_channels": 128, "padded_vocab_size": 151552, "seq_length": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
MINICPM_V: dict[str, Any] = {
    "model_type": "minicpmv", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 151666, "torch_dtype": "bfloat16",
    "max_position_embeddings": 32768,
}  # fmt: skip
LLAVA: dict[str, Any] = {
    "model_type": "llava", "torch_dtype": "float16",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
}  # fmt: skip
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "n_routed_experts": 256, "vocab_size": 129280, "max_position_embeddings": 163840,
}  # fmt: skip


def of(folder: Path, config: dict[str, Any], **options: Any) -> memory_estimate.Footprint:
    (folder / "config.json").write_text(json.dumps(config))
    found = memory_estimate.read(folder, {name.replace("_", "-"): value for name, value in options.items()})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "kv_token", "billions"),
    [
        # bytes a token: layers x 2 x key-value heads x width of a head x 2; billions: of the language model's card
        (GLM_41V, 40 * 2 * 2 * 128 * 2, 9.4),
        (GLM_4V, 40 * 2 * 2 * 128 * 2, 9.4),
        (MINICPM_V, 28 * 2 * 4 * 128 * 2, 7.6),
        (LLAVA, 32 * 2 * 32 * 128 * 2, 6.7),
        (DEEPSEEK, 61 * (512 + 64) * 2, 671),
    ],
)
def test_real_models(tmp_path: Path, config: dict[str, Any], kv_token: int, billions: float) -> None:
    need = of(tmp_path, config, max_model_len=10_000)
    assert need.kv_token == kv_token
    assert need.kv_cache == 10_000 * kv_token
    assert need.weights == pytest.approx(billions * 2e9, rel=0.08), "no files: from the configuration"


def test_options(tmp_path: Path) -> None:
    plain = of(tmp_path, GLM_41V)
    assert plain.max_len == 65536
    assert of(tmp_path, GLM_41V, max_model_len="25k").max_len == 25_000
    assert of(tmp_path, GLM_41V, max_model_len="25K").max_len == 25_600
    assert of(tmp_path, GLM_41V, max_model_len=-1).max_len == 65536
    assert of(tmp_path, GLM_41V, max_model_len="auto").max_len == 65536
    assert of(tmp_path, GLM_41V, kv_cache_dtype="fp8").kv_cache * 2 == plain.kv_cache
    halved = of(tmp_path, GLM_41V, tensor_parallel_size=2)
    assert (halved.weights, halved.kv_cache) == (plain.weights // 2, plain.kv_cache // 2)
    assert of(tmp_path, GLM_41V, dtype="float32").weights == 2 * plain.weights
    assert of(tmp_path, GLM_41V, enforce_eager=True).context < plain.context
    overrides = {"text_config": {"max_position_embeddings": 131072}}
    assert of(tmp_path, GLM_41V, hf_overrides=overrides).max_len == 131072
    assert of(tmp_path, GLM_41V, hf_overrides=json.dumps(overrides)).max_len == 131072
    assert of(tmp_path, GLM_41V, runner="pooling").kv_cache == 0
    assert of(tmp_path, GLM_41V, max_num_seqs=1).activations < plain.activations
    assert plain.total == plain.weights + plain.kv_cache + plain.activations + plain.context


def test_files_say_more_than_the_configuration(tmp_path: Path) -> None:
    assert memory_estimate.weights(tmp_path) is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 10)
    assert memory_estimate.weights(tmp_path) == 10
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "consolidated.safetensors").write_bytes(b"x" * 5000)
    assert memory_estimate.weights(tmp_path) == 1000, "what vLLM prefers, and not twice"
    for number in (1, 2):
        (tmp_path / f"model-{number}.safetensors").write_bytes(b"x" * 300)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert memory_estimate.weights(tmp_path) == 600
    assert of(tmp_path, GLM_41V).weights == 600
    assert of(tmp_path, {**GLM_41V, "dtype": "float32"}).weights == 300, "loaded in 16 bits"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hidden_size": "big"}', '{"hidden_size": 1}', "[" * 100_000])
def test_what_does_not_tell(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert memory_estimate.read(tmp_path, {}) is None
    assert memory_estimate.read(tmp_path / "nowhere", {}) is None


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("THUDM/glm-4v-9b", 9),
        ("Qwen/Qwen2.5-VL-0.5B-Instruct", 0.5),
        ("a/llava-1.5-7b-hf", 7),
        ("org/MiniCPM-V-2_6", 0),
    ],
)
def test_by_its_name(name: str, billions: float) -> None:
    found = memory_estimate.by_name(name)
    assert (found or 0) == billions * 2e9
    assert found is None or found < 1000 * GIB
