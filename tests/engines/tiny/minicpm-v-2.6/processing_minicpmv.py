"""The processor that a MiniCPM-V 2.6 repository brings along as code: vLLM takes the tokenizer from it."""

from transformers import ProcessorMixin


class MiniCPMVProcessor(ProcessorMixin):
    """An image processor and a tokenizer."""

    attributes = ("image_processor", "tokenizer")
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor=None, tokenizer=None, **more):
        super().__init__(image_processor, tokenizer, **more)
