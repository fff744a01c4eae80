"""Expression networks of other origins: class names in one set of words, crops, and checkpoints that fit or are
refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from idtool.models.emotions import face_square, seven, word, words
from idtool.models.expression import EXPRESSIONS
from idtool.models.faces import Face
from tests.models.test_faces import read
from tests.zoo import Zoo

EIGHT = ("Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise")


def face(*box: float) -> Face:
    return Face(np.array(box, np.float32), 0.9, np.zeros((5, 2), np.float32))


def bound(format: str, file: str | None = None, **options: Any) -> Any:
    chosen = {"format": format, **({"file": file} if file else {}), **options}
    return load(Binding("expression", f"hf:tiny/{format}", options=chosen))


@pytest.fixture(scope="module")
def pictures() -> tuple[list[np.ndarray], list[Face]]:
    """Three images with a face each: inside, across the edges, and of less than a pixel."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((120, 160, 3), (50, 40, 3), (1, 1, 3))]
    return images, [face(30, 20, 90, 100), face(-20, -10, 60, 70), face(0.2, 0.2, 0.4, 0.4)]


# Words and crops.


def test_names_become_the_seven_words() -> None:
    assert [word(name) for name in ("Happiness", "joy", "Surprised", "SADNESS", "angry", "disgusted", "afraid")] == [
        *("happy", "happy", "surprise", "sad", "anger", "disgust", "fear")
    ]
    assert words(EIGHT) == ("anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert words(EXPRESSIONS) == EXPRESSIONS
    with pytest.raises(MissingError, match="'boredom' is no expression"):
        word("boredom")
    for names in (EIGHT[:-1], (*EIGHT, "joy"), EXPRESSIONS[1:]):
        with pytest.raises(MissingError, match="are not the seven basic expressions"):
            words(names)


def test_contempt_is_left_out_and_told() -> None:
    order = words(EIGHT)
    logits = np.log([[0.1, 0.6, 0.05, 0.05, 0.1, 0.05, 0.03, 0.02], [0.02, 1, 0.02, 0.02, 0.9, 0.02, 0.01, 0.01]])
    logits[1, 1] = -1000
    found = seven(logits, order)
    assert found.probabilities.dtype == np.float32
    assert found.contempt == pytest.approx([0.6, 0], abs=1e-6)
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert found.probabilities[0, EXPRESSIONS.index("happy")] == pytest.approx(0.25)
    assert found.probabilities[0, EXPRESSIONS.index("anger")] == pytest.approx(0.25)
    assert found.probabilities[1].argmax() == EXPRESSIONS.index("happy")
    # Where contempt is all but certain, the rest still adds up.
    assert seven([[0, 200, 0, 0, 1, 0, 0, 0]], order).probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert seven(np.zeros((0, 7)), EXPRESSIONS).probabilities.shape == (0, 7)
    assert seven(np.zeros((2, 7)), EXPRESSIONS).contempt.tolist() == [0, 0]
    with pytest.raises(ValueError, match="not finite"):
        seven([[0, np.nan, 0, 0, 0, 0, 0]], EXPRESSIONS)


def test_the_square_about_a_face() -> None:
    image = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert np.array_equal(face_square(image, [10, 20, 30, 40], 1, 20), image[20:40, 10:30])
    # A tall box: its longer side, about its centre.
    assert np.array_equal(face_square(image, [20, 10, 30, 50], 1, 40), image[10:50, 5:45])
    # Beyond the image, the edge is repeated.
    edge = face_square(image, [-10, -10, 10, 10], 1, 20)
    assert np.array_equal(edge[10:, 10:], image[:10, :10])
    assert (edge[:10, :10] == image[0, 0]).all()
    assert face_square(image, [5.2, 5.2, 5.4, 5.4], 1, 8).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="finite"):
        face_square(image, [0, 0, np.nan, 5], 1, 8)
    with pytest.raises(ValueError, match="HxWx3"):
        face_square(image[..., 0], [0, 0, 5, 5], 1, 8)


# ResEmoteNet.


def test_resemotenet(tiny: Zoo, pictures: tuple[list[np.ndarray], list[Face]]) -> None:
    tiny("resemotenet")
    images, faces = pictures
    model = bound("resemotenet", "fer2013_model.pth", batch=2)
    rows = model(images, faces)
    assert rows.shape == (3, 7)
    assert rows.dtype == np.float32
    assert rows.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert model.detailed(images, faces).contempt.tolist() == [0, 0, 0]
    for k in range(3):
        assert model(images[k : k + 1], faces[k : k + 1])[0] == pytest.approx(rows[k], abs=1e-5)
    assert np.ptp(rows, axis=0).max() > 1e-3, "faces make a difference"
    assert model([], []).shape == (0, 7)
    with pytest.raises(ValueError, match="shorter"):
        model(images, faces[:1])
    facts = model.fingerprint()
    assert facts["model"] == "hf:tiny/resemotenet"
    assert "box made square x 1.0" in facts["preprocessing"]
    assert len(facts["sha256"]) == 64


def test_resemotenet_is_prepared_as_by_torchvision(tiny: Zoo, fixtures: Path) -> None:
    tiny("resemotenet")
    from PIL import Image
    from torchvision import transforms

    image = read(fixtures / "hard/expr_surprise.jpg")
    high, wide = image.shape[:2]
    side = min(high, wide) // 2
    box = face(wide // 4, high // 4, wide // 4 + side, high // 4 + side)
    cut = image[high // 4 : high // 4 + side, wide // 4 : wide // 4 + side]
    steps = [transforms.Resize((64, 64)), transforms.Grayscale(num_output_channels=3)]
    expected = np.asarray(transforms.Compose(steps)(Image.fromarray(cut)))
    ours = bound("resemotenet", "fer2013_model.pth").crop(image, box)
    assert np.array_equal(ours, expected)


def test_resemotenet_computes_what_its_layers_say(tiny: Zoo) -> None:
    """The forward pass once more, from the tensors alone, in the order of the authors' code."""
    folder = tiny("resemotenet")
    import torch
    from torch.nn import functional

    from idtool.models.networks.resemotenet import ResEmoteNet, Widths

    state = torch.load(folder / "fer2013_model.pth", weights_only=True)["model_state_dict"]
    widths = Widths.of(state)
    assert widths == Widths((4, 6, 8), 2, (8, 12, 16), (12, 10, 8), 7)

    def conv(x: Any, name: str, norm: str, stride: int = 1, padding: int = 1) -> Any:
        x = functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)
        parts = [state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts)

    x = first = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for k in "123":
        x = functional.max_pool2d(functional.relu(conv(x, f"conv{k}", f"bn{k}")), 2)
    gate = (
        functional.relu(functional.adaptive_avg_pool2d(x, 1).flatten(1) @ state["se.fc.0.weight"].T)
        @ state["se.fc.2.weight"].T
    )
    x = x * torch.sigmoid(gate)[:, :, None, None]
    for k in "123":
        name = f"res_block{k}"
        y = functional.relu(conv(x, f"{name}.conv1", f"{name}.bn1", 2))
        y = conv(y, f"{name}.conv2", f"{name}.bn2")
        x = functional.relu(y + conv(x, f"{name}.shortcut.0", f"{name}.shortcut.1", 2, 0))
    x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
    for k in "123":
        x = functional.relu(functional.linear(x, state[f"fc{k}.weight"], state[f"fc{k}.bias"]))
    expected = functional.linear(x, state["fc4.weight"], state["fc4.bias"])
    network = ResEmoteNet(widths).eval()
    network.load_state_dict(state)
    with torch.inference_mode():
        assert torch.allclose(network(first), expected, atol=1e-6)
    names = {key.removesuffix(".num_batches_tracked") for key in state}
    assert {"se.fc.2.weight", "res_block2.shortcut.1.running_var", "fc4.bias", "bn3.weight"} <= names


def test_resemotenet_of_published_size() -> None:
    torch = pytest.importorskip("torch")
    from idtool.models.networks.resemotenet import ResEmoteNet, Widths

    with torch.device("meta"):
        network = ResEmoteNet(Widths((64, 128, 256), 16, (512, 1024, 2048), (1024, 512, 256), 7))
    assert sum(value.numel() for value in network.parameters()) == 80_238_599


def test_other_checkpoints_are_refused(tiny: Zoo) -> None:
    folder = tiny("resemotenet")
    with pytest.raises(MissingError, match="6 classes"):
        bound("resemotenet", "six.pth")
    with pytest.raises(MissingError, match=r"is no ResEmoteNet: it has no 'conv1.weight'"):
        bound("resemotenet", "other.pth")
    with pytest.raises(MissingError, match=r"is a folder.*option `file`"):
        bound("resemotenet")
    whole = (folder / "fer2013_model.pth").read_bytes()
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingError, match="is it complete"):
        bound("resemotenet", "half.pth")
    (folder / "half.pth").unlink()
    with pytest.raises(MissingError, match="cuda"):
        load(
            Binding("expression", "hf:tiny/resemotenet", options={"format": "resemotenet", "file": "six.pth"}),
            device="cuda:99",
        )


def test_a_network_that_gives_nan(tiny: Zoo, pictures: tuple[list[np.ndarray], list[Face]]) -> None:
    folder = tiny("resemotenet")
    import torch

    checkpoint = torch.load(folder / "fer2013_model.pth", weights_only=True)
    checkpoint["model_state_dict"]["fc4.bias"][2] = float("nan")
    torch.save(checkpoint, folder.parent / "nan.pth")
    model = load(Binding("expression", f"local:{folder.parent / 'nan.pth'}", options={"format": "resemotenet"}))
    with pytest.raises(ValueError, match="not finite"):
        model(*pictures)


# HSEmotion.


@pytest.mark.parametrize(
    ("file", "size", "contempt"),
    [("enet_b0_8_best_vgaf.onnx", 24, True), ("enet_b2_7.onnx", 26, False), ("enet_b0_8_va_mtl.onnx", 24, True)],
)
def test_hsemotion(
    tiny: Zoo, pictures: tuple[list[np.ndarray], list[Face]], file: str, size: int, contempt: bool
) -> None:
    path = tiny("hsemotion") / file
    images, faces = pictures
    model = bound("hsemotion", file)
    assert model.size == size
    found = model.detailed(images, faces)
    assert found.probabilities.shape == (3, 7)
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (found.contempt > 0).all() == contempt
    assert np.array_equal(model(images, faces), found.probabilities)
    for k in range(3):
        assert model(images[k : k + 1], faces[k : k + 1])[0] == pytest.approx(found.probabilities[k], abs=1e-5)
    assert model([], []).shape == (0, 7)
    # The same by hand for one face, class by class.
    import onnxruntime

    crop = face_square(images[0], faces[0].box, 1, size)
    table = (crop / np.float32(255) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": table.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
    names = EIGHT if contempt else [name for name in EIGHT if name != "Contempt"]
    odds = dict(zip(names, np.exp(logits[: len(names)]), strict=True))
    total = sum(odds.values())
    assert found.contempt[0] == pytest.approx(odds.pop("Contempt", 0) / total, abs=1e-5)
    for index, name in enumerate(("Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Neutral")):
        assert found.probabilities[0, index] == pytest.approx(odds[name] / sum(odds.values()), abs=1e-5)
    facts = model.fingerprint()
    assert ("contempt left out" in facts["preprocessing"]) == contempt
    assert f"{size} px" in facts["preprocessing"]


def test_other_onnx_files_are_refused(tiny: Zoo) -> None:
    folder = tiny("hsemotion")
    with pytest.raises(MissingError, match=r"no HSEmotion file: it gives \[5\] numbers"):
        bound("hsemotion", "five.onnx")
    with pytest.raises(UsageError, match="leaves the size of its crops open"):
        bound("hsemotion", "open.onnx")
    assert bound("hsemotion", "open.onnx", size=24).size == 24
    with pytest.raises(UsageError, match="takes crops of 26 px, but option `size` is 24"):
        bound("hsemotion", "enet_b2_7.onnx", size=24)
    half = folder.parent / "half.onnx"
    half.write_bytes((folder / "enet_b2_7.onnx").read_bytes()[:300])
    with pytest.raises(MissingError, match="cannot be loaded"):
        load(Binding("expression", f"local:{half}", options={"format": "hsemotion"}))
