"""What each metric sees: real photos are changed in known ways, and every metric of profile `offline` says what it
makes of it. Writes docs/metrics_seen.md; needs the photos of `IDTOOL_FIXTURES`. A few of the photos are a test
(tests/evaluate/test_metamorphic.py).

    uv run python perf/metamorphic.py
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

from harness import arguments, fixtures, machine, pin_threads, save

pin_threads()
REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs" / "metrics_seen.md"
sys.path.insert(0, str(REPO))  # the photos and edits are the test's
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402

from tests.evaluate import offline, tiny_networks  # noqa: E402
from tests.evaluate.metamorphic import EDITS, FAMILIES, PHOTOS, SWAPS, Seen, changed, see  # noqa: E402
from tests.zoo import Zoo  # noqa: E402

RANDOM = ("clip_i", "dino", "fgis", "iqa", "aesthetic")
CHANGES = [name for name in (*EDITS, *SWAPS) if name != "unchanged"]
HEAD = """# What each metric sees

Made by `perf/metamorphic.py`; do not edit. {people} photos of {people} people are each the reference of their own
changed copies. The table says how each metric moves against the unchanged copy: mean change ± standard deviation over
the photos. A metric should move where its definition says so, and nowhere else.

| change | what it is | pictures |
|---|---|--:|
"""
READ = """
`expr` and `pose` are asked for what the reference itself shows (the expression and the view that the networks see in
it). The pictures of the last column are of one woman who stays where she is and pulls faces.

## What to read from it

- **Identity.** Another person takes all of `facesim`. What a camera or a file does takes little, colours least; another
  occasion takes a third or less. A strong expression of the same person takes *more* than another occasion: a method
  that shows the expression it was asked for pays for it in `facesim`. Compare methods on the same prompts.
- **Blur and noise cost identity.** A soft image scores less though nobody else is on it: read `facesim` beside
  `sharpness` and `quality`. The second network minds both about half as much.
- **Copying.** An edited copy of the reference stays high in `copy_paste`, and another photo falls to about a half. A
  mirror image escapes `copy_paste_pose` as far as the head was turned, and `copy_paste_framing` as far as the face was
  off the middle, but not `copy_paste_background`. A crop escapes framing.
- **Blur looks like another expression** to the expression network: do not read `expr` or `copy_paste_expression` where
  `sharpness` is low.
- **`quality` sees blur, and nothing else here**: noise, JPEG blocks and colour pass.
- **`sharpness` takes noise for detail**, and a crop for blur, because it is enlarged: it is no quality by itself.
- **`face_found` and `pose` are steps**: nothing moves them until a face is lost or a head has turned.
"""
PLUMBING = """
## Plumbing

No weights of these metrics are on the package index, so their networks were random and tiny here. **Heights mean
nothing**; what counts is that the unchanged copy has 1 where a metric compares with the reference, and that every
change has a number.

"""


def of(values: np.ndarray, scale: float = 1.0) -> str:
    """Mean and deviation, without the zero before the point; percent where `scale` is 100."""
    if not len(values):
        return "-"
    mean, std = values.mean() * scale, values.std() * scale
    text = f"{mean:+.0f} % ± {std:.0f}" if scale == 100 else f"{mean:+.2f} ± {std:.2f}"
    return re.sub(r"(?<!\d)0\.", ".", text) if re.search("[1-9]", text) else "0"


def table(seen: Seen) -> list[str]:
    """Metrics down, changes across; a metric without an upper bound as a share of the unchanged picture's."""
    lines = [f"| metric | unchanged | {' | '.join(CHANGES)} |", f"|---|--:|{'--:|' * len(CHANGES)}"]
    for metric in seen.names:
        own = seen.pairs(metric, "unchanged")[:, 0]
        cells = [f"{own.mean():.2f} ± {own.std():.2f}"]
        for change in CHANGES:
            pairs = seen.pairs(metric, change)
            share = metric.startswith("sharpness")
            cells.append(of(pairs[:, 0] / pairs[:, 1] - 1, 100) if share else of(pairs[:, 0] - pairs[:, 1]))
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__ or "")
    parser.add_argument("--people", nargs="*", default=list(PHOTOS), choices=list(PHOTOS), help="whose photos")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    if len(set(options.people)) < 2:
        parser.error("two people at least: the one is the other's other person")
    photos = fixtures()
    if photos is None:
        raise SystemExit("no photos: set IDTOOL_FIXTURES")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = changed(folder, photos.parent, options.people)
        seen = see(folder / "real", rows, FAMILIES, offline.env())
        zoo = Zoo(folder / "zoo")
        zoo.mirror.mkdir()
        os.environ["IDTOOL_MODELS"] = str(zoo.mirror)
        beside = offline.env("faces", "identity", "parser")
        tiny = tiny_networks.bound(zoo, "clip", "features", "iqa", "aesthetic", most=1, beside=beside)
        drawn = see(folder / "tiny", rows, RANDOM, tiny)
    first = seen.names[0]
    counts = {change: len(seen.pairs(first, change)) for change in (*EDITS, *SWAPS)}
    words = {name: told for name, (told, _) in EDITS.items()} | dict(SWAPS)
    page = HEAD.format(people=len(options.people))
    page += "".join(f"| {name} | {words[name]} | {counts[name]} |\n" for name in words)
    page += "\n" + "\n".join(table(seen)) + "\n" + READ + PLUMBING + "\n".join(table(drawn)) + "\n"
    options.output.write_text(page, "utf-8")
    print(page)
    figures = {
        metric: {change: all_.changes(metric, change).tolist() for change in CHANGES}
        for all_ in (seen, drawn)
        for metric in all_.names
    }
    save(options.json, {"changes": figures, "on": machine()})


if __name__ == "__main__":
    main()
