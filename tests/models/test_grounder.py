"""Grounders: boxes as transformers computes them, labels by the tokens' places, rows free of their neighbours."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from idtool.models.grounder import Found
from tests.zoo import Zoo

KINDS = ("grounding-dino", "mm-grounding-dino")


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def grounder(name: str = "grounding-dino", **options: Any) -> Any:
    return load(Binding("grounder", f"hf:tiny/{name}", options={"format": "grounding-dino", **options}))


def everything(name: str = "grounding-dino") -> Any:
    return grounder(name, threshold=0.0, text_threshold=0.0)


def assert_equal(here: list[Found], there: list[Found]) -> None:
    assert [one.label for one in here] == [one.label for one in there]
    assert np.abs(np.subtract([one.score for one in here], [one.score for one in there])).max() < 1e-4
    assert np.abs(np.subtract([one.box for one in here], [one.box for one in there])).max() < 1e-2


@pytest.mark.parametrize("name", KINDS)
def test_boxes_and_scores_are_those_of_transformers(tiny: Zoo, name: str) -> None:
    import PIL.Image
    import torch
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = tiny(name)
    image = noise(90, 120, 1)
    processor = AutoProcessor.from_pretrained(folder)
    network = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    made = processor(images=PIL.Image.fromarray(image), text=[["red hat", "face"]], return_tensors="pt")
    with torch.inference_mode():
        out = network(**made)
    expected = processor.post_process_grounded_object_detection(
        out, made["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[(90, 120)]
    )[0]
    found = everything(name).detect([image], [["red hat", "face"]])[0]
    order = np.argsort(-expected["scores"].numpy(), kind="stable")
    assert len(found) == 10
    assert np.abs(expected["scores"].numpy()[order] - [one.score for one in found]).max() < 1e-6
    boxes = np.clip(expected["boxes"].numpy()[order], 0, [120, 90, 120, 90])
    assert np.abs(boxes - [one.box for one in found]).max() < 1e-3
    assert {one.label for one in found} <= {"red hat", "face"}


@pytest.mark.parametrize("name", KINDS)
def test_rows_do_not_depend_on_their_neighbours(tiny: Zoo, name: str) -> None:
    """Two of one size and one of another; their prompts differ in length."""
    tiny(name)
    network = everything(name)
    images = [noise(90, 120, 1), noise(60, 60, 2), noise(90, 120, 3)]
    phrases = [["hat"], ["face", "shoe"], ["a long dark coat", "shoe", "a dog"]]
    together = network.detect(images, phrases)
    for image, some, found in zip(images, phrases, together, strict=True):
        assert_equal(network.detect([image], [some])[0], found)
        assert (np.diff([one.score for one in found]) <= 0).all()


def test_labels_are_told_by_place(tiny: Zoo) -> None:
    """Phrases that share tokens or contain one another; the processor would return `that`, or `hat. red hat`."""
    import torch

    tiny("grounding-dino")
    network = grounder(threshold=0.3, text_threshold=0.25)
    phrases = ["hat", "Red hat", "that", "Mr. X?", "HAT"]
    prompt = network._prompt(phrases)
    # "HAT" is the first phrase again; the stops inside "Mr. X?" part nothing.
    assert prompt.phrases == ("hat", "Red hat", "that", "Mr. X?")
    words = [network._tokenizer.decode(prompt.ids[span]) for span in prompt.spans]
    assert words == ["hat", "red hat", "that", "mr x"]
    stop = prompt.spans[0].stop
    peaks = [  # token, its score; further tokens, theirs
        {prompt.spans[1].start + 3: 0.9, prompt.spans[0].start: 0.8},
        {prompt.spans[3].start: 0.5},
        {prompt.spans[2].start: 0.29},  # below the threshold
        {stop: 0.7},  # a full stop only: no phrase is meant
        {stop: 0.7, prompt.spans[0].start: 0.26},
    ]
    logits = torch.full((1, len(peaks), 64), float("-inf"))
    for query, some in enumerate(peaks):
        for token, score in some.items():
            logits[0, query, token] = float(np.log(score / (1 - score)))
    boxes = torch.tensor([0.5, 0.5, 0.5, 0.5]).repeat(1, len(peaks), 1)
    real, network._network = network._network, lambda **_: SimpleNamespace(logits=logits, pred_boxes=boxes)
    try:
        found = network.detect([noise(80, 100, 1)], [phrases])[0]
        assert [(one.label, round(one.score, 2)) for one in found] == [("Red hat", 0.9), ("hat", 0.7), ("Mr. X?", 0.5)]
        assert found[0].box.tolist() == [25, 20, 75, 60]
        boxes[0, 0] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            network.detect([noise(80, 100, 1)], [phrases])
    finally:
        network._network = real


def test_bad_input(tiny: Zoo) -> None:
    tiny("grounding-dino")
    network = everything()
    image = noise(80, 100, 1)
    assert network.detect([], []) == []
    assert network.detect([image], [[]]) == [[]]
    assert len(network.detect([noise(1, 1, 1)], [["face"]])[0]) == 10
    with pytest.raises(ValueError, match="1000x1 px is too thin"):
        network.detect([noise(1, 1000, 1)], [["face"]])
    with pytest.raises(ValueError, match="no word"):
        network.detect([image], [["face", " . "]])
    with pytest.raises(ValueError, match=r"2 phrases are 8\d tokens together; hf:tiny/grounding-dino takes 64"):
        network.detect([image], [["a" * 40, "b" * 40]])
    with pytest.raises(ValueError, match="sequence of phrases"):
        network.detect([image], ["face"])
    with pytest.raises(ValueError):
        network.detect([image], [])
    with pytest.raises(ValueError, match="uint8"):
        network.detect([image / 255], [["face"]])


def test_bad_settings(tiny: Zoo, tmp_path: Path) -> None:
    tiny("grounding-dino")
    with pytest.raises(UsageError, match="threshold"):
        grounder(threshold=30)
    with pytest.raises(UsageError, match="has no option 'box_threshold'"):
        grounder(box_threshold=0.3)
    with pytest.raises(MissingError, match="cannot be loaded"):
        tiny("sam")
        grounder("sam")
    folder = tmp_path / "copy"
    shutil.copytree(tiny("grounding-dino"), folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    # transformers would make up a tokenizer of five tokens.
    with pytest.raises(MissingError, match="has 5 tokens, but its text tower knows 1030"):
        load(Binding("grounder", f"local:{folder}", options={"format": "grounding-dino"}))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(MissingError, match="cannot be loaded"):
        load(Binding("grounder", f"local:{folder}", options={"format": "grounding-dino", "batch": 2}))


def test_fingerprint(tiny: Zoo) -> None:
    tiny("grounding-dino")
    facts = grounder(threshold=0.3).fingerprint()
    assert (facts["threshold"], facts["text_threshold"], facts["dtype"]) == (0.3, 0.25, "float32")
    assert len(facts["sha256"]) == 64
