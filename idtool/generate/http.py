"""Methods behind image servers: what the kinds `openai-images` and `gemini-images` share.

Requests run side by side, each tried again where that may help, and each with its own outcome: a refusal is the
request's, a failure of the server an error of that row, a wrong key the end of the run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Binding
from idtool.errors import IdtoolError, MissingError
from idtool.generate.baselines import fitted
from idtool.generate.http_client import Call, ImageClient, Rate, base_url
from idtool.generate.http_settings import HttpSettings
from idtool.generate.method import Image, Made, Method, MethodSettings, Request, Spec
from idtool.media import images
from idtool.models.asking import reduced
from idtool.models.http_client import key_of
from idtool.models.http_tries import Failed, Pause, tried

T = TypeVar("T")


class ServerFailed(Exception):
    """The server gave no image for this request, tried again and again where that could help."""


@dataclass(frozen=True)
class Reply:
    """What a response holds: the image, or where it is, and what else the record should say."""

    data: str | None = None
    """Base64."""
    url: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    tokens: tuple[int, int] | None = None
    """That went in and came out; None where the server does not count."""


class HttpImages(Method):
    """Base of the families, which say how a request becomes a call and how a response is read."""

    slots: ClassVar[Mapping[str, str]] = {"model": "the server's model, api:<name>"}
    packages = ("httpx", "tenacity")
    people = (0, 64)
    parallel = True
    accelerated = False
    fixed = (
        *("base_url", "base_env", "key_env", "people", "timeout_s", "retries", "backoff_s", "max_wait_s", "max_mb"),
        *("requests_per_minute", "concurrency", "price_per_image", "price_in", "price_out"),
    )
    Settings: ClassVar[type[MethodSettings]] = HttpSettings
    header: ClassVar[tuple[str, str]]
    """Name of the key's header, and what stands before the key."""

    def __init__(self, spec: Spec, roles: Mapping[str, Sequence[Binding]] | None = None) -> None:
        super().__init__(spec, roles)
        self.settings = cast(HttpSettings, spec.settings)
        vars(self).update(people=self.settings.people)

    @classmethod
    def why_not(cls, spec: Spec, roles: Mapping[str, Sequence[Binding]]) -> str | None:
        settings = cast(HttpSettings, spec.settings)
        if (why := super().why_not(spec, roles)) is not None:
            return why
        if not spec.bindings["model"].model.startswith("api:"):
            return f"its model is {spec.bindings['model'].model}, and a server's is written api:<name>"
        if not (settings.base_url or os.environ.get(settings.base_env)):
            return f"it needs the address of its server: setting base_url, or the variable {settings.base_env}"
        return None

    @property
    def model(self) -> str:
        """The model's name at the server."""
        return self.spec.bindings["model"].model.removeprefix("api:")

    def load(self, context: Context) -> None:
        settings = self.settings
        self.client = ImageClient(
            self.spec.name,
            base_url(settings.base_url, settings.base_env, self.spec.name),
            key_of(settings.key_env),
            key_env=settings.key_env,
            header=self.header,
            timeout=settings.timeout_s,
            most=settings.max_mb << 20,
        )
        self.rate, self.pause, self.reached = Rate(settings.requests_per_minute), Pause(), False
        self.pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="images")
        content = json.dumps(self.fingerprint(), sort_keys=True)
        self.stamp = hashlib.sha256(content.encode()).hexdigest()

    def close(self) -> None:
        """Close the connections."""
        if (pool := getattr(self, "pool", None)) is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            self.client.close()

    @abstractmethod
    def call(self, request: Request) -> Call:
        """A request as the server takes it."""

    @abstractmethod
    def reply(self, payload: Any, request: Request) -> Reply:
        """What a response holds. `Failed` when it is no image: `refused` where the model will not make one."""

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        stop = threading.Event()
        futures = [self.pool.submit(self._outcome, request, stop) for request in requests]
        try:
            return [future.result() for future in futures]
        finally:
            # An error of the set-up, or Ctrl-C: those that wait for their turn or for another try give up.
            stop.set()
            for future in futures:
                future.cancel()

    def preprocessing(self) -> Mapping[str, Any]:
        return {"references": f"longer side at most {self.settings.long_side} px, PNG"}

    def fingerprint(self) -> dict[str, Any]:
        """As of any method, without how patiently the server is asked and what it costs; the address as a hash."""
        found = super().fingerprint()
        settings = {key: value for key, value in found["settings"].items() if key not in self.fixed}
        address = self.settings.base_url or os.environ.get(self.settings.base_env, "")
        return {
            **found,
            "settings": settings,
            "server": hashlib.sha256(address.strip().rstrip("/").encode()).hexdigest()[:16],
        }

    def dtype(self) -> str:
        return "not stated"

    def _outcome(self, request: Request, stop: threading.Event) -> Made | Exception:
        settings = self.settings
        key = hashlib.sha256(f"{self.stamp} {request.id}".encode()).hexdigest()[:32]
        try:
            call = self.call(request)
            payload = self._tried(lambda: self._sent(call, key, stop), stop)
            reply = self.reply(payload, request)
            url = reply.url
            data = _decoded(reply.data or "") if url is None else self._tried(lambda: self.client.fetch(url), stop)
            return self._made(data, reply, request)
        except Failed as error:
            if error.reason == "refused":
                return Rejected("refused", error.detail)
            if error.reason == "no_image":
                return Rejected("no_image", error.detail)
            if error.setup and not self.reached and not stop.is_set():
                raise MissingError(
                    f"The server of method {self.spec.name!r} gives no answer: {error.detail}.",
                    f"Is it running? Setting base_url, or {settings.base_env}, names it.",
                ) from None
            return ServerFailed(f"{error.reason}: {error.detail}")
        except IdtoolError:
            raise
        except Exception as error:  # of this request alone
            return error

    def _tried(self, send: Callable[[], T], stop: threading.Event) -> T:
        settings = self.settings
        return tried(
            send,
            retries=settings.retries,
            backoff=settings.backoff_s,
            max_wait=settings.max_wait_s,
            pause=self.pause,
            stop=stop,
        )

    def _sent(self, call: Call, key: str, stop: threading.Event) -> Any:
        self.rate.wait(stop)
        if stop.is_set():
            raise Failed("unavailable", "stopped before it was sent")
        payload = self.client.send(call, key)
        self.reached = True
        return payload

    def _made(self, data: bytes, reply: Reply, request: Request) -> Made:
        try:
            image = images.decode(data)
        except Rejected as refusal:
            raise ServerFailed(f"the server's image is damaged ({refusal.reason}): {refusal.message}") from None
        facts = dict(reply.facts)
        if reply.tokens is not None:
            facts["tokens_in"], facts["tokens_out"] = reply.tokens
        if (cost := self._cost(reply)) is not None:
            facts["cost"] = cost
        height, width = image.shape[:2]
        fit = cast(HttpSettings, request.settings).fit
        if fit == "cover" and (width, height) != (request.width, request.height):
            image = fitted(image, request.width, request.height)
            facts["fitted_from"] = [width, height]
        return Made(image, facts)

    def _cost(self, reply: Reply) -> float | None:
        settings = self.settings
        if settings.price_per_image is not None:
            return settings.price_per_image
        if settings.price_in is None or settings.price_out is None or reply.tokens is None:
            return None
        return (reply.tokens[0] * settings.price_in + reply.tokens[1] * settings.price_out) / 1e6


def reference_png(image: Image, request: Request) -> bytes:
    """A reference as it is sent."""
    return images.encode(reduced(image, cast(HttpSettings, request.settings).long_side), "png")


def count(usage: Any, *names: str) -> int:
    """The first of these counts that a server gives; 0 for none."""
    for name in names:
        value = usage.get(name) if isinstance(usage, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _decoded(text: str) -> bytes:
    """Base64, or a data URI. ServerFailed for anything else."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ServerFailed("the server's image is no base64") from None
