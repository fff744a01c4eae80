"""PuLID for FLUX.1-dev 0.9.1 (Guo et al., NeurIPS 2024): identity tokens that the image looks at after every second
double and every fourth single block.

Conditions on antelopev2's recognition network, raw embedding, and on EVA02-CLIP of the grey, parsed face. Where the
authors detect and align by their own detectors, the face of the profile's detector is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate.flux.method import FluxMethod, FluxSettings
from idtool.generate.method import MethodSettings, Request
from idtool.models import torch_runtime


class PulidSettings(FluxSettings):
    """Defaults are those of the authors' demonstration."""

    width: int = Field(default=896, ge=8, le=8192)
    height: int = Field(default=1152, ge=8, le=8192)
    guidance: float = Field(default=4.0, ge=0)
    text_length: int = Field(default=128, ge=16, le=512)
    id_weight: float = Field(default=1.0, ge=0)
    """Of what the identity adds."""
    start_step: int = Field(default=4, ge=0)
    """The first step with it: 4 for photographs, 0 or 1 for other styles, as the authors say."""


class Pulid(FluxMethod):
    """Identity tokens beside the blocks."""

    summary = "PuLID-FLUX 0.9.1: identity tokens of a face network and EVA-CLIP beside the blocks of FLUX.1-dev"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "FLUX.1-dev, a diffusers folder",
        "adapter": "pulid_flux_v0.9.1.safetensors (option `file`)",
        "face": "the identity network that it was trained with, InsightFace's antelopev2",
        "vision": "EVA02-CLIP-L at 336 px, a timm folder or one file",
        "parser": "a face parser",
    }
    packages: ClassVar[tuple[str, ...]] = (*FluxMethod.packages, "timm")
    Settings: ClassVar[type[MethodSettings]] = PulidSettings
    needs_face = True
    vram_gib = 45.0

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.flux import id_former
        from idtool.generate.flux.vision import EvaTower
        from idtool.models import load

        path, what = self.file("adapter")
        state = torch_runtime.read_tensors(path)
        try:
            network = id_former.Pulid.like(state)
        except KeyError as error:
            raise MissingError(f"{what} is no PuLID checkpoint for FLUX: it has no {error}.", _HINT) from None
        torch_runtime.fill(network, state, what)
        transformer = pipe.transformer
        self.sites = id_former.sites(len(transformer.transformer_blocks), len(transformer.single_transformer_blocks))
        width = network.pulid_ca[0].norm2.weight.shape[0]
        if len(self.sites) != len(network.pulid_ca) or width != transformer.inner_dim:
            raise MissingError(
                f"{what} has {len(network.pulid_ca)} cross-attentions {width} wide; the base model takes "
                f"{len(self.sites)} of {transformer.inner_dim}.",
                _HINT,
            )
        self.network = torch_runtime.ready(network, self.device, self.precision)
        self.tower = EvaTower(self.weights("vision"), self.device, self.precision)
        bindings = self.spec.bindings
        device, threads = context.device, context.threads
        self.face = load(replace(bindings["face"], role="identity"), device=device, threads=threads)
        self.parser = load(replace(bindings["parser"], role="parser"), device=device, threads=threads)

    def identity(self, requests: Sequence[Request]) -> tuple[Any, Any]:
        """Identity tokens (B, queries, width) of the references, and those of nobody."""
        import torch

        from idtool.generate.flux.portrait import grey_face

        images = [request.people[0].image for request in requests]
        faces: list[Any] = [request.people[0].face for request in requests]
        raw = self.face.embed(self.face.crops(images, faces))
        parsed = self.parser(images, faces)
        pictures = [grey_face(*each) for each in zip(images, faces, parsed, strict=True)]
        pooled, features = self.tower(pictures)
        vector = torch.from_numpy(np.asarray(raw, np.float32)).to(pooled.device, pooled.dtype)
        vector = torch.cat([vector, pooled], dim=-1)
        encoder = self.network.pulid_encoder
        if vector.shape[1] != encoder.id_embedding_mapping[0].in_features:
            raise MissingError(
                f"The identity network and the vision tower give {vector.shape[1]} numbers; PuLID takes "
                f"{encoder.id_embedding_mapping[0].in_features}.",
                "Bind the networks that it was trained with.",
            )
        nobody = encoder(torch.zeros_like(vector), [torch.zeros_like(each) for each in features])
        return encoder(vector, features), nobody

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        from idtool.generate.flux.transformer import Additions

        settings = requests[0].settings
        assert isinstance(settings, PulidSettings)  # noqa: S101 - the registry pairs class and settings
        somebody, nobody = self.identity(requests)

        def hooks(tokens: Any) -> dict[Any, Callable[[Any], Any]]:
            def hook(cross: Any) -> Callable[[Any], Any]:
                return lambda image: settings.id_weight * cross(tokens, image)

            return {site: hook(cross) for site, cross in zip(self.sites, self.network.pulid_ca, strict=True)}

        added = {False: Additions(hooks=hooks(somebody)), True: Additions(hooks=hooks(nobody))}

        def changes(step: Any) -> Mapping[str, Any]:
            if step.number < settings.start_step or settings.id_weight == 0:
                return {}
            return {"additions": added[step.negative]}

        return changes

    def preprocessing(self) -> Mapping[str, Any]:
        return {
            "face": self.face.fingerprint(),
            "parser": self.parser.fingerprint(),
            "vision": {
                **self.weights("vision").facts(),
                "preprocessing": "5 points to facexlib's 512 px, grey, white outside the face, bicubic, CLIP's mean",
                "size": self.tower.size,
            },
        }


_HINT = "Bind pulid_flux_v0.9.1.safetensors of hf:guozinan/PuLID, and FLUX.1-dev as its base."
