"""Pair mining: every pair within an identity judged exactly, at 40 thousand and at a million embeddings.

The people are synthetic, about 35 images each: 15 frames of one video (cosine about .9) and 20 photos (about .64 on
average, as on real photos). `window` asks only for a similarity window, which is what the peers can do: a NumPy matrix
product per identity, a FAISS IndexFlatIP range search per identity, and one over all embeddings with pairs across
identities thrown away. `recipe` asks for all that recipe `dmid` asks for: copy tests on aligned faces, pose,
expression and time differences, a choice of 20 pairs per identity for variety. `step` is the whole Pair step, Parquet
to Parquet.
"""

from __future__ import annotations

from harness import Cost, arguments, clock, machine, peak_rss, pin_threads, reset_peak, run_steps, save, show

pin_threads()

import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from people import DIM, Floats, measured, noise, people, unit  # noqa: E402

LOW_FRAMES, LOW_PHOTOS, HIGH = 0.8, 0.4, 0.98


def rules(recipe: bool) -> Any:
    from idtool.curate.pairing import Limits, Rules

    extra = (
        {"face_correlation": 0.95, "copy_above": 0.75, "yaw": 6.0, "pitch": 6.0, "expression": 0.25, "time_ms": 800.0}
        if recipe
        else {}
    )
    return Rules(frames=Limits(LOW_FRAMES, HIGH, **extra), photos=Limits(LOW_PHOTOS, HIGH, **extra))


def mine(embeddings: int, recipe: bool) -> dict[str, Any]:
    """Through `idtool.curate.pairing.pair`, a person at a time; making up the people is not clocked."""
    from idtool.curate.pairing import CANDIDATE, Faces, pair

    wanted, total, pairs, allowed, chosen = rules(recipe), Cost(), 0, 0, 0
    names = ("embedding", "family", "thumb", "yaw", "pitch", "expressions", "time_ms")[: None if recipe else 2]
    rows = number = 0
    for found in people(embeddings):
        with clock() as cost:
            result = pair(Faces(**{name: found[name] for name in names}), wanted)
        total.cpu, total.wall = total.cpu + cost.cpu, total.wall + cost.wall
        rows, number = rows + len(found["family"]), number + 1
        pairs += int(result.counts.sum())
        allowed += int(result.counts[CANDIDATE])
        chosen += len(result.a)
    return row("idtool " + ("recipe" if recipe else "window"), rows, number, pairs, allowed, chosen, total)


def row(way: str, rows: int, people_: int, pairs: int, allowed: int, chosen: int | None, cost: Cost) -> dict[str, Any]:
    return {
        "way": way,
        "embeddings": rows,
        "people": people_,
        "pairs judged": pairs,
        "allowed": allowed,
        "chosen": chosen,
        "cpu s": cost.cpu,
        "wall s": cost.wall,
        "pairs/cpu s": pairs / cost.cpu,
        "peak MB": peak_rss() / 1e6,
    }


def one_person(images: int) -> dict[str, Any]:
    """A person with very many images: memory must not grow with the number of pairs."""
    from idtool.curate.pairing import CANDIDATE, Faces, pair

    random = np.random.default_rng(0)
    spread = random.uniform(0.45, 1.0, (images, 1)).astype(np.float32)
    embedding = unit(noise(random, 1) + spread * noise(random, images))
    yaw = random.normal(0, 20, images).astype(np.float32)
    reset_peak()
    with clock() as cost:
        result = pair(Faces(embedding, np.arange(images), yaw=yaw), rules(True))
    judged, allowed = int(result.counts.sum()), int(result.counts[CANDIDATE])
    return row("idtool, one person", images, 1, judged, allowed, len(result.a), cost)


def in_window(similar: Floats, same: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return (similar >= np.where(same, np.float32(LOW_FRAMES), np.float32(LOW_PHOTOS))) & (similar <= np.float32(HIGH))


def with_numpy(embeddings: int) -> dict[str, Any]:
    total, pairs, allowed, rows, number = Cost(), 0, 0, 0, 0
    for found in people(embeddings):
        embedding, family = found["embedding"], found["family"]
        with clock() as cost:
            a, b = np.triu_indices(len(family), 1)
            similar = (embedding @ embedding.T)[a, b]
            keep = in_window(similar, family[a] == family[b])
            a, b = a[keep], b[keep]
        total.cpu, total.wall = total.cpu + cost.cpu, total.wall + cost.wall
        pairs, allowed = pairs + len(similar), allowed + len(a)
        rows, number = rows + len(family), number + 1
    return row("numpy per identity", rows, number, pairs, allowed, None, total)


def with_faiss(embeddings: int, everything: bool) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(1)
    groups = [(found["embedding"], found["family"]) for found in people(embeddings)]
    pairs = sum(len(family) * (len(family) - 1) // 2 for _, family in groups)
    number = len(groups)
    owner = np.repeat(np.arange(number), [len(family) for _, family in groups])
    if everything:
        families = np.concatenate([family for _, family in groups])
        jobs = [(np.concatenate([embedding for embedding, _ in groups]), families, owner)]
    else:
        jobs = [(embedding, family, np.zeros(len(family), int)) for embedding, family in groups]
    allowed = 0
    reset_peak()
    with clock() as cost:
        for embedding, family, who in jobs:
            index = faiss.IndexFlatIP(DIM)
            index.add(embedding)
            for start in range(0, len(embedding), 4096):
                limits, similar, b = index.range_search(embedding[start : start + 4096], LOW_PHOTOS)
                a = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits).astype(int))
                mine_ = (a < b) & (who[a] == who[b])
                a, b, similar = a[mine_], b[mine_], similar[mine_]
                allowed += int(in_window(similar, family[a] == family[b]).sum())
    name = "faiss over all" if everything else "faiss per identity"
    return row(name, len(owner), number, pairs, allowed, None, cost)


def with_step(embeddings: int) -> dict[str, Any]:
    """The Pair step on a table as the steps before leave it."""
    import pyarrow as pa

    from idtool.engine.table import write_table

    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="idtool-perf-") as folder:
        schema, batches = measured(embeddings)
        sources = write_table(Path(folder) / "sources", batches, schema)
        with clock() as cost:
            _, watch = run_steps(Path(folder) / "run", sources, [RECIPE])
        entry = watch.entries["pair"]
        result = row("idtool step", sources.rows, 0, 0, 0, entry["kept"], cost)
    unknown = dict.fromkeys(("people", "pairs judged", "allowed", "pairs/cpu s"))
    return {**result, **unknown, "peak MB": watch.peaks["pair"] / 1e6, "statistics": entry["statistics"]}


RECIPE = {
    "step": "pair",
    "branches": {
        "frames": {"similarity": {"min": LOW_FRAMES, "max": HIGH}},
        "photos": {"similarity": {"min": LOW_PHOTOS, "max": HIGH}},
    },
    "copy": {"face_correlation": {"max": 0.95}, "copy_similarity": {"max": 0.75}},
    "difference": {"yaw": 6, "pitch": 6, "expression": 0.25, "time_ms": 800},
    "per_identity": 20,
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--small", type=int, default=40_000, help="embeddings of the comparison with peers")
    parser.add_argument("--large", type=int, default=1_000_000, help="embeddings of the large run; 0: none")
    parser.add_argument("--one-person", type=int, default=20_000, help="images of the single large identity; 0: none")
    parser.add_argument("--no-global", action="store_true", help="leave out the search over all embeddings")
    parser.add_argument("--no-step", action="store_true", help="leave out the Pair step")
    options = parser.parse_args()
    about = machine()
    mine(2_000, True)  # first calls
    results = []
    small, large = options.small, options.large
    jobs: list[Callable[[], dict[str, Any]]] = [lambda: mine(small, False), lambda: with_numpy(small)]
    jobs.append(lambda: with_faiss(small, False))
    if not options.no_global:
        jobs.append(lambda: with_faiss(small, True))
    jobs.append(lambda: mine(small, True))
    if large:
        jobs += [lambda: mine(large, False), lambda: with_numpy(large), lambda: mine(large, True)]
    if options.one_person:
        jobs.append(lambda: one_person(options.one_person))
    if not options.no_step:
        jobs.append(lambda: with_step(small))
    for job in jobs:
        reset_peak()
        results.append(job())
        print(results[-1]["way"], "done", flush=True)
    shown = [{key: value for key, value in result.items() if key != "statistics"} for result in results]
    show("pair mining, one thread", shown)
    save(options.json, {"before": about, "results": results})


if __name__ == "__main__":
    main()
