"""Tiny models with random weights, of the architectures that presets are for: the files of the real repositories, the
code in them included as far as vLLM needs it, in a few MiB.

Runs INSIDE the vLLM environment: ``python make.py KIND FOLDER``. The weights are real, so that the answer depends on
the picture. GLM-4.1V's maker is part of the package (``install --tiny-model``); this one stands on it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent.parent.parent / "supervisor/llm_supervisor/engines/inside"))

from tiny_glm41v import CONTROL_TOKENS, Weights, make_tokenizer, speakable  # noqa: E402

HIDDEN, INNER, HEADS, LAYERS = 64, 128, 2, 2
PATCH = 14
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def write(folder: Path, name: str, document: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(document, indent=2) + "\n")


def write_tokenizer(folder: Path, tokenizer: Tokenizer, chat_template: str, code: str = "", **special: str) -> None:
    """``code`` is the class in the repository that it is loaded by."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=chat_template, clean_up_tokenization_spaces=False, **special
    )
    fast.save_pretrained(folder)
    if code:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config |= {"tokenizer_class": code.rpartition(".")[2], "auto_map": {"AutoTokenizer": [code, None]}}
        write(folder, "tokenizer_config.json", config)


def add_layer_norm(weights: Weights, name: str, size: int) -> None:
    weights.norm(name, size, bias=True)


def add_decoder(
    weights: Weights, root: str, tokenizer: Tokenizer, hidden: int, *, bias: bool = False, norms: bool = False
) -> None:
    """Llama's; with ``bias`` Qwen2's, with ``norms`` Qwen3's."""
    count = tokenizer.get_vocab_size()
    weights.embedding(f"{root}model.embed_tokens", count, hidden)
    for index in range(LAYERS):
        layer = f"{root}model.layers.{index}"
        for norm in ("input", "post_attention"):
            weights.norm(f"{layer}.{norm}_layernorm", hidden)
        for name in "qkv":
            weights.projection(f"{layer}.self_attn.{name}_proj", hidden, hidden, bias=bias)
        for name in "qk" if norms else "":
            weights.norm(f"{layer}.self_attn.{name}_norm", hidden // HEADS)
        weights.projection(f"{layer}.self_attn.o_proj", hidden, hidden)
        weights.projection(f"{layer}.mlp.gate_proj", INNER, hidden)
        weights.projection(f"{layer}.mlp.up_proj", INNER, hidden)
        weights.projection(f"{layer}.mlp.down_proj", hidden, INNER)
    weights.norm(f"{root}model.norm", hidden)
    weights.head(f"{root}lm_head", count, hidden, speakable(tokenizer))


def add_encoder(weights: Weights, root: str, layers: int, size: int, norms: tuple[str, str]) -> None:
    """CLIP's and SigLIP's image encoder."""
    for index in range(layers):
        layer = f"{root}.layers.{index}"
        for norm in norms:
            add_layer_norm(weights, f"{layer}.{norm}", size)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights.projection(f"{layer}.self_attn.{name}", size, size, bias=True)
        weights.projection(f"{layer}.mlp.fc1", INNER, size, bias=True)
        weights.projection(f"{layer}.mlp.fc2", size, INNER, bias=True)


# GLM-4V-9B --------------------------------------------------------------------------------------------------------


GLM_TEMPLATE = """\
[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>
{{ message.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


def glm4v(folder: Path) -> None:
    """``architectures`` is what the hub's repository says, which vLLM takes for the text model."""
    tokenizer = make_tokenizer(CONTROL_TOKENS, "")
    token = tokenizer.token_to_id
    ends = [token(end) for end in ("<|endoftext|>", "<|user|>", "<|observation|>")]
    side, head = 56, HIDDEN // HEADS
    vision = {
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "image_size": side,
        "in_channels": 3,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-6,
        "num_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_positions": (side // PATCH) ** 2 + 1,
        "patch_size": PATCH,
        "scaling_factor": 1,
    }
    config = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "torch_dtype": "bfloat16",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False,
        "boi_token_id": token("<|begin_of_image|>"),
        "eoi_token_id": token("<|end_of_image|>"),
        "eos_token_id": ends,
        "ffn_hidden_size": INNER,
        "hidden_size": HIDDEN,
        "kv_channels": head,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": 1,
        "num_attention_heads": HEADS,
        "num_layers": LAYERS,
        "original_rope": True,
        "pad_token_id": token("<|endoftext|>"),
        "padded_vocab_size": tokenizer.get_vocab_size(),
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": 1,
        "seq_length": 8192,
        "tie_word_embeddings": False,
        "vision_config": vision,
    }
    write(folder, "config.json", config)
    write(folder, "generation_config.json", {"eos_token_id": ends, "pad_token_id": token("<|endoftext|>")})
    write_tokenizer(
        folder, tokenizer, GLM_TEMPLATE, "tokenization_chatglm.ChatGLM4Tokenizer",
        eos_token="<|endoftext|>", pad_token="<|endoftext|>",
    )  # fmt: skip

    weights, count = Weights(0), tokenizer.get_vocab_size()
    weights.embedding("transformer.embedding.word_embeddings", count, HIDDEN)
    for index in range(LAYERS):
        layer = f"transformer.encoder.layers.{index}"
        for norm in ("input", "post_attention"):
            weights.norm(f"{layer}.{norm}_layernorm", HIDDEN)
        weights.projection(f"{layer}.self_attention.query_key_value", (HEADS + 2) * head, HIDDEN, bias=True)
        weights.projection(f"{layer}.self_attention.dense", HIDDEN, HEADS * head)
        weights.projection(f"{layer}.mlp.dense_h_to_4h", 2 * INNER, HIDDEN)
        weights.projection(f"{layer}.mlp.dense_4h_to_h", HIDDEN, INNER)
    weights.norm("transformer.encoder.final_layernorm", HIDDEN)
    weights.head("transformer.output_layer", count, HIDDEN, speakable(tokenizer))
    tower = "transformer.vision"
    patches = f"{tower}.patch_embedding"
    weights.normal(f"{patches}.cls_embedding", 1, HIDDEN, scale=1.0)
    weights.projection(f"{patches}.proj", HIDDEN, 3, PATCH, PATCH, bias=True)
    weights.embedding(f"{patches}.position_embedding", vision["num_positions"], HIDDEN)
    for index in range(LAYERS):
        layer = f"{tower}.transformer.layers.{index}"
        for norm in ("input", "post_attention"):
            add_layer_norm(weights, f"{layer}.{norm}_layernorm", HIDDEN)
        weights.projection(f"{layer}.attention.query_key_value", 3 * HIDDEN, HIDDEN, bias=True)
        weights.projection(f"{layer}.attention.dense", HIDDEN, HIDDEN, bias=True)
        weights.projection(f"{layer}.mlp.fc1", INNER, HIDDEN, bias=True)
        weights.projection(f"{layer}.mlp.fc2", HIDDEN, INNER, bias=True)
    weights.projection(f"{tower}.conv", HIDDEN, HIDDEN, 2, 2, bias=True)
    weights.projection(f"{tower}.linear_proj.linear_proj", HIDDEN, HIDDEN)
    add_layer_norm(weights, f"{tower}.linear_proj.norm1", HIDDEN)
    weights.projection(f"{tower}.linear_proj.gate_proj", INNER, HIDDEN)
    weights.projection(f"{tower}.linear_proj.dense_h_to_4h", INNER, HIDDEN)
    weights.projection(f"{tower}.linear_proj.dense_4h_to_h", HIDDEN, INNER)
    for name in ("boi", "eoi"):
        weights.normal(f"{tower}.{name}", 1, 1, HIDDEN, scale=1.0)
    weights.save(folder)


# LLaVA 1.5 --------------------------------------------------------------------------------------------------------

LLAVA_TEMPLATE = """\
{% for message in messages %}{{ message.role.upper() }}: \
{% if message.content is string %}{{ message.content }}\
{% else %}{% for part in message.content if part.type == 'image' %}<image>
{% endfor %}{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %} \
{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"""


def llava(folder: Path) -> None:
    tokenizer = make_tokenizer("<unk> <s> </s> <pad> <image>", "")
    token, side, layers = tokenizer.token_to_id, 56, 3
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "torch_dtype": "bfloat16",
        "ignore_index": -100,
        "image_token_index": token("<image>"),
        "pad_token_id": token("<pad>"),
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "bos_token_id": token("<s>"),
            "eos_token_id": token("</s>"),
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "max_position_embeddings": 4096,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": HEADS,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "vocab_size": tokenizer.get_vocab_size(),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": HIDDEN,
            "image_size": side,
            "intermediate_size": INNER,
            "num_attention_heads": HEADS,
            "num_hidden_layers": layers,
            "patch_size": PATCH,
            "projection_dim": HIDDEN,
        },
    }
    write(folder, "config.json", config)
    write(folder, "generation_config.json", {"eos_token_id": token("</s>"), "pad_token_id": token("<pad>")})
    write_tokenizer(
        folder, tokenizer, LLAVA_TEMPLATE,
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    square = {"height": side, "width": side}
    pixels = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "crop_size": square,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
        **CLIP,
    }
    write(folder, "preprocessor_config.json", pixels)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
    }
    write(folder, "processor_config.json", processor)

    weights = Weights(0)
    add_decoder(weights, "language_model.", tokenizer, HIDDEN)
    tower = "vision_tower.vision_model"
    weights.normal(f"{tower}.embeddings.class_embedding", HIDDEN, scale=1.0)
    weights.projection(f"{tower}.embeddings.patch_embedding", HIDDEN, 3, PATCH, PATCH)
    weights.embedding(f"{tower}.embeddings.position_embedding", (side // PATCH) ** 2 + 1, HIDDEN)
    for norm in ("pre_layrnorm", "post_layernorm"):
        add_layer_norm(weights, f"{tower}.{norm}", HIDDEN)
    add_encoder(weights, f"{tower}.encoder", layers, HIDDEN, ("layer_norm1", "layer_norm2"))
    weights.projection("multi_modal_projector.linear_1", HIDDEN, HIDDEN, bias=True)
    weights.projection("multi_modal_projector.linear_2", HIDDEN, HIDDEN, bias=True)
    weights.save(folder)


# MiniCPM-V 2.6 ----------------------------------------------------------------------------------------------------

CHATML = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def minicpmv(folder: Path) -> None:
    around = "<image> </image> <slice> </slice> <image_id> </image_id>"
    tokenizer = make_tokenizer(f"<unk> <|endoftext|> <|im_start|> <|im_end|> {around}", "")
    token, side, slices, queries = tokenizer.token_to_id, 56, 4, 4
    hidden = 128  # the resampler has a head for each 128
    config = {
        "architectures": ["MiniCPMV"],
        "model_type": "minicpmv",
        "version": 2.6,
        "torch_dtype": "bfloat16",
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMVConfig"},
        "batch_vision_input": True,
        "bos_token_id": token("<|im_start|>"),
        "eos_token_id": token("<|im_end|>"),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "image_size": side,
        "intermediate_size": INNER,
        "max_position_embeddings": 4096,
        "max_slice_num": slices,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "query_num": queries,
        "rms_norm_eps": 1e-6,
        "slice_config": {"max_slice_nums": slices, "model_type": "minicpmv", "patch_size": PATCH},
        "slice_mode": True,
        "tie_word_embeddings": False,
        "use_image_id": True,
        "vision_config": {
            "model_type": "siglip",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": HIDDEN,
            "image_size": 10 * PATCH,
            "intermediate_size": INNER,
            "layer_norm_eps": 1e-6,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "patch_size": PATCH,
        },
        "vocab_size": tokenizer.get_vocab_size(),
    }
    write(folder, "config.json", config)
    write(folder, "generation_config.json", {"eos_token_id": [token("<|im_end|>"), token("<|endoftext|>")]})
    write_tokenizer(
        folder, tokenizer, CHATML, "tokenization_minicpmv_fast.MiniCPMVTokenizerFast",
        unk_token="<unk>", bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    pixels = {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "auto_map": {
            "AutoImageProcessor": "image_processing_minicpmv.MiniCPMVImageProcessor",
            "AutoProcessor": "processing_minicpmv.MiniCPMVProcessor",
        },
        "image_feature_size": queries,
        "max_slice_nums": slices,
        "patch_size": PATCH,
        "scale_resolution": side,
    }
    write(folder, "preprocessor_config.json", pixels)

    weights = Weights(0)
    add_decoder(weights, "llm.", tokenizer, hidden, bias=True)
    weights.projection("vpm.embeddings.patch_embedding", HIDDEN, 3, PATCH, PATCH, bias=True)
    weights.embedding("vpm.embeddings.position_embedding", 100, HIDDEN)
    add_encoder(weights, "vpm.encoder", LAYERS, HIDDEN, ("layer_norm1", "layer_norm2"))
    add_layer_norm(weights, "vpm.post_layernorm", HIDDEN)
    weights.normal("resampler.query", queries, hidden, scale=1.0)
    weights.normal("resampler.proj", hidden, hidden, scale=hidden**-0.5)
    weights.projection("resampler.kv_proj", hidden, HIDDEN)
    weights.normal("resampler.attn.in_proj_weight", 3 * hidden, hidden, scale=1.5 * hidden**-0.5)
    weights.tensors["resampler.attn.in_proj_bias"] = torch.zeros(3 * hidden, dtype=torch.bfloat16)
    weights.projection("resampler.attn.out_proj", hidden, hidden, bias=True)
    for norm in ("ln_q", "ln_kv", "ln_post"):
        add_layer_norm(weights, f"resampler.{norm}", hidden)
    weights.save(folder)


# Qwen3 ------------------------------------------------------------------------------------------------------------


def qwen3(folder: Path) -> None:
    """A text model."""
    tokenizer = make_tokenizer("<|endoftext|> <|im_start|> <|im_end|>", "")
    token = tokenizer.token_to_id
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "torch_dtype": "bfloat16",
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "max_position_embeddings": 40960,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    write(folder, "config.json", config)
    write(folder, "generation_config.json", {"eos_token_id": [token("<|im_end|>"), token("<|endoftext|>")]})
    write_tokenizer(folder, tokenizer, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    weights = Weights(0)
    add_decoder(weights, "", tokenizer, HIDDEN, norms=True)
    weights.save(folder)


KINDS = {"glm-4v-9b": glm4v, "llava": llava, "minicpm-v-2.6": minicpmv, "qwen3": qwen3}


def main() -> None:
    kind, target = sys.argv[1], Path(sys.argv[2])
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    KINDS[kind](partial)
    for code in (HERE / kind).glob("*.py"):
        shutil.copy(code, partial)
    partial.replace(target)  # whole, or not at all


if __name__ == "__main__":
    main()
