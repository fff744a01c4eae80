"""Image to video on tiny checkpoints of the real pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.errors import MissingError, UsageError
from idtool.models.image_to_video import Asked, ImageToVideo, fitting, framed
from idtool.models.sources import Weights
from tests.curate.media import picture
from tests.zoo import Zoo


def network(tiny: Zoo, name: str, **options: Any) -> ImageToVideo:
    return ImageToVideo(Weights(f"hf:tiny/{name}", tiny(name)), **options)


def clip(model: ImageToVideo, seed: int = 7, prompt: str = "she smiles", look: int = 0, **asked: Any) -> np.ndarray:
    size = model.size((64, 48), 64 * 64)
    return model(picture(*size, look), prompt, seed, Asked(**{"frames": model.stride + 1, "steps": 2, **asked}))


@pytest.mark.parametrize(
    ("name", "fps", "multiple", "stride"), [("wan21", 16.0, 16, 4), ("wan22", 16.0, 16, 4), ("ltx", 25.0, 32, 4)]
)
def test_clips_depend_on_what_they_are_told_and_on_nothing_else(
    name: str, fps: float, multiple: int, stride: int, tiny: Zoo
) -> None:
    model = network(tiny, name)
    assert (model.fps, model.multiple, model.stride) == (fps, multiple, stride)
    first = clip(model)
    width, height = model.size((64, 48), 64 * 64)
    assert first.shape == (stride + 1, height, width, 3) and first.dtype == np.uint8 and first.std() > 1
    assert (clip(model) == first).all()
    for other in ({"seed": 8}, {"prompt": "he frowns at the sea"}, {"look": 1}, {"steps": 3}, {"guidance": 1.0}):
        assert (clip(model, **other) != first).any(), other
    assert (clip(model, negative="blurred and dark") != first).any()
    with pytest.raises(ValueError, match="multiples of"):
        model(picture(width + 1, height), "x", 0, Asked(stride + 1))
    for frames in (stride, 1):
        with pytest.raises(ValueError, match="one frames, above 1"):
            model(picture(width, height), "x", 0, Asked(frames))


def test_both_transformers_of_wan22_are_used(tiny: Zoo) -> None:
    torch = pytest.importorskip("torch")
    model = network(tiny, "wan22")
    before = clip(model)
    assert model.pipe.config.boundary_ratio == 0.9
    for part in (model.pipe.transformer, model.pipe.transformer_2):
        with torch.no_grad():
            weight = part.proj_out.weight
            kept = weight.clone()
            weight.mul_(-1)
            assert (clip(model) != before).any()
            weight.copy_(kept)
    assert (clip(model) == before).all()


def test_wan_keeps_its_autoencoder_in_full_precision(tiny: Zoo) -> None:
    torch = pytest.importorskip("torch")
    model = network(tiny, "wan21", dtype="bfloat16")
    assert model.pipe.vae.dtype == model.pipe.image_encoder.dtype == torch.float32
    assert model.pipe.transformer.dtype == model.pipe.text_encoder.dtype == torch.bfloat16
    exact = network(tiny, "wan21")
    differences = clip(model).astype(int) - clip(exact)
    assert 0 < np.abs(differences).mean() < 10
    facts = model.fingerprint()
    assert facts["pipeline"] == "WanImageToVideoPipeline" and facts["dtype"] == "bfloat16" and facts["fps"] == 16


def test_numbers_of_frames_are_those_that_the_network_makes(tiny: Zoo) -> None:
    wan = network(tiny, "wan21")
    assert [wan.frames(seconds) for seconds in (5.0, 5.06, 1.0, 0.01)] == [81, 81, 17, 5]
    assert network(tiny, "ltx", fps=24).fps == 24.0
    with pytest.raises(UsageError, match="Option `fps`"):
        network(tiny, "wan21", fps=0)


@pytest.mark.parametrize(
    ("shape", "area", "multiple", "expected"),
    [
        ((1000, 1000), 1280 * 720, 16, (960, 960)),
        ((1600, 900), 1280 * 720, 16, (1280, 720)),
        ((768, 1024), 832 * 480, 16, (544, 720)),
        ((1, 100), 64 * 64, 32, (32, 640)),
        ((640, 480), 64 * 64, 32, (64, 32)),
    ],
)
def test_sizes_keep_proportions_and_stay_within_the_area(
    shape: Any, area: int, multiple: int, expected: tuple[int, int]
) -> None:
    size = fitting(shape, area, multiple)
    assert size == expected and not size[0] % multiple and not size[1] % multiple
    assert size[0] * size[1] <= area or multiple in size


def test_first_frames_are_cut_not_squeezed() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[50:150, 100:200] = 255  # a square in the middle
    frame = framed(image, (96, 96))
    bright = frame[..., 0] > 127
    assert frame.shape == (96, 96, 3)
    assert bright.any(axis=0).sum() == pytest.approx(48, abs=1) and bright.any(axis=1).sum() == pytest.approx(48, abs=1)
    assert (framed(image, (300, 200)) == image).all()


def test_other_checkpoints_are_refused(tiny: Zoo, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="FluxPipeline, which is no image-to-video model"):
        network(tiny, "flux")
    with pytest.raises(MissingError, match="no diffusers pipeline"):
        network(tiny, "bisenet")
    folder = tmp_path / "wan"
    shutil.copytree(tiny("wan21"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "WanPipeline"}))
    with pytest.raises(MissingError, match="from text alone"):
        ImageToVideo(Weights("local:x", folder))
    (folder / "model_index.json").write_text("{")
    with pytest.raises(MissingError, match="cannot be read"):
        ImageToVideo(Weights("local:x", folder))
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(MissingError, match="names no class"):
        ImageToVideo(Weights("local:x", folder))
