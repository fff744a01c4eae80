"""The latent walk: clips that begin with a portrait of the network and keep its person."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.media.images import decode, encode
from idtool.models import format_of, load
from idtool.models.faces import Scrfd
from idtool.models.identity import ArcFaceMobile, aligned
from idtool.models.latent_walk import AMOUNTS, NEAR, VARIED, LatentWalk, OtherPictureError, walk
from idtool.models.portraits import SMILE, YAW, Latent

ME = Latent((77, 1, 0, 18), 0.6)


@pytest.fixture(scope="module")
def network() -> LatentWalk:
    return LatentWalk(threads=2)


@pytest.fixture(scope="module")
def portrait(network: LatentWalk) -> np.ndarray:
    return network.network.render([network.network.layered(network.network.drawn(ME))])[0]


def test_paths_start_at_the_portrait_and_are_smooth() -> None:
    path = walk(5, 41)
    assert path == walk(5, 41) != walk(6, 41) and len(path) == 41
    assert all(abs(amount) < 1e-9 for amount in path[0].values())
    for direction, most in AMOUNTS.items():
        values = np.array([moves[direction] for moves in path])
        assert np.abs(values).max() <= most * (1 + VARIED) + 1e-9
        assert np.abs(np.diff(values)).max() < most / 5
    yaw, smile = (np.array([moves[direction] for moves in path]) for direction in (YAW, SMILE))
    assert yaw.max() > 1 > -1 > yaw.min(), "to either side"
    assert np.all(np.diff(smile) * np.sign(smile[-1]) >= 0), "all along in one direction"
    signs = {(np.sign(end[YAW]), np.sign(end[SMILE])) for end in (walk(seed, 2)[1] for seed in range(20))}
    assert len(signs) == 4, "drawn"
    # The way does not hang on the number of frames.
    assert walk(5, 11)[5] == pytest.approx(path[20])


def test_frames_and_sizes_are_those_asked_for() -> None:
    network = LatentWalk.__new__(LatentWalk)
    network.fps = 10.0
    assert [network.frames(seconds) for seconds in (5.0, 0.4, 0.01)] == [50, 4, 2]
    assert network.size((1024, 1024), 2_000_000) == (1024, 1024)
    assert network.size((1024, 1024), 1280 * 720) == (960, 960)
    wrong: Any
    for wrong in (0, -1.0, "fast", 1e9):
        with pytest.raises(UsageError, match="Option `fps` of the latent walk is above 0"):
            LatentWalk(fps=wrong)


@pytest.mark.offline_weights
def test_a_clip_begins_with_the_picture_and_stays_with_the_person(network: LatentWalk, portrait: np.ndarray) -> None:
    frames = network(portrait, ME, 3, 4)
    assert frames.shape == (4, 1024, 1024, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames[0], portrait)
    faces = [found[0] for found in Scrfd().detect(list(frames))]
    raw = ArcFaceMobile().embed(np.stack(aligned(list(frames), faces)))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(4, 1)]
    assert cosines.min() > 0.5 and cosines.max() < 0.95, "one person, no copies"
    # The same from a picture that was saved as JPEG, but for the first frame.
    saved = decode(encode(portrait, "jpeg", 85))
    again = network(saved, ME, 3, 4)
    assert np.array_equal(again[0], saved) and np.array_equal(again[1:], frames[1:])


@pytest.mark.offline_weights
def test_a_picture_of_another_origin_is_refused(network: LatentWalk, portrait: np.ndarray) -> None:
    with pytest.raises(OtherPictureError, match=r"they differ by \d+\.\d of 255") as caught:
        network(portrait, Latent((77, 2, 0, 18), 0.6), 3, 4)
    assert caught.value.difference > 3 * NEAR
    with pytest.raises(OtherPictureError):
        network(np.ascontiguousarray(portrait[:, ::-1]), ME, 3, 4)
    with pytest.raises(ValueError, match="at least 2 frames"):
        network(portrait, ME, 3, 1)


@pytest.mark.offline_weights
def test_the_network_has_two_roles() -> None:
    walker = Binding("i2v", "mobilestylegan", options={"fps": 5})
    assert format_of(walker) == "latent-walk" and format_of(Binding("portraits", "mobilestylegan")) == "mobilestylegan"
    loaded = load(walker)
    assert isinstance(loaded, LatentWalk) and loaded.fps == 5 and load(walker) is loaded
    assert loaded.fingerprint()["fps"] == 5
    with pytest.raises(UsageError, match="bound to role 't2i', but it is for portraits, i2v"):
        load(Binding("t2i", "mobilestylegan"))
    with pytest.raises(MissingError, match="CPU"):
        load(walker, device="cuda")
