"""The models of open_clip (Cherti et al., CVPR 2023)."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from idtool.errors import MissingError
from idtool.models import preprocess, runtime, torch_runtime
from idtool.models.image_text import ImageText
from idtool.models.sources import Weights


class OpenClip(ImageText):
    """A model of open_clip: a folder with `open_clip_config.json` and weights, as open_clip keeps them on the hub.

    The configuration decides what the network is, its activation included: OpenAI's weights need QuickGELU, and an
    address whose tag is known to need it (or not to) is refused when the folder says otherwise. Images go through
    open_clip's own evaluation transform (Pillow).
    """

    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "open_clip")

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 32,
    ) -> None:
        super().__init__(weights, device=device, threads=threads, dtype=dtype, compiled=compiled, batch=batch)
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        settings = _settings(weights)
        file = _checkpoint(weights)
        what = f"Model {weights.model} ({file})"
        place = f"local-dir:{weights.path}"
        with torch_runtime.as_missing(what), _without_its_log():
            # Towers of their own weights (`pretrained_text`) would be fetched, only to be overwritten.
            network = open_clip.create_model(place, load_weights=False, pretrained_text=False)
            _check_sizes(network, file, what)
            open_clip.load_checkpoint(network, str(file), strict=True, weights_only=True)
            self._tokenizer = open_clip.get_tokenizer(place)
        shown = network.visual.preprocess_cfg
        words = f"open_clip (Pillow): {json.dumps(shown, sort_keys=True)}"
        self._pictures = preprocess.of_pipeline(
            image_transform_v2(PreprocessCfg(**shown), is_train=False),
            words,
            torch_runtime.preparers(self._device, threads),
        )
        self.scale = float(network.logit_scale.detach().double().exp())
        self.dim, self.limit = int(settings["embed_dim"]), int(self._tokenizer.context_length)
        self.label = _label(weights.model)
        self._network = torch_runtime.ready(network, self._device, dtype)
        if compiled:
            self._network.visual.compile()

    def _image_features(self, tensors: preprocess.Tensors) -> Any:
        with torch_runtime.import_torch().inference_mode():
            return self._network.encode_image(tensors["pixel_values"])

    def _text_features(self, tensors: preprocess.Tensors) -> Any:
        with torch_runtime.import_torch().inference_mode():
            return self._network.encode_text(tensors["input_ids"])

    def _tokenize(self, texts: list[str]) -> tuple[preprocess.Tensors, list[int]]:
        tokens = self._tokenizer(texts)
        return {"input_ids": tokens}, [max(0, self._length(text) - self.limit) for text in texts]

    def _length(self, text: str) -> int:
        """Tokens of a text, marks included."""
        if hasattr(self._tokenizer, "encode"):
            return len(self._tokenizer.encode(text)) + 2
        inner, cleaned = self._tokenizer.tokenizer, self._tokenizer.clean_fn(text)
        if self._tokenizer.tokenizer_mode == "clips":
            return len(inner(cleaned, add_special_tokens=False, verbose=False)["input_ids"]) + 3
        return len(inner(cleaned, verbose=False)["input_ids"])

    def _text_words(self) -> str:
        return f"open_clip {type(self._tokenizer).__name__}, at most {self.limit} tokens"

    def _versions(self) -> dict[str, str]:
        return runtime.versions("torch", "torchvision", "open_clip_torch", "timm", "pillow")


def _settings(weights: Weights) -> dict[str, Any]:
    """The network's configuration. MissingError when there is none that can be used."""
    path = weights.path / "open_clip_config.json"
    what = f"Model {weights.model} ({path})"
    with torch_runtime.as_missing(what):
        settings: dict[str, Any] = json.loads(path.read_text("utf-8"))["model_cfg"]
    if "trust_remote_code" in json.dumps(settings):
        raise MissingError(f"{what} asks to run code that comes with it.", "Bind the role to another model.")
    known = _tag(weights.model)
    if known and bool(known.get("quick_gelu")) != bool(settings.get("quick_gelu")):
        needs, has = ("QuickGELU", "does not say so") if known.get("quick_gelu") else ("plain GELU", "says QuickGELU")
        raise MissingError(
            f"{what} {has}, but weights of this tag need {needs}.",
            "Correct `quick_gelu` in that file, or fetch the folder again.",
        )
    return settings


def _tag(model: str) -> dict[str, Any]:
    """What open_clip knows of an `open_clip:<architecture>/<tag>`; empty for other addresses and unknown tags."""
    from open_clip.pretrained import get_pretrained_cfg

    kind, _, name = model.partition(":")
    architecture, _, tag = name.rpartition("/")
    return dict(get_pretrained_cfg(architecture, tag) or {}) if kind == "open_clip" else {}


def _label(model: str) -> str:
    """Architecture, and the tag when it is not OpenAI's; the repository's or folder's name of other addresses."""
    kind, _, name = model.partition(":")
    first, _, last = name.rpartition("/")
    plain = first.lower().removesuffix("-quickgelu")
    return (plain if last == "openai" else f"{plain}-{last}") if kind == "open_clip" else last.lower()


def _checkpoint(weights: Weights) -> Path:
    """The file with the weights, open_clip's before those that transformers reads."""
    endings = ("safetensors", "bin", "pt", "pth")
    files = [file for ending in endings for file in sorted(weights.path.glob(f"*.{ending}"))]
    if not files:
        raise MissingError(
            f"Model {weights.model} ({weights.path}) holds no weights.", "Fetch it again: `idtool models pull`."
        )
    return min(files, key=lambda file: not file.stem.startswith("open_clip"))


def _check_sizes(network: Any, file: Path, what: str) -> None:
    """MissingError when tensors are of another shape than the configuration says. Position embeddings that do not fit
    would be stretched without a word."""
    if file.suffix != ".safetensors":
        return
    from safetensors import safe_open

    own = {name: tuple(value.shape) for name, value in network.state_dict().items() if value.ndim > 1}
    with safe_open(file, "pt") as tensors:
        found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys() if name in own}  # noqa: SIM118
    wrong = [f"{name} {shape} in place of {own[name]}" for name, shape in found.items() if shape != own[name]]
    if wrong:
        raise MissingError(
            f"{what} does not fit its network: {len(wrong)} tensors of another shape ({'; '.join(wrong[:3])}).",
            "Do the configuration and the weights belong together?",
        )


@contextlib.contextmanager
def _without_its_log() -> Iterator[None]:
    """open_clip writes to the root logger, which would set up a handler and show a warning for what is meant here."""
    root = logging.getLogger()
    silent, mute = logging.NullHandler(), lambda record: False
    root.addHandler(silent)
    root.addFilter(mute)
    try:
        yield
    finally:
        root.removeFilter(mute)
        root.removeHandler(silent)
