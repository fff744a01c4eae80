"""The chat-completions protocol of OpenAI as its many servers speak it: questions as request bodies, responses as
answers, error responses as what they mean. Pure functions; `idtool.models.openai_server` does the talking."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from typing import Any

from idtool.models.ask import Answer, Ask, Image
from idtool.models.asking import reduced
from idtool.models.http_tries import Failed, may_pass

FORMATS = {"jpeg": "image/jpeg", "png": "image/png"}
_REFUSED = re.compile(r"content_?filter|content[_ ]policy|content management policy|moderation|flagged|safety", re.I)
_TOO_LONG = re.compile(r"context[_ ]length|context window|maximum context|prompt is too long|too many tokens", re.I)
_SETTINGS = re.compile(
    r"\b(response_format|json_schema|max_completion_tokens|max_tokens|temperature)\b"
    r"|not a multimodal model|does not support images?\b"
)


class SettingsRefused(Exception):
    """The server does not take a setting that every request has: nothing would ever work."""


class NotThere(Exception):
    """The server has no such model, or no such path."""


def data_uri(image: Image, long_side: int, image_format: str, quality: int) -> str:
    """An image, reduced, as a data URI. JPEG with colours at full resolution, so that they can be judged."""
    from PIL import Image as Pillow

    options = {"quality": quality, "subsampling": 0} if image_format == "jpeg" else {}
    stream = io.BytesIO()
    Pillow.fromarray(reduced(image, long_side)).save(stream, image_format, **options)
    return f"data:{FORMATS[image_format]};base64,{base64.b64encode(stream.getvalue()).decode()}"


def messages(
    ask: Ask, *, long_side: int, image_format: str, quality: int, detail: str | None = None
) -> list[dict[str, Any]]:
    """The turns of a question: an optional system text, then the images and the prompt."""
    further = {"detail": detail} if detail else {}
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_uri(image, long_side, image_format, quality), **further}}
        for image in ask.images
    ]
    content.append({"type": "text", "text": ask.prompt})
    system = [{"role": "system", "content": ask.system}] if ask.system else []
    return [*system, {"role": "user", "content": content}]


def response_format(schema: Mapping[str, Any] | None, structured: str) -> dict[str, Any]:
    """The field of the body that asks for JSON; nothing for free text and for JSON by prompt alone."""
    if schema is None or structured == "prompt":
        return {}
    if structured == "json":
        return {"response_format": {"type": "json_object"}}
    form = {"name": "answer", "strict": is_strict(schema), "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


def is_strict(schema: Any) -> bool:
    """Whether a schema keeps to what strict mode demands: every object closed, all of its properties required."""
    if isinstance(schema, list):
        return all(is_strict(part) for part in schema)
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object":
        required = set(schema.get("required", ()))
        if schema.get("additionalProperties") is not False or required != set(schema.get("properties", {})):
            return False
    return all(is_strict(part) for part in schema.values())


def read(payload: Any) -> Answer:
    """The first choice of a response. `Failed` when it is no chat completion."""
    choices = payload.get("choices") if isinstance(payload, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        what = "an error" if isinstance(payload, Mapping) and payload.get("error") else "no choices[0].message"
        raise Failed("unavailable", f"the response holds {what}", again=True, setup=True)
    usage = payload.get("usage")
    tokens = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    text, reason, detail = _text(message.get("content")), None, ""
    refusal, finish = message.get("refusal"), choice.get("finish_reason")
    if refusal:
        text, reason, detail = None, "refused", str(refusal)[:200]
    elif finish == "content_filter":
        text, reason, detail = None, "refused", "the server's content filter stopped the answer"
    elif finish == "length":
        reason, detail = "cut", f"no end within {tokens[1] or 'max_tokens'} tokens"
    elif not text:
        text, reason, detail = None, "empty", f"the answer is empty (finish_reason {finish!r})"
    return Answer(text, reason=reason, detail=detail, tokens_in=tokens[0], tokens_out=tokens[1])


def _text(content: Any) -> str | None:
    """Some servers give the text in parts."""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content.strip() if isinstance(content, str) else None


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def failure(status: int, payload: Any, wait: float | None) -> Failed | SettingsRefused | NotThere:
    """What an error response means. Statuses about the key are the caller's to tell: 401, 402, 403."""
    error = payload.get("error", payload) if isinstance(payload, Mapping) else {}
    error = error if isinstance(error, Mapping) else {"message": error}
    message = " ".join(str(error.get("message") or error.get("detail") or "").split())[:300]
    marks = f"{error.get('code')} {error.get('type')} {message}"
    said = f"HTTP {status}" + (f": {message}" if message else "")
    if may_pass(status):
        return Failed("unavailable", said, again=True, wait=wait, setup=status >= 500)
    if _REFUSED.search(marks):
        return Failed("refused", said)
    if status == 413 or is_too_long(marks):
        return Failed("too_long", said)
    if status == 404:
        return NotThere(said)
    if _SETTINGS.search(str(error.get("param") or "")) or _SETTINGS.search(message):
        return SettingsRefused(said)
    return Failed("bad_input", said)


def is_too_long(text: str) -> bool:
    """Whether an error is about a question that does not fit the model's context."""
    return _TOO_LONG.search(text) is not None
