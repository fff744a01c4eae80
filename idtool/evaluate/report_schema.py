"""Schemas of report.parquet (a row for each method, metric and slice) and pairs.parquet (one for each two methods)."""

from __future__ import annotations

import pyarrow as pa

VERSION = 1
"""Of both schemas."""
ALL = "all"
"""The slice of all samples; its `slice_value` is empty."""

S, B, I64, F64 = pa.string(), pa.bool_(), pa.int64(), pa.float64()


def _field(name: str, kind: pa.DataType, doc: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"doc": doc, "unit": unit})


_WHERE = (
    _field("suite", S, "name of the suite"),
    _field("suite_hash", S, "of the suite as resolved: numbers of different ones are not comparable"),
    _field("profile", S, "whose networks judged"),
)
_SLICE = (
    _field("slice", S, "what the samples are split by, such as age; `all`: all samples"),
    _field("slice_value", S, "value of the slice; empty for `all`"),
)
_MADE = (
    _field("fingerprint", S, "of the metric: weights, preprocessing, versions, settings"),
    _field("idtool", S, "version that scored"),
    _field("seed", I64, "of resampling"),
    _field("date", S, "when the benchmark was last written, ISO 8601"),
)

REPORT = pa.schema(
    [
        *_WHERE,
        _field("method", S, "who made the images"),
        _field("baseline", B, "whether it is there to bound the metrics; baselines have no rank"),
        _field("metric", S, "family/network@variant"),
        _field("family", S, "what `--metrics` names"),
        _field("axis", S, "what the metric speaks of"),
        _field("unit", S, "unit of the metric, and of all columns in metric units"),
        _field("better", S, "higher, lower or neither"),
        _field("bounds", pa.list_(F64), "lowest and highest value that there can be; null: none"),
        *_SLICE,
        _field("n", I64, "scored samples (identities, for a metric of whole identities)"),
        _field("n_missing", I64, "samples without a score"),
        _field("missing", S, "reason -> how many, a JSON object"),
        _field("n_identities", I64, "identities with a score: the clusters of all statistics"),
        _field("mean", F64, "over all scored samples", "metric"),
        _field("std", F64, "between samples; of a set-level metric: between its subsets", "metric"),
        _field("median", F64, "over all scored samples", "metric"),
        _field("min", F64, "lowest score", "metric"),
        _field("max", F64, "highest score", "metric"),
        _field("ci_low", F64, "95 % interval of the mean, cluster bootstrap", "metric"),
        _field("ci_high", F64, "95 % interval of the mean, cluster bootstrap", "metric"),
        _field("se", F64, "standard error of the mean, cluster bootstrap", "metric"),
        _field("n_common", I64, "samples that every method that ran through has a score for"),
        _field("mean_common", F64, "over the common samples: fair to methods that failed differently", "metric"),
        _field("rank", I64, "by mean_common where there are common samples, else by mean; null for baselines"),
        _field("letters", S, "methods that share a letter do not differ (corrected p >= 0.05)"),
        _field("best", S, "the method of rank 1, that the next columns compare with"),
        _field("diff_best", F64, "mean minus that of the best, over the samples that both have", "metric"),
        _field("diff_best_low", F64, "95 % interval of diff_best", "metric"),
        _field("diff_best_high", F64, "95 % interval of diff_best", "metric"),
        _field("p_best", F64, "of diff_best, two-sided, by swapping the two methods within identities"),
        _field("p_best_corrected", F64, "for all pairs within this metric and slice: Westfall-Young step-down max-T"),
        _field("p_best_holm", F64, "the same by Holm's correction, which few identities rob of its power"),
        _field("win_rate_best", F64, "share of the common samples in which it beats the best, ties half", "[0,1]"),
        _field("mdd", F64, "difference from the best (the best: from the second) found with 80 % power", "metric"),
        _field("conditions_on_same", B, "the method looks through a network of this metric, which flatters it"),
        _field("note", S, "what to know of the numbers, and why some are null"),
        *_MADE,
    ],
    metadata={"idtool.report": str(VERSION)},
)

PAIRS = pa.schema(
    [
        *_WHERE,
        _field("metric", S, "family/network@variant"),
        *_SLICE,
        _field("method_a", S, "one method"),
        _field("method_b", S, "the other"),
        _field("n", I64, "samples that both have a score for"),
        _field("n_identities", I64, "identities of those samples"),
        _field("mean_a", F64, "over those samples", "metric"),
        _field("mean_b", F64, "over those samples", "metric"),
        _field("difference", F64, "mean_a - mean_b", "metric"),
        _field("ci_low", F64, "95 % interval of the difference, cluster bootstrap", "metric"),
        _field("ci_high", F64, "95 % interval of the difference, cluster bootstrap", "metric"),
        _field("se", F64, "standard error of the difference", "metric"),
        _field("p", F64, "two-sided, by swapping the two methods within identities"),
        _field("p_corrected", F64, "for all pairs within this metric and slice (Westfall-Young step-down max-T)"),
        _field("p_holm", F64, "the same by Holm's correction"),
        _field("p_bh", F64, "the same by false discovery rate (Benjamini and Hochberg)"),
        _field("win_rate", F64, "share of samples in which a is better, ties half; null where none is", "[0,1]"),
        _field("d_z", F64, "Cohen's d_z over identities: mean difference / its standard deviation", "1"),
        _field("mdd", F64, "difference that 80 % power finds at 0.05", "metric"),
        *_MADE,
    ],
    metadata={"idtool.pairs": str(VERSION)},
)
