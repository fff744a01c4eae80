"""The built-in sample: people who do not exist, made on this machine, never shipped.

`synthetic` makes the pictures. Some files are bad on purpose (blurred, dark, small, covered eyes, two people, two
kinds of copies), so that a report has something to show.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from idtool.errors import UsageError
from idtool.models.portraits import MobileStyleGan
from idtool.sample.synthetic import Announce, Maker, settings

COLUMNS = ("path", "identity", "source", "licence", "consent", "latent")
"""`latent`: of the first portrait of each person, what it was drawn from; step `animate` can move that one."""
SOURCE = "idtool synthetic sample"
LICENCE = "made with MobileStyleGAN weights, Apache-2.0 (learned from FFHQ photos, whose terms are non-commercial)"
CONSENT = "not applicable: synthetic person"


def sample_folder(out: Path, *, people: int = 5, seed: int = 0) -> Path:
    """Where `make_sample` puts, or has put, the sample of these settings."""
    recipe = json.dumps([MobileStyleGan.fingerprint(), settings(), people, seed], sort_keys=True)
    return out / hashlib.sha256(recipe.encode()).hexdigest()[:16]


def make_sample(out: Path, *, people: int = 5, seed: int = 0, announce: Announce | None = None) -> Path:
    """The folder `<out>/<key>` with the sample, made unless it is there: `manifest.csv` and `people/person_01/…`.

    The key hashes the generator, its settings, `people` and `seed`; the same key has the same bytes on machines with
    the same libraries and processor features. The manifest has `COLUMNS` and is a valid input of `curate`; folder
    names are the identities. Takes about a second per image (18 for each of the people). Raises MissingError when
    weights cannot be fetched, UsageError for fewer than two people.
    """
    if people < 2:
        raise UsageError(f"The sample needs at least 2 people, not {people}.", "Ask for more people.")
    say = announce or (lambda message: None)
    folder = sample_folder(out, people=people, seed=seed)
    if _complete(folder):
        return folder
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=out))
    try:
        rows = Maker(seed, say).make(scratch, people)
        with (scratch / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([path, who, SOURCE, LICENCE, CONSENT, latent] for path, who, latent in rows)
        if folder.exists() and not _complete(folder):
            shutil.rmtree(folder)
        try:
            scratch.rename(folder)
        except OSError:
            if not _complete(folder):  # otherwise another process was faster and made the same
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _complete(folder: Path) -> bool:
    """Whether a sample is there with all of its files, and with a manifest of this version, which is written last."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return False
    with manifest.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        told = tuple(reader.fieldnames or ()) == COLUMNS
        return told and all((folder / row["path"]).is_file() for row in reader)
