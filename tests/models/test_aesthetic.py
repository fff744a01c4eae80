"""Aesthetic heads: folded layers are the layers, LAION's published embeddings, and backbones that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import WRAPPERS, load
from idtool.models.aesthetic import LaionV1, LaionV2, LinearPredictor, SiglipV25, collapse
from idtool.models.sources import Weights
from tests.zoo import Zoo

V2 = "sac_logos_ava1_l14_linearMSE.pth"
# What each published embedding, LAION's `rating<n>.npy`, gets by each published head.
V2_SCORES = (1.655, 2.359, 3.070, 3.672, 4.238, 4.701, 5.073, 5.365, 5.577, 5.747)
V1_L14_SCORES = (-2.458, -0.138, 1.895, 3.585, 5.100, 6.470, 7.787, 9.048, 10.226, 11.304)
V1_B32_SCORES = (-1.470, 0.273, 1.990, 3.611, 5.087, 6.393, 7.668, 8.915, 9.917, 11.006)


def load_head(folder: Path, file: str) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    state: dict[str, Any] = torch.load(folder / "weights" / "aesthetic" / file, map_location="cpu", weights_only=True)
    return state


def embeddings(folder: Path, name: str) -> npt.NDArray[np.float32]:
    """The ten published embeddings, in rising order of rating."""
    files = [folder / "weights" / "aesthetic" / f"{name}_embeddings" / f"rating{number}.npy" for number in range(10)]
    return np.concatenate([np.load(file) for file in files])


def layered(state: dict[str, Any], layers: tuple[str, ...], rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The head layer by layer, in float64."""
    x = np.asarray(rows, np.float64)
    for layer in layers:
        x = x @ state[f"{layer}weight"].double().numpy().T + state[f"{layer}bias"].double().numpy()
    return x[:, 0]


def test_the_published_head_is_one_affine_map(fixtures: Path) -> None:
    state = load_head(fixtures, V2)
    weight, bias = collapse(state, LaionV2.layers, "head")
    assert weight.shape == (768,)
    random = np.random.default_rng(0).normal(size=(64, 768))
    rows = np.concatenate([embeddings(fixtures, "vit_l_14"), random / np.linalg.norm(random, axis=1, keepdims=True)])
    np.testing.assert_allclose(rows @ weight + bias, layered(state, LaionV2.layers, rows), rtol=0, atol=1e-12)


def test_the_published_embeddings_in_torch(fixtures: Path) -> None:
    """The head as it is published: a chain of `Linear` layers in float32."""
    torch = pytest.importorskip("torch")
    state = load_head(fixtures, V2)
    rows = torch.from_numpy(embeddings(fixtures, "vit_l_14"))
    for layer in LaionV2.layers:
        rows = torch.nn.functional.linear(rows, state[f"{layer}weight"], state[f"{layer}bias"])
    weight, bias = collapse(state, LaionV2.layers, "head")
    np.testing.assert_allclose(embeddings(fixtures, "vit_l_14") @ weight + bias, rows[:, 0].numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("cls", "file", "name", "scores"),
    [
        (LaionV2, V2, "vit_l_14", V2_SCORES),
        (LaionV1, "sa_0_4_vit_l_14_linear.pth", "vit_l_14", V1_L14_SCORES),
        (LaionV1, "sa_0_4_vit_b_32_linear.pth", "vit_b_32", V1_B32_SCORES),
    ],
)
def test_the_published_embeddings(
    tiny: Zoo, fixtures: Path, cls: type[LinearPredictor], file: str, name: str, scores: tuple[float, ...]
) -> None:
    """Through the wrapper, on a tiny CLIP of the real width: the scores rise with the rating, each where it was."""
    from tests.zoo.clip import clip

    rows = embeddings(fixtures, name)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    backbone = tiny.mirror / "wide" / str(rows.shape[1])
    if not backbone.is_dir():
        backbone.mkdir(parents=True)
        clip(backbone, width=rows.shape[1])
    head = cls(Weights("local:head", fixtures / "weights" / "aesthetic" / file), backbone=f"local:{backbone}")
    found = head.score_embeddings(rows)
    np.testing.assert_allclose(found, scores, atol=6e-4)
    assert (np.diff(found) > 0).all()
    # A straight line through the ratings leaves little: the embeddings do rise evenly.
    assert np.corrcoef(found, np.arange(10))[0, 1] > 0.97
    photo = np.array(Pillow.open(fixtures / "singles" / "cc_sunak.jpg").convert("RGB"))
    np.testing.assert_array_equal(head.score([photo]), head.score_embeddings(head._backbone.images([photo])))


def bound(name: str, backbone: str | None, **options: Any) -> Any:
    more = {"backbone": backbone} if backbone else {}
    return load(
        Binding("aesthetic", f"hf:tiny/{name}", options={"file": "head.pth", "format": name, **more, **options})
    )


@pytest.mark.parametrize(
    ("name", "backbone", "cls"), [("laion-v2", "clip", LaionV2), ("siglip-v2.5", "siglip", SiglipV25)]
)
def test_by_the_ordinary_path(tiny: Zoo, fixtures: Path, name: str, backbone: str, cls: type[LinearPredictor]) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoImageProcessor, AutoModel

    folder, head = tiny(backbone), tiny(name)
    ours = bound(name, f"hf:tiny/{backbone}")
    assert isinstance(ours, cls)
    photos = [
        np.array(Pillow.open(fixtures / "singles" / file).convert("RGB")) for file in ("freeman.jpg", "cc_sunak.jpg")
    ]
    pixels = AutoImageProcessor.from_pretrained(folder)(photos, return_tensors="pt")
    state = torch.load(head / "head.pth", weights_only=True)
    with torch.inference_mode():
        features = AutoModel.from_pretrained(folder).eval().get_image_features(**pixels).pooler_output
        unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    found = ours.score(photos)
    np.testing.assert_allclose(found, layered(state, cls.layers, unit), atol=1e-5)
    assert found.dtype == np.float32
    assert found[0] != found[1]
    assert ours.score([]).shape == (0,)
    facts = ours.fingerprint()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["backbone"]["model"] == f"hf:tiny/{backbone}"
    assert ("AGPL" in facts["head"]) == (cls is SiglipV25)


def test_the_backbone_is_the_profiles_own(tiny: Zoo) -> None:
    tiny("clip"), tiny("open_clip"), tiny("laion-v2")
    for address in ("hf:tiny/clip", "open_clip:tiny-clip/random"):
        assert bound("laion-v2", address)._backbone is load(Binding("clip", address))
    other = bound("laion-v2", "hf:tiny/clip", dtype="bfloat16")
    assert other._backbone is load(Binding("clip", "hf:tiny/clip", options={"dtype": "bfloat16"}))


def test_embeddings_must_be_of_length_one_and_of_the_width(tiny: Zoo) -> None:
    tiny("clip"), tiny("laion-v2")
    ours = bound("laion-v2", "hf:tiny/clip")
    with pytest.raises(ValueError, match="Expected embeddings of length 1"):
        ours.score_embeddings(np.full((1, 32), 0.5))
    with pytest.raises(ValueError, match=r"Expected embeddings of Nx32. Got \(1, 16\)"):
        ours.score_embeddings(np.eye(1, 16))
    with pytest.raises(ValueError, match="Got"):
        ours.score_embeddings(np.eye(32)[0])


def test_what_is_refused(tiny: Zoo, fixtures: Path) -> None:
    tiny("clip"), tiny("laion-v2"), tiny("siglip-v2.5")
    real = Weights("local:head", fixtures / "weights" / "aesthetic" / V2)
    with pytest.raises(UsageError, match="embeddings of 768 numbers, but its backbone 'hf:tiny/clip' gives 32"):
        LaionV2(real, backbone="hf:tiny/clip")
    with pytest.raises(UsageError, match="needs option `backbone`") as error:
        bound("laion-v2", None)
    assert "clip-vit-large-patch14" in str(error.value.hint)
    with pytest.raises(MissingError, match="is a folder"):
        LaionV2(Weights("hf:tiny/laion-v2", tiny("laion-v2")), backbone="hf:tiny/clip")
    with pytest.raises(MissingError, match=r"is not this head: scoring_head.0.bias"):
        SiglipV25(real, backbone="hf:tiny/clip")
    with pytest.raises(MissingError, match=r"is not this head: it also has layers.0.bias"):
        mixed = {
            **load_head(fixtures, V2),
            **{f"scoring_head.{n}.{part}": 0 for n in (0, 2, 4, 6, 8) for part in ("weight", "bias")},
        }
        collapse(mixed, SiglipV25.layers, "file")


def test_layers_must_follow_and_be_finite() -> None:
    torch = pytest.importorskip("torch")
    chain = {
        "a.weight": torch.ones(3, 4),
        "a.bias": torch.ones(3),
        "b.weight": torch.ones(1, 3),
        "b.bias": torch.ones(1),
    }
    weight, bias = collapse(chain, ("a.", "b."), "head")
    np.testing.assert_array_equal(weight, [3, 3, 3, 3])
    assert bias == 4
    for name, value in (
        ("a.weight", torch.ones(2, 4)),
        ("b.weight", torch.ones(2, 3)),
        ("a.bias", torch.ones(1)),
        ("b.weight", torch.ones(3)),
    ):
        with pytest.raises(MissingError, match="do not follow"):
            collapse({**chain, name: value}, ("a.", "b."), "head")
    with pytest.raises(MissingError, match="not finite"):
        collapse({**chain, "b.bias": torch.tensor([float("nan")])}, ("a.", "b."), "head")


def test_the_wrappers_are_known() -> None:
    assert WRAPPERS.get("laion-v2") is LaionV2
    assert WRAPPERS.get("siglip-v2.5") is SiglipV25
