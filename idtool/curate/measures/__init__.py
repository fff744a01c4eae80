"""Row-level measures of images, one file each, by name; plug-ins add theirs through `idtool.measures`."""

from __future__ import annotations

from idtool.curate.measures.base import Measure
from idtool.registry import Registry

MEASURES: Registry[type[Measure]] = Registry(
    "measure",
    {
        "pixels": "idtool.curate.measures.pixels:Pixels",
        "faces": "idtool.curate.measures.faces:Faces",
        "identity": "idtool.curate.measures.identity:Identity",
        "identity2": "idtool.curate.measures.identity:Identity2",
        "landmarks": "idtool.curate.measures.landmarks:Landmarks",
        "expression": "idtool.curate.measures.expression:Expression",
        "quality": "idtool.curate.measures.quality:Quality",
        "nsfw": "idtool.curate.measures.nsfw:Nsfw",
        "copy": "idtool.curate.measures.copy:CopyEmbedding",
        "aesthetic": "idtool.curate.measures.aesthetic:Aesthetic",
        "clip": "idtool.curate.measures.clip:Clip",
        "features": "idtool.curate.measures.features:Features",
        "iqa": "idtool.curate.measures.iqa:Iqa",
        "pose": "idtool.curate.measures.pose:Pose",
        "attributes": "idtool.curate.measures.attributes:Attributes",
        "parts": "idtool.curate.measures.parts:Parts",
    },
    group="idtool.measures",
)
