"""Metadata leaves the files, the picture does not change by a bit."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from idtool.curate import metadata
from idtool.curate.dataset import encode_for_export
from tests.curate import fake_run

SECRETS = (b"Atlantis", b"<x:xmpmeta", b"J. Doe", b"a comment", b"Photoshop 3.0", b"PREVIEW", b"motion photo")
FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


def exif() -> bytes:
    tags = Image.Exif()
    tags[0x010E] = "Atlantis"
    tags[0x013B] = "J. Doe"
    tags.get_ifd(0x8825)[1] = "N"
    tags.get_ifd(0x8825)[2] = (31.0, 15.0, 9.5)
    return tags.tobytes()


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
"""Made once: it holds the time."""


def loaded(kind: str, picture: Image.Image, **options: object) -> bytes:
    """A file with every sort of metadata that the format has room for."""
    sink = io.BytesIO()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">Atlantis</x:xmpmeta>'
    if kind == "png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "J. Doe")
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        text.add_text("Comment", "a comment", zip=True)
        picture.save(sink, "PNG", pnginfo=text, exif=exif(), icc_profile=PROFILE, dpi=(72, 72))
        return sink.getvalue() + b"motion photo"
    picture.save(sink, FORMATS[kind], exif=exif(), xmp=xmp, icc_profile=PROFILE, **options)
    data = sink.getvalue()
    if kind == "webp":
        return data + b"motion photo"
    more = (
        segment(0xE0, b"JFXX\0\x10PREVIEW")
        + segment(0xE2, b"MPF\0PREVIEW")
        + segment(0xED, b"Photoshop 3.0\0J. Doe")
        + segment(0xFE, b"a comment")
    )
    return data[:2] + more + data[2:] + b"motion photo"


CASES = [
    ("jpeg", "RGB", {}), ("jpeg", "L", {}), ("jpeg", "RGB", {"progressive": True}),
    ("jpeg", "RGB", {"restart_marker_blocks": 2}), ("png", "RGB", {}), ("png", "L", {}),
    ("webp", "RGB", {}), ("webp", "RGB", {"lossless": True}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*malformed MPO")
@pytest.mark.parametrize(("kind", "mode", "options"), CASES)
def test_metadata_goes_and_the_pixels_and_the_profile_stay(kind, mode, options):
    picture = fake_run.draw(5, (90, 130)).convert(mode)
    data = loaded(kind, picture, **options)
    assert sum(secret in data for secret in SECRETS) >= 3
    bare, ending = encode_for_export(data)
    assert ending == {"jpeg": "jpg"}.get(kind, kind)
    assert len(bare) < len(data)
    for secret in SECRETS:
        assert secret not in bare
    before, after = (Image.open(io.BytesIO(each)) for each in (data, bare))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert after.format == before.format
    assert not after.getexif()
    assert "xmp" not in after.info
    assert "comment" not in after.info
    assert after.info["icc_profile"] == PROFILE
    assert metadata.strip(bare, kind) == bare


def test_the_adobe_marker_stays_because_colours_hang_on_it():
    sink = io.BytesIO()
    fake_run.draw(6, (64, 64)).convert("CMYK").save(sink, "JPEG", exif=exif())
    assert b"Adobe" in sink.getvalue()
    bare = metadata.strip(sink.getvalue(), "jpeg")
    assert bare is not None
    assert b"Adobe" in bare
    assert b"Atlantis" not in bare
    first, second = (np.asarray(Image.open(io.BytesIO(each))) for each in (sink.getvalue(), bare))
    assert np.array_equal(first, second)


def test_png_chunks_that_nobody_knows_go():
    sink = io.BytesIO()
    fake_run.draw(7, (20, 20)).save(sink, "PNG")
    plain = sink.getvalue()
    content = b"caBXsigned by J. Doe"
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    assert metadata.strip(plain[:33] + chunk + plain[33:], "png") == plain


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_structure_that_is_not_understood_is_not_passed_on(kind):
    data = loaded(kind, fake_run.draw(8, (40, 40))).removesuffix(b"motion photo")
    for cut in range(0, len(data) - 13, 7):
        assert metadata.strip(data[:cut], kind) is None
    assert metadata.strip(b"", kind) is None


def test_every_fixture_keeps_its_pixels(fixtures: Path):
    checked = 0
    for path in sorted((fixtures / "identities").rglob("*"))[:60]:
        kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}.get(path.suffix)
        if kind is None or path.stat().st_size > 1_000_000:
            continue
        data = path.read_bytes()
        bare = metadata.strip(data, kind)
        if bare is not None and bare != data:
            assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(each))) for each in (data, bare)))
        checked += 1
    assert checked > 20
