"""Runs on the real photos and videos, each made once."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from idtool.media.video import write_video
from tests.acceptance.runs import SMALLER, again, curate

PEOPLE = ("cb_id1", "cb_id9", "scarlett")
"""Those of the manifest: ten photos each."""
STRANGER = "cb_id5/03_celebbasis.jpg"
"""Comes with the label of the first of them."""
MANIFEST = ("path", "identity", "source", "licence", "consent", "photographer")
VIDEO = ("frames.fps=2", *SMALLER)


@pytest.fixture(scope="package", autouse=True)
def clean_environment() -> Iterator[None]:
    """Nothing of this shell's settings reaches the runs, except where photos and weights are."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("IDTOOL_")]:
            if name not in ("IDTOOL_FIXTURES", "IDTOOL_CACHE", "IDTOOL_MODELS", "IDTOOL_OFFLINE"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("acceptance")


@pytest.fixture(scope="package")
def unlabelled(fixtures: Path, place: Path) -> Path:
    """All photos of `identities/`; who is who comes from the faces alone."""
    return curate(place / "unlabelled", [fixtures / "identities"], *SMALLER, "identify.by=cluster")


@pytest.fixture(scope="package")
def labelled(fixtures: Path, unlabelled: Path, place: Path) -> Path:
    """The same photos with their folders as labels."""
    return again(unlabelled, place / "labelled", [fixtures / "identities"], *SMALLER, "identify.by=folder")


def _frames(video: Path, box: tuple[int, int, int, int], every: int, count: int) -> list[npt.NDArray[np.uint8]]:
    """Frames of a video, cut to the box (left, top, right, bottom)."""
    import av

    left, top, right, bottom = box
    with av.open(str(video)) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.ascontiguousarray(image[top:bottom, left:right]) for image in found[::every][:count]]


@pytest.fixture(scope="package")
def two_people(fixtures: Path, place: Path) -> Path:
    """A video of two people, one after the other, the first once more at the end: 1.5 s each."""
    her = _frames(fixtures / "videos" / "portrait_1280x720_s18.mp4", (510, 0, 1050, 720), 3, 30)
    him = _frames(fixtures / "videos" / "selfie_720x1280_d13.mp4", (90, 150, 630, 870), 3, 15)
    path = place / "two_people.mp4"
    write_video(path, [*her[:15], *him, *her[15:]], fps=10)
    return path


@pytest.fixture(scope="package")
def videos(fixtures: Path, two_people: Path, place: Path) -> Path:
    """All videos, two frames a second."""
    return curate(place / "videos", [fixtures / "videos", two_people], *VIDEO)


@pytest.fixture(scope="package")
def awkward(fixtures: Path, place: Path) -> Path:
    """Groups and hard pictures, with two people of `identities/` so that something is left to pair."""
    inputs = [fixtures / "groups", fixtures / "hard", fixtures / "identities" / "obama"]
    return curate(place / "awkward", [*inputs, fixtures / "identities" / "lecun"], *SMALLER)


@pytest.fixture(scope="package")
def manifest(fixtures: Path, place: Path) -> Path:
    """Thirty photos of three people and a stranger, with what is known of them."""
    folder = place / "collection"
    folder.mkdir()
    lines: list[list[str]] = []
    photos = [path for name in PEOPLE for path in sorted((fixtures / "identities" / name).iterdir())]
    for path in [*photos, fixtures / "identities" / STRANGER]:
        name = f"{path.parent.name} {path.name}"
        shutil.copyfile(path, folder / name)
        label = PEOPLE[0] if path.parent.name not in PEOPLE else path.parent.name
        lines.append([name, label, f"archive of {label}", "CC-BY-4.0", f"form of {label}", "A. Ünal"])
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([MANIFEST, *lines])
    return folder / "manifest.csv"


@pytest.fixture(scope="package")
def small(manifest: Path, place: Path) -> Path:
    """The manifest's photos. Tests leave it as it is."""
    return curate(place / "small", [manifest], *SMALLER)
