"""The portrait network: deterministic pixels, styles per layer, directions with a meaning."""

from __future__ import annotations

import numpy as np
import pytest

from idtool.errors import MissingError
from idtool.models.faces import Scrfd
from idtool.models.landmarks import FaceLandmarker
from idtool.models.portraits import Latent, MobileStyleGan

pytestmark = pytest.mark.offline_weights


@pytest.fixture(scope="module")
def network() -> MobileStyleGan:
    return MobileStyleGan(threads=2)


@pytest.fixture(scope="module")
def style(network: MobileStyleGan) -> np.ndarray:
    z = np.random.default_rng(7).standard_normal((1, 512))
    return network.truncate(network.style(z))[0]


def test_pixels_depend_on_the_style_alone(network: MobileStyleGan, style: np.ndarray) -> None:
    """Not on the number of threads, nor on what else is rendered."""
    layered = network.layered(style)
    first, second, again = network.render([layered, network.layered(network.mean), layered])
    (alone,) = MobileStyleGan(threads=1).render([layered])
    assert first.shape == (1024, 1024, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.array_equal(first, alone)
    assert np.abs(first.astype(int) - second).mean() > 10
    assert first.std() > 30


def test_styles_do_not_depend_on_their_neighbours(network: MobileStyleGan) -> None:
    z = np.random.default_rng(1).standard_normal((3, 512))
    assert np.array_equal(network.style(z)[2], network.style(z[2:])[0])
    assert network.truncate(network.style(z), 0.0) == pytest.approx(np.tile(network.mean, (3, 1)), abs=1e-6)
    with pytest.raises(ValueError, match="Nx512"):
        network.style(np.zeros((1, 100)))


def test_a_latent_is_its_text(network: MobileStyleGan) -> None:
    latent = Latent((0, 17, 0, 18), 0.6)
    assert str(latent) == "mobilestylegan seed 0 17 0 18 psi 0.6" and Latent.read(f" {latent} ") == latent
    z = np.random.default_rng([0, 17, 0, 18]).standard_normal((1, 512))
    assert np.array_equal(network.drawn(latent), network.truncate(network.style(z), 0.6)[0])
    for wrong in ("", "stylegan seed 1 psi 1", "mobilestylegan seed psi 1", "mobilestylegan seed -1 psi 1", "x" * 200):
        with pytest.raises(ValueError, match=r"expected `mobilestylegan seed 0 7 psi 0\.6`, got"):
            Latent.read(wrong)


def test_coarse_directions_turn_the_head(network: MobileStyleGan, style: np.ndarray) -> None:
    yaw = network.directions(network.COARSE, 2)[1]
    assert np.linalg.norm(yaw) == pytest.approx(1, abs=1e-5)
    moved = []
    for amount in (-2.0, 2.0):
        layered = network.layered(style)
        layered[network.COARSE] += np.float32(amount) * yaw
        moved.append(layered)
    images = network.render(moved)
    faces = [found[0] for found in Scrfd().detect(images)]
    left, right = FaceLandmarker()(images, faces)
    assert left.yaw - right.yaw > 8


def test_fine_layers_change_colours_only(network: MobileStyleGan, style: np.ndarray) -> None:
    other = network.layered(style)
    other[network.FINE] = network.mean
    a, b = network.render([network.layered(style), other])
    faces = [found[0] for found in Scrfd().detect([a, b])]
    assert np.abs(a.astype(int) - b).mean() > 2
    assert np.abs(faces[0].kps - faces[1].kps).max() < 12


def test_bad_requests(network: MobileStyleGan) -> None:
    with pytest.raises(ValueError, match="Nx23x512"):
        network.render(np.zeros((1, 512), np.float32))
    with pytest.raises(MissingError, match="CPU"):
        MobileStyleGan(device="cuda")
