"""What an image costs to make: time and memory, as the generation run noted them."""

from __future__ import annotations

from typing import Any, ClassVar

from idtool.evaluate.metrics.base import SampleMetric, Unscored
from idtool.evaluate.samples import Sample

GIB = 2**30


class Seconds(SampleMetric):
    """Of a batch, over its images; loading of the model is not in it. Compare on one machine only."""

    family = "seconds"
    summary = "time to make the image"
    paper = "ConsistentID Table 3 (speed in seconds)"
    unit = "s"
    bounds: ClassVar[Any] = (0.0, None)
    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "cost"

    def __call__(self, sample: Sample) -> float:
        value = sample.row["seconds"]
        if value is None:
            raise Unscored("the time was not noted")
        return float(value)


class PeakMemory(SampleMetric):
    """Of the accelerator, in the call that made the image: with others, where they are made in batches."""

    family = "peak_memory"
    summary = "most memory in use on the device while the image was made"
    unit = "GiB"
    bounds: ClassVar[Any] = (0.0, None)
    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "cost"

    def __call__(self, sample: Sample) -> float:
        value = sample.row["peak_memory"]
        if value is None:
            raise Unscored("no accelerator was used, or its memory was not noted")
        return float(value) / GIB
