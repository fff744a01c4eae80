"""The data card: `README.md` of an exported data set, from what was counted while writing it and from the manifest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from idtool import __version__
from idtool.curate import dataset, facts
from idtool.curate.formats.base import Format
from idtool.curate.formats.parquet import ParquetFormat
from idtool.curate.layout import PAIRS, Layout
from idtool.media import paths

LICENCE_TAGS = {
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-3.0", "cc-by-2.0",
    "mit", "apache-2.0", "bsd-3-clause", "odc-by", "pddl",
}  # fmt: skip
"""Licences that the hub's front matter knows by this name."""
TOP = 50
EXPORTS = ("export", "records")
"""Kinds of steps that write a data set."""


class Tally:
    """Counts over the exported rows. Memory grows with the number of distinct images (their ids only)."""

    def __init__(self, splits: Iterable[str], layout: Layout = PAIRS) -> None:
        self.layout = layout
        self.rows: dict[str, int] = dict.fromkeys(splits, 0)
        self.bytes: Counter[str] = Counter()
        self.identities: dict[str, set[str]] = defaultdict(set)
        self.images: dict[str, set[str]] = defaultdict(set)
        self.provenance: Counter[tuple[str, str, str]] = Counter()
        """(source, licence, consent) -> distinct images."""
        self.columns: dict[str, Counter[str]] = {"branch": Counter(), "caption_by": Counter()}
        self.missing: Counter[tuple[str, str]] = Counter()
        """(caption, why there is none) -> rows."""
        self.seen: Counter[str] = Counter()
        """Column of a picture that a step made -> rows that have one."""
        self._seen: set[str] = set()

    def add(self, split: str, row: Mapping[str, Any], images: Mapping[str, Mapping[str, Any] | None]) -> None:
        self.rows[split] += 1
        if row["identity"] is not None:
            self.identities[split].add(row["identity"])
        for name, counter in self.columns.items():
            counter[row.get(name) or "not stated"] += 1
        self.missing.update(
            (name.removesuffix("_reason"), value) for name, value in row.items() if name.endswith("_reason") and value
        )
        self.bytes[split] += sum(len(image["bytes"]) for image in images.values() if image)
        self.seen.update(name for name, image in images.items() if image and name not in self.layout.images)
        for side in self.layout.sides:
            image = row[f"{side}id"]
            self.images[split].add(image)
            if image not in self._seen:
                self._seen.add(image)
                source, licence, consent = (row.get(f"{side}{key}") for key in ("source", "licence", "consent"))
                self.provenance[(source or "not stated", licence or "not stated", consent or "not stated")] += 1

    def statistics(self) -> dict[str, Any]:
        """JSON-able totals: `pairs` (or `records`)`, identities, images`, and the same with `bytes` per split under
        `splits`."""
        noun = self.layout.nouns
        per_split = {
            split: {
                noun: rows,
                "identities": len(self.identities[split]),
                "images": len(self.images[split]),
                "bytes": self.bytes[split],
            }
            for split, rows in self.rows.items()
            if rows
        }
        return {
            noun: sum(self.rows.values()),
            "identities": sum(len(names) for names in self.identities.values()),
            "images": len(self._seen),
            "splits": per_split,
        }


def size_category(rows: int) -> str:
    """The hub's name for a number of rows."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M" if rows < 10_000_000 else "n>10M")


def front_matter(tally: Tally, format: type[Format] = ParquetFormat) -> str:
    """YAML between `---` lines, as the hub and `datasets` read it."""
    import yaml

    totals = tally.statistics()
    licences = {licence.lower() for _, licence, _ in tally.provenance}
    only = next(iter(licences)) if len(licences) == 1 else ""
    pairs = tally.layout is PAIRS
    title = "Pairs of face images of one person" if pairs else "Face images with their regions and descriptions"
    content: dict[str, Any] = {"pretty_name": title}
    if only in LICENCE_TAGS:
        content["license"] = only
    else:
        content |= {"license": "other", "license_name": "per-image"}
    content |= {
        "task_categories": ["text-to-image", "image-to-image"],
        "language": ["en"],
        "tags": ["idtool", "faces", "identity-preserving-generation"],
        "size_categories": [size_category(totals[tally.layout.nouns])],
    }
    patterns = {split: format.data_files(split) for split in totals["splits"]}
    if all(patterns.values()):
        files = [{"split": split, "path": pattern} for split, pattern in patterns.items()]
        content["configs"] = [{"config_name": "default", "data_files": files}]
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n"


def render(
    manifest: facts.Manifest,
    tally: Tally,
    schema: pa.Schema,
    shares: Mapping[str, float],
    *,
    files: bool = False,
    format: type[Format] = ParquetFormat,
) -> str:
    """The whole card. It names no path of the machine that wrote it and no date: the same run gives the same card.

    `files`: the data set also has a JSON file per row. `format`: what it is written in, and so how it is opened.
    """
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML; cells are escaped by `cell`
        loader=jinja2.PackageLoader("idtool.curate"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = cell
    body = environment.get_template("card.md.j2").render(
        version=__version__,
        manifest=manifest,
        inputs=[public_name(str(source)) for source in manifest.get("inputs", [])],
        sample=bool(manifest.get("sample")),
        totals=(totals := tally.statistics()),
        opening=format.opening(tally.layout, list(totals["splits"])),
        layout=tally.layout,
        missing=sorted(tally.missing.items()),
        pictures=sorted(tally.seen.items()),
        files=files,
        shares=shares,
        columns=describe_columns(schema),
        funnel=[line for line in facts.funnel(manifest) if line["kind"] not in EXPORTS],
        thresholds=facts.thresholds(manifest),
        skipped=facts.skipped(without_export(manifest)),
        models=facts.models(manifest),
        provenance=tally.provenance.most_common(TOP),
        provenance_left=max(0, len(tally.provenance) - TOP),
        branches=tally.columns["branch"].most_common(),
        captions=tally.columns["caption_by"].most_common(),
    )
    return front_matter(tally, format) + "\n" + body


def without_export(manifest: facts.Manifest) -> facts.Manifest:
    """The manifest without the export, which is under way while the card is written."""
    return {**manifest, "steps": [entry for entry in manifest.get("steps", []) if entry.get("kind") not in EXPORTS]}


def public_name(source: str) -> str:
    """An input as others may read it: a URL without credentials, a local path by its last part."""
    if paths.local(source) is None:
        return dataset.public_url(source).partition("?")[0].partition("#")[0]
    return source.rstrip("/").rpartition("/")[2] or source


def cell(value: Any) -> str:
    """A value as one Markdown table cell."""
    if value is None or value == "":
        return "–"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    for mark, replacement in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " "), ("\r", " ")):
        text = text.replace(mark, replacement)
    return text


def describe_columns(schema: pa.Schema) -> list[dict[str, str]]:
    """`name, type, unit, doc` of every column; the two sides of a pair share a line."""
    lines = []
    for field in schema:
        both = field.name.startswith("a_") and f"b_{field.name[2:]}" in schema.names
        if field.name.startswith("b_") and f"a_{field.name[2:]}" in schema.names:
            continue
        metadata = field.metadata or {}
        lines.append(
            {
                "name": f"`{field.name}`, `b_{field.name[2:]}`" if both else f"`{field.name}`",
                "type": _type_name(field.type),
                "unit": metadata.get(b"unit", b"").decode(),
                "doc": metadata.get(b"doc", b"").decode(),
            }
        )
    return lines


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return "image"
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} x {_type_name(kind.value_type)}"
    if pa.types.is_list(kind):
        return f"list of {_type_name(kind.value_type)}"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
