"""The tokenizer that a GLM-4V-9B repository brings along as code: nothing of it works without trust in that."""

from transformers import PreTrainedTokenizerFast


class ChatGLM4Tokenizer(PreTrainedTokenizerFast):
    """By the name of the real one; the tokens are in tokenizer.json."""
