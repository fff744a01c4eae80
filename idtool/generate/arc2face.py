"""Arc2Face (Papantoniou et al., ECCV 2024): Stable Diffusion 1.5, tuned on faces, that reads a face vector in place of
a word of a fixed sentence. It reads no prompt of the request, and the record says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate.diffusion import LEFT_OUT, DiffusionSettings
from idtool.generate.faces_for import SLOT, FaceVectors
from idtool.generate.method import MethodSettings, Request
from idtool.generate.stable import SD, StableMethod
from idtool.models import sources, torch_runtime

SENTENCE, WORD = "photo of a id person", "id"
"""What the text encoder was tuned on, and the word that the face stands for."""


class Arc2FaceSettings(DiffusionSettings):
    """Defaults are the authors'."""

    steps: int = Field(default=25, ge=1, le=1000)
    guidance: float = Field(default=3.0, ge=0)
    scheduler: Literal["dpm++", "base"] = "dpm++"
    """dpm++: the authors'; base: the one that comes with the base model."""


class Arc2Face(StableMethod):
    """A face from its vector alone."""

    summary = "Arc2Face: a portrait from a face's vector alone; the prompt is not read"
    bases: ClassVar[tuple[str, ...]] = (SD,)
    slots: ClassVar[Mapping[str, str]] = {
        "base": "SD1.5, a diffusers folder: its VAE and tokenizer",
        "adapter": "the folder of FoivosPar/Arc2Face: the UNet in arc2face, the text encoder in encoder",
        "face": f"{SLOT}, the authors' arcface.onnx",
    }
    optional: ClassVar[Mapping[str, str]] = {
        "encoder": "the weights of the text encoder as a file (encoder/pytorch_model.bin), where the folder lacks them"
    }
    Settings: ClassVar[type[MethodSettings]] = Arc2FaceSettings
    fixed: ClassVar[tuple[str, ...]] = (*StableMethod.fixed, "scheduler")
    needs_face = True
    needs_prompt = False

    def components(self) -> dict[str, Any]:
        from diffusers import UNet2DConditionModel

        from idtool.generate.flux.method import loaded

        weights = self.weights("adapter")
        for part in ("arc2face", "encoder"):
            if not (weights.path / part / "config.json").is_file():
                raise MissingError(
                    f"Model {weights.model} ({weights.path}) has no {part}/config.json.",
                    "Bind hf:FoivosPar/Arc2Face to slot `adapter`.",
                )
        unet = loaded(UNet2DConditionModel, weights, self.precision, subfolder="arc2face")
        encoder = self._encoder(weights)
        if encoder.config.hidden_size != unet.config.cross_attention_dim:
            raise MissingError(
                f"Model {weights.model}: its text encoder is {encoder.config.hidden_size} wide, its UNet takes "
                f"{unet.config.cross_attention_dim}.",
                "Fetch it again.",
            )
        return {**super().components(), "unet": unet, "text_encoder": encoder}

    def _encoder(self, weights: sources.Weights) -> Any:
        from transformers import CLIPTextConfig, CLIPTextModel

        inner = sources.Weights(weights.model, weights.path / "encoder", weights.revision, weights.licence)
        dtype = torch_runtime.dtype_of(self.precision)
        if "encoder" not in self.spec.bindings:
            return torch_runtime.pretrained(CLIPTextModel, inner).to(dtype).eval()
        config = torch_runtime.processor(CLIPTextConfig, inner, "text encoder's configuration")
        file = self.weights("encoder")
        path = torch_runtime.file_of(file)
        # Older releases of the library have everything below `text_model`.
        state = {name.removeprefix("text_model."): value for name, value in torch_runtime.read_tensors(path).items()}
        network = CLIPTextModel(config)
        torch_runtime.fill(network, state, f"Model {file.model} ({path})", ignore=("position_ids",))
        return network.to(dtype).eval()

    def prepare(self, pipe: Any, context: Context) -> None:
        settings = self.spec.settings
        assert isinstance(settings, Arc2FaceSettings)  # noqa: S101 - the registry pairs class and settings
        self.face = FaceVectors(self.spec.bindings["face"], context)
        width = int(pipe.text_encoder.config.hidden_size)
        if self.face.dim > width:
            self.face.must_give(width, "Arc2Face's text encoder, at most,")
        self.ids, self.place = sentence(pipe.tokenizer)
        if settings.scheduler == "dpm++":
            from diffusers import DPMSolverMultistepScheduler

            pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        import torch

        vectors = torch.from_numpy(self.face.unit([request.people[0] for request in requests]))
        with torch.inference_mode():
            embeds = encoded(self.pipe.text_encoder, self.ids, self.place, vectors, self.pipe._execution_device)
        return {"prompt": LEFT_OUT, "prompt_embeds": embeds}

    def facts(self, request: Request) -> Mapping[str, Any]:
        return {"prompt": "not read"} if request.prompt.strip() else {}

    def preprocessing(self) -> Mapping[str, Any]:
        return {"face": self.face.told(f"divided by its length, filled with zeros, for {WORD!r} in {SENTENCE!r}")}


def sentence(tokenizer: Any) -> tuple[Any, int]:
    """The tokens (1, length) of `SENTENCE`, and where the first token of `WORD` is. MissingError when it is not there
    just once."""
    filled = tokenizer(
        SENTENCE, truncation=True, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    ids = filled.input_ids
    word = tokenizer.encode(WORD, add_special_tokens=False)[0]
    places = (ids[0] == word).nonzero().flatten().tolist()
    if len(places) != 1:
        raise MissingError(
            f"The base's tokenizer has {WORD!r} {len(places)} times in {SENTENCE!r}.", "Bind SD1.5 to slot `base`."
        )
    return ids, int(places[0])


def encoded(encoder: Any, ids: Any, place: int, vectors: Any, device: Any) -> Any:
    """Hidden states (N, length, width) of the sentence with vectors (N, up to width) in place of the token at `place`.

    `device`: where the encoder runs.
    """
    import torch

    embedding = encoder.get_input_embeddings()
    filled = torch.nn.functional.pad(vectors, (0, embedding.weight.shape[1] - vectors.shape[1]))
    with replaced(embedding, place, filled):
        out = encoder(ids.repeat(len(vectors), 1).to(device))
    return out.last_hidden_state


@contextlib.contextmanager
def replaced(embedding: Any, place: int, rows: Any) -> Iterator[None]:
    """Inside the block, the embedding gives `rows` (N, width) for the tokens at `place`."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        output = output.clone()
        output[:, place] = rows.to(output)
        return output

    handle = embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
