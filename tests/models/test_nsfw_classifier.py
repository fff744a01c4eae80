"""Image classifiers as judges of explicitness: labels that are known or refused, and the model's own preprocessing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from tests.zoo import Zoo


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((40, 50, 3), (3, 3, 3), (1, 1, 3), (64, 20, 3))]


def relabelled(folder: Path, target: Path, names: list[str]) -> str:
    """A copy of the model with other class names; its address."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (target / "config.json").write_text(json.dumps(config))
    return f"local:{target}"


def bound(model: str, **options: Any) -> Any:
    return load(Binding("nsfw", model, options={"format": "image-classifier", **options}))


def test_scores_are_those_of_the_model(tiny: Zoo) -> None:
    folder = tiny("nsfw")
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = load(Binding("nsfw", "hf:tiny/nsfw"))  # the usual format of role and address
    found = model.score(images())
    assert [each.label for each in found] == ["nsfw"] * 4
    processor, network = (
        kind.from_pretrained(folder) for kind in (AutoImageProcessor, AutoModelForImageClassification)
    )
    for image, each in zip(images(), found, strict=True):
        pixels = processor(Image.fromarray(image), return_tensors="pt")
        with torch.inference_mode():
            expected = network(**pixels).logits.softmax(-1)[0, 1].item()
        assert each.score == pytest.approx(expected, abs=1e-4)
    assert len({round(each.score, 4) for each in found}) > 1, "images make a difference"


def test_rows_do_not_depend_on_their_neighbours(tiny: Zoo) -> None:
    tiny("nsfw")
    model = bound("hf:tiny/nsfw", batch=3)
    together = model.class_scores(images())
    assert together.shape == (4, 2)
    assert together.sum(axis=1) == pytest.approx(1, abs=1e-5)
    for image, row in zip(images(), together, strict=True):
        assert model.class_scores([image])[0] == pytest.approx(row, abs=1e-5)
    assert model.score([]) == []
    assert model.class_scores([]).shape == (0, 2)
    with pytest.raises(ValueError, match="HxWx3"):
        model.score([np.zeros((5, 5), np.uint8)])
    facts = model.fingerprint()
    assert facts["model"] == "hf:tiny/nsfw"
    assert facts["preprocessing"].endswith("explicit: nsfw")
    assert len(facts["sha256"]) == 64


def test_names_of_classes(tiny: Zoo, tmp_path: Path) -> None:
    folder = tiny("nsfw")
    odd = relabelled(folder, tmp_path / "odd", ["LABEL_0", "LABEL_1"])
    with pytest.raises(MissingError, match=r"not known whether they are explicit: LABEL_0, LABEL_1.*option `explicit`"):
        bound(odd)
    assert bound(odd, explicit=["label_1"]).explicit == (1,)
    with pytest.raises(UsageError, match=r"no class 'LABEL_2'. Did you mean"):
        bound(odd, explicit=["LABEL_2"])
    for names, many in ((["porn", "hentai"], "all"), (["safe", "drawings"], "none")):
        model = relabelled(folder, tmp_path / many, names)
        with pytest.raises(MissingError, match=f"{many} would be explicit"):
            bound(model)


def test_several_explicit_classes_add_up(tiny: Zoo, tmp_path: Path) -> None:
    folder = tiny("nsfw")
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    target = tmp_path / "five"
    shutil.copytree(folder, target)
    names = ["drawings", "hentai", "neutral", "porn", "sexy"]
    config = ViTConfig.from_pretrained(
        folder, id2label=dict(enumerate(names)), label2id={n: k for k, n in enumerate(names)}
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        ViTForImageClassification(config).save_pretrained(target)
    model = bound(f"local:{target}")
    rows = model.class_scores(images())
    found = model.score(images())
    assert [each.score for each in found] == pytest.approx(rows[:, [1, 3, 4]].sum(axis=1), abs=1e-6)
    assert found[0].label == names[[1, 3, 4][rows[0, [1, 3, 4]].argmax()]]


def test_incomplete_models(tiny: Zoo, tmp_path: Path) -> None:
    folder = tiny("nsfw")
    half, bare = tmp_path / "half", tmp_path / "bare"
    for target in (half, bare):
        shutil.copytree(folder, target)
    content = (folder / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(MissingError, match=r"Model local:.*half.*cannot be loaded"):
        bound(f"local:{half}")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(MissingError, match="image processor of model local:"):
        bound(f"local:{bare}")
