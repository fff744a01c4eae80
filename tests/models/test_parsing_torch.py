"""Face parsers on PyTorch: equal to the OpenVINO graph on the real weights, refused when they are something else."""

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
from idtool.models.faces import Face, Scrfd
from idtool.models.parts import MASKS, PARTS, REGIONS, inpainting_mask, mask_of, order_of, region_masks
from tests.zoo import Zoo
from tests.zoo.parsing import FILE, SEGFORMER_NAMES

FACE = Face(np.array([10, 5, 60, 75], np.float32), 1.0, np.zeros((5, 2), np.float32))
WIDE = Face(np.array([20, 30, 120, 90], np.float32), 1.0, np.zeros((5, 2), np.float32))
PIXEL = Face(np.array([0, 0, 1, 1], np.float32), 1.0, np.zeros((5, 2), np.float32))


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def photo(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def bound(name: str, **options: Any) -> Binding:
    return Binding("parser", f"hf:tiny/{name}", options=options)


def bisenet(**options: Any) -> Any:
    return load(bound("bisenet", file=FILE, format="bisenet", **options))


@pytest.fixture(params=["bisenet", "segformer"])
def parser(request: pytest.FixtureRequest, tiny: Zoo) -> Any:
    tiny(request.param)
    return bisenet() if request.param == "bisenet" else load(bound("segformer"))


@pytest.mark.offline_weights
def test_real_weights_equal_the_openvino_graph(fixtures: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra `models`")
    from idtool.models import weights
    from idtool.models.parser import BiSeNet

    path = weights.path("bisenet-celebamask")
    ours = load(Binding("parser", f"local:{path}", options={"format": "bisenet"}))
    graph = BiSeNet()
    photos = [photo(fixtures / name) for name in ("singles/cc_sunak.jpg", "hard/yaw_45.jpg")]
    faces = [found[0] for found in Scrfd().detect(photos)]
    for here, there in zip(ours(photos, faces), graph(photos, faces), strict=True):
        assert np.mean(here.labels == there.labels) > 0.999
        assert (here.matrix == there.matrix).all()
    crop = np.asarray(cv2.warpAffine(photos[0], here.matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    assert np.abs(ours.scores([crop])[0] - graph.scores(crop)).max() < 1e-3


def test_rows_do_not_depend_on_their_neighbours(parser: Any) -> None:
    images, faces = [noise(90, 80, 1), noise(120, 200, 2)], [FACE, WIDE]
    together = parser(images, faces)
    for image, face, parsed in zip(images, faces, together, strict=True):
        assert parsed.labels.shape == (512, 512)
        assert parsed.labels.dtype == np.uint8
        assert np.mean(parser([image], [face])[0].labels == parsed.labels) > 0.999
    assert parser([], []) == []
    assert parser([noise(1, 1, 3)], [PIXEL])[0].on(1, 1).shape == (1, 1)
    with pytest.raises(ValueError, match="uint8"):
        parser([np.zeros((8, 8, 3), np.float32)], [FACE])
    with pytest.raises(ValueError):
        parser(images, [FACE])


def test_fingerprint_names_file_and_settings(parser: Any) -> None:
    facts = parser.fingerprint()
    assert len(facts["sha256"]) == 64
    assert facts["dtype"] == "float32"
    assert "512 px" in facts["preprocessing"]
    assert facts["torch"] != "unknown"


def test_segformer_classes_are_told_by_name(tiny: Zoo) -> None:
    """A network that always says one class: its own index comes out as the part of that name."""
    import torch

    tiny("segformer")
    parser = load(bound("segformer", batch=4))
    head = parser._network.decode_head.classifier
    kept = head.weight.clone(), head.bias.clone()
    try:
        for index, name in ((3, "glasses"), (4, "left_eye"), (9, "right_ear"), (12, "lower_lip"), (15, "earring")):
            with torch.no_grad():
                head.weight.zero_()
                head.bias.copy_(torch.eye(19)[index])
            assert parser([noise(90, 80, 1)], [FACE])[0].share(name) == 1.0, SEGFORMER_NAMES[index]
        with torch.no_grad():
            head.bias[0] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            parser([noise(90, 80, 1)], [FACE])
    finally:
        with torch.no_grad():
            head.weight.copy_(kept[0])
            head.bias.copy_(kept[1])


def test_names_in_any_order_or_refused() -> None:
    order = order_of(SEGFORMER_NAMES, "It")
    assert sorted(order) == list(range(19))
    assert [PARTS[i] for i in order[[4, 5, 12]]] == ["left_eye", "right_eye", "lower_lip"]
    assert list(order_of(PARTS, "It")) == list(range(19))
    assert list(order_of([f"{name}.png" for name in SEGFORMER_NAMES], "It")) == list(order)
    with pytest.raises(MissingError, match=r"18 classes \(missing: cloth\)"):
        order_of(SEGFORMER_NAMES[:-1], "It")
    with pytest.raises(MissingError, match="unknown: LABEL_18; missing: cloth"):
        order_of([*SEGFORMER_NAMES[:-1], "LABEL_18"], "It")
    with pytest.raises(MissingError, match="there twice: skin"):
        order_of([*SEGFORMER_NAMES, "skin"], "It")


def test_regions_and_masks() -> None:
    labels = np.arange(19, dtype=np.uint8)[None]
    regions = region_masks(labels)
    assert set(regions) == set(REGIONS)
    # Spec: face = {1, 2, 3, 4, 5, 10, 11, 12, 13}, eyes {4, 5}, ears {7, 8}, nose {10}, mouth {11, 12, 13}.
    assert np.flatnonzero(regions["face"]).tolist() == [1, 2, 3, 4, 5, 10, 11, 12, 13]
    assert np.flatnonzero(regions["eyes"]).tolist() == [4, 5]
    assert np.flatnonzero(regions["ears"]).tolist() == [7, 8]
    assert np.flatnonzero(regions["mouth"]).tolist() == [11, 12, 13]
    face, rest = inpainting_mask(labels, "face"), inpainting_mask(labels, "all-but-face")
    assert (face ^ rest).all()
    assert (inpainting_mask(labels, "head") & ~face).sum() == 5
    assert set(MASKS) == {"face", "head", "hair", "all-but-face"}
    with pytest.raises(ValueError, match="no kind of mask 'beard'"):
        inpainting_mask(labels, "beard")
    with pytest.raises(ValueError, match="no part 'tail'"):
        mask_of(labels, ["tail"])


def test_wrong_bisenet_checkpoints(tiny: Zoo, tmp_path: Path) -> None:
    import torch

    state = torch.load(tiny("bisenet") / FILE, weights_only=True)

    def refusal(changed: dict[str, Any]) -> str:
        torch.save(changed, tmp_path / "x.pth")
        with pytest.raises(MissingError) as error:
            load(Binding("parser", f"local:{tmp_path / 'x.pth'}", options={"format": "bisenet"}))
        return error.value.message

    assert "no 'cp.resnet.layer1.0.conv1.weight'" in refusal({"weight": torch.zeros(1)})
    assert "1 missing (ffm.conv2.weight)" in refusal({k: v for k, v in state.items() if k != "ffm.conv2.weight"})
    assert "1 unexpected (extra)" in refusal({**state, "extra": torch.zeros(1)})
    assert "11 classes" in refusal({**state, "conv_out.conv_out.weight": torch.zeros(11, 32, 1, 1)})
    half = tmp_path / "half.pth"
    half.write_bytes((tiny("bisenet") / FILE).read_bytes()[:20000])
    with pytest.raises(MissingError, match="is it complete"):
        load(Binding("parser", f"local:{half}", options={"format": "bisenet"}))
    with pytest.raises(MissingError, match="is a folder"):
        load(bound("bisenet", format="bisenet"))
    with pytest.raises(MissingError, match="CUDA"):
        load(bound("bisenet", file=FILE, format="bisenet"), device="cuda:7")
    with pytest.raises(UsageError, match="dtype"):
        bisenet(dtype="int3")


def test_wrong_segformer_checkpoints(tiny: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny("segformer"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["18"] = "tail"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingError, match="unknown: tail; missing: cloth"):
        load(Binding("parser", f"local:{folder}", options={"format": "segformer"}))
    shutil.copy(tiny("segformer") / "config.json", folder)
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    with pytest.raises(MissingError, match="image processor"):
        load(Binding("parser", f"local:{folder}", options={"format": "segformer", "batch": 2}))


def test_half_precision_is_close(tiny: Zoo) -> None:
    tiny("bisenet")
    crop = noise(512, 512, 4)
    exact, rough = bisenet().scores([crop])[0], bisenet(dtype="bfloat16").scores([crop])[0]
    assert rough.dtype == np.float32
    assert np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()
