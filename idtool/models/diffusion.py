"""Pipelines of diffusers: loaded whole from a folder, put on their device. What is done with them is the matter of
`idtool.generate`."""

from __future__ import annotations

from typing import Any, ClassVar

from idtool.errors import MissingError, UsageError
from idtool.models import runtime, torch_runtime
from idtool.models.sources import Weights

PACKAGES = ("torch", "transformers", "diffusers")


class TextToImagePipeline:
    """The pipeline of role `t2i`, whatever class its folder names. Only one thread may call it at a time, and callers
    see to that: pipelines keep the state of their scheduler."""

    roles: ClassVar[tuple[str, ...]] = ("t2i",)
    packages: ClassVar[tuple[str, ...]] = PACKAGES

    def __init__(
        self, weights: Weights, *, device: str = "cpu", threads: int = 1, dtype: str = "auto", offload: str = "none"
    ) -> None:
        self._weights = weights
        self.dtype = automatic(device) if dtype == "auto" else dtype
        place = torch_runtime.device_of(device, threads)
        self.pipe = placed(load_pipeline("AutoPipelineForText2Image", weights, self.dtype), place, offload)

    def fingerprint(self) -> dict[str, Any]:
        """What the images depend on besides prompt, seed and settings."""
        return {
            **self._weights.facts(),
            "pipeline": type(self.pipe).__name__,
            "dtype": self.dtype,
            **runtime.versions("torch", "diffusers", "transformers"),
        }


def automatic(device: str) -> str:
    """The precision of `dtype: auto`."""
    return "bfloat16" if device.startswith("cuda") else "float32"


def load_pipeline(name: str, weights: Weights, dtype: str, **components: Any) -> Any:
    """A diffusers pipeline from a local folder, every part of it in `dtype`, without its progress bar.

    MissingError when the folder holds another kind of pipeline or is not complete.
    """
    import diffusers

    what = f"Model {weights.model} ({weights.path})"
    if not (weights.path / "model_index.json").is_file():
        raise MissingError(f"{what} is no diffusers pipeline: it has no model_index.json.", "Bind another `base`.")
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise MissingError(f"diffusers {diffusers.__version__} has no {name}.", "Install a newer diffusers.")
    with torch_runtime.as_missing(what):
        pipe = cls.from_pretrained(
            weights.path,
            dtype=torch_runtime.dtype_of(dtype),
            local_files_only=True,
            trust_remote_code=False,
            **components,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def placed(pipe: Any, device: Any, offload: str) -> Any:
    """The pipeline on its device. UsageError for offloading without an accelerator."""
    if offload == "none":
        return pipe.to(device)
    if str(device) == "cpu":
        raise UsageError("offload needs an accelerator; on the CPU everything is in main memory.", "Set offload: none.")
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_sequential_cpu_offload(device=device)
    return pipe
