"""Sizes, layouts and drawn points, by their coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from idtool.generate import keypoints, layouts
from idtool.generate.layouts import SideBySide


def noise(width: int, height: int) -> layouts.Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_kontext_sizes_are_those_of_diffusers() -> None:
    module = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux_kontext", reason="needs the extra `generate`")
    assert list(layouts.KONTEXT) == module.PREFERRED_KONTEXT_RESOLUTIONS
    assert layouts.kontext_size((600, 600)) == (1024, 1024)
    assert layouts.kontext_size((427, 640)) == (832, 1248)
    assert layouts.kontext_size((4000, 100)) == (1568, 672)
    assert layouts.kontext_size((427, 640), 64 * 64) == (48, 80)
    assert layouts.kontext_size((10, 1000), 256) == (16, 32)


def test_flux2_shrinks_only_what_is_too_large() -> None:
    assert layouts.within_area((1024, 1024), 1024**2) == (1024, 1024)
    assert layouts.within_area((2048, 1024), 1024**2) == (1448, 724)
    assert layouts.within_area((100, 64), 4096) == (80, 51)


def test_uno_fits_the_longer_side_and_keeps_the_middle_in_sixteens() -> None:
    assert layouts.uno_sizes((1024, 768), 512) == ((512, 384), (512, 384))
    assert layouts.uno_sizes((600, 900), 512) == ((341, 512), (336, 512))
    assert layouts.uno_sizes((600, 900), 320) == ((213, 320), (208, 320))
    image = noise(341, 512)
    assert np.array_equal(layouts.uno_reference(image, 512), image[:, 2:338])
    with pytest.raises(ValueError, match="too thin"):
        layouts.uno_reference(noise(8, 512), 512)


def test_ace_puts_the_reference_left_of_the_image_in_sixteens_within_the_limit() -> None:
    # 768 x 1024 beside 1024 x 1024 is 7168 tokens: all is shrunk by sqrt(4096 / 7168).
    found = layouts.side_by_side((600, 800), (1024, 1024))
    assert found == SideBySide(width=1344, height=768, split=576)
    assert found.tokens == 4032
    # Small enough: nothing is shrunk, only rounded down.
    assert layouts.side_by_side((512, 512), (512, 512)) == SideBySide(1024, 512, 512)
    assert layouts.side_by_side((500, 512), (512, 512)) == SideBySide(1008, 512, 496)
    for size in ((37, 911), (911, 37), (640, 480)):
        for image in ((1024, 1024), (512, 2048), (1536, 640)):
            for limit in (1024, 4096):
                one = layouts.side_by_side(layouts.not_longer(noise(*size)).shape[1::-1], image, limit)
                assert one.tokens <= limit
                assert not (one.width % 16 or one.height % 16 or one.split % 16 or (one.width - one.split) % 16)


def test_ace_canvas_mask_and_what_is_cut_from_it() -> None:
    layout = SideBySide(width=160, height=64, split=64)
    reference = noise(64, 64)
    picture, mask = layouts.canvas(reference, layout)
    assert np.array_equal(picture[:, :64], reference)
    assert not picture[:, 64:].any()
    assert not mask[:, :64].any()
    assert (mask[:, 64:] == 255).all()
    made = noise(160, 64)
    cut = layouts.right_part(made, layout, (66, 64), 30)
    assert np.array_equal(cut, made[:, 94:])
    assert layouts.right_part(made, layout, (96, 64), 30).shape == (64, 96, 3)
    assert layouts.not_longer(noise(10, 100)).shape == (40, 10, 3)
    assert np.array_equal(layouts.not_longer(noise(100, 10)), noise(100, 10)[:, 30:70])


POINTS = np.array([[100, 120], [200, 120], [150, 180], [110, 240], [190, 240]], np.float64)


def test_points_are_drawn_with_sticks_to_the_nose() -> None:
    picture = keypoints.drawn(POINTS, (300, 360))
    assert picture.shape == (360, 300, 3)
    for (x, y), colour in zip(POINTS.astype(int), keypoints.COLOURS, strict=True):
        assert tuple(picture[y, x]) == colour
        assert tuple(picture[y - 9, x]) == colour, "a disc of radius 10"
    # Half-way from an eye to the nose: its colour, three fifths as bright.
    assert tuple(picture[150, 125]) == (153, 0, 0)
    assert tuple(picture[150, 175]) == (0, 153, 0)
    assert not picture[60].any()
    assert not picture[120, 150].any(), "eyes are not joined to each other"


def test_points_may_lie_off_the_frame() -> None:
    assert keypoints.drawn(POINTS - 1000, (64, 64)).max() == 0


def test_the_authors_of_instantid_size_an_image_by_its_reference() -> None:
    assert keypoints.authors_size((1000, 1000)) == (1280, 1280)
    assert keypoints.authors_size((427, 640)) == (832, 1280)
    assert keypoints.authors_size((640, 427)) == (1280, 832)
    assert np.allclose(keypoints.stretched([[100, 60]] * 5, (400, 300), (1280, 960)), [[320, 192]] * 5)


def test_points_are_framed_about_the_face() -> None:
    box = (80, 90, 220, 270)
    # The same shape: scaled, nothing else.
    assert np.allclose(keypoints.framed(POINTS, box, (300, 360), (600, 720)), POINTS * 2)
    # A wider frame: the picture's width fills it, and the face's middle (y 180) is the middle of its height.
    assert np.allclose(keypoints.framed(POINTS, box, (300, 720), (300, 300)), POINTS - [0, 30])
    # A face near the edge: the window stops there.
    assert np.allclose(
        keypoints.framed(POINTS - [0, 80], np.subtract(box, [0, 80, 0, 80]), (300, 720), (300, 300)), POINTS - [0, 80]
    )
    # A frame in which the face would not fit at the covering scale: as large as its box allows.
    found = keypoints.framed(POINTS, box, (300, 360), (720, 360))
    assert np.allclose(found - found[2], (POINTS - POINTS[2]) * 2)
    assert found.min() >= 0
    assert found[:, 0].max() <= 720
    assert found[:, 1].max() <= 360
