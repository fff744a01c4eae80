"""CLIP-IQA: torchmetrics' number on the same weights, and piq's formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from idtool.engine.step import Binding
from idtool.models import load
from idtool.models.iqa import ClipIqa
from tests.models.test_clip import Unwrapped
from tests.zoo import Zoo


@pytest.fixture(scope="module")
def photos(fixtures: Path) -> list[np.ndarray]:
    names = ("freeman.jpg", "cc_sunak.jpg", "lifeifei.jpg")
    return [np.array(Pillow.open(fixtures / "singles" / name).convert("RGB")) for name in names]


def model(address: str = "hf:tiny/clip") -> ClipIqa:
    found = load(Binding("iqa", address, options={"format": "clip-iqa"}))
    assert isinstance(found, ClipIqa)
    return found


def test_the_score_is_that_of_torchmetrics(tiny: Zoo, photos: list[np.ndarray]) -> None:
    """Its branch for transformers' models breaks on transformers 5 (see test_clip), so it gets the tensors unwrapped.

    It hands the processor images as floats, whose resizing is not rounded to whole values, and which the processor
    divides by 255 whatever `data_range` was divided by before: so photos at the network's size, and a range of 1.
    """
    torch, functional = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.functional.multimodal")
    from transformers import AutoProcessor, CLIPModel

    folder = tiny("clip")
    processor, network = AutoProcessor.from_pretrained(folder), Unwrapped(CLIPModel.from_pretrained(folder).eval())
    small = [np.array(Pillow.fromarray(photo).resize((32, 32))) for photo in photos]
    batch = torch.from_numpy(np.stack(small).transpose(0, 3, 1, 2)).float()
    theirs = functional.clip_image_quality_assessment(batch, lambda: (network, processor), data_range=1.0)
    found = model().score(small)
    np.testing.assert_allclose(found, theirs.numpy(), atol=1e-4)
    assert np.ptp(found) > 1e-4, "the photos must differ for this to say anything"


def test_the_score_is_the_softmax_of_cosines_times_100(tiny: Zoo, photos: list[np.ndarray]) -> None:
    for name, address in (("clip", "hf:tiny/clip"), ("open_clip", "open_clip:tiny-clip/random")):
        tiny(name)
        clip = load(Binding("clip", address))
        logits = 100.0 * clip.images(photos) @ clip.texts(["Good photo.", "Bad photo."]).features.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        ours = model(address)
        np.testing.assert_allclose(
            ours.score(photos), (odds / odds.sum(axis=1, keepdims=True))[:, 0], rtol=1e-3, atol=1e-6
        )
        assert ours.label == f"clip-iqa-{clip.label}"
        assert ours._clip is clip, "the profile's own model"


def test_empty_extreme_and_wrong(tiny: Zoo, photos: list[np.ndarray]) -> None:
    tiny("clip")
    ours = model()
    assert ours.score([]).shape == (0,)
    ours._towards_good, kept = ours._towards_good * 1e4, ours._towards_good
    try:
        found = ours.score(photos)
    finally:
        ours._towards_good = kept
    assert set(np.round(found, 6)) <= {0.0, 1.0}, "no overflow"
    with pytest.raises(ValueError, match="Expected a uint8 image"):
        ours.score([photos[0][..., 0]])
    facts = ours.fingerprint()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["prompts"] == ["Good photo.", "Bad photo."]
    assert facts["scale"] == 100.0
