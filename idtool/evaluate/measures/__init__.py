"""Row-level measures of images, one file each, by name; plug-ins add theirs through `idtool.measures`."""

from __future__ import annotations

from idtool.evaluate.measures.base import Measure
from idtool.registry import Registry

MEASURES: Registry[type[Measure]] = Registry(
    "measure",
    {
        "pixels": "idtool.evaluate.measures.pixels:Pixels",
        "faces": "idtool.evaluate.measures.faces:Faces",
        "identity": "idtool.evaluate.measures.identity:Identity",
        "identity2": "idtool.evaluate.measures.identity:Identity2",
        "landmarks": "idtool.evaluate.measures.landmarks:Landmarks",
        "expression": "idtool.evaluate.measures.expression:Expression",
        "quality": "idtool.evaluate.measures.quality:Quality",
        "nsfw": "idtool.evaluate.measures.nsfw:Nsfw",
        "copy": "idtool.evaluate.measures.copy:CopyEmbedding",
        "aesthetic": "idtool.evaluate.measures.aesthetic:Aesthetic",
        "clip": "idtool.evaluate.measures.clip:Clip",
        "features": "idtool.evaluate.measures.features:Features",
        "iqa": "idtool.evaluate.measures.iqa:Iqa",
        "pose": "idtool.evaluate.measures.pose:Pose",
        "attributes": "idtool.evaluate.measures.attributes:Attributes",
        "parts": "idtool.evaluate.measures.parts:Parts",
        # Of every face, and of samples with their references and prompts: what metrics need.
        "people": "idtool.evaluate.measures.people:People",
        "people_identity": "idtool.evaluate.measures.people:PeopleIdentity",
        "people_identity2": "idtool.evaluate.measures.people:PeopleIdentity2",
        "people_identity3": "idtool.evaluate.measures.people:PeopleIdentity3",
    },
    group="idtool.measures",
)
