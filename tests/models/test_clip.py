"""CLIP, SigLIP, SigLIP 2 and open_clip: the libraries' own numbers, texts that are too long, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from idtool.engine.step import Binding
from idtool.models import load
from idtool.models.clip import clip_score
from idtool.models.image_text import architecture, shared
from tests.zoo import Zoo

TEXTS = ["a face", "two dogs", ""]
TRANSFORMERS = ("clip", "siglip", "siglip2")
EVERY = ("hf:tiny/clip", "hf:tiny/siglip", "hf:tiny/siglip2", "open_clip:tiny-clip/random")


def build(zoo: Zoo, address: str) -> Path:
    return zoo("open_clip" if address.startswith("open_clip:") else address.rpartition("/")[2])


def model(address: str, **options: Any) -> Any:
    return load(Binding("clip", address, options=options))


@pytest.fixture(scope="module")
def photos(fixtures: Path) -> list[np.ndarray]:
    paths = sorted((fixtures / "singles").iterdir(), key=lambda path: path.stat().st_size)
    found = [np.array(Pillow.open(path).convert("RGB")) for path in paths[:3]]
    wide = np.array(Pillow.open(fixtures / "groups" / "obama_biden.jpg").convert("RGB"))
    return [*found, wide]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_features_are_those_of_transformers(tiny: Zoo, photos: list[np.ndarray], name: str) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor

    folder = tiny(name)
    processor, network = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    padding = {"padding": True} if name == "clip" else {"padding": "max_length", "truncation": True}
    inputs = processor(images=list(photos), text=TEXTS, return_tensors="pt", **padding)
    with torch.inference_mode():
        theirs = network(**inputs)
    ours = model(f"hf:tiny/{name}")
    texts = ours.texts(TEXTS)
    images = ours.images(photos)
    np.testing.assert_allclose(images, theirs.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(texts.features, theirs.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    assert images.shape == (4, ours.dim)
    assert texts.cut == [0, 0, 0]
    assert ours.scale == pytest.approx(float(network.logit_scale.detach().exp()))
    logits = theirs.logits_per_image - (0 if name == "clip" else network.logit_bias)
    np.testing.assert_allclose(ours.scale * images @ texts.features.T, logits.detach().numpy(), atol=1e-3)
    assert np.abs(images - images[0]).max() > 0.02, "the photos must differ for this to say anything"


def test_features_are_those_of_open_clip(tiny: Zoo, photos: list[np.ndarray]) -> None:
    import open_clip
    import torch

    place = f"local-dir:{tiny('open_clip')}"
    network, _, transform = open_clip.create_model_and_transforms(place)
    network.eval()
    with torch.inference_mode():
        pixels = torch.stack([transform(Pillow.fromarray(photo)) for photo in photos])
        images = network.encode_image(pixels, normalize=True).numpy()
        texts = network.encode_text(open_clip.get_tokenizer(place)(TEXTS), normalize=True).numpy()
    ours = model("open_clip:tiny-clip/random")
    np.testing.assert_allclose(ours.images(photos), images, atol=1e-5)
    np.testing.assert_allclose(ours.texts(TEXTS).features, texts, atol=1e-5)
    assert ours.label == "tiny-clip-random"


def test_the_score_is_that_of_torchmetrics(tiny: Zoo, photos: list[np.ndarray]) -> None:
    """torchmetrics 1.9 takes what `get_image_features` returns for a tensor, which it no longer is in transformers 5,
    so it gets the same network with the tensor unwrapped, by the callable that its API takes."""
    torch, functional = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.functional.multimodal")
    from transformers import AutoProcessor, CLIPModel

    folder = tiny("clip")
    processor, network = AutoProcessor.from_pretrained(folder), Unwrapped(CLIPModel.from_pretrained(folder).eval())
    texts = [*TEXTS[:2], "a wall of bricks", "noise"]
    tensors = [torch.from_numpy(photo.transpose(2, 0, 1).copy()) for photo in photos]
    ours = model("hf:tiny/clip")
    images, words = ours.images(photos), ours.texts(texts).features
    for sign in (1, -1):
        with torch.inference_mode():
            network.sign = sign
            theirs = [
                float(functional.clip_score(tensor, text, lambda: (network, processor)))
                for tensor, text in zip(tensors, texts, strict=True)
            ]
        np.testing.assert_allclose(clip_score(images, sign * words), theirs, atol=1e-3)
    assert max(theirs) > 0


class Unwrapped:
    """A CLIP whose features are tensors; `sign` turns texts around, for negative cosines are cut off at 0."""

    def __init__(self, network: Any) -> None:
        self.network, self.config, self.sign = network, network.config, 1

    def to(self, device: Any) -> Unwrapped:
        return self

    def get_image_features(self, pixels: Any) -> Any:
        return self.network.get_image_features(pixel_values=pixels).pooler_output

    def get_text_features(self, ids: Any, mask: Any) -> Any:
        return self.sign * self.network.get_text_features(input_ids=ids, attention_mask=mask).pooler_output


@pytest.mark.parametrize("address", EVERY)
def test_texts_over_the_limit_lose_their_end_and_it_is_said(tiny: Zoo, address: str) -> None:
    build(tiny, address)
    ours = model(address)
    long = " ".join(["dog"] * 200)
    found = ours.texts([long, "a dog", long + " and a cat"])
    assert found.cut[0] > 50
    assert found.cut[1] == 0
    assert found.cut[2] > found.cut[0]
    np.testing.assert_allclose(found.features[0], found.features[2], atol=1e-5)
    kept = model(address).texts([" ".join(["dog"] * 2)])
    assert kept.cut == [0]


def test_tokens_are_counted_with_their_marks(tiny: Zoo) -> None:
    tiny("clip")
    ours = model("hf:tiny/clip")
    assert ours.limit == 77
    assert ours.texts(["x" * 75, "x" * 76, "x" * 100]).cut == [0, 1, 25]


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_siglip_reads_lower_case(tiny: Zoo, name: str) -> None:
    tiny(name)
    upper, lower = model(f"hf:tiny/{name}").texts(["A Dog", "a dog"]).features
    np.testing.assert_allclose(upper, lower, atol=1e-6)


@pytest.mark.parametrize("address", EVERY)
def test_odd_images(tiny: Zoo, address: str, photos: list[np.ndarray]) -> None:
    build(tiny, address)
    ours = model(address)
    assert ours.images([]).shape == (0, ours.dim)
    assert ours.texts([]).features.shape == (0, ours.dim)
    # Three rows are not three colour planes; a read-only and a strided array are as good as any.
    small = [np.full((1, 1, 3), 90, np.uint8), np.full((3, 40, 3), 90, np.uint8), photos[0][::2, ::-1]]
    small[0].setflags(write=False)
    found = ours.images(small)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], ours.images([np.full((32, 32, 3), 90, np.uint8)])[0], atol=0.02)
    for wrong in (photos[0][..., 0], photos[0].astype(np.float32), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(ValueError, match="Expected a uint8 image"):
            ours.images([photos[0], wrong])
    with pytest.raises(ValueError, match="too long and thin"):
        ours.images([np.zeros((1, 101, 3), np.uint8)])


@pytest.mark.parametrize("address", EVERY)
def test_a_row_does_not_depend_on_its_neighbours_or_on_threads(
    tiny: Zoo, address: str, photos: list[np.ndarray]
) -> None:
    build(tiny, address)
    ours, twos = model(address), model(address, batch=2)
    together = ours.images(photos)
    np.testing.assert_allclose(np.concatenate([ours.images([photo]) for photo in photos]), together, atol=1e-5)
    np.testing.assert_allclose(twos.images(photos), together, atol=1e-5)
    texts = [*TEXTS, "a " * 60, "cat"]
    words = ours.texts(texts).features
    np.testing.assert_allclose(np.concatenate([ours.texts([text]).features for text in texts]), words, atol=1e-4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: (ours.images(photos[:2]), ours.texts(texts[number:])), range(4)))
    for number, (images, said) in enumerate(found):
        np.testing.assert_allclose(images, together[:2], atol=1e-5)
        np.testing.assert_allclose(said.features, words[number:], atol=1e-4)


def test_precisions_and_threads_give_nearly_the_same(tiny: Zoo, photos: list[np.ndarray]) -> None:
    for address in ("hf:tiny/clip", "open_clip:tiny-clip/random"):
        build(tiny, address)
        plain, half = model(address), model(address, dtype="bfloat16")
        assert np.sum(plain.images(photos) * half.images(photos), axis=1).min() > 0.99
        assert plain.fingerprint() != half.fingerprint()
        spread = load(Binding("clip", address), threads=2)
        np.testing.assert_allclose(spread.images(photos), plain.images(photos), atol=1e-5)
    facts = half.fingerprint()
    assert {"model", "sha256", "preprocessing", "text", "dtype", "torch"} <= set(facts)
    assert json.loads(json.dumps(facts)) == facts


def copied(folder: Path, mirror: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, mirror / "tiny" / name, dirs_exist_ok=True))


def change(folder: Path, **changes: Any) -> None:
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    for name, value in changes.items():
        content["model_cfg"][name] = {**content["model_cfg"][name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content))


def test_a_processor_of_the_old_kind(tiny: Zoo, photos: list[np.ndarray]) -> None:
    """OpenAI's repositories say `feature_extractor_type` and sizes as plain numbers."""
    folder = copied(tiny("clip"), tiny.mirror, "old-clip")
    path = folder / "preprocessor_config.json"
    new = json.loads(path.read_text())
    kept = {name: new[name] for name in ("do_resize", "do_center_crop", "do_normalize", "image_mean", "image_std")}
    old = {**kept, "feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "resample": 3}
    path.write_text(json.dumps(old))
    np.testing.assert_array_equal(model("hf:tiny/old-clip").images(photos), model("hf:tiny/clip").images(photos))


def test_an_open_clip_repository_with_its_own_tokenizer(tiny: Zoo, photos: list[np.ndarray]) -> None:
    from tests.zoo.tokens import clip_tokenizer

    folder = copied(tiny("open_clip"), tiny.mirror, "own-tokenizer")
    clip_tokenizer().save_pretrained(folder)
    change(folder, text_cfg={"hf_tokenizer_name": "somewhere/else", "tokenizer_kwargs": {"clean": "canonicalize"}})
    ours = model("hf:tiny/own-tokenizer", format="open_clip")
    # Punctuation goes, so it counts for nothing.
    assert ours.texts(["x" * 75 + "!!!", "x" * 80]).cut == [0, 5]
    assert ours.label == "own-tokenizer"
    assert shared("hf:tiny/own-tokenizer", device="cpu", threads=1) is ours
    np.testing.assert_allclose(ours.images(photos), model("open_clip:tiny-clip/random").images(photos), atol=1e-6)


def test_names_of_architectures() -> None:
    names: Sequence[tuple[tuple[str, int, int, int | None], str]] = [
        (("vit", 1024, 14, 224), "vit-l-14"),
        (("vit", 1024, 14, 336), "vit-l-14-336"),
        (("siglip", 1152, 14, 384), "siglip-so400m-14-384"),
        (("siglip2", 768, 16, None), "siglip2-b-16-naflex"),
    ]
    for parts, label in names:
        assert architecture(*parts) == label
