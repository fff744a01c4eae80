"""Face quality falls with blur, and the OpenVINO graph equals the PyTorch network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from idtool.errors import MissingError
from idtool.models import weights
from idtool.models.faces import Scrfd
from idtool.models.quality import _BLOCKS, _FEATURES, QualityFace
from idtool.models.state_dict import read_state_dict

pytestmark = pytest.mark.offline_weights


@pytest.fixture(scope="module")
def network() -> QualityFace:
    return QualityFace()


@pytest.mark.parametrize("name", ["singles/cc_sunak.jpg", "singles/xverse_12_woman.jpg"])
def test_quality_falls_with_blur(fixtures: Path, network: QualityFace, name: str) -> None:
    image = cv2.cvtColor(cv2.imread(str(fixtures / name)), cv2.COLOR_BGR2RGB)
    face = Scrfd().detect([image])[0][0]
    width = float(face.box[2] - face.box[0])
    blurred = [image, *(cv2.GaussianBlur(image, (0, 0), share * width) for share in (0.01, 0.02, 0.04))]
    scores = network(blurred, [face] * len(blurred))
    assert scores[0] > 0.85
    assert np.all(np.diff(scores) < -0.05)
    assert scores[-1] < 0.55


def test_output_is_limited(network: QualityFace) -> None:
    assert network([], []).shape == (0,)
    with pytest.raises(ValueError):
        network([np.zeros((4, 4), np.uint8)], [])


def test_no_other_device() -> None:
    with pytest.raises(MissingError, match="CPU"):
        QualityFace(device="cuda")


def test_parity_with_torch(network: QualityFace) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    state = {key: torch.tensor(value) for key, value in read_state_dict(weights.path("qualityface")).items()}

    def normalised(x, conv, norm, stride=1, padding=0, groups=1):  # type: ignore[no-untyped-def]
        x = functional.conv2d(x, state[f"{conv}.weight"], None, stride, padding, 1, groups)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts)

    def forward(x):  # type: ignore[no-untyped-def]
        x = functional.relu6(normalised(x, f"{_FEATURES}.0.0", f"{_FEATURES}.0.1", 2, 1))
        index, channels = 1, 32
        for expansion, width, repeats, first in _BLOCKS:
            for repeat in range(repeats):
                stride, name, step, y = first if repeat == 0 else 1, f"{_FEATURES}.{index}.conv", 0, x
                if expansion != 1:
                    y, step = functional.relu6(normalised(y, f"{name}.0.0", f"{name}.0.1")), 1
                wide = channels * expansion
                y = normalised(y, f"{name}.{step}.0", f"{name}.{step}.1", stride, 1, wide)
                y = normalised(functional.relu6(y), f"{name}.{step + 1}", f"{name}.{step + 2}")
                x = x + y if stride == 1 and channels == width else y
                index, channels = index + 1, width
        x = functional.relu6(normalised(x, f"{_FEATURES}.{index}.0", f"{_FEATURES}.{index}.1")).mean((2, 3))
        return functional.linear(x, state["module.classify.weight"], state["module.classify.bias"])

    rng = np.random.default_rng(0)
    for _ in range(4):
        crop = rng.integers(0, 256, (128, 128, 3), np.uint8)
        tensor = torch.tensor((crop.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None])
        assert network.raw(crop) == pytest.approx(forward(tensor).item(), abs=1e-5)
