"""Image servers that speak Gemini's generateContent: kind `gemini-images`. References go in line, before the prompt."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast
from urllib.parse import quote

from idtool.engine.operator import Rejected
from idtool.generate.http import HttpImages, Reply, count, reference_png
from idtool.generate.http_client import Call
from idtool.generate.http_settings import HttpSettings
from idtool.generate.method import MethodSettings, Request
from idtool.models.http_tries import Failed

REFUSALS = (
    *("SAFETY", "IMAGE_SAFETY", "PROHIBITED_CONTENT", "IMAGE_PROHIBITED_CONTENT", "BLOCKLIST", "SPII"),
    *("RECITATION", "IMAGE_RECITATION", "IMAGE_OTHER"),
)
"""Reasons to end an answer that are about what was asked for."""


class GeminiImagesSettings(HttpSettings):
    base_env: str = "IDTOOL_GEMINI_BASE"
    """Up to and with the version: `…/v1beta`."""
    key_env: str = "GEMINI_API_KEY"
    ratios: tuple[str, ...] = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
    """Shapes that the model takes; the nearest one to the request's is asked for, and recorded. Empty: none is."""
    image_size: str | None = None
    """`1K`, `2K`, `4K`; null: the model's own."""
    send_seed: bool = True


class GeminiImages(HttpImages):
    """`POST models/<model>:generateContent`."""

    summary = "an image server that speaks Gemini's generateContent"
    header = ("x-goog-api-key", "")
    Settings: ClassVar[type[MethodSettings]] = GeminiImagesSettings

    def check(self, request: Request) -> None:
        super().check(request)
        if request.negative:
            raise Rejected("request.negative_prompt", "Gemini takes no negative prompt: put it into the prompt")

    def call(self, request: Request) -> Call:
        settings = cast(GeminiImagesSettings, request.settings)
        parts: list[dict[str, Any]] = []
        for person in request.people:
            data = base64.b64encode(reference_png(person.image, request)).decode()
            parts.append({"inline_data": {"mime_type": "image/png", "data": data}})
        parts.append({"text": request.prompt})
        image = {"aspectRatio": _ratio(request)} if settings.ratios else {}
        image |= {"imageSize": settings.image_size} if settings.image_size else {}
        config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
        config |= {"imageConfig": image} if image else {}
        config |= {"seed": request.seed % (1 << 31)} if settings.send_seed else {}
        further = dict(settings.parameters)
        config |= further.pop("generationConfig", {})
        body = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config, **further}
        return Call(f"models/{quote(self.model)}:generateContent", body)

    def reply(self, payload: Any, request: Request) -> Reply:
        payload = payload if isinstance(payload, Mapping) else {}
        blocked = (payload.get("promptFeedback") or {}).get("blockReason")
        if blocked:
            raise Failed("refused", f"the prompt is blocked: {blocked}")
        candidates = payload.get("candidates")
        first = candidates[0] if isinstance(candidates, list) and candidates else None
        if not isinstance(first, Mapping):
            raise Failed("invalid", "the response holds no candidate", again=True)
        parts = list(_parts(first))
        words = " ".join(str(part["text"]) for part in parts if part.get("text"))[:300]
        for part in parts:
            data = part.get("inlineData") or part.get("inline_data")
            if isinstance(data, Mapping) and data.get("data"):
                usage = payload.get("usageMetadata")
                counts = (count(usage, "promptTokenCount"), count(usage, "candidatesTokenCount"))
                shape = {"aspect_ratio": _ratio(request)} if cast(GeminiImagesSettings, request.settings).ratios else {}
                return Reply(
                    data=str(data["data"]),
                    facts={**shape, **({"words": words} if words else {})},
                    tokens=counts if any(counts) else None,
                )
        finish = str(first.get("finishReason") or "")
        if finish in REFUSALS:
            raise Failed("refused", f"the model stopped: {finish}{f' ({words})' if words else ''}")
        raise Failed("no_image", f"the model gave words in place of an image: {words or finish or 'none'}")


def nearest_ratio(width: int, height: int, ratios: tuple[str, ...]) -> str:
    """The shape that is nearest to width : height, by the logarithm of the ratio."""
    wanted = math.log(width / height)

    def distance(ratio: str) -> float:
        across, _, down = ratio.partition(":")
        return abs(math.log(float(across) / float(down)) - wanted)

    return min(ratios, key=distance)


def _ratio(request: Request) -> str:
    return nearest_ratio(request.width, request.height, cast(GeminiImagesSettings, request.settings).ratios)


def _parts(candidate: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Parts of the answer; what a model draws while it thinks is none."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, Mapping) else None
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, Mapping) and not part.get("thought"):
            yield part
