"""DINO, DINOv2 and DINOv3: the class token of transformers, after the checkpoint's preprocessing or that of the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from tests.zoo import Zoo

NAMES = ("dino", "dinov2", "dinov3")
SIDES = {"dino": (37, 32), "dinov2": (32, 28), "dinov3": (37, 32)}
"""Shorter side and crop of the hub's preprocessing at the tiny networks' sizes."""


def model(address: str, **options: Any) -> Any:
    return load(Binding("features", address, options=options))


@pytest.fixture(scope="module")
def photos(fixtures: Path) -> list[np.ndarray]:
    paths = sorted((fixtures / "singles").iterdir(), key=lambda path: path.stat().st_size)
    return [
        np.array(Pillow.open(path).convert("RGB")) for path in (*paths[:3], fixtures / "groups" / "obama_biden.jpg")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_hf_gives_the_class_token_of_transformers(tiny: Zoo, photos: list[np.ndarray], name: str) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    folder = tiny(name)
    processor, network = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        theirs = network(**processor(photos, return_tensors="pt")).last_hidden_state[:, 0].numpy()
    ours = model(f"hf:tiny/{name}", preproc="hf")
    found = ours.images(photos)
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    assert found.shape == (4, ours.dim)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).min() > 0.1, "raw, not of length 1"
    assert np.abs(found - found[0]).max() > 0.2, "the photos must differ for this to say anything"


@pytest.mark.parametrize("name", NAMES)
def test_hub_is_the_transform_of_torchvision(tiny: Zoo, photos: list[np.ndarray], name: str) -> None:
    import torch
    from torchvision.transforms import functional
    from transformers import AutoModel

    network = AutoModel.from_pretrained(tiny(name)).eval()
    shorter, crop = SIDES[name]
    pixels = []
    for photo in photos:
        small = functional.resize(Pillow.fromarray(photo), shorter, functional.InterpolationMode.BICUBIC)
        plain = functional.to_tensor(functional.center_crop(small, [crop, crop]))
        pixels.append(functional.normalize(plain, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.inference_mode():
        theirs = network(torch.stack(pixels)).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(model(f"hf:tiny/{name}", preproc="hub").images(photos), theirs, atol=1e-5)


def test_which_preprocessing_is_meant(tiny: Zoo, photos: list[np.ndarray]) -> None:
    for name, usual in (("dino", "hub"), ("dinov2", "hf"), ("dinov3", "hf")):
        tiny(name)
        silent, said = model(f"hf:tiny/{name}"), model(f"hf:tiny/{name}", preproc=usual)
        np.testing.assert_array_equal(silent.images(photos), said.images(photos))
        assert silent.fingerprint()["preprocessing"].startswith(f"{usual}: ")
    hub, hf = (model("hf:tiny/dino", preproc=how).images(photos) for how in ("hub", "hf"))
    assert np.abs(hub - hf).max() > 0.1
    with pytest.raises(UsageError, match=r"Option `preproc` .* is 'Hub'"):
        model("hf:tiny/dino", preproc="Hub")


def test_dino_needs_no_processor_for_the_hubs(tiny: Zoo) -> None:
    folder = Path(shutil.copytree(tiny("dino"), tiny.mirror / "tiny" / "bare", dirs_exist_ok=True))
    (folder / "preprocessor_config.json").unlink()
    image = np.full((50, 40, 3), 99, np.uint8)
    np.testing.assert_array_equal(model("hf:tiny/bare").images([image]), model("hf:tiny/dino").images([image]))
    with pytest.raises(MissingError, match="image processor"):
        model("hf:tiny/bare", preproc="hf")


def test_registers(tiny: Zoo, photos: list[np.ndarray]) -> None:
    import torch
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    folder = tiny.mirror / "tiny" / "registers"
    shutil.copytree(tiny("dinov2"), folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14, num_register_tokens=2
    )
    network = Dinov2WithRegistersModel(config).eval()
    network.save_pretrained(folder)
    ours = model("hf:tiny/registers")
    with torch.inference_mode():
        theirs = network(ours._pictures(photos)["pixel_values"]).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(ours.images(photos), theirs, atol=1e-5)


def test_odd_images_and_neighbours(tiny: Zoo, photos: list[np.ndarray]) -> None:
    for name in NAMES:
        tiny(name)
        ours = model(f"hf:tiny/{name}")
        assert ours.images([]).shape == (0, ours.dim)
        together = ours.images(photos)
        np.testing.assert_allclose(np.concatenate([ours.images([photo]) for photo in photos]), together, atol=1e-4)
        np.testing.assert_allclose(model(f"hf:tiny/{name}", batch=3).images(photos), together, atol=1e-4)
        assert np.isfinite(ours.images([photos[0][:1, :1], photos[0][:3, :50]])).all()
        with pytest.raises(ValueError, match="Expected a uint8 image"):
            ours.images([photos[0], photos[0][..., 0]])


def test_what_is_refused(tiny: Zoo, photos: list[np.ndarray]) -> None:
    tiny("clip")
    with pytest.raises(MissingError, match="type 'clip', not a vision transformer"):
        model("hf:tiny/clip")
    folder = Path(shutil.copytree(tiny("dinov3"), tiny.mirror / "tiny" / "half", dirs_exist_ok=True))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(MissingError, match="cannot be loaded"):
        model("hf:tiny/half")
    broken = Path(shutil.copytree(tiny("dino"), tiny.mirror / "tiny" / "nan-dino", dirs_exist_ok=True))
    from safetensors.torch import load_file, save_file

    state = load_file(broken / "model.safetensors")
    state["layernorm.weight"][:] = float("nan")
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="hf:tiny/nan-dino gave a value that is not finite"):
        model("hf:tiny/nan-dino").images(photos[:1])


def test_a_classifier_gives_its_class_token(tiny: Zoo) -> None:
    """A ViT with a head on top has other names in its file, and its head is of no use here."""
    import torch
    from transformers import ViTForImageClassification, ViTModel

    folder = Path(shutil.copytree(tiny("dino"), tiny.mirror / "tiny" / "classifier", dirs_exist_ok=True))
    network = ViTForImageClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder)
    assert isinstance(network.vit, ViTModel)
    image = np.full((50, 40, 3), 99, np.uint8)
    np.testing.assert_allclose(model("hf:tiny/classifier").images([image]), model("hf:tiny/dino").images([image]))
    assert torch.is_grad_enabled()


def test_the_fingerprint_is_json(tiny: Zoo) -> None:
    tiny("dinov3")
    facts = model("hf:tiny/dinov3").fingerprint()
    assert json.loads(json.dumps(facts)) == facts
    assert {"model", "sha256", "preprocessing", "dtype", "torch", "transformers"} <= set(facts)
