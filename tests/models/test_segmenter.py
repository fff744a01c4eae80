"""Segmenters: masks of SAM's own predictor and of transformers, on a real photo; SAM 3 only with all its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from tests.zoo import Zoo
from tests.zoo.segmentation import SAM_FILE


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def segmenter(name: str, kind: str = "sam", **options: Any) -> Any:
    return load(Binding("segmenter", f"hf:tiny/{name}", options={"format": kind, **options}))


def local(folder: Path, kind: str) -> Any:
    return load(Binding("segmenter", f"local:{folder}", options={"format": kind}))


@pytest.fixture(scope="module")
def image(fixtures: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(fixtures / "singles" / "cc_sunak.jpg")), cv2.COLOR_BGR2RGB)


@pytest.fixture
def boxes(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    share = np.array([[0.01, 0.02, 0.6, 0.7], [0.2, 0.1, 0.9, 0.8], [0, 0, 1, 1]])
    return (share * [width, height, width, height]).astype(np.float32)


def test_package_equals_its_predictor(tiny: Zoo, image: np.ndarray, boxes: np.ndarray) -> None:
    import torch
    from segment_anything import SamPredictor
    from segment_anything.build_sam import _build_sam

    reference = _build_sam(16, 2, 2, [1])
    reference.load_state_dict(torch.load(tiny("segment-anything") / SAM_FILE, weights_only=True))
    predictor = SamPredictor(reference)
    predictor.set_image(image)
    ours = segmenter("segment-anything", "segment-anything", file=SAM_FILE)
    found = ours.segment([image], [boxes])[0]
    assert found.masks.shape == (3, *image.shape[:2])
    for mask, score, box in zip(found.masks, found.scores, boxes, strict=True):
        masks, scores, _ = predictor.predict(box=box)
        best = int(scores.argmax())
        assert (masks[best] == mask).all()
        assert abs(scores[best] - score) < 1e-5
        assert 0.01 < mask.mean() < 0.99
    assert ours.fingerprint()["multimask"] is True


def test_package_sizes_are_read_off_the_tensors(tiny: Zoo, tmp_path: Path) -> None:
    import torch
    from segment_anything import sam_model_registry

    from idtool.models.segment_anything import encoder_size

    published = {"vit_b": (768, 12, 12, [2, 5, 8, 11]), "vit_l": (1024, 24, 16, [5, 11, 17, 23])}
    published["vit_h"] = (1280, 32, 16, [7, 15, 23, 31])
    for name, size in published.items():
        with torch.device("meta"):
            state = sam_model_registry[name]().state_dict()
        assert tuple(encoder_size(state, name).values()) == size

    def refusal(state: dict[str, Any]) -> str:
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(MissingError) as error:
            local(tmp_path / "x.pth", "segment-anything")
        return error.value.message

    state = torch.load(tiny("segment-anything") / SAM_FILE, weights_only=True)
    assert "no checkpoint of the package" in refusal({"weight": torch.zeros(1)})
    name = "mask_decoder.iou_token.weight"
    assert f"1 missing ({name})" in refusal({key: value for key, value in state.items() if key != name})
    torch.save({"network": Path()}, tmp_path / "y.pth")  # an object that only unpickling could make
    with pytest.raises(MissingError, match="cannot be read as a checkpoint"):
        local(tmp_path / "y.pth", "segment-anything")
    with pytest.raises(UsageError, match="float32 only"):
        segmenter("segment-anything", "segment-anything", file=SAM_FILE, dtype="bfloat16")


@pytest.mark.parametrize("name", ["sam", "sam2"])
@pytest.mark.parametrize("multimask", [True, False])
def test_equal_to_transformers(tiny: Zoo, image: np.ndarray, boxes: np.ndarray, name: str, multimask: bool) -> None:
    import PIL.Image
    import torch
    from transformers import AutoModelForMaskGeneration, AutoProcessor

    folder = tiny(name)
    processor = AutoProcessor.from_pretrained(folder)
    network = AutoModelForMaskGeneration.from_pretrained(folder).eval()
    made = processor(images=PIL.Image.fromarray(image), input_boxes=[boxes.tolist()], return_tensors="pt")
    sizes = [made[key] for key in ("original_sizes", "reshaped_input_sizes") if key in made]
    with torch.inference_mode():
        out = network(
            pixel_values=made["pixel_values"], input_boxes=made["input_boxes"].float(), multimask_output=multimask
        )
        full = processor.image_processor.post_process_masks(out.pred_masks, *sizes)[0].numpy()
    scores = out.iou_scores[0].numpy()
    found = segmenter(name, multimask=multimask).segment([image], [boxes])[0]
    assert found.masks.dtype == bool
    assert found.masks.shape == (3, *image.shape[:2])
    assert (found.masks == full[np.arange(3), scores.argmax(axis=1)]).mean() > 0.9999
    assert np.abs(found.scores - scores.max(axis=1)).max() < 1e-5


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_rows_do_not_depend_on_their_neighbours(tiny: Zoo, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from idtool.models import masks

    tiny(name)
    ours = segmenter(name)
    images = [noise(90, 120, 1), noise(64, 30, 2), noise(40, 40, 3)]
    many = np.array([[x, 5, x + 20, 50] for x in range(0, 60, 10)], np.float32)
    asked = [many, [], [[0, 0, 40, 40]]]
    together = ours.segment(images, asked)
    assert [found.masks.shape for found in together] == [(6, 90, 120), (0, 64, 30), (1, 40, 40)]
    monkeypatch.setattr(masks, "BOXES_AT_ONCE", 4)
    monkeypatch.setattr(masks, "PIXELS_AT_ONCE", 1)
    for image, some, found in zip(images, asked, together, strict=True):
        alone = ours.segment([image], [some])[0]
        # A pixel at the very edge may fall to the other side by rounding.
        assert (alone.masks != found.masks).sum() <= 1e-4 * found.masks.size
        assert np.abs(alone.scores - found.scores).max(initial=0) < 1e-4


def test_bad_boxes_and_images(tiny: Zoo) -> None:
    tiny("sam")
    ours = segmenter("sam")
    image = noise(40, 50, 1)
    assert ours.segment([], []) == []
    assert ours.segment([noise(1, 1, 1)], [[[0, 0, 1, 1]]])[0].masks.shape == (1, 1, 1)
    assert ours.segment([noise(3, 40, 1)], [[[0, 0, 40, 3]]])[0].masks.shape == (1, 3, 40)
    with pytest.raises(ValueError, match=r"no area in an image of 50x40"):
        ours.segment([image], [[[10, 10, 10, 30]]])
    with pytest.raises(ValueError, match="no area"):
        ours.segment([image], [[[60, 10, 70, 30]]])
    with pytest.raises(ValueError, match="finite boxes of Kx4"):
        ours.segment([image], [[[0, 0, np.nan, 5]]])
    with pytest.raises(ValueError, match="finite boxes of Kx4"):
        ours.segment([image], [[1, 2, 3, 4]])
    with pytest.raises(ValueError, match="too thin"):
        ours.segment([noise(1, 1000, 1)], [[[0, 0, 9, 1]]])
    with pytest.raises(ValueError, match="uint8"):
        ours.segment([image / 255], [[]])
    with pytest.raises(ValueError):
        ours.segment([image], [])


def test_nan_is_refused(tiny: Zoo) -> None:
    import torch

    tiny("sam")
    ours = segmenter("sam", batch=3)  # one of its own: its weights are spoilt
    with torch.no_grad():
        ours._network.mask_decoder.iou_token.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        ours.segment([noise(40, 50, 1)], [[[0, 0, 20, 20]]])


def test_published_sam2_folders_say_video(tiny: Zoo, tmp_path: Path) -> None:
    from transformers import Sam2VideoConfig

    folder = tmp_path / "video"
    shutil.copytree(tiny("sam2"), folder)
    own = json.loads((folder / "config.json").read_text())
    kept = {key: own[key] for key in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    Sam2VideoConfig(**kept).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "sam2_video"
    image, box = noise(60, 80, 1), [[5, 5, 60, 50]]
    video, still = local(folder, "sam").segment([image], [box])[0], segmenter("sam2").segment([image], [box])[0]
    assert (video.masks == still.masks).all()


def test_wrong_folders(tiny: Zoo, tmp_path: Path) -> None:
    tiny("segformer"), tiny("sam3")
    with pytest.raises(UsageError, match="of the kind 'segformer'"):
        segmenter("segformer")
    with pytest.raises(UsageError, match="of the kind 'sam3'"):
        segmenter("sam3")
    half = tmp_path / "half"
    shutil.copytree(tiny("sam"), half)
    file = half / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(MissingError, match="cannot be loaded"):
        local(half, "sam")
    with pytest.raises(MissingError, match="does not exist"):
        local(tmp_path / "none", "sam")
    with pytest.raises(MissingError, match="mps"):
        load(Binding("segmenter", "hf:tiny/sam", options={"format": "sam"}), device="mps")


def test_sam3_equals_transformers(tiny: Zoo) -> None:
    import PIL.Image
    import torch
    from transformers import Sam3Model, Sam3Processor

    folder = tiny("sam3")
    images = [noise(90, 120, 1), noise(200, 50, 2)]
    processor, network = Sam3Processor.from_pretrained(folder), Sam3Model.from_pretrained(folder).eval()
    made = processor(images=PIL.Image.fromarray(images[0]), text="red hat", return_tensors="pt")
    with torch.inference_mode():
        out = network(**{key: made[key] for key in ("pixel_values", "input_ids", "attention_mask")})
    expected = processor.post_process_instance_segmentation(out, threshold=0.0, target_sizes=[(90, 120)])[0]
    ours = segmenter("sam3", "sam3", threshold=0.0)
    both = ours.regions(images, [["face", "red hat"], ["shoe"]])
    assert [len(some) for some in both] == [20, 10]
    found = [one for one in both[0] if one.label == "red hat"]
    order = np.argsort(-expected["scores"].numpy(), kind="stable")
    assert np.abs(expected["scores"].numpy()[order] - [one.score for one in found]).max() < 1e-5
    assert np.abs(expected["boxes"].numpy()[order] - [one.box for one in found]).max() < 1e-2
    assert (expected["masks"].numpy()[order].astype(bool) == [one.mask for one in found]).mean() > 0.999
    assert [one.label for one in ours.detect(images[1:], [["shoe"]])[0]] == ["shoe"] * 10
    assert ours.regions([], []) == []
    assert ours.regions(images[:1], [[]]) == [[]]
    with pytest.raises(ValueError, match=r"42 tokens long; hf:tiny/sam3 takes 32"):
        ours.regions(images[:1], [["x" * 40]])
    with pytest.raises(ValueError, match="no word"):
        ours.regions(images[:1], [[" "]])
    with pytest.raises(UsageError, match="not by boxes"):
        ours.segment(images[:1], [[[0, 0, 5, 5]]])
    assert ours.fingerprint()["threshold"] == 0.0


def test_threads_get_the_same(tiny: Zoo) -> None:
    from concurrent.futures import ThreadPoolExecutor

    tiny("sam3")
    ours = segmenter("sam3", "sam3", threshold=0.0)
    image, phrases = noise(60, 80, 1), ["face", "a red hat", "shoe", "x"]
    alone = [ours.regions([image], [[phrase]])[0] for phrase in phrases]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda phrase: ours.regions([image], [[phrase]])[0], phrases * 3))
    for number, found in enumerate(together):
        expected = alone[number % 4]
        assert np.abs(np.subtract([one.score for one in found], [one.score for one in expected])).max() < 1e-4


def test_sam3_without_its_text_tower_is_refused(tiny: Zoo, tmp_path: Path) -> None:
    """transformers itself loads both folders and leaves the text tower at random."""
    from safetensors.torch import load_file, save_file

    state = load_file(tiny("sam3") / "model.safetensors")
    tower = [name for name in state if name.startswith("text_encoder.")]
    assert len(tower) > 30
    renamed = {name.replace("text_encoder.text_model.", "text_encoder."): tensor for name, tensor in state.items()}
    dropped = {name: tensor for name, tensor in state.items() if name not in tower}
    prefixed = {f"detector_model.{name}": tensor for name, tensor in state.items()}
    for number, (changed, fits) in enumerate([(renamed, False), (dropped, False), (prefixed, True)]):
        folder = tmp_path / str(number)
        shutil.copytree(tiny("sam3"), folder)
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        if fits:
            assert local(folder, "sam3").regions([noise(40, 50, 1)], [["face"]]) == [[]]
        else:
            with pytest.raises(MissingError, match=r"missing \(text_encoder\.") as error:
                local(folder, "sam3")
            assert "understand a word" in error.value.hint
    folder = tmp_path / "mute"
    shutil.copytree(tiny("sam3"), folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(MissingError, match="tokenizer"):
        local(folder, "sam3")
