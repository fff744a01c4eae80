"""Which files are media: extensions for listing folders, first bytes for deciding what a file really is."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["image", "video"]

_IMAGES = "jpg jpeg jpe jfif png apng webp gif tif tiff bmp avif heic heif jp2 jxl ppm pgm"
_VIDEOS = "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts mts flv wmv 3gp 3g2 ogv"
IMAGE_EXTENSIONS = frozenset(f".{name}" for name in _IMAGES.split())
VIDEO_EXTENSIONS = frozenset(f".{name}" for name in _VIDEOS.split())
MEDIA_EXTENSIONS = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
HEAD_BYTES = 4096
"""How many leading bytes `sniff` wants."""


class Sniffed(NamedTuple):
    kind: Kind
    format: str
    """Lower case: jpeg png webp gif tiff bmp avif heic jp2 jxl pnm; mp4 mov 3gp matroska webm avi mpeg mpegts flv
    asf ogg."""


_SIGNATURES: tuple[tuple[int, bytes, Sniffed], ...] = (
    (0, b"\xff\xd8\xff", Sniffed("image", "jpeg")),
    (0, b"\x89PNG\r\n\x1a\n", Sniffed("image", "png")),
    (0, b"GIF87a", Sniffed("image", "gif")),
    (0, b"GIF89a", Sniffed("image", "gif")),
    (8, b"WEBP", Sniffed("image", "webp")),
    (8, b"AVI ", Sniffed("video", "avi")),
    (0, b"II*\0", Sniffed("image", "tiff")),
    (0, b"MM\0*", Sniffed("image", "tiff")),
    (0, b"II+\0", Sniffed("image", "tiff")),
    (0, b"MM\0+", Sniffed("image", "tiff")),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", Sniffed("image", "jp2")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", Sniffed("image", "jxl")),
    (0, b"\xff\x0a", Sniffed("image", "jxl")),
    (0, b"\0\0\x01\xba", Sniffed("video", "mpeg")),
    (0, b"\0\0\x01\xb3", Sniffed("video", "mpeg")),
    (0, b"FLV\x01", Sniffed("video", "flv")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Sniffed("video", "asf")),
    (0, b"OggS", Sniffed("video", "ogg")),
)
_BRANDS = {
    b"avif": Sniffed("image", "avif"),
    b"avis": Sniffed("image", "avif"),
    b"heic": Sniffed("image", "heic"),
    b"heix": Sniffed("image", "heic"),
    b"hevc": Sniffed("image", "heic"),
    b"hevx": Sniffed("image", "heic"),
    b"heim": Sniffed("image", "heic"),
    b"heis": Sniffed("image", "heic"),
    b"qt  ": Sniffed("video", "mov"),
}


def _iso_brand(head: bytes) -> Sniffed:
    """The kind of an ISO base media file: its major brand, else (`mif1`, `msf1`) its compatible brands."""
    size = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(max(size, 16), len(head)), 4))]
    if brands[0] in (b"mif1", b"msf1"):
        return next((_BRANDS[b] for b in brands if b in _BRANDS), Sniffed("image", "heic"))
    if brands[0].startswith((b"3gp", b"3g2")):
        return Sniffed("video", "3gp")
    return _BRANDS.get(brands[0], Sniffed("video", "mp4"))


def sniff(head: bytes) -> Sniffed | None:
    """What a file is by its first `HEAD_BYTES` bytes, whatever it is called; None when it is no known media."""
    if head[4:8] == b"ftyp":
        return _iso_brand(head)
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return Sniffed("video", "mov")
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return Sniffed("video", "webm" if b"webm" in head[:64] else "matroska")
    for offset, magic, found in _SIGNATURES:
        if head.startswith(magic, offset):
            return found if offset == 0 or head.startswith(b"RIFF") else None
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return Sniffed("image", "bmp")
    if len(head) > 2 and head[0:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return Sniffed("image", "pnm")
    if head[0:1] == b"\x47" and head[188:189] == b"\x47":
        return Sniffed("video", "mpegts")
    if head[4:5] == b"\x47" and head[196:197] == b"\x47":
        return Sniffed("video", "mpegts")
    return None
