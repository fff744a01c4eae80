"""Face parsing: the parts lie where they belong, and the graph equals the PyTorch network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from idtool.models.faces import Scrfd
from idtool.models.parser import PARTS, BiSeNet, Parsed
from idtool.models.parts import REGIONS, inpainting_mask, region_masks

pytestmark = pytest.mark.offline_weights


@pytest.fixture(scope="module")
def network() -> BiSeNet:
    return BiSeNet(threads=2)


def parse(network: BiSeNet, path: Path) -> tuple[np.ndarray, Parsed, np.ndarray]:
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    face = Scrfd().detect([image])[0][0]
    return image, network([image], [face])[0], face.kps


def test_parts_lie_at_the_points(fixtures: Path, network: BiSeNet) -> None:
    image, parsed, kps = parse(network, fixtures / "singles" / "cc_sunak.jpg")
    labels = parsed.on(*image.shape[:2])
    assert parsed.labels.shape == (512, 512)
    assert labels.shape == image.shape[:2]
    centre = {part: np.argwhere(labels == PARTS.index(part)).mean(axis=0)[::-1] for part in ("nose", "mouth", "hair")}
    apart = np.linalg.norm(kps[1] - kps[0])
    assert np.linalg.norm(centre["nose"] - kps[2]) < 0.4 * apart
    assert np.linalg.norm(centre["mouth"] - kps[3:].mean(axis=0)) < 0.4 * apart
    assert centre["hair"][1] < kps[:2, 1].min()
    eyes = [np.argwhere(np.isin(labels, [PARTS.index(p)])).mean(axis=0)[::-1] for p in ("left_eye", "right_eye")]
    assert eyes[0][0] > eyes[1][0], "the person's own left is on the right of the picture"


def test_regions_lie_at_the_points(fixtures: Path, network: BiSeNet) -> None:
    image, parsed, kps = parse(network, fixtures / "singles" / "cc_sunak.jpg")
    labels = parsed.on(*image.shape[:2])
    regions = region_masks(labels)
    apart = np.linalg.norm(kps[1] - kps[0])
    middle = {name: np.argwhere(mask).mean(axis=0)[::-1] for name, mask in regions.items()}
    assert set(middle) == set(REGIONS)
    assert np.linalg.norm(middle["eyes"] - kps[:2].mean(axis=0)) < 0.2 * apart
    assert np.linalg.norm(middle["mouth"] - kps[3:].mean(axis=0)) < 0.3 * apart
    assert abs(middle["nose"][0] - kps[2][0]) < 0.3 * apart
    columns = np.argwhere(regions["ears"])[:, 1]
    assert columns.min() < kps[0][0] - 0.5 * apart < kps[1][0] + 0.5 * apart < columns.max(), "both ears are seen"
    assert all((mask & ~regions["face"]).sum() == 0 for name, mask in regions.items() if name != "ears")
    face, head = inpainting_mask(labels, "face"), inpainting_mask(labels, "head")
    assert (face & ~head).sum() == 0
    assert 1.3 * face.sum() < head.sum() < 3 * face.sum()
    assert inpainting_mask(labels, "all-but-face").mean() > 0.5


def test_glasses_and_smooth_skin(fixtures: Path, network: BiSeNet) -> None:
    _, glasses, _ = parse(network, fixtures / "hard" / "expr_sad_glasses.jpg")
    _, none, _ = parse(network, fixtures / "hard" / "yaw_45.jpg")
    assert glasses.share("glasses") > 0.02 > none.share("glasses") + 0.015
    assert none.share("skin") > 0.08
    assert none.share(*PARTS) == 1.0
    with pytest.raises(ValueError):
        none.share("tail")
