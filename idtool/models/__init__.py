"""Wrappers of pretrained networks. `load` turns a profile's binding into a ready model."""

from __future__ import annotations

import importlib.util
import inspect
import json
import threading
from typing import TYPE_CHECKING, Any

from idtool.errors import MissingError, UsageError
from idtool.models import addresses
from idtool.models.catalog import entry
from idtool.registry import Registry, did_you_mean

if TYPE_CHECKING:
    from idtool.engine.step import Binding, Env

WRAPPERS: Registry[Any] = Registry(
    "model",
    {
        # Weights of the catalogue, by their names there.
        "scrfd-500m": "idtool.models.faces:Scrfd",
        "arcface-mbf": "idtool.models.identity:ArcFaceMobile",
        "edgeface-s": "idtool.models.identity:EdgeFaceS",
        "face-landmarker": "idtool.models.landmarks:FaceLandmarker",
        "facex": "idtool.models.expression:FaceX",
        "qualityface": "idtool.models.quality:QualityFace",
        "sscd": "idtool.models.copies:Sscd",
        "nudenet-320n": "idtool.models.nsfw:NudeNet",
        "mobilestylegan": "idtool.models.portraits:MobileStyleGan",
        "latent-walk": "idtool.models.latent_walk:LatentWalk",
        "bisenet-celebamask": "idtool.models.parser:BiSeNet",
        "lpips-alex": "idtool.models.perceptual:LpipsAlex",
        # Weights of other sources, by the format that they are in.
        "insightface-faces": "idtool.models.insightface_pack:PackFaces",
        "insightface-identity": "idtool.models.insightface_pack:PackIdentity",
        "insightface-pose": "idtool.models.insightface_pack:PackPose",
        "insightface-attributes": "idtool.models.insightface_pack:PackAttributes",
        "yunet": "idtool.models.yunet:YuNet",
        "sface": "idtool.models.yunet:SFace",
        "facenet": "idtool.models.facenet:FaceNet",
        "image-to-video": "idtool.models.image_to_video:ImageToVideo",
        "fill": "idtool.models.fill:Fill",
        "inswapper": "idtool.models.swapper:InSwapper",
        "codeformer": "idtool.models.restorer:CodeFormer",
        "fid-inception": "idtool.models.inception:FidInception",
        "adaface": "idtool.models.adaface:AdaFace",
        "clip": "idtool.models.clip:TransformersClip",
        "open_clip": "idtool.models.clip:OpenClip",
        "vit": "idtool.models.features:VitFeatures",
        "laion-v1": "idtool.models.aesthetic:LaionV1",
        "laion-v2": "idtool.models.aesthetic:LaionV2",
        "siglip-v2.5": "idtool.models.aesthetic:SiglipV25",
        "clip-iqa": "idtool.models.iqa:ClipIqa",
        "resemotenet": "idtool.models.resemotenet:ResEmoteNet",
        "hsemotion": "idtool.models.hsemotion:HsEmotion",
        "bisenet": "idtool.models.bisenet:BiSeNetTorch",
        "segformer": "idtool.models.segformer:SegFormerParser",
        "grounding-dino": "idtool.models.grounder:GroundingDino",
        "sam": "idtool.models.segmenter:Sam",
        "sam3": "idtool.models.sam3:Sam3",
        "segment-anything": "idtool.models.segmenter:SegmentAnything",
        "vlm": "idtool.models.vlm:LocalVlm",
        "vllm": "idtool.models.vllm:VllmModel",
        "openai": "idtool.models.openai_server:OpenAiServer",
        "image-classifier": "idtool.models.nsfw_classifier:NsfwClassifier",
        "text-to-image": "idtool.models.diffusion:TextToImagePipeline",
    },
)
"""Name in the weight catalogue, or format -> wrapper class. A wrapper of the catalogue is called with the binding's
options, `device` and `threads`; one of a format also gets its `Weights` as the first argument."""

FORMATS: dict[tuple[str, str], str] = {
    ("faces", "insightface"): "insightface-faces",
    ("identity", "insightface"): "insightface-identity",
    ("pose", "insightface"): "insightface-pose",
    ("attributes", "insightface"): "insightface-attributes",
    ("clip", "hf"): "clip",
    ("clip", "open_clip"): "open_clip",
    ("features", "hf"): "vit",
    ("inception", "hf"): "fid-inception",
    ("i2v", "hf"): "image-to-video",
    ("fill", "hf"): "fill",
    ("swapper", "insightface"): "inswapper",
    ("restorer", "github"): "codeformer",
    ("restorer", "hf"): "codeformer",
    ("inception", "github"): "fid-inception",
    ("iqa", "hf"): "clip-iqa",
    ("parser", "hf"): "segformer",
    ("grounder", "hf"): "grounding-dino",
    ("segmenter", "hf"): "sam",
    ("captioner", "hf"): "vlm",
    ("judge", "hf"): "vlm",
    ("captioner", "api"): "openai",
    ("judge", "api"): "openai",
    ("nsfw", "hf"): "image-classifier",
    ("t2i", "hf"): "text-to-image",
}
"""Role and kind of address -> the format that is meant where option `format` names none."""
OTHERWISE: dict[tuple[str, str], str] = {("i2v", "mobilestylegan"): "latent-walk"}
"""Role and name in the catalogue -> wrapper, where a network fills a second role in another way."""

_loaded: dict[tuple[str, ...], Any] = {}
_locks: dict[tuple[str, ...], threading.Lock] = {}
_guard = threading.Lock()


def format_of(binding: Binding) -> str | None:
    """The key of `WRAPPERS` for a binding: its name in the catalogue (or what that is in the role), its option
    `format`, or the usual format of its role and kind of address; None when there is none."""
    if addresses.is_offline_name(binding.model):
        return OTHERWISE.get((binding.role, binding.model), binding.model)
    if named := binding.options.get("format"):
        return str(named)
    kind = binding.model.partition(":")[0]
    # A folder of the user's is taken for a copy of what the role usually is.
    kinds = ("hf", "insightface") if kind == "local" else (kind,)
    return next((FORMATS[binding.role, one] for one in kinds if (binding.role, one) in FORMATS), None)


def why_not(env: Env, role: str) -> str | None:
    """Why the main model of a role cannot be used under a profile, or None."""
    return unbound(env, role) or unusable(env.require(role))


def unbound(env: Env, role: str) -> str | None:
    """That a profile has no model for a role, as a sentence; None when it has."""
    return None if env.has(role) else f"needs role {role}; profile {env.profile} binds none"


def unusable(binding: Binding) -> str | None:
    """Why this version cannot load a bound model, as a sentence; None when it can. `obstacle` is the reason alone."""
    why = obstacle(binding)
    return f"role {binding.role} is bound to {binding.model}, and {why}" if why else None


def obstacle(binding: Binding) -> str | None:
    """Why this version cannot load a binding at all, whatever is installed or downloaded; None when it can."""
    if addresses.is_offline_name(binding.model):
        return None
    named = format_of(binding)
    if named is None:
        kind = binding.model.partition(":")[0]
        return f"models of the kind `{kind}:` cannot fill role {binding.role} in this version"
    if named not in WRAPPERS:
        return f"format {named!r} is unknown to this version. {did_you_mean(named, WRAPPERS)}"
    return None


def lacking(binding: Binding) -> str | None:
    """Which packages a binding needs that are not installed, in words; None when all are there."""
    named = format_of(binding)
    if named is None or named not in WRAPPERS:
        return None
    packages = getattr(WRAPPERS.get(named), "packages", ())
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"it needs packages that are not installed: {', '.join(absent)}" if absent else None


def load(binding: Binding, *, device: str = "cpu", threads: int = 1) -> Any:
    """The wrapper of the binding's model, with its weights (fetched on first use). One per process and setting.

    Every wrapper has `fingerprint()` and may be called from several threads; `threads` bounds those inside one call.
    A binding's own `device` goes before the argument. MissingError when the model cannot be loaded by this version,
    its packages or weights cannot be had, or the device is not there; UsageError when the model does not fill the
    role or an option is unknown.
    """
    why = obstacle(binding) or lacking(binding)
    if why is not None:
        from idtool.models.sources import extra_hint

        raise MissingError(
            f"Role {binding.role} is bound to {binding.model!r}, but {why}.",
            extra_hint()
            if lacking(binding)
            else "Bind the role to another model in pipelines.yaml, or use --profile offline.",
        )
    name = str(format_of(binding))
    offline = addresses.is_offline_name(binding.model)
    known_for = entry(binding.model).roles if offline else None
    wrapper = WRAPPERS.get(name)
    roles = wrapper.roles if known_for is None else known_for
    if binding.role not in roles:
        raise UsageError(
            f"Model {binding.model!r} is bound to role {binding.role!r}, but it is for {', '.join(roles)}.",
            "Correct the profile in pipelines.yaml.",
        )
    own = ("device", "threads") if offline else ("weights", "device", "threads")
    known = [parameter for parameter in inspect.signature(wrapper).parameters if parameter not in own]
    options = {key: value for key, value in binding.options.items() if offline or key not in addresses.SOURCE_OPTIONS}
    for option in options:
        if option not in known:
            raise UsageError(f"Model {binding.model!r} has no option {option!r}.", did_you_mean(option, known))
    place = binding.device or device
    setting = json.dumps({**binding.options, "revision": binding.revision}, sort_keys=True, default=str)
    key = (binding.model, name, setting, place, str(threads))
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if key not in _loaded:
            if offline:
                _loaded[key] = wrapper(**options, device=place, threads=threads)
            else:
                from idtool.models.sources import bound

                _loaded[key] = wrapper(bound(binding), **options, device=place, threads=threads)
        return _loaded[key]
