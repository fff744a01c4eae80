"""Portraits of people who do not exist: MobileStyleGAN at 1024 px on OpenVINO (Belousov, arXiv:2104.04767).

A person is a style (512 numbers): the mapping network turns normal noise z into w, and truncation draws it to the
mean, w = mean + psi (w - mean) (Karras et al., CVPR 2019, eq. 2). The synthesis network modulates 23 layers, coarse
to fine. As shipped it takes one style for all; here each layer takes its own row, which changes no number when the
rows are equal, and lets one change pose in the coarse layers, or light and colours in the fine ones, of one person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.local import available_cpus
from idtool.models import runtime, weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

NAME = "mobilestylegan"
YAW, HAIR, PITCH, SMILE = 1, 2, 4, 6
"""Directions of the coarse layers, by their number."""
MOST_STREAMS = 16
"""Images that all callers together have at work at once, at most; more when one call alone may have more."""
_LATENT = re.compile(rf"{NAME} seed (\d{{1,19}}(?: \d{{1,19}}){{0,15}}) psi (\d(?:\.\d{{1,6}})?)")


@dataclass(frozen=True)
class Latent:
    """What a portrait of one style for all layers is drawn from; `str` and `read` are the two ways of its text."""

    seed: tuple[int, ...]
    """Of the noise (`numpy.random.default_rng`)."""
    psi: float
    """Of the truncation."""

    def __str__(self) -> str:
        return f"{NAME} seed {' '.join(map(str, self.seed))} psi {self.psi:g}"

    @classmethod
    def read(cls, text: str) -> Latent:
        """ValueError for other text than `mobilestylegan seed 0 7 psi 0.6`."""
        found = _LATENT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected `{cls((0, 7), 0.6)}`, got {text[:80]!r}")
        return cls(tuple(map(int, found[1].split())), float(found[2]))


class MobileStyleGan:
    """Styles to portraits. Deterministic: the pixels depend on the style alone, not on threads or neighbours."""

    name = NAME
    SIZE: ClassVar[int] = 1024
    DIM: ClassVar[int] = 512
    LAYERS: ClassVar[int] = 23
    COARSE: ClassVar[slice] = slice(0, 5)
    """Layers of 4 and 8 px: head pose, shape of head and hair."""
    FINE: ClassVar[slice] = slice(12, 23)
    """Layers from 64 px on: colours, light, texture."""
    MEAN_OF: ClassVar[int] = 512
    """Styles that the mean style is taken over."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        import openvino as ov

        runtime.cpu_only(device, "The portrait network")
        folder = weights.path(self.name)
        core = ov.Core()
        # Full precision even where the CPU offers bfloat16, and one thread per image: images run side by side, those of
        # one call (`threads`) and those of several callers.
        streams = max(threads, min(available_cpus(), MOST_STREAMS))
        each = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
        self._mapping = core.compile_model(core.read_model(folder / "MappingNetwork.xml"), "CPU", each)
        model, self._affine = _style_per_layer(core.read_model(folder / "SynthesisNetwork.xml"))
        if len(self._affine) != self.LAYERS:
            raise ValueError(f"the synthesis network has {len(self._affine)} styled layers, not {self.LAYERS}")
        self._synthesis = core.compile_model(model, "CPU", each)
        self._threads = threads

    def style(self, z: npt.ArrayLike) -> Floats:
        """Normal noise (N, 512) to styles w (N, 512), not truncated."""
        rows = np.asarray(z, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.DIM:
            raise ValueError(f"Expected z of Nx{self.DIM}. Got {rows.shape}")
        request = self._mapping.create_infer_request()
        return np.concatenate([request.infer([row[None]])[0].copy() for row in rows])

    @cached_property
    def mean(self) -> Floats:
        """(512,) mean style: the average face."""
        z = np.random.default_rng(0).standard_normal((self.MEAN_OF, self.DIM)).astype(np.float32)
        return np.asarray(self.style(z).mean(axis=0), np.float32)

    def truncate(self, style: npt.ArrayLike, psi: float = 0.6) -> Floats:
        """Styles drawn towards the mean: 1 leaves them, 0 gives the average face; .6 rarely shows artefacts."""
        return np.asarray(self.mean + psi * (np.asarray(style, np.float32) - self.mean), np.float32)

    def drawn(self, latent: Latent) -> Floats:
        """(512,) the truncated style that a latent stands for."""
        z = np.random.default_rng(list(latent.seed)).standard_normal((1, self.DIM))
        return np.asarray(self.truncate(self.style(z), latent.psi)[0])

    @cached_property
    def coarse_directions(self) -> Floats:
        """(8, 512) the directions that `moved` goes by."""
        return self.directions(self.COARSE, 8)

    def directions(self, layers: slice, count: int) -> Floats:
        """(count, 512) unit directions of the style that change the given layers most, strongest first.

        Closed-form factorisation (Shen and Zhou, "Closed-Form Factorization of Latent Semantics in GANs", CVPR 2021):
        eigenvectors of A^T A, A the layers' style weights; no images are needed. Signs are fixed by making the
        largest component positive. Of the coarse layers, 0 destroys the image, 1 is yaw, 2 hair, 4 pitch, 6 a smile.
        """
        stacked = np.concatenate(self._affine[layers]).astype(np.float64)
        _, vectors = np.linalg.eigh(stacked.T @ stacked)
        strongest = vectors[:, ::-1].T[:count]
        largest = np.take_along_axis(strongest, np.abs(strongest).argmax(axis=1)[:, None], axis=1)
        return np.asarray(strongest * np.sign(largest), np.float32)

    def layered(self, style: npt.ArrayLike) -> Floats:
        """One style (512,) for all layers: (23, 512)."""
        return np.repeat(np.asarray(style, np.float32).reshape(1, self.DIM), self.LAYERS, axis=0)

    def moved(self, style: npt.ArrayLike, moves: Mapping[int, float]) -> Floats:
        """(23, 512): one style (512,) with its coarse layers moved by amounts along directions (`YAW`, …)."""
        layered = self.layered(style)
        for direction, amount in moves.items():
            layered[self.COARSE] += np.float32(amount) * self.coarse_directions[direction]
        return layered

    def render(self, styles: npt.ArrayLike | Sequence[Floats]) -> list[Image]:
        """Layered styles (N, 23, 512) to RGB uint8 portraits (1024, 1024, 3)."""
        import openvino as ov

        rows = np.asarray(styles, np.float32)
        if rows.ndim != 3 or rows.shape[1:] != (self.LAYERS, self.DIM):
            raise ValueError(f"Expected styles of Nx{self.LAYERS}x{self.DIM}. Got {rows.shape}")
        images: list[Image | None] = [None] * len(rows)

        def keep(request: Any, index: int) -> None:
            images[index] = _to_image(request.get_output_tensor(0).data[0])

        queue = ov.AsyncInferQueue(self._synthesis, self._threads)
        queue.set_callback(keep)
        for index, row in enumerate(rows):
            queue.start_async([np.ascontiguousarray(row[None])], index)
        queue.wait_all()
        return [image for image in images if image is not None]

    @classmethod
    def fingerprint(cls) -> dict[str, Any]:
        """What the portraits depend on. Needs no weights to be here."""
        return {
            "model": cls.name,
            "sha256": weights.sha256(cls.name),
            "mean_of": cls.MEAN_OF,
            **runtime.versions("openvino", "numpy"),
        }


def _style_per_layer(model: Any) -> tuple[Any, list[Floats]]:
    """Give every styled layer of the synthesis network its own row of a new input (1, layers, 512).

    Returns the model and the layers' style weights (channels, 512), coarse to fine.
    """
    import openvino as ov
    from openvino import opset13 as ops

    (old,) = model.get_parameters()
    uses = list(old.output(0).get_target_inputs())
    styled = [use for use in uses if use.get_node().get_type_name() == "MatMul"]
    # Nodes carry the running number of the exported graph (Gemm_11, Gemm_52, ...), which rises from coarse to fine.
    styled.sort(key=lambda use: int(re.findall(r"\d+", use.get_node().get_friendly_name())[0]))
    affine = [np.array(use.get_node().input_value(1).get_node().data, np.float32) for use in styled]
    new = ops.parameter([1, len(styled), affine[0].shape[1]], np.float32, name="styles")
    axis = np.array(1, np.int64)
    rows = [ops.squeeze(row, axis).output(0) for row in ops.split(new, axis, len(styled)).outputs()]
    for use, row in zip(styled, rows, strict=True):
        use.replace_source_output(row)
    for use in uses:
        if use.get_node().get_type_name() != "MatMul":  # reads only the shape
            use.replace_source_output(rows[0])
    return ov.Model(model.get_results(), [new], "styles_to_portrait"), affine


def _to_image(array: npt.NDArray[np.float32]) -> Image:
    """Network output (3, H, W) in [-1, 1] to RGB uint8 (H, W, 3)."""
    return np.asarray(np.clip((array.transpose(1, 2, 0) + 1.0) * 127.5 + 0.5, 0, 255), np.uint8)
