"""Pictures of any size as the tensors that a network takes: by a checkpoint's own image processor, or by a torchvision
pipeline. Both give what the libraries give by themselves; what is gained here is only time.

Nothing here imports torch before it is called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from idtool.models import crops, torch_runtime
from idtool.models.sources import Weights
from idtool.models.torch_runtime import Floats, Image

Tensors = dict[str, Any]
"""A network's inputs by their names; the first dimension counts the images."""

LONGEST = 100
"""Most that one side of a picture may be longer than the other: its shorter side is enlarged to the network's size."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SETTINGS = ("size", "crop_size", "resample", "image_mean", "image_std", "patch_size", "max_num_patches")
_SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


class Pictures:
    """RGB uint8 images (H, W, 3) to one batch of `Tensors`. Safe to call from several threads; up to `threads` images
    are worked on at a time."""

    def __init__(self, one: Callable[[Image], Tensors], words: str, threads: int = 1) -> None:
        self._one = one
        self._pool = ThreadPoolExecutor(threads, "pictures") if threads > 1 else None
        self.words = words
        """What is done, for fingerprints."""

    def __call__(self, images: Sequence[Image]) -> Tensors:
        """ValueError for an array that is no RGB uint8 image, or one more than `LONGEST` times as long as wide."""
        for image in images:
            check(image)
        rows = list(self._pool.map(self._one, images) if self._pool else map(self._one, images))
        torch = torch_runtime.import_torch()
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def check(image: Image) -> None:
    """ValueError unless a network can be shown `image`."""
    crops.check(image)
    height, width = image.shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        raise ValueError(f"an image of {width} x {height} px is too long and thin to be shown to a network")


def of_checkpoint(weights: Weights, threads: int = 1) -> Pictures:
    """The preprocessing that the checkpoint's own files describe, by transformers' image processor.

    MissingError when the folder describes none.
    """
    from transformers import AutoImageProcessor

    processor = torch_runtime.processor(AutoImageProcessor, weights, "image processor")
    if getattr(processor, "backend", None) == "torchvision":
        # It would copy each image to planes first. Resizing interleaved colours gives the same bits, up to ten times
        # as fast; grouping would copy, too.
        processor.process_image = _interleaved

    def one(image: Image) -> Tensors:
        # Without the format, an image of one or three rows is taken for one of colour planes.
        found = processor([image], return_tensors="pt", input_data_format="channels_last", disable_grouping=True)
        return dict(found)

    settings = processor.to_dict()
    switched = [name[3:] for name in _SWITCHES if settings.get(name)]
    said = json.dumps({name: settings[name] for name in _SETTINGS if settings.get(name) is not None}, default=dict)
    return Pictures(one, f"{type(processor).__name__}: {', '.join(switched)}; {said}", threads)


def cropped(size: int, threads: int = 1) -> Pictures:
    """The evaluation transform of torchvision's classifiers, which DINO's hub code uses (Caron et al., ICCV 2021):
    shorter side to `size` x 256 / 224 px, bicubic and antialiased as Pillow does it, the middle square of `size` px,
    ImageNet's mean and deviation."""
    from torchvision import transforms

    side = round(size * 256 / 224)
    pipeline = transforms.Compose(
        [
            transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    words = f"Pillow: shorter side {side} px bicubic, middle {size} px, ImageNet mean/std"
    return of_pipeline(pipeline, words, threads)


def of_pipeline(pipeline: Callable[[Any], Any], words: str, threads: int = 1) -> Pictures:
    """A pipeline of torchvision transforms that takes a Pillow image and gives a tensor (3, H, W)."""
    from PIL import Image as Pillow

    def one(image: Image) -> Tensors:
        return {"pixel_values": pipeline(Pillow.fromarray(np.ascontiguousarray(image)))[None]}

    return Pictures(one, words, threads)


def encode(
    images: Sequence[Image],
    pictures: Pictures,
    forward: Callable[[Tensors], Floats],
    *,
    batch: int,
    width: int,
    turns: torch_runtime.Turns,
    ahead: bool = False,
) -> Floats:
    """`forward` on up to `batch` images at a time, one call at a time where `turns` says so: (N, `width`).

    With `ahead` the next batch is prepared while the network, on an accelerator, is busy with the one before.
    """
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    rows = []
    for tensors in _ahead(pictures, parts) if ahead and len(parts) > 1 else map(pictures, parts):
        with turns:
            rows.append(forward(tensors))
    return np.concatenate(rows).astype(np.float32, copy=False) if rows else np.zeros((0, width), np.float32)


def _ahead(pictures: Pictures, parts: Sequence[Sequence[Image]]) -> Iterator[Tensors]:
    with ThreadPoolExecutor(1, "pictures-ahead") as worker:
        waiting = worker.submit(pictures, parts[0])
        for part in parts[1:]:
            tensors, waiting = waiting.result(), worker.submit(pictures, part)
            yield tensors
        yield waiting.result()


def _interleaved(image: Image, *_: Any, **__: Any) -> Any:
    """An image as a tensor (3, H, W) whose colours lie side by side in memory."""
    return torch_runtime.import_torch().from_numpy(np.require(image, np.uint8, ["C", "W"])).permute(2, 0, 1)
