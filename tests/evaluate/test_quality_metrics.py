"""Aesthetics, CLIP-IQA, face quality, sharpness, nudity and cost."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from idtool.evaluate.measures.faces import Faces
from idtool.evaluate.measures.pixels import Pixels as PixelsMeasure
from idtool.evaluate.measures.quality import Quality as QualityMeasure
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.cost import PeakMemory, Seconds
from idtool.evaluate.metrics.quality import Aesthetic, Iqa, Nsfw, Quality, Sharpness
from idtool.models import load
from tests.evaluate.offline import env, look, sample
from tests.evaluate.tiny_networks import bound, photo, row, saved, scored
from tests.models.test_clip import Unwrapped
from tests.zoo import Zoo

NAMES = ("cc_sunak.jpg", "freeman.jpg", "lifeifei.jpg")


def test_numbers_of_the_run_itself() -> None:
    made = sample({}, seconds=2.5, peak_memory=3 * 2**30, nsfw=0.25)
    assert [metric(made) for metric in (Seconds(), PeakMemory(), Nsfw())] == [2.5, 3.0, 0.25]
    assert all(metric.better == "lower" for metric in (Seconds(), PeakMemory(), Nsfw()))
    unknown = sample({}, seconds=None, peak_memory=None, nsfw=None)
    for metric in (Seconds(), PeakMemory(), Nsfw()):
        with pytest.raises(Unscored, match="not"):
            metric(unknown)
    assert PeakMemory()(sample({}, peak_memory=0)) == 0, "nothing is not unknown"


def test_columns_as_they_are() -> None:
    image = {"aesthetic": 5.5, "aesthetic2": 4.0, "iqa": 0.75, "face_quality": 0.5, "sharpness": 12.0}
    seen = sample(image)
    assert [metric(seen) for metric in (Aesthetic(), Aesthetic(1), Iqa(), Quality(), Sharpness())] == [
        5.5,
        4,
        0.75,
        0.5,
        12,
    ]
    labels = {"aesthetic": "a", "aesthetic2": "b", "quality": "q"}
    assert [one.name(labels) for one in (Aesthetic(), Aesthetic(1), Quality())] == [
        "aesthetic/a",
        "aesthetic/b",
        "quality/q",
    ]
    with pytest.raises(Unscored, match="no face in the image"):
        Quality()(sample({"face_quality": None}))
    with pytest.raises(Unscored, match="the image has no iqa"):
        Iqa()(sample({}))
    for cls, role in ((Aesthetic, "aesthetic"), (Iqa, "iqa")):
        with pytest.raises(Unscored, match=f"needs role {role}; profile offline binds none"):
            cls.instances(env())


def test_iqa_is_that_of_torchmetrics_and_aesthetics_are_those_of_each_head(
    tiny: Zoo, tmp_path: Path, fixtures: Path
) -> None:
    """torchmetrics gets its network wrapped, and photos at the network's own size: see tests/models/test_iqa.py."""
    torch, functional = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.functional.multimodal")
    from transformers import AutoProcessor, CLIPModel

    small = [np.array(Image.fromarray(photo(fixtures / "singles" / name)).resize((32, 32))) for name in NAMES]
    paths = [saved(tmp_path / f"{k}.png", pixels) for k, pixels in enumerate(small)]
    surroundings = bound(tiny, "iqa", "aesthetic")
    rows = [row(str(k), path) for k, path in enumerate(paths)]
    found = scored(tmp_path / "run", surroundings, ["iqa", "aesthetic"], rows)
    assert found.names == ["iqa/vit-w32-8-32", "aesthetic/siglip-v2.5", "aesthetic/laion-v2"]
    folder = tiny("clip")
    processor, network = AutoProcessor.from_pretrained(folder), Unwrapped(CLIPModel.from_pretrained(folder).eval())
    batch = torch.from_numpy(np.stack(small).transpose(0, 3, 1, 2)).float()
    theirs = functional.clip_image_quality_assessment(batch, lambda: (network, processor), data_range=1.0)
    np.testing.assert_allclose(found.of("iqa/vit-w32-8-32"), theirs.numpy(), atol=1e-4)
    for binding, name in zip(surroundings.all("aesthetic"), found.names[1:], strict=True):
        np.testing.assert_allclose(found.of(name), load(binding).score(small), atol=1e-5)
        assert np.ptp(found.of(name)) > 5e-4, "the photos must differ for this to say anything"


@pytest.mark.offline_weights
def test_blur_is_seen_and_a_faceless_picture_is_not_scored(tmp_path: Path, fixtures: Path) -> None:
    picture = photo(fixtures / "singles" / "cc_sunak.jpg")
    paths = [
        saved(tmp_path / f"{sigma}.png", cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture)
        for sigma in (0, 2, 6)
    ]
    nobody = fixtures / "hard" / "no_face_vector.jpg"
    seen = look(tmp_path / "run", [*paths, nobody], [Faces, QualityMeasure, PixelsMeasure], env("faces", "quality"))
    for metric in (Quality(), Sharpness()):
        sharp, soft, softer = (metric(sample(seen[path])) for path in paths)
        assert sharp > soft > softer >= 0
    with pytest.raises(Unscored, match="no face in the image"):
        Quality()(sample(seen[nobody]))
    assert Quality.instances(env())[0].name({"quality": "qualityface"}) == "quality/qualityface"
