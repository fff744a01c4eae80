"""An offline method: portraits of people who do not exist, the one that is most like the reference.

The synthetic portrait network draws some candidates, a face network judges them, and the search goes on around the
best one. No prompt is read and no weights are learned, so it is a weak method by design: better than a stranger, far
from a copy. It exists so that a benchmark with real pictures runs on a machine without a GPU and without a model hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context
from idtool.generate.baselines import fitted
from idtool.generate.method import Image, Made, Method, MethodSettings, Request

REMEMBERED = 64
"""Portraits that a worker remembers, 3 MB each."""


class SearchSettings(MethodSettings):
    candidates: int = Field(default=6, ge=1, le=256)
    """Portraits drawn at first."""
    rounds: int = Field(default=1, ge=0, le=64)
    """Rounds of search around the best one, with half as many candidates each."""
    truncation: float = Field(default=0.7, gt=0, le=1)
    """1: all that the network can draw; 0: the average face."""
    spread: float = Field(default=0.5, gt=0, le=1.4)
    """How far a round strays from the best style, as a share of a new draw."""


class PortraitSearch(Method):
    """Random search over styles (Rastrigin, 1963) for the highest cosine to the reference."""

    summary = "offline: a synthetic portrait, the most like the reference of a few; reads no prompt"
    needs_face = True
    needs_prompt = False
    parallel = True
    roles = ("portraits", "faces", "identity")
    Settings: ClassVar[type[MethodSettings]] = SearchSettings

    def load(self, context: Context) -> None:
        from idtool.models import load

        def ready(role: str) -> Any:
            return load(self.bound[role][0], device=context.device, threads=context.threads)

        self.portraits, self.detector, self.identity = ready("portraits"), ready("faces"), ready("identity")
        self.found: dict[tuple[bytes, str], tuple[float, Image]] = {}
        """What was found for a face, seed and settings: requests that differ in their prompt alone get the same."""

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        return [self._one(request) for request in requests]

    def preprocessing(self) -> Mapping[str, Any]:
        return {"identity": self.identity.fingerprint()}

    def _one(self, request: Request) -> Made:
        settings = request.settings
        assert isinstance(settings, SearchSettings)  # noqa: S101 - the registry pairs class and settings
        person = request.people[0]
        wanted = self._embed([person.image], [person.face])[0]
        key = (wanted.tobytes(), f"{request.seed} {settings.model_dump_json(exclude={'width', 'height'})}")
        if key not in self.found:
            if len(self.found) >= REMEMBERED:
                self.found.clear()
            self.found[key] = self._search(wanted, request.seed, settings)
        cosine, image = self.found[key]
        return Made(fitted(image, request.width, request.height), {"searched_cosine": round(cosine, 4)})

    def _search(self, wanted: Any, seed: int, settings: SearchSettings) -> tuple[float, Image]:
        """The best cosine, and its portrait."""
        draw = np.random.default_rng(seed)
        best: tuple[float, Any, Image] | None = None
        for number in range(settings.rounds + 1):
            count = settings.candidates if number == 0 else max(1, settings.candidates // 2)
            z = draw.standard_normal((count, self.portraits.DIM)).astype(np.float32)
            if best is not None:
                # On the sphere of the noise, so that candidates stay as likely as a draw.
                z = np.sqrt(1 - settings.spread**2 / 2) * best[1] + settings.spread / np.sqrt(2) * z
            for noise, image in zip(z, self._render(z, settings.truncation), strict=True):
                score = self._likeness(image, wanted)
                if best is None or score > best[0]:
                    best = (score, noise, image)
        assert best is not None  # noqa: S101 - at least one candidate
        return best[0], best[2]

    def _render(self, z: Any, truncation: float) -> list[Image]:
        styles = self.portraits.truncate(self.portraits.style(z), truncation)
        rendered: list[Image] = self.portraits.render(np.stack([self.portraits.layered(style) for style in styles]))
        return rendered

    def _likeness(self, image: Image, wanted: Any) -> float:
        faces = self.detector.detect([image])[0]
        return float(self._embed([image], [faces[0]])[0] @ wanted) if faces else -1.0

    def _embed(self, images: Sequence[Image], faces: Sequence[Any]) -> Any:
        raw = np.asarray(self.identity.embed(np.stack(self.identity.crops(images, faces))), np.float32)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)
