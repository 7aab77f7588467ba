"""The tokenizer that a MiniCPM-V 2.6 repository brings along as code."""

from transformers import PreTrainedTokenizerFast


class MiniCPMVTokenizerFast(PreTrainedTokenizerFast):
    """It knows its tokens around an image by name."""

    @property
    def im_start_id(self):
        return self.convert_tokens_to_ids("<image>")

    @property
    def im_end_id(self):
        return self.convert_tokens_to_ids("</image>")
