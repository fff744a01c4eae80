"""DINO: the cosine of plain transformers' class tokens, by every network that is bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.features import Dino
from tests.evaluate.offline import env, sample
from tests.evaluate.tiny_networks import bound, photo, row, saved, scored
from tests.zoo import Zoo


def columns(*vectors: list[float]) -> list[dict[str, list[float]]]:
    return [{"features_embedding": vector} for vector in vectors]


def test_the_mean_over_all_references_of_vectors_of_any_length() -> None:
    assert Dino()(sample(*columns([3.0, 0.0], [0.1, 0.0], [6.0, 8.0]))) == pytest.approx(0.8)
    assert Dino()(sample(*columns([3.0, 1.0], [-6.0, -2.0]))) == pytest.approx(-1)


def test_why_there_is_no_number() -> None:
    with pytest.raises(Unscored, match="no reference"):
        Dino()(sample({"features_embedding": [1.0]}))
    with pytest.raises(Unscored, match="the image has no features_embedding"):
        Dino()(sample({}, *columns([1.0])))
    with pytest.raises(Unscored, match="needs role features; profile offline binds none"):
        Dino.instances(env())


def test_the_cosine_is_that_of_transformers(tiny: Zoo, tmp_path: Path, fixtures: Path) -> None:
    """Class tokens of DINOv2 and DINOv3 as their own processors prepare pictures; of DINO as its hub code does, which
    is torchvision's evaluation transform."""
    import torch
    from PIL import Image
    from torchvision import transforms
    from transformers import AutoImageProcessor, AutoModel

    paths = [fixtures / "singles" / name for name in ("cc_sunak.jpg", "freeman.jpg", "lifeifei.jpg")]
    found = scored(
        tmp_path, bound(tiny, "features"), ["dino"], [row("a", paths[0], paths[1:]), row("b", paths[1], paths[1:2])]
    )
    assert found.names == ["dino/dino", "dino/dinov2", "dino/dinov3"]
    hub = transforms.Compose(
        [
            transforms.Resize(37, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    for name in ("dino", "dinov2", "dinov3"):
        folder = tiny(name)
        if name == "dino":
            inputs = {"pixel_values": torch.stack([hub(Image.fromarray(photo(path))) for path in paths])}
        else:
            inputs = AutoImageProcessor.from_pretrained(folder)([photo(path) for path in paths], return_tensors="pt")
        with torch.inference_mode():
            tokens = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[:, 0]
        theirs = float(torch.nn.functional.cosine_similarity(tokens[:1], tokens[1:]).mean())
        assert found.of(f"dino/{name}") == pytest.approx([theirs, 1], abs=1e-4)
        assert theirs < 0.9999, "the photos must differ for this to say anything"


def test_what_moves_it(tiny: Zoo, tmp_path: Path, fixtures: Path) -> None:
    """A copy is 1; the more of the picture is painted over, the less it is."""
    picture = photo(fixtures / "singles" / "cc_sunak.jpg")
    reference = saved(tmp_path / "reference.png", picture)
    rows = []
    for part in (0, 2, 4):
        changed = picture.copy()
        changed[: len(picture) * part // 4] = np.random.default_rng(0).integers(0, 255, 3)
        rows.append(row(str(part), saved(tmp_path / f"{part}.png", changed), [reference]))
    copy, half, whole = scored(tmp_path / "run", bound(tiny, "features", most=1), ["dino"], rows).of("dino/dino")
    assert copy == pytest.approx(1, abs=1e-6)
    assert copy > half > whole
