"""Vision-language models in vLLM's offline engine, for throughput on CUDA.

UNPROVEN HERE: vLLM cannot be installed where this was written. The calls follow its documentation (version 0.12 and
later: `LLM.chat`, `SamplingParams(structured_outputs=StructuredOutputsParams(json=…))`); the tests put a stand-in in
the engine's place and so cover our own part only: how questions are turned into its messages and outputs into answers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from idtool.errors import MissingError, UsageError
from idtool.models import openai_wire, runtime, torch_runtime
from idtool.models.ask import Answer, Ask
from idtool.models.asking import Asking, check_long_side
from idtool.models.sources import Weights


class VllmModel(Asking):
    """Answers of vLLM, greedy, held to their schemas by the engine. Calls from several threads wait for each other."""

    packages: ClassVar[tuple[str, ...]] = ("vllm",)
    guided = True

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cuda",
        threads: int = 1,
        dtype: str = "auto",
        compiled: bool = True,
        long_side: int = 768,
        max_images: int = 4,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        repairs: int = 2,
        cache: bool = False,
    ) -> None:
        """`dtype` auto: bfloat16. `compiled` False: eager, without CUDA graphs. `long_side`: images are reduced to it,
        in px. `max_images`: most images of one question. The others are vLLM's own settings of these names; which GPUs
        it uses is CUDA_VISIBLE_DEVICES' to say. `threads` means nothing here."""
        super().__init__(repairs=repairs, cache=cache)
        kind, number = runtime.parse_device(device)
        if kind != "cuda" or number:
            raise MissingError(
                f"vLLM runs on the first visible CUDA device, but device {device!r} was asked for.",
                "Use --device cuda, and CUDA_VISIBLE_DEVICES for another GPU; or format `vlm` on other devices.",
            )
        if max_images < 0:
            raise UsageError(f"Option `max_images` is {max_images}.", "It is 0 or more.")
        self._weights, self._long_side = weights, check_long_side(long_side)
        self._max_images = max_images
        self._dtype = "bfloat16" if dtype == "auto" else dtype
        self._lock = threading.Lock()
        with torch_runtime.as_missing(f"Model {weights.model} ({weights.path}) in vLLM"):
            import vllm
            from vllm.sampling_params import StructuredOutputsParams

            self._sampling, self._by_schema = vllm.SamplingParams, StructuredOutputsParams
            self._engine = vllm.LLM(
                model=str(weights.path),
                dtype=self._dtype,
                trust_remote_code=False,
                seed=0,
                enforce_eager=not compiled,
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                tensor_parallel_size=tensor_parallel_size,
                limit_mm_per_prompt={"image": max_images},
            )

    def fingerprint(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"longer side at most {self._long_side} px, png, images before the prompt, greedy",
            "dtype": self._dtype,
            **self._facts(),
            **runtime.versions("vllm", "torch", "transformers"),
        }

    def _say(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """All at once: the engine makes its own batches."""
        with self._lock:
            yield from enumerate(self._isolated(list(asks)))

    def _isolated(self, asks: list[Ask]) -> list[Answer]:
        """Answers; when the engine refuses them together, of each half, down to the question that is at fault."""
        if not asks:
            return []
        turns = [openai_wire.messages(ask, long_side=self._long_side, image_format="png", quality=0) for ask in asks]
        try:
            outputs = self._engine.chat(turns, sampling_params=[self._settings(ask) for ask in asks], use_tqdm=False)
        # A question that is too long or holds too many images is a ValueError for all that came with it.
        except ValueError as error:
            if len(asks) == 1:
                why = " ".join(str(error).split())[:300]
                reason = "too_long" if openai_wire.is_too_long(why) else "bad_input"
                return [Answer(None, reason=reason, detail=why)]
            half = len(asks) // 2
            return self._isolated(asks[:half]) + self._isolated(asks[half:])
        return [_answer(output) for output in outputs]

    def _settings(self, ask: Ask) -> Any:
        schema = {"structured_outputs": self._by_schema(json=dict(ask.schema))} if ask.schema is not None else {}
        return self._sampling(temperature=0.0, max_tokens=ask.max_tokens, **schema)


def _answer(output: Any) -> Answer:
    """A `RequestOutput` of vLLM as an answer."""
    first = output.outputs[0]
    tokens_in, tokens_out = len(output.prompt_token_ids or ()), len(first.token_ids)
    text = first.text.strip()
    if first.finish_reason == "length":
        detail = f"no end within {tokens_out} tokens"
        return Answer(text, reason="cut", detail=detail, tokens_in=tokens_in, tokens_out=tokens_out)
    return Answer(text, tokens_in=tokens_in, tokens_out=tokens_out)
