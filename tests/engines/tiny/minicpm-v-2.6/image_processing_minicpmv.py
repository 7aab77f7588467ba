"""The image processor that a MiniCPM-V 2.6 repository brings along as code, as far as vLLM calls it: a picture becomes
a small one of it all and, where it is large, some of its parts."""

import math

import numpy
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature


class MiniCPMVImageProcessor(BaseImageProcessor):
    """``scale_resolution`` is the size of each of these, ``image_feature_size`` the number of tokens for it."""

    model_input_names = ("pixel_values",)

    def __init__(self, max_slice_nums=9, scale_resolution=448, patch_size=14, image_feature_size=64, **more):
        super().__init__(**more)
        self.max_slice_nums = max_slice_nums
        self.scale_resolution = scale_resolution
        self.patch_size = patch_size
        self.image_feature_size = image_feature_size

    def get_sliced_grid(self, image_size, max_slice_nums=None):
        """(columns, rows) of the parts, along the longer side; None for a picture that is left whole."""
        width, height = image_size
        most = self.max_slice_nums if max_slice_nums is None else max_slice_nums
        parts = min(math.ceil(width * height / self.scale_resolution**2), most)
        if parts < 2:
            return None
        return (parts, 1) if width >= height else (1, parts)

    def get_slice_image_placeholder(self, image_size, image_idx=0, max_slice_nums=None, use_image_id=True):
        """What stands for the picture in the prompt."""
        tokens = "<unk>" * self.image_feature_size
        number = f"<image_id>{image_idx}</image_id>" if use_image_id else ""
        columns, rows = self.get_sliced_grid(image_size, max_slice_nums) or (0, 0)
        return number + f"<image>{tokens}</image>" + "\n".join([f"<slice>{tokens}</slice>" * columns] * rows)

    def preprocess(self, images, max_slice_nums=None, **more):
        """``images`` of one prompt, or of several."""
        if isinstance(images, Image.Image):
            images = [images]
        prompts = [images] if images and isinstance(images[0], Image.Image) else images
        pictures = [[self._pictures(image.convert("RGB"), max_slice_nums) for image in prompt] for prompt in prompts]
        flat = [[one for of_image in prompt for one in of_image] for prompt in pictures]
        return BatchFeature(
            {
                "pixel_values": [[pixels for pixels, _ in prompt] for prompt in flat],
                "tgt_sizes": [torch.tensor([size for _, size in prompt], dtype=torch.int32) for prompt in flat],
                "image_sizes": [[torch.tensor(image.size) for image in prompt] for prompt in prompts],
            }
        )

    def _pictures(self, image, max_slice_nums):
        columns, rows = self.get_sliced_grid(image.size, max_slice_nums) or (0, 0)
        whole = [image]
        for row in range(rows):
            for column in range(columns):
                width, height = image.width // columns, image.height // rows
                corner = (column * width, row * height)
                whole.append(image.crop((*corner, corner[0] + width, corner[1] + height)))
        return [self._patches(one) for one in whole]

    def _patches(self, image):
        """Its patches beside each other, and how many there are in its height and width."""
        patch, scale = self.patch_size, self.scale_resolution / math.sqrt(image.width * image.height)
        columns, rows = (max(round(side * scale / patch), 1) for side in image.size)
        small = numpy.asarray(image.resize((columns * patch, rows * patch)), dtype=numpy.float32)
        pixels = torch.from_numpy(small / 127.5 - 1).reshape(rows, patch, columns, patch, 3)
        return pixels.permute(4, 1, 0, 2, 3).reshape(3, patch, rows * columns * patch), (rows, columns)
