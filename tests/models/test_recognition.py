"""FaceNet and AdaFace: the public names, their crops and colours, and checkpoints that are not theirs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from idtool.models.adaface import AdaFace
from idtool.models.faces import Face
from idtool.models.identity import align
from idtool.models.sources import Weights
from tests.zoo import Zoo
from tests.zoo.recognition import iresnet

torch = pytest.importorskip("torch", reason="needs the extra `models`")

FACENET = Binding("identity", "hf:tiny/facenet", options={"format": "facenet", "file": "model.pt"})
ADAFACE = Binding("identity", "hf:tiny/adaface", options={"format": "adaface", "file": "model.safetensors"})
NOISE = np.random.default_rng(0).integers(0, 256, (5, 160, 160, 3), dtype=np.uint8)


@pytest.fixture
def facenet(tiny: Zoo) -> Any:
    tiny("facenet")
    return load(FACENET)


@pytest.fixture
def adaface(tiny: Zoo) -> Any:
    tiny("adaface")
    return load(ADAFACE)


def crops_for(model: Any) -> np.ndarray:
    side = 160 if model.alignment == "facenet-160" else 112
    return NOISE[:, :side, :side]


@pytest.mark.parametrize("name", ["facenet", "adaface"])
def test_an_embedding_does_not_depend_on_its_neighbours(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    crops = crops_for(model)
    together = model.embed(crops)
    assert together.shape == (5, model.dim) == (5, 512)
    assert together.dtype == np.float32
    assert np.abs(together - np.concatenate([model.embed([crop]) for crop in crops])).max() < 1e-4
    assert np.abs(np.linalg.norm(together, axis=1) - 1).min() > 0.1  # raw: not scaled to length one
    assert model.embed([]).shape == (0, 512)
    with pytest.raises(ValueError, match="Expected uint8 crops"):
        model.embed(crops[:, :50])
    with ThreadPoolExecutor(3) as pool:
        assert all(np.abs(rows - together).max() < 1e-5 for rows in pool.map(lambda _: model.embed(crops), range(3)))


@pytest.mark.parametrize("binding", [FACENET, ADAFACE], ids=["facenet", "adaface"])
def test_batches_precision_and_fingerprint(binding: Binding, tiny: Zoo) -> None:
    tiny(binding.model.rpartition("/")[2])
    plain = load(binding)
    some = load(Binding("identity", binding.model, options={**binding.options, "batch": 2, "dtype": "bfloat16"}))
    crops = crops_for(plain)
    a, b = (model.embed(crops) for model in (plain, some))
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()
    facts = some.fingerprint()
    assert facts["dtype"] == "bfloat16"
    assert facts["sha256"] == plain.fingerprint()["sha256"]
    assert "torch" in facts
    with pytest.raises(UsageError, match="batch"):
        load(Binding("identity", binding.model, options={**binding.options, "batch": 0}))
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="cuda"):
            load(binding, device="cuda")


def test_public_names_and_sizes() -> None:
    """Those of facenet-pytorch, the AdaFace repository and CVLface, counted there."""
    from idtool.models.networks.inception_resnet import InceptionResnetV1
    from idtool.models.networks.iresnet import IResNet

    with torch.device("meta"):
        networks = {"facenet": InceptionResnetV1(), 18: IResNet(18), 50: IResNet(50), 101: IResNet(101)}
    counts = {
        key: (len(network.state_dict()), sum(p.numel() for p in network.parameters()))
        for key, network in networks.items()
    }
    assert counts == {
        "facenet": (714, 23_482_624),
        18: (179, 24_020_352),
        50: (467, 43_585_600),
        101: (917, 65_150_912),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in networks["facenet"].state_dict().items()}
    assert shapes["conv2d_4b.bn.running_var"] == (256,)
    assert shapes["repeat_1.4.branch2.2.conv.weight"] == (32, 32, 3, 3)
    assert shapes["repeat_2.9.branch1.1.conv.weight"] == (128, 128, 1, 7)
    assert shapes["mixed_6a.branch1.2.conv.weight"] == (256, 192, 3, 3)
    assert shapes["mixed_7a.branch0.1.conv.weight"] == (384, 256, 3, 3)
    assert shapes["block8.conv2d.bias"] == (1792,)
    assert shapes["last_linear.weight"] == (512, 1792)
    shapes = {name: tuple(tensor.shape) for name, tensor in networks[101].state_dict().items()}
    assert shapes["body.48.res_layer.4.weight"] == (512, 512, 3, 3)
    assert shapes["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1)
    assert shapes["output_layer.3.weight"] == (512, 512 * 49)
    assert "output_layer.4.weight" not in shapes


def test_facenet_crops_the_box_as_its_protocol_does(facenet: Any) -> None:
    image = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    points = np.zeros((5, 2), np.float32)
    boxes = {(20.9, 30.2, 120.7, 150.9): (20, 30, 120, 150), (-8.5, -3.0, 400.0, 90.5): (0, 0, 300, 90)}
    for box, corners in boxes.items():
        [crop] = facenet.crops([image], [Face(np.array(box, np.float32), 1.0, points)])
        expected = Pillow.fromarray(image).crop(corners).resize((160, 160), Pillow.Resampling.BILINEAR)
        assert np.array_equal(crop, np.asarray(expected))
    outside = Face(np.array([310, 10, 350, 60], np.float32), 1.0, points)
    with pytest.raises(ValueError, match="outside its image"):
        facenet.crops([image], [outside])
    whole = Face(np.array([0, 0, 1, 1], np.float32), 1.0, points)
    assert facenet.crops([image[:1, :1]], [whole])[0].shape == (160, 160, 3)
    assert facenet.crops([], []) == []


def test_adaface_takes_the_common_alignment(adaface: Any) -> None:
    image = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    face = Face(
        np.array([50, 50, 150, 150], np.float32),
        1.0,
        np.array([[80, 90], [120, 88], [100, 110], [85, 130], [118, 131]], np.float32),
    )
    assert adaface.alignment == "arcface-112"
    assert np.array_equal(adaface.crops([image], [face])[0], align(image, face.kps)[0])


@pytest.mark.offline_weights
def test_offline_networks_cut_the_same_crops(adaface: Any) -> None:
    from idtool.models.identity import ArcFaceMobile, EdgeFaceS

    image, points = NOISE[0], np.array([[60, 60], [100, 60], [80, 80], [65, 105], [95, 105]], np.float32)
    face = Face(np.array([40, 40, 120, 120], np.float32), 1.0, points)
    for model in (ArcFaceMobile(), EdgeFaceS()):
        assert model.alignment == adaface.alignment
        crops = model.crops([image], [face])
        assert np.array_equal(crops, adaface.crops([image], [face]))
        assert model.embed(crops).shape == (1, model.dim)


@pytest.mark.parametrize(("prefix", "colours"), [("model.net.", "rgb"), ("net.", "rgb"), ("model.", "bgr")])
def test_adaface_reads_both_sources_in_their_colours(tmp_path: Path, prefix: str, colours: str) -> None:
    network = iresnet()
    state: dict[str, Any] = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    if prefix == "model.":
        state["head.kernel"], state["head.t"] = torch.zeros(512, 3), torch.ones(1)
        torch.save({"state_dict": state, "epoch": 24}, tmp_path / "model.ckpt")
    else:
        torch.save(state, tmp_path / "model.ckpt")
    model = AdaFace(Weights("local:it", tmp_path / "model.ckpt"))
    assert (model.colours, model.depth) == (colours, 18)
    crops = NOISE[:2, :112, :112]
    fed = crops if colours == "rgb" else crops[..., ::-1]
    with torch.inference_mode():
        expected = network(torch.from_numpy((fed / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2)))
    assert np.abs(model.embed(crops) - expected.numpy()).max() < 1e-4


def test_colours_are_asked_for_where_the_names_do_not_tell(tmp_path: Path) -> None:
    torch.save(iresnet().state_dict(), tmp_path / "bare.pt")
    weights = Weights("local:bare", tmp_path / "bare.pt")
    with pytest.raises(UsageError, match="rgb or bgr"):
        AdaFace(weights)
    with pytest.raises(UsageError, match="Got 'cmyk'"):
        AdaFace(weights, colours="cmyk")
    crops = NOISE[:1, :112, :112]
    rgb, bgr = (AdaFace(weights, colours=colours) for colours in ("rgb", "bgr"))
    assert np.abs(rgb.embed(crops) - bgr.embed(crops[..., ::-1])).max() < 1e-5


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in state.items() if not key.endswith(name)}


SPOILT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "missing": lambda state: without(state, "bn.running_mean" if "last_bn.bias" in state else "0.running_mean"),
    "unexpected": lambda state: {**state, f"{next(iter(state))}_more": torch.zeros(1)},
    "holds no state dict": lambda state: [1, 2],
    "in place of": lambda state: {name: tensor[:1] if tensor.ndim == 4 else tensor for name, tensor in state.items()},
}


@pytest.mark.parametrize("says", SPOILT)
@pytest.mark.parametrize("binding", [FACENET, ADAFACE], ids=["facenet", "adaface"])
def test_another_checkpoint_is_refused(binding: Binding, says: str, tiny: Zoo, tmp_path: Path) -> None:
    from idtool.models import torch_runtime

    source = tiny(binding.model.rpartition("/")[2]) / binding.options["file"]
    torch.save(SPOILT[says](torch_runtime.read_tensors(source)), tmp_path / "spoilt.pt")
    options = {"format": binding.options["format"]}
    with pytest.raises(MissingError, match=says):
        load(Binding("identity", f"local:{tmp_path / 'spoilt.pt'}", options=options))


@pytest.mark.parametrize("binding", [FACENET, ADAFACE], ids=["facenet", "adaface"])
def test_half_a_file_and_a_folder_are_refused(binding: Binding, tiny: Zoo, tmp_path: Path) -> None:
    source = tiny(binding.model.rpartition("/")[2]) / binding.options["file"]
    half = tmp_path / source.name
    half.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    options = {"format": binding.options["format"]}
    with pytest.raises(MissingError, match="is it complete"):
        load(Binding("identity", f"local:{half}", options=options))
    with pytest.raises(MissingError, match="is a folder"):
        load(Binding("identity", f"local:{tmp_path}", options=options))


def test_a_network_of_another_depth_is_refused(tmp_path: Path) -> None:
    state = {f"net.{name}": tensor for name, tensor in iresnet().state_dict().items()}
    torch.save(state, tmp_path / "whole.pt")
    with pytest.raises(MissingError, match="missing"):
        AdaFace(Weights("local:it", tmp_path / "whole.pt"), depth=34)
    with pytest.raises(UsageError, match="depth"):
        AdaFace(Weights("local:it", tmp_path / "whole.pt"), depth=100)
    torch.save({name: tensor for name, tensor in state.items() if "body.7" not in name}, tmp_path / "cut.pt")
    with pytest.raises(MissingError, match="7 blocks"):
        AdaFace(Weights("local:it", tmp_path / "cut.pt"))


def test_nan_is_an_error_of_the_row(tmp_path: Path) -> None:
    state = {f"net.{name}": tensor.clone() for name, tensor in iresnet().state_dict().items()}
    state["net.output_layer.3.bias"][0] = np.nan
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match="not finite"):
        AdaFace(Weights("local:nan", tmp_path / "nan.pt")).embed(NOISE[:1, :112, :112])
