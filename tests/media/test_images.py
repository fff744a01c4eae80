"""Decoding: every odd image comes out right or is refused for the right reason."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from idtool.engine.operator import Rejected
from idtool.errors import UsageError
from idtool.media import images
from idtool.media.limits import Limits


def picture(width: int = 96, height: int = 64) -> np.ndarray:
    """Smooth colours with a red top left, green top right, blue bottom left corner."""
    y, x = np.mgrid[0:height, 0:width]
    corner = (x < width // 2) * 1 + (y < height // 2) * 2
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[corner == 3], rgb[corner == 2], rgb[corner == 1] = (220, 30, 30), (30, 200, 40), (40, 50, 210)
    return rgb


def saved(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def close(a: np.ndarray, b: np.ndarray, by: int = 6) -> bool:
    """Equal but for coding noise, edges between the areas left out."""
    assert a.shape == b.shape
    return bool(np.percentile(np.abs(a.astype(int) - b.astype(int)), 90) <= by)


def reason(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(Rejected) as caught:
        images.decode(data, limits or Limits())
    return caught.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "JPEG2000"])
def test_every_format_decodes_and_probes(format: str) -> None:
    data = saved(picture(), format, **({"quality": 95} if format in ("JPEG", "WEBP", "AVIF") else {}))
    assert close(images.decode(data), picture(), 10)
    info = images.probe(data)
    assert (info.width, info.height, info.frames) == (96, 64, 1)
    assert info.format == {"PPM": "pnm", "JPEG2000": "jp2"}.get(format, format.lower())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format: str, orientation: int) -> None:
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # the transpose that a camera would do
    upright = Image.fromarray(picture())
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, format, exif=exif)
    info = images.probe(data)
    assert (info.width, info.height) == (96, 64)
    assert close(images.decode(data), picture(), 12)


def test_orientation_agrees_with_pillow_on_every_value() -> None:
    from PIL import ImageOps

    noise = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(noise, "PNG", exif=exif)
        assert np.array_equal(images.decode(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


def test_damaged_exif_is_ignored() -> None:
    data = saved(picture(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert images.decode(data).shape == (64, 96, 3)


def test_grey_grey_alpha_and_one_bit() -> None:
    grey = np.tile(np.arange(96, dtype=np.uint8) * 2, (64, 1))
    assert np.array_equal(images.decode(saved(grey, "PNG"))[:, :, 1], grey)
    assert np.abs(images.decode(saved(grey, "JPEG", quality=100))[:, :, 2].astype(int) - grey).max() <= 2
    alpha = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (96, 64), 0)])
    assert (images.decode(saved(alpha, "PNG")) == 255).all()
    bits = Image.fromarray(grey > 90)
    assert set(np.unique(images.decode(saved(bits, "PNG")))) == {0, 255}


def test_sixteen_bit_is_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (8, 1))
    for format in ("PNG", "TIFF"):
        decoded = images.decode(saved(ramp, format))
        assert np.abs(decoded[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_sixteen_bit_colour_png() -> None:
    import cv2

    ramp = np.zeros((8, 256, 3), np.uint16)
    ramp[..., 2] = np.arange(256) * 257  # red, in OpenCV's order
    decoded = images.decode(cv2.imencode(".png", ramp)[1].tobytes())
    assert np.abs(decoded[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    assert decoded[..., 1:].max() == 0


def test_float_pixels_are_unsupported() -> None:
    assert reason(saved(Image.new("F", (8, 8), 0.5), "TIFF")) == "unsupported_format"


def test_alpha_and_palette_transparency_over_white() -> None:
    rgba = np.dstack([picture(), np.full((64, 96), 255, np.uint8)])
    rgba[:, 48:, 3] = 0
    rgba[:32, :48, 3] = 128
    decoded = images.decode(saved(rgba, "PNG"))
    assert (decoded[:, 48:] == 255).all()
    assert tuple(decoded[10, 10]) == (237, 142, 142)
    palette = Image.fromarray(picture()).quantize(4)
    transparent = int(np.asarray(palette)[0, 0])
    shown = images.decode(saved(palette, "PNG", transparency=transparent))
    assert tuple(shown[0, 0]) == (255, 255, 255)
    assert close(shown[:, 48:], picture()[:, 48:])


def cmyk(adobe: bool) -> bytes:
    data = saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    if adobe:
        return data
    # Without the marker values are not inverted: write an image whose stored values are.
    inverted = Image.eval(Image.fromarray(picture()).convert("CMYK"), lambda v: 255 - v)
    data = saved(inverted, "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg(adobe: bool) -> None:
    data = cmyk(adobe)
    assert images.probe(data).mode == "CMYK"
    assert close(images.decode(data), picture(), 12)


def test_cmyk_tiff() -> None:
    assert close(images.decode(saved(Image.fromarray(picture()).convert("CMYK"), "TIFF")), picture())


def wide_profile() -> bytes:
    """An RGB profile whose red and green are swapped against sRGB: unmistakable when applied."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    entries = {bytes(profile[i : i + 4]): i for i in range(132, 132 + 12 * count, 12)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = profile[green : green + 4], profile[red : red + 4]
    return bytes(profile)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_embedded_profile_is_converted(format: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    plain = images.decode(saved(picture(), format, **options))
    assert np.array_equal(images.decode(saved(picture(), format, icc_profile=srgb, **options)), plain)
    swapped = images.decode(saved(picture(), format, icc_profile=wide_profile(), **options))
    assert close(swapped, plain[:, :, [1, 0, 2]], 4)


def test_unusable_profile_is_ignored() -> None:
    data = saved(picture(), "PNG", icc_profile=b"not a profile")
    assert np.array_equal(images.decode(data), picture())


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (200, 100, 0)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert images.probe(data).frames == 3
    assert (images.decode(data) == 200).all()


def test_multi_picture_jpeg_is_one_photo() -> None:
    views = [Image.fromarray(picture()), Image.fromarray(picture(48, 32))]
    data = saved(views[0], "MPO", save_all=True, append_images=views[1:])
    info = images.probe(data)
    assert (info.format, info.frames) == ("jpeg", 1)
    assert images.decode(data).shape == (64, 96, 3)


def test_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really a png.jpg"
    path.write_bytes(saved(picture(), "PNG"))
    assert images.probe(path).format == "png"
    assert np.array_equal(images.decode(path.read_bytes()), picture())


def test_one_pixel() -> None:
    assert tuple(images.decode(saved(np.full((1, 1, 3), 7, np.uint8), "PNG"))[0, 0]) == (7, 7, 7)
    assert images.decode(saved(np.full((1, 1, 3), 128, np.uint8), "JPEG")).shape == (1, 1, 3)


def test_nothing_and_nonsense() -> None:
    assert reason(b"") == "empty"
    assert reason(b"hello, this is text" * 100) == "unreadable"
    assert reason(b"\xff\xd8\xff\xe0" + bytes(100)) == "unreadable"
    assert reason(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)) == "unsupported_format"
    assert reason(b"\0\0\0\x18ftypisom\0\0\0\0mp42isom" + bytes(500)) == "unsupported_format"


def noise_jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    return saved(noise, "JPEG", quality=90, **options)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.99])
def test_cut_jpeg_is_refused(keep: float, progressive: bool) -> None:
    data = noise_jpeg(progressive=progressive)
    assert reason(data[: int(len(data) * keep)]) in ("truncated", "unreadable")
    assert reason(data[:-2]) == "truncated"


def test_cut_jpeg_with_an_end_marker_is_refused() -> None:
    """libjpeg makes a half-grey picture of this and calls it good."""
    data = noise_jpeg()
    assert reason(data[: len(data) // 2] + b"\xff\xd9") == "truncated"
    assert reason(data[: len(data) // 2] + data[len(data) // 2 + 3000 :]) == "truncated"


def test_cut_jpeg_with_a_thumbnail_is_refused() -> None:
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + saved(picture(), "JPEG")
    data = noise_jpeg(exif=exif)
    assert images.decode(data).shape == (200, 300, 3)
    assert reason(data[: int(len(data) * 0.6)]) == "truncated"


def test_a_truly_grey_jpeg_is_good() -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = saved(np.full((100, 100, 3), 128, np.uint8), "JPEG", **options)
        assert (images.decode(data) == 128).all()
        assert (images.decode(data + b"trailing bytes") == 128).all()


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_cut_files_of_other_formats_are_refused(format: str, keep: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = saved(noise, format, **({"compression": "tiff_lzw"} if format == "TIFF" else {}))
    assert reason(data[: int(len(data) * keep)]) in ("truncated", "unreadable")


def test_damaged_png_is_refused() -> None:
    data = bytearray(saved(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8), "PNG"))
    data[len(data) // 2] ^= 0xFF  # noise is stored as it is, so that the decoder itself sees nothing wrong
    assert reason(bytes(data)) == "unreadable"


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_100, 13_000, 60_000])
def test_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(Rejected) as caught:
        images.decode(bomb(side, side))
    assert caught.value.reason == "too_large.pixels"
    assert caught.value.value == side * side
    with pytest.raises(Rejected):
        images.probe(bomb(side, side))


def test_large_images_within_the_limit_cause_no_warning(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bomb(9_700, 9_700))
    code = "import sys; from pathlib import Path; from idtool.media import images; images.probe(Path(sys.argv[1]))"
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_jpeg_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    data = bytearray(saved(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = (60_000).to_bytes(2, "big") * 2
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert reason(bytes(data)) == "too_large.pixels"


def test_limits() -> None:
    data = saved(picture(), "JPEG")
    assert reason(data, Limits(max_pixels=96 * 64 - 1)) == "too_large.pixels"
    assert reason(data, Limits(max_bytes=100)) == "too_large.bytes"
    assert images.decode(data, Limits(max_pixels=96 * 64)).shape == (64, 96, 3)
    with pytest.raises(UsageError):
        Limits(max_pixels=10**9)


def test_encode_is_deterministic_and_close() -> None:
    image = np.asarray(Image.fromarray(picture()).resize((97, 65)))
    assert images.encode(image) == images.encode(image.copy())
    assert np.abs(images.decode(images.encode(image, quality=100)).astype(int) - image).mean() < 1
    assert np.array_equal(images.decode(images.encode(image, "png")), image)
    assert len(images.encode(image, quality=50)) < len(images.encode(image, quality=95))


def test_encode_keeps_full_colour_resolution() -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    decoded = images.decode(images.encode(stripes, quality=95)).astype(int)
    assert np.abs(decoded - stripes).mean() < 10


def test_encode_checks_its_input() -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        images.encode(np.zeros((4, 4), np.uint8))


@pytest.mark.fixtures
def test_real_photos_agree_with_pillow(fixtures: Path) -> None:
    files = sorted(path for path in (fixtures / "singles").rglob("*.jpg"))[:12]
    assert files
    for path in files:
        data = path.read_bytes()
        with Image.open(path) as reference:
            if reference.mode != "RGB" or reference.info.get("icc_profile") or reference.getexif().get(0x0112, 1) != 1:
                continue
            assert np.abs(images.decode(data).astype(int) - np.asarray(reference)).max() <= 3


@pytest.mark.fixtures
def test_all_real_photos_decode(fixtures: Path) -> None:
    for path in sorted(fixtures.glob("hard/*")):
        info = images.probe(path)
        assert images.decode(path.read_bytes()).shape == (info.height, info.width, 3)
