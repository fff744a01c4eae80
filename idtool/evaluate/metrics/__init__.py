"""Metrics, one family per file, by name; plug-ins add theirs through the entry-point group `idtool.metrics`."""

from __future__ import annotations

from idtool.evaluate.metrics.base import Metric
from idtool.registry import Registry

METRICS: Registry[type[Metric]] = Registry(
    "metric",
    {
        "facesim": "idtool.evaluate.metrics.facesim:FaceSim",
        "facesim0": "idtool.evaluate.metrics.facesim:FaceSimZero",
    },
    group="idtool.metrics",
)
