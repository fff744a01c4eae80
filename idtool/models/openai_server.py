"""Vision-language models behind an HTTP server that speaks OpenAI's chat completions: hosted ones, vLLM's, llama.cpp's
and others. Nothing here knows the address of any server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any, ClassVar

from idtool.errors import MissingError, UsageError
from idtool.models import http_tries, openai_wire, runtime
from idtool.models.ask import Answer, Ask
from idtool.models.asking import Asking, check_long_side
from idtool.models.http_tries import Failed
from idtool.models.openai_client import BASE_VARIABLES, ChatClient
from idtool.models.openai_wire import NotThere, SettingsRefused
from idtool.models.sources import Weights


class OpenAiServer(Asking):
    """Answers of a remote model; requests run side by side. Safe to call from several threads.

    The key comes from the environment alone and goes into the Authorization header alone. Servers are not
    deterministic, also at temperature 0: `deterministic` is False, and several votes are several requests.
    """

    packages: ClassVar[tuple[str, ...]] = ("httpx", "tenacity")
    deterministic = False

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        base_url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 120.0,
        concurrency: int = 8,
        temperature: float | None = 0.0,
        structured: str = "schema",
        limit_field: str = "max_tokens",
        long_side: int = 768,
        image_format: str = "jpeg",
        quality: int = 95,
        detail: str | None = "high",
        price_in: float | None = None,
        price_out: float | None = None,
        repairs: int = 2,
        cache: bool = True,
    ) -> None:
        """`base_url`: up to and with `/v1`; None: from `BASE_VARIABLES`. `key_env`: the variable that holds the key; no
        key is sent when it is not set. `timeout`: seconds for one try. `retries`: tries after the first. `backoff`:
        seconds of the first wait at most. `max_wait`: the longest wait that a server may ask for. `temperature`: None
        leaves it out. `structured`: how JSON is asked for: schema (json_schema), json (json_object and the prompt),
        prompt. `limit_field`: max_tokens or max_completion_tokens. `long_side` px; `image_format` jpeg or png;
        `quality` of JPEG; `detail` low, high, auto or None. `price_in`, `price_out`: per million tokens.
        `device` and `threads` mean nothing here: the server has its own."""
        super().__init__(repairs=repairs, cache=cache)
        _one_of("structured", structured, ("schema", "json", "prompt"))
        _one_of("limit_field", limit_field, ("max_tokens", "max_completion_tokens"))
        _one_of("image_format", image_format, tuple(openai_wire.FORMATS))
        _one_of("detail", detail, ("low", "high", "auto", None))
        for name, value, least in (("retries", retries, 0), ("concurrency", concurrency, 1), ("quality", quality, 1)):
            if value < least:
                raise UsageError(f"Option `{name}` is {value}.", f"It is {least} or more.")
        if timeout <= 0 or backoff < 0 or max_wait < 0:
            raise UsageError("Options `timeout`, `backoff` and `max_wait` are seconds, and no less than 0.")
        self._weights, self._name = weights, weights.model.partition(":")[2]
        self._temperature, self._structured = temperature, structured
        self._limit_field, self._prices = limit_field, (price_in, price_out)
        self._pictures: dict[str, Any] = {
            "long_side": check_long_side(long_side),
            "image_format": image_format,
            "quality": quality,
            "detail": detail,
        }
        self._policy: dict[str, Any] = {"retries": retries, "backoff": backoff, "max_wait": max_wait}
        self.guided = structured == "schema"
        self._pause, self._reached = http_tries.Pause(), False
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="chat")
        self._client = ChatClient(weights.model, base_url, key_env, timeout, concurrency)

    def fingerprint(self) -> dict[str, Any]:
        """What the answers depend on, as far as it can be known: what stands behind a model's name at a server may
        change. Neither the key nor the address is in it; of the address, a hash."""
        pictures = self._pictures
        quality = (
            f" of quality {pictures['quality']}, colours not subsampled" if pictures["image_format"] == "jpeg" else ""
        )
        return {
            "model": self._weights.model,
            "revision": self._weights.revision,
            "server": self._client.server_hash,
            "preprocessing": f"longer side at most {pictures['long_side']} px, {pictures['image_format']}{quality}, "
            f"detail {pictures['detail']}, images before the prompt",
            "temperature": self._temperature,
            "response_format": self._structured,
            **self._facts(),
            **runtime.versions("pillow", "opencv-python-headless"),
        }

    def _say(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        stop = threading.Event()
        futures = {self._pool.submit(self._one, ask, stop): number for number, ask in enumerate(asks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            # An error or an interruption: those that wait for their turn or for another try give up.
            stop.set()
            for future in futures:
                future.cancel()

    def _one(self, ask: Ask, stop: threading.Event) -> Answer:
        """The answer to one question, or why there is none. MissingError when there is no server, key or model."""
        temperature = {} if self._temperature is None else {"temperature": self._temperature}
        body = {
            "model": self._name,
            "messages": openai_wire.messages(ask, **self._pictures),
            self._limit_field: ask.max_tokens,
            **temperature,
            **openai_wire.response_format(ask.schema, self._structured),
        }
        content = json.dumps(body).encode()
        try:
            answer = http_tries.tried(lambda: self._client.send(content), pause=self._pause, stop=stop, **self._policy)
        except NotThere as error:
            raise MissingError(
                f"The server at {self._client.base} has no model {self._name!r}: {error}.",
                "Correct the model's address, or base_url, which goes up to and with /v1.",
            ) from None
        except SettingsRefused as error:
            raise UsageError(
                f"The server of {self._weights.model} does not take a setting: {error}.",
                "Change the model's options: structured (schema, json, prompt), limit_field, temperature.",
            ) from None
        except Failed as error:
            # A server that turns a question down has understood it.
            self._reached |= error.reason in ("refused", "too_long", "bad_input")
            if error.setup and not self._reached and not stop.is_set():
                raise MissingError(
                    f"The server of {self._weights.model} at {self._client.base} gives no answer: {error.detail}.",
                    f"Is it running? Option base_url, or {BASE_VARIABLES[0]}, names it, up to and with /v1.",
                ) from None
            return Answer(None, reason=error.reason, detail=error.detail)
        self._reached = True
        return replace(answer, cost=self._cost(answer))

    def _cost(self, answer: Answer) -> float | None:
        """Millionths of the prices; None unless both are given."""
        if self._prices[0] is None or self._prices[1] is None:
            return None
        return (answer.tokens_in * self._prices[0] + answer.tokens_out * self._prices[1]) / 1e6


def _one_of(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise UsageError(f"Option `{name}` is {value!r}.", f"It is one of {', '.join(map(str, known))}.")
