"""478 face landmarks, 52 blendshapes and head pose: MediaPipe's face landmarker on LiteRT, without MediaPipe.

The network is Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", 2019, with
the attention mesh of Grishchenko et al., 2020; the blendshapes are ARKit's. The file is a zip of LiteRT networks.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import runtime, weights
from idtool.models.crops import warp
from idtool.models.face_geometry import CanonicalFace, euler
from idtool.models.faces import Face
from idtool.models.occlusion import SETTINGS, Occlusion, occlusion

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

POINTS = 478
BLENDSHAPES = (
    *("_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff"),
    *("cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight"),
    *("eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen"),
    *("jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight"),
    *("mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight"),
    *("mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft"),
    *("mouthUpperUpRight", "noseSneerLeft", "noseSneerRight"),
)
"""Names of the 52 blendshapes in the network's order; left and right are the person's own."""

# The 146 landmarks that the blendshape network looks at.
_BLENDSHAPE_POINTS = (
    *(0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80),
    *(81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153),
    *(154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249),
    *(251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314),
    *(317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382),
    *(384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473),
    *(474, 475, 476, 477),
)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """What the landmark network says of one face."""

    points: Floats
    """(478, 3) x and y in pixels of the image, z in pixels too, towards the viewer negative."""
    presence: float
    """[0, 1] how sure the network is that there is a face in its crop; close to 1 even for covered faces."""
    blendshapes: Floats
    """(52,) activations in [0, 1], named by `BLENDSHAPES`."""
    yaw: float
    """Degrees, > 0: the nose points to the right of the picture."""
    pitch: float
    """Degrees, > 0: the face looks up. Portraits at eye level read about -5: the canonical face leans back."""
    roll: float
    """Degrees, > 0: the head is tilted counter-clockwise."""
    occlusion: Occlusion
    """Signs that the face is partly covered; gate `occlusion.value` at 0.5."""

    def shape(self, name: str) -> float:
        """Activation [0, 1] of one blendshape. ValueError for an unknown name."""
        return float(self.blendshapes[BLENDSHAPES.index(name)])

    @property
    def eyes_open(self) -> float:
        """[0, 1] 1 - the blink of the more closed eye. Looking down counts as partly closed."""
        return 1.0 - max(self.shape("eyeBlinkLeft"), self.shape("eyeBlinkRight"))

    @property
    def mouth_open(self) -> float:
        """[0, 1] how far the jaw is open; a smile that shows the teeth is near 0."""
        return self.shape("jawOpen")


class FaceLandmarker:
    """MediaPipe face landmarker. Safe to call from several threads."""

    name = "face-landmarker"
    CROP: ClassVar[int] = 256
    """Pixels of the network's input."""
    MARGIN: ClassVar[float] = 1.5
    """Side of the crop over the longer side of the detected box."""
    SECOND_LOOK: ClassVar[tuple[float, float, float, float]] = (0.05, 0.04, 1.1, 0.1)
    """The other crop: shift in x and y as shares of the side, scale, and rotation in radians."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        with zipfile.ZipFile(weights.path(self.name)) as task:
            self._mesh = runtime.litert(task.read("face_landmarks_detector.tflite"), device, threads)
            self._shapes = runtime.litert(task.read("face_blendshapes.tflite"), device, threads)
            self._canonical = CanonicalFace.parse(task.read("geometry_pipeline_metadata_landmarks.binarypb"))

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Landmarks]:
        """One face in each RGB uint8 image (H, W, 3). The same image may be given for several faces.

        Raises ValueError when the two lists differ in length or an array is of another kind.
        """
        return [self._one(image, face) for image, face in zip(images, faces, strict=True)]

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "model": self.name,
            "sha256": weights.sha256(self.name),
            "preprocessing": f"box x {self.MARGIN}, eyes level, {self.CROP} px, RGB / 255, mean of two crops",
            "second_look": list(self.SECOND_LOOK),
            "occlusion": list(SETTINGS),
            **runtime.versions("ai-edge-litert", "opencv-python-headless", "numpy"),
        }

    def _one(self, image: Image, face: Face) -> Landmarks:
        import cv2

        centre = np.asarray(face.box, np.float64).reshape(2, 2).mean(axis=0)
        side = float(max(face.box[2] - face.box[0], face.box[3] - face.box[1])) * self.MARGIN
        level = face.kps[1] - face.kps[0]
        angle = float(np.arctan2(level[1], level[0]))
        first = self._matrix(centre, side, angle)
        crop = warp(image, first, self.CROP)
        points, presence = self._look(crop)

        dx, dy, scale, turn = self.SECOND_LOOK
        other = self._matrix(centre + side * np.array([dx, dy]), side * scale, angle + turn)
        again, presence_again = self._look(warp(image, other, self.CROP))
        back = cv2.invertAffineTransform(other)
        again = np.concatenate([_map(first, _map(back, again[:, :2])), again[:, 2:] * scale], axis=1)

        kps = _map(first, face.kps.astype(np.float64))
        covered = occlusion(crop, points, again, kps)
        mean = (points + again) / 2
        placed = np.concatenate(
            [_map(cv2.invertAffineTransform(first), mean[:, :2]), mean[:, 2:] * side / self.CROP], 1
        )
        yaw, pitch, roll = euler(self._canonical.rotation(placed))
        return Landmarks(
            points=placed.astype(np.float32),
            presence=(presence + presence_again) / 2,
            blendshapes=self._blendshapes(placed),
            yaw=yaw,
            pitch=pitch,
            roll=roll,
            occlusion=covered,
        )

    def _matrix(self, centre: Doubles, side: float, angle: float) -> Doubles:
        """Image to crop: a square of `side` pixels about `centre`, turned so that a line at `angle` becomes level."""
        scale = self.CROP / side
        cos, sin = np.cos(-angle) * scale, np.sin(-angle) * scale
        linear = np.array([[cos, -sin], [sin, cos]])
        return np.concatenate([linear, (self.CROP / 2 - linear @ centre)[:, None]], axis=1)

    def _look(self, crop: Image) -> tuple[Doubles, float]:
        """Landmarks (478, 3) in crop pixels, and presence [0, 1]."""
        outputs = _invoke(self._mesh.get(), (crop.astype(np.float32) / 255.0)[None])
        by_size = {output.size: output for output in outputs if output.ndim == 4}
        points = by_size[POINTS * 3].reshape(POINTS, 3).astype(np.float64)
        return points, float(1 / (1 + np.exp(-by_size[1].item())))

    def _blendshapes(self, points: Doubles) -> Floats:
        wanted = points[list(_BLENDSHAPE_POINTS), :2].astype(np.float32)[None]
        (shapes,) = _invoke(self._shapes.get(), wanted)
        return np.clip(shapes.reshape(-1), 0.0, 1.0).astype(np.float32)


def _invoke(interpreter: Any, array: Floats) -> list[Floats]:
    """Run a LiteRT network with one input; copies of its outputs, in the network's order."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(array))
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def _map(matrix: Doubles, points: Doubles) -> Doubles:
    """Apply an affine transform (2, 3) to points (N, 2)."""
    return points @ np.asarray(matrix)[:, :2].T + np.asarray(matrix)[:, 2]
