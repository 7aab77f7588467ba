"""The configuration that a MiniCPM-V 2.6 repository brings along as code."""

from transformers import Qwen2Config, SiglipVisionConfig


class MiniCPMVConfig(Qwen2Config):
    """Qwen2's, with an image encoder and a resampler before it."""

    model_type = "minicpmv"

    def __init__(self, vision_config=None, version=2.6, query_num=64, image_size=448, **more):
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        self.version, self.query_num, self.image_size = version, query_num, image_size
        self.drop_vision_last_layer = False
        super().__init__(**more)
