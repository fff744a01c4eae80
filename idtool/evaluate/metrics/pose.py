"""Pose: whether people look where they were to look, by a head pose network.

DynamicID's App. 7.4: where the prompt says "facing up" or "facing down", the pitch of the head is called up (> 10
degrees), down (< -10) or front; where it says "front view" or "side view", the yaw is called front (within 10 degrees
either way) or side. Pose is the share of people who are called what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.engine.step import Env
from idtool.evaluate.measures.people import PeopleIdentity
from idtool.evaluate.measures.people_pose import PeopleMesh, PeoplePose
from idtool.evaluate.metrics.asked import asked
from idtool.evaluate.metrics.base import Metric, SampleMetric, Unscored
from idtool.evaluate.samples import Sample

THRESHOLD = 10.0
"""Degrees, of pitch and of yaw."""
NEUTRAL_PITCH = {"face-landmarker": -5.0}
"""Model -> the pitch in degrees that it reads for a head held level; 0 for those that are not listed, which is how the
paper takes InsightFace's. The mesh network's canonical face leans back: 27 fixture photos called level by eye read
-3.8 in the middle, all 116 frontal ones -7.0; of 43 photos called up, level or down by eye, taken from both ends of
the range, -5 tells most apart (36; as read, with 0, 32). Chosen on those photos."""
ORIENTATIONS = {"front view": "yaw", "side view": "yaw", "facing up": "pitch", "facing down": "pitch"}
"""What may be asked for, and the angle that decides."""
_CALLED = {"front view": "front", "side view": "side", "facing up": "up", "facing down": "down"}

Measured = type[PeoplePose] | type[PeopleMesh]
POSES: tuple[Measured, ...] = (PeoplePose, PeopleMesh)
"""Measures that give poses; the network of role `pose` goes first."""


def neutral_pitch(measure: Measured, env: Env) -> float:
    """`NEUTRAL_PITCH` of the network that the profile binds."""
    binding = measure.bound(env)
    return NEUTRAL_PITCH.get(binding.model, 0.0) if binding else 0.0


class Pose(SampleMetric):
    """On one network that gives head poses."""

    family = "pose"
    summary = "share of people who look where they were asked to: front, side, up or down"
    paper = "DynamicID §4.1 and App. 7.4 (buffalo_l, 10 degrees); people from left to right, missing ones as 0 are ours"
    unit = "share"
    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "editability"

    def __init__(self, measure: Measured, neutral: float) -> None:
        self.column, self.neutral = measure.writes.names[0], neutral
        self.image = ("people", PeopleIdentity.name, measure.name)
        self.reference = ("people", PeopleIdentity.name)
        self.network = measure.name

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        found = [cls(measure, neutral_pitch(measure, env)) for measure in POSES if measure.bound(env)]
        if not found:
            raise Unscored(f"needs role pose or landmarks; profile {env.profile} binds neither")
        return found

    def settings(self) -> dict[str, Any]:
        return {"threshold": THRESHOLD, "neutral_pitch": self.neutral}

    def __call__(self, sample: Sample) -> float:
        wishes = asked(sample, "orientation", PeopleIdentity.writes.names[0])
        for wish in wishes:
            if wish.word not in ORIENTATIONS:
                raise Unscored(f"{wish.word!r} is none of the orientations {', '.join(ORIENTATIONS)}")
        faces = sample.image[self.column]
        right = [
            wish.face is not None and called(faces[wish.face], wish.word, self.neutral) == _CALLED[wish.word]
            for wish in wishes
        ]
        return float(np.mean(right))


def called(angles: Sequence[float], orientation: str, neutral: float) -> str:
    """up, down or front by the pitch, or side or front by the yaw, whichever the orientation is about. `angles`: yaw,
    pitch, roll in degrees; `neutral`: the pitch of a level head."""
    yaw, pitch = float(angles[0]), float(angles[1]) - neutral
    if ORIENTATIONS[orientation] == "yaw":
        return "side" if abs(yaw) > THRESHOLD else "front"
    return "up" if pitch > THRESHOLD else "down" if pitch < -THRESHOLD else "front"
