"""Wrappers of pretrained networks. `load` turns a profile's binding into a ready model."""

from __future__ import annotations

import inspect
import json
import threading
from typing import TYPE_CHECKING, Any

from idtool.errors import MissingError, UsageError
from idtool.models.catalog import entry
from idtool.registry import Registry, did_you_mean

if TYPE_CHECKING:
    from idtool.engine.step import Binding

WRAPPERS: Registry[Any] = Registry(
    "model",
    {
        "scrfd-500m": "idtool.models.faces:Scrfd",
        "arcface-mbf": "idtool.models.identity:ArcFaceMobile",
        "edgeface-s": "idtool.models.identity:EdgeFaceS",
        "face-landmarker": "idtool.models.landmarks:FaceLandmarker",
        "facex": "idtool.models.expression:FaceX",
        "qualityface": "idtool.models.quality:QualityFace",
        "sscd": "idtool.models.copies:Sscd",
        "nudenet-320n": "idtool.models.nsfw:NudeNet",
        "mobilestylegan": "idtool.models.portraits:MobileStyleGan",
        "bisenet-celebamask": "idtool.models.parser:BiSeNet",
    },
)
"""Name in the weight catalogue -> wrapper class, called with the binding's options and `device` and `threads`."""

_loaded: dict[tuple[str, str, str, int], Any] = {}
_locks: dict[tuple[str, str, str, int], threading.Lock] = {}
_guard = threading.Lock()


def obstacle(binding: Binding) -> str | None:
    """Why this version cannot load a binding at all, whatever is downloaded; None when it can."""
    source, colon, _ = binding.model.partition(":")
    return f"models of the kind `{source}:` cannot be loaded by this version" if colon else None


def load(binding: Binding, *, device: str = "cpu", threads: int = 1) -> Any:
    """The wrapper of the binding's model, with its weights (fetched on first use). One per process and setting.

    Every wrapper has `fingerprint()` and may be called from several threads; `threads` bounds those inside one call.
    MissingError when the model cannot be loaded by this version, its weights cannot be had, or the device is not
    there; UsageError when the model does not fill the role or an option is unknown.
    """
    why = obstacle(binding)
    if why is not None:
        raise MissingError(
            f"Role {binding.role} is bound to {binding.model!r}, but {why}.",
            "Use --profile offline, or bind the role to a model of `idtool models list` in pipelines.yaml.",
        )
    weight = entry(binding.model)
    if binding.role not in weight.roles:
        raise UsageError(
            f"Model {binding.model!r} is bound to role {binding.role!r}, but it is for {', '.join(weight.roles)}.",
            "Correct the profile in pipelines.yaml.",
        )
    options = dict(binding.options)
    key = (binding.model, json.dumps(options, sort_keys=True, default=str), device, threads)
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if key not in _loaded:
            wrapper = WRAPPERS.get(binding.model)
            known = [name for name in inspect.signature(wrapper).parameters if name not in ("device", "threads")]
            for name in options:
                if name not in known:
                    raise UsageError(f"Model {binding.model!r} has no option {name!r}.", did_you_mean(name, known))
            _loaded[key] = wrapper(**options, device=device, threads=threads)
        return _loaded[key]
