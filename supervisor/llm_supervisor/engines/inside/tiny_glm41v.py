"""A tiny GLM-4.1V with random weights, made offline: the real architecture, real files, and no sense at all.

Runs INSIDE the vLLM environment (`python tiny_glm41v.py FOLDER [--seed N] [--force]`) and imports nothing of
llm_supervisor. Only the making of the model lives here: no serving, no downloading.

vLLM loads the folder like the 9B model (`Glm4vForConditionalGeneration`: images, video, the reasoning and the tool
call parsers' tokens), in a second and a few MiB. The weights are real safetensors and not `--load-format dummy`,
which gives the same logits for every prompt: here the answer depends on the image, so a lost image is noticed.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

FILES = frozenset({
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
})  # fmt: skip

WORDS = (
    "a tiny model looks at the picture and says what it sees in words that mean nothing red green blue yellow "
    "black white small large round square line circle cat dog bird tree house water one two three four five six "
    "seven eight nine ten left right above below near far day night sun moon star hand eye door wall road hill"
)
CONTROL_TOKENS = (
    "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> "
    "<|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|> <|image|> <|video|>"
)
# As in the real repository these are single tokens, yet kept in the decoded text: the parsers look for them there.
TEXT_TOKENS = (
    "<think> </think> <answer> </answer> <tool_call> </tool_call> <arg_key> </arg_key> <arg_value> </arg_value>"
)
END_TOKENS = ("<|endoftext|>", "<|user|>", "<|observation|>")

CHAT_TEMPLATE = """\
{%- set tags = {'developer': 'system', 'tool': 'observation'} -%}
[gMASK]<sop>
{%- for message in messages -%}
<|{{ tags.get(message.role, message.role) }}|>{{ '\\n' }}
{%- if message.content is string %}{{ message.content }}
{%- elif message.content %}
{%- for part in message.content %}
{%- if 'image' in part.type %}<|begin_of_image|><|image|><|end_of_image|>
{%- elif 'video' in part.type %}<|begin_of_video|><|video|><|end_of_video|>
{%- elif part.type == 'text' %}{{ part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{{ '\\n' }}<think>{% endif %}"""


def make_tokenizer(control: str = CONTROL_TOKENS, text: str = TEXT_TOKENS) -> Tokenizer:
    """A byte-level BPE: any text can be written, and the common words are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=control.split(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" " + WORDS], trainer)
    tokenizer.add_tokens(text.split())
    return tokenizer


def speakable(tokenizer: Tokenizer) -> list[int]:
    """The tokens of whole words."""
    words = [tokenizer.token_to_id("Ġ" + word) for word in sorted(set(WORDS.split()))]
    return [word for word in words if word is not None]


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json`: the real one's keys, with sizes that a CPU core answers in milliseconds."""
    token = tokenizer.token_to_id
    hidden = 64
    return {
        "architectures": ["Glm4vForConditionalGeneration"],
        "model_type": "glm4v",
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "image_start_token_id": token("<|begin_of_image|>"),
        "image_end_token_id": token("<|end_of_image|>"),
        "video_start_token_id": token("<|begin_of_video|>"),
        "video_end_token_id": token("<|end_of_video|>"),
        "image_token_id": token("<|image|>"),
        "video_token_id": token("<|video|>"),
        "text_config": {
            "model_type": "glm4v_text",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": hidden,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "hidden_act": "silu",
            "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-5,
            "attention_bias": True,
            "attention_dropout": 0.0,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]},
            "pad_token_id": token("<|endoftext|>"),
            "eos_token_id": [token(end) for end in END_TOKENS],
        },
        "vision_config": {
            "model_type": "glm4v_vision",
            "depth": 2,
            "hidden_size": 64,
            "num_heads": 2,
            "intermediate_size": 128,
            "out_hidden_size": hidden,
            "hidden_act": "silu",
            "attention_bias": False,
            "image_size": 56,
            "patch_size": 14,
            "in_channels": 3,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "rms_norm_eps": 1e-5,
        },
    }


def preprocessor_config(most_tokens: int, **kind: object) -> dict[str, Any]:
    """How pixels become patches; an image or a video becomes at most `most_tokens` tokens."""
    # longest_edge is an area over time, height and width: 2 frames of one 28 x 28 merged patch are one token.
    return {
        "processor_class": "Glm4vProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 112 * 112, "longest_edge": 2 * 28 * 28 * most_tokens},
        **kind,
    }


class Weights:
    """Random tensors by name, scaled so that a signal crosses every layer without dying or exploding."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._random = torch.Generator().manual_seed(seed)

    def normal(self, name: str, *shape: int, scale: float) -> None:
        self.tensors[name] = (torch.randn(*shape, generator=self._random) * scale).to(torch.bfloat16)

    def projection(self, name: str, *shape: int, bias: bool = False) -> None:
        """A linear layer or a convolution: `shape` is (out, in, *kernel)."""
        self.normal(f"{name}.weight", *shape, scale=1.5 / math.sqrt(math.prod(shape[1:])))
        if bias:
            self.normal(f"{name}.bias", shape[0], scale=0.1)

    def norm(self, name: str, size: int, *, bias: bool = False) -> None:
        self.tensors[f"{name}.weight"] = torch.ones(size, dtype=torch.bfloat16)
        if bias:
            self.normal(f"{name}.bias", size, scale=0.1)

    def embedding(self, name: str, count: int, size: int) -> None:
        self.normal(f"{name}.weight", count, size, scale=1.0)

    def head(self, name: str, count: int, size: int, speakable: list[int]) -> None:
        """The last layer. Only the tokens in `speakable` can win: answers are readable and never empty."""
        self.projection(name, count, size)
        mute = torch.ones(count, dtype=torch.bool)
        mute[speakable] = False
        # A zero row is the logit 0, below the best of many random ones.
        self.tensors[f"{name}.weight"][mute] = 0

    def save(self, folder: Path) -> None:
        """Into `folder`, as `model.safetensors`."""
        save_file(self.tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)  # save_file makes it 0600; the others are as the umask says


def add_language_model(weights: Weights, text: dict[str, Any], speakable: list[int]) -> None:
    """Add the weights of the language model's decoder."""
    vocabulary, hidden, inner = text["vocab_size"], text["hidden_size"], text["intermediate_size"]
    queries = text["num_attention_heads"] * text["head_dim"]
    keys = text["num_key_value_heads"] * text["head_dim"]
    root = "model.language_model"
    weights.embedding(f"{root}.embed_tokens", vocabulary, hidden)
    for index in range(text["num_hidden_layers"]):
        layer = f"{root}.layers.{index}"
        for norm in ("input", "post_self_attn", "post_attention", "post_mlp"):
            weights.norm(f"{layer}.{norm}_layernorm", hidden)
        weights.projection(f"{layer}.self_attn.q_proj", queries, hidden, bias=True)
        weights.projection(f"{layer}.self_attn.k_proj", keys, hidden, bias=True)
        weights.projection(f"{layer}.self_attn.v_proj", keys, hidden, bias=True)
        weights.projection(f"{layer}.self_attn.o_proj", hidden, queries)
        weights.projection(f"{layer}.mlp.gate_up_proj", 2 * inner, hidden)
        weights.projection(f"{layer}.mlp.down_proj", hidden, inner)
    weights.norm(f"{root}.norm", hidden)
    weights.head("lm_head", vocabulary, hidden, speakable)


def add_vision_tower(weights: Weights, vision: dict[str, Any]) -> None:
    """The image encoder and the merger into the decoder's space."""
    size, out, inner = vision["hidden_size"], vision["out_hidden_size"], vision["intermediate_size"]
    patch, merge = vision["patch_size"], vision["spatial_merge_size"]
    frames = vision["temporal_patch_size"]
    root = "model.visual"
    weights.projection(f"{root}.patch_embed.proj", size, vision["in_channels"], frames, patch, patch, bias=True)
    weights.embedding(f"{root}.embeddings.position_embedding", (vision["image_size"] // patch) ** 2, size)
    weights.norm(f"{root}.post_conv_layernorm", size)
    for index in range(vision["depth"]):
        block = f"{root}.blocks.{index}"
        weights.norm(f"{block}.norm1", size)
        weights.norm(f"{block}.norm2", size)
        weights.projection(f"{block}.attn.qkv", 3 * size, size)
        weights.projection(f"{block}.attn.proj", size, size)
        # The blocks' inner size is out_hidden_size; intermediate_size is the merger's.
        weights.projection(f"{block}.mlp.gate_proj", out, size)
        weights.projection(f"{block}.mlp.up_proj", out, size)
        weights.projection(f"{block}.mlp.down_proj", size, out)
    weights.norm(f"{root}.post_layernorm", size)
    weights.projection(f"{root}.downsample", out, size, merge, merge, bias=True)
    weights.projection(f"{root}.merger.proj", out, out)
    weights.norm(f"{root}.merger.post_projection_norm", out, bias=True)
    weights.projection(f"{root}.merger.gate_proj", inner, out)
    weights.projection(f"{root}.merger.up_proj", inner, out)
    weights.projection(f"{root}.merger.down_proj", out, inner)


def write_model(folder: Path, seed: int) -> None:
    """Write every file of the model into `folder`, which must exist."""
    tokenizer = make_tokenizer()
    config = model_config(tokenizer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    documents = {
        "config.json": config,
        "generation_config.json": {key: config["text_config"][key] for key in ("eos_token_id", "pad_token_id")},
        "preprocessor_config.json": preprocessor_config(64, image_processor_type="Glm4vImageProcessor"),
        "video_preprocessor_config.json": preprocessor_config(
            256, video_processor_type="Glm4vVideoProcessor", do_sample_frames=True, fps=2, max_duration=300
        ),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n")

    weights = Weights(seed)
    add_language_model(weights, config["text_config"], speakable(tokenizer))
    add_vision_tower(weights, config["vision_config"])
    weights.save(folder)


def make(target: Path, seed: int = 0, *, force: bool = False) -> bool:
    """Make the model at `target`, whole or not at all; a complete one is left alone unless `force`.

    Returns whether it was made. Raises FileExistsError where `target` holds files that are not a tiny model's:
    those are never removed.
    """
    found = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if found - FILES or (target.exists() and not target.is_dir()):
        raise FileExistsError(f"{target} exists and is not a tiny model: choose another folder")
    if found == FILES and not force:
        return False
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_model(partial, seed)
    if found:
        shutil.rmtree(target)
    partial.replace(target)  # an empty directory may be replaced, a full one not
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a tiny random-weight GLM-4.1V for demos and tests.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed, other weights (default 0)")
    parser.add_argument("--force", action="store_true", help="make it again where it is complete")
    options = parser.parse_args()
    try:
        made = make(options.folder.absolute(), options.seed, force=options.force)
    except OSError as problem:
        print(f"tiny_glm41v: {problem}", file=sys.stderr)
        return 1
    print(f"{options.folder}: {'made' if made else 'complete already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
