"""UNO (Wu et al., ICCV 2025): references as further tokens of FLUX.1-dev behind those of the image, with the image's
time embedding, and a LoRA on all attention.

The tokens' positions lie on the diagonal: those of the first reference begin at the image's height and width, those of
the next where the one before ended, in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.generate.flux.method import FluxMethod, FluxSettings
from idtool.generate.layouts import Size, uno_reference, uno_sizes
from idtool.generate.method import MethodSettings, Person, Request
from idtool.models import torch_runtime

FEWER = 64
"""The authors' code shifts the schedule as for so many times fewer tokens than the image has."""


class UnoSettings(FluxSettings):
    """Defaults are the authors'."""

    width: int = Field(default=512, ge=8, le=8192)
    """512 to 704, as in training."""
    height: int = Field(default=512, ge=8, le=8192)
    steps: int = Field(default=25, ge=1, le=1000)
    guidance: float = Field(default=4.0, ge=0)
    reference_size: int | None = Field(default=None, ge=16, le=2048, multiple_of=16)
    """Longer side of the references; null: 512 for one, 320 each for several, as the authors have it."""
    schedule: Literal["authors", "flux"] = "authors"
    """authors: shifted as their code does it, which counts 64 times fewer tokens than there are; flux: as FLUX is."""

    def long(self, people: int) -> int:
        return self.reference_size or (512 if people == 1 else 320)


class Uno(FluxMethod):
    """Up to four references as tokens."""

    summary = "UNO: up to four references as tokens of FLUX.1-dev, with a LoRA"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "FLUX.1-dev, a diffusers folder",
        "adapter": "UNO's dit_lora.safetensors (option `file`)",
    }
    Settings: ClassVar[type[MethodSettings]] = UnoSettings
    people = (1, 4)
    fixed: ClassVar[tuple[str, ...]] = (*FluxMethod.fixed, "schedule")

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.flux_loras import flux_lora

        settings = self.spec.settings
        assert isinstance(settings, UnoSettings)  # noqa: S101 - the registry pairs class and settings
        lora = flux_lora(self.weights("adapter"), pipe.transformer)
        lora.attach(pipe.transformer)
        self.loras = (torch_runtime.ready(lora, self.device, self.precision),)
        if settings.schedule == "authors":
            pipe.scheduler = shifted_less(pipe.scheduler)

    def check(self, request: Request) -> None:
        super().check(request)
        for number, person in enumerate(request.people, start=1):
            if 0 in self.kept(person, request):
                height, width = person.image.shape[:2]
                raise Rejected("reference.shape", f"reference {number} is too thin for UNO: {width} x {height} px")

    def kept(self, person: Person, request: Request) -> Size:
        """Width and height of a reference as the model sees it."""
        height, width = person.image.shape[:2]
        return uno_sizes((width, height), _settings(request).long(len(request.people)))[1]

    def alike(self, request: Request) -> Hashable:
        return tuple(self.kept(person, request) for person in request.people)

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        import torch

        from idtool.generate.flux.latents import encode_images, pack, positions
        from idtool.generate.flux.transformer import Additions

        first = requests[0]
        long = _settings(first).long(len(first.people))
        grids = [(height // 16, width // 16) for width, height in (self.kept(one, first) for one in first.people)]
        shifts = diagonal((first.height // 16, first.width // 16), grids)
        tokens = [
            pack(self.pipe, encode_images(self.pipe, [uno_reference(one.people[k].image, long) for one in requests]))
            for k in range(len(first.people))
        ]

        def changes(step: Any) -> Mapping[str, Any]:
            ids = [positions(*grid, step.ids, shift) for grid, shift in zip(grids, shifts, strict=True)]
            return {
                "hidden_states": torch.cat([step.latents, *(part.to(step.latents.dtype) for part in tokens)], dim=1),
                "img_ids": torch.cat([step.ids, *ids]),
                "additions": Additions(loras=self.loras),
            }

        return changes

    def facts(self, request: Request) -> Mapping[str, Any]:
        return {"reference_sizes": [list(self.kept(person, request)) for person in request.people]}

    def preprocessing(self) -> Mapping[str, Any]:
        return {"references": "longer side 512 px (one) or 320 (several), Lanczos, middle in multiples of 16, VAE mode"}


def diagonal(image: tuple[int, int], grids: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the positions of each reference begin (row, column), from rows and columns of the image and of each."""
    starts = []
    row, column = image
    for rows, columns in grids:
        starts.append((row, column))
        row, column = row + rows, column + columns
    return starts


def shifted_less(scheduler: Any) -> Any:
    """The scheduler with FLUX's shift for `FEWER` times fewer tokens than it is asked for."""
    config = scheduler.config
    return type(scheduler).from_config(
        config,
        base_image_seq_len=config.get("base_image_seq_len", 256) * FEWER,
        max_image_seq_len=config.get("max_image_seq_len", 4096) * FEWER,
    )


def _settings(request: Request) -> UnoSettings:
    assert isinstance(request.settings, UnoSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
