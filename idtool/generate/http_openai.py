"""Image servers that speak OpenAI's images API, and those like it (Seedream and others): kind `openai-images`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from idtool.engine.operator import Rejected
from idtool.generate.http import HttpImages, Reply, count, reference_png
from idtool.generate.http_client import Call, is_refusal, told
from idtool.generate.http_settings import HttpSettings
from idtool.generate.method import MethodSettings, Request
from idtool.models.http_tries import Failed


class OpenAiImagesSettings(HttpSettings):
    """Servers differ in what they take; what is null is not sent."""

    base_env: str = "IDTOOL_IMAGES_BASE"
    """Up to and with the version: `…/v1`."""
    key_env: str = "OPENAI_API_KEY"
    references: Literal["edits", "json"] = "edits"
    """edits: files of a form to `images/edits`, as OpenAI has it; json: data URIs in field `image` of
    `images/generations`, as Seedream has it."""
    image_field: str = "image[]"
    """Name of each file of the form."""
    size: str | None = "request"
    """request: `<width>x<height>` of the request; else as it stands (`2K`, `auto`)."""
    response_format: Literal["b64_json", "url"] | None = None
    seed_field: str | None = None
    """Name of the body's field for the seed, where the server takes one."""
    negative_field: str | None = None
    """Name of the body's field for the negative prompt; without one, a request that has a negative prompt is
    rejected."""


class OpenAiImages(HttpImages):
    """`POST images/generations` without references, `POST images/edits` with them."""

    summary = "an image server that speaks OpenAI's images API"
    header = ("Authorization", "Bearer ")
    Settings: ClassVar[type[MethodSettings]] = OpenAiImagesSettings

    def check(self, request: Request) -> None:
        super().check(request)
        if request.negative and cast(OpenAiImagesSettings, request.settings).negative_field is None:
            raise Rejected("request.negative_prompt", f"the server of {self.spec.name} takes no negative prompt")

    def call(self, request: Request) -> Call:
        settings = cast(OpenAiImagesSettings, request.settings)
        size = f"{request.width}x{request.height}" if settings.size == "request" else settings.size
        body: dict[str, Any] = {"model": self.model, "prompt": request.prompt, "n": 1}
        body |= {"size": size} if size else {}
        body |= {"response_format": settings.response_format} if settings.response_format else {}
        body |= {settings.seed_field: request.seed} if settings.seed_field else {}
        body |= {settings.negative_field: request.negative} if settings.negative_field and request.negative else {}
        body |= settings.parameters
        pictures = [reference_png(person.image, request) for person in request.people]
        if not pictures:
            return Call("images/generations", body)
        if settings.references == "json":
            uris = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures]
            return Call("images/generations", {**body, "image": uris})
        files = tuple(
            (settings.image_field, (f"reference-{k}.png", data, "image/png")) for k, data in enumerate(pictures)
        )
        return Call("images/edits", form={key: _form(value) for key, value in body.items()}, files=files)

    def reply(self, payload: Any, request: Request) -> Reply:
        data = payload.get("data") if isinstance(payload, Mapping) else None
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, Mapping) or not (first.get("b64_json") or first.get("url")):
            message, marks = told(first if isinstance(first, Mapping) else payload)
            if is_refusal(marks):
                raise Failed("refused", message or "the server will not make it")
            raise Failed("invalid", f"the response holds no image{f' ({message})' if message else ''}")
        revised, usage = first.get("revised_prompt"), payload.get("usage")
        counts = (count(usage, "input_tokens", "prompt_tokens"), count(usage, "output_tokens", "completion_tokens"))
        return Reply(
            data=first.get("b64_json"),
            url=None if first.get("b64_json") else str(first["url"]),
            facts={"revised_prompt": str(revised)[:4000]} if revised else {},
            tokens=counts if any(counts) else None,
        )


def _form(value: Any) -> str:
    """A value as a form has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
