"""The first command of the README: the recipe on the built-in sample, from nothing to a data set and a report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idtool.models.catalog import catalogue
from idtool.run import Run
from tests.acceptance.runs import entry, idtool, reasons, rows

pytestmark = pytest.mark.offline_weights

BAD = {
    "person_01/blurred.png": "clarity.sharpness",
    "person_02/small.png": "resolution.short_side",
    "person_03/sunglasses.png": "occlusion.occlusion",
    "person_04/dark.png": "exposure.brightness",
    "mixed/two_people.png": "one_face.faces",
}
COPIES = {
    ("person_01/portrait_1.png", "person_01/copy_of_portrait_1.png"): "duplicate.exact",
    ("person_02/portrait_1.png", "person_02/portrait_1_saved_again.jpg"): "duplicate.perceptual",
}
"""Either of the two may be taken for the copy."""
DOWNLOAD = 90_000_000


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the bare command makes, in an empty working directory. Weights and the sample's pictures come from
    the cache where they are there already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sample"))
        result = idtool("curate", "--recipe", "dmid")
        assert result.exit_code == 0, result.output
        run = Path("idtool-runs/dmid").absolute()
    assert "dataset: " in result.stdout
    assert "report: " in result.stdout
    return run


def test_pairs_of_several_people_in_both_branches(sample: Path) -> None:
    pairs = rows(sample, "pair", "identity", "branch", "a_identity_label", "b_identity_label", kept=True)
    assert len(pairs) >= 20
    assert len({pair["identity"] for pair in pairs}) >= 3
    assert {pair["branch"] for pair in pairs} >= {"frames", "photos"}
    assert all(pair["a_identity_label"] == pair["b_identity_label"] == pair["identity"] for pair in pairs)
    assert entry(sample, "export")["kept"] == len(pairs)


@pytest.mark.parametrize(("name", "reason"), sorted(BAD.items()))
def test_a_bad_file_is_rejected_for_the_right_reason(sample: Path, name: str, reason: str) -> None:
    assert reasons(sample, folders=True).get(name) == reason


@pytest.mark.parametrize("names", sorted(COPIES))
def test_one_of_two_copies_stays(sample: Path, names: tuple[str, str]) -> None:
    found = reasons(sample, folders=True)
    assert [found[name] for name in names if name in found] == [COPIES[names]]


def test_the_good_files_stay(sample: Path) -> None:
    photos = [row["name"] for row in rows(sample, "identify", "name", "origin", kept=True) if row["origin"] == "photo"]
    frames = [row["name"] for row in rows(sample, "identify", "name", "origin", kept=True) if row["origin"] == "frame"]
    assert len(photos) >= 14, "of about 20"
    assert len(frames) >= 40, "of 60"


def test_little_is_fetched(sample: Path) -> None:
    """Archives of the models that the recipe binds, and of the network that draws the sample."""
    models = {model["model"] for step in Run(sample).steps if step["state"] == "done" for model in step["models"]}
    archives = {catalogue()[name].archive.sha256: catalogue()[name].archive for name in [*models, "mobilestylegan"]}
    assert {"scrfd-500m", "arcface-mbf", "face-landmarker"} <= models
    assert sum(archive.bytes for archive in archives.values()) < DOWNLOAD


def test_the_report_needs_nothing_from_outside(sample: Path) -> None:
    html = (sample / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']([^"']*)""", html)
    assert any(link.startswith("data:image/") for link in links), "pictures are inside"
    assert not [link for link in links if not link.startswith(("data:", "#"))]
    assert not re.search(r"@import|url\(\s*[\"']?(?!data:|#)", html)
    assert "<script src" not in html
