"""Vision-language models in PyTorch, through `AutoModelForImageTextToText` and the checkpoint's own chat template:
Qwen2-VL, Qwen2.5-VL, Qwen3-VL, LLaVA-1.5, InternVL (the `-HF` repositories), SmolVLM, Gemma 3 and what else fits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from idtool.engine.operator import is_out_of_memory
from idtool.errors import IdtoolError, MissingError, UsageError
from idtool.models import runtime, torch_runtime
from idtool.models.ask import Answer, Ask
from idtool.models.asking import Asking, check_long_side
from idtool.models.sources import Weights
from idtool.models.vlm_chat import INSTRUCTED, Chat


class LocalVlm(Asking):
    """Answers of a local model, greedy: the most probable token each time.

    Questions with the same limit and the same number of images go through the network together, padded on the left.
    All seven families above answer alike in a batch and alone (on the CPU in float32 to the letter; on accelerators in
    half precision, near ties between tokens may fall otherwise).
    """

    packages: ClassVar[tuple[str, ...]] = torch_runtime.PACKAGES

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "auto",
        compiled: bool = False,
        batch: int = 8,
        long_side: int = 768,
        attn_implementation: str | None = None,
        device_map: str | None = None,
        repairs: int = 2,
        cache: bool = False,
    ) -> None:
        """`dtype` auto: bfloat16 on CUDA, float32 elsewhere. `long_side`: images are reduced to it, in px, before the
        checkpoint's own processor sees them. `attn_implementation`: eager, sdpa, flash_attention_2; None: what
        transformers takes. `device_map`: spread over all GPUs (needs accelerate); None: all on `device`. `repairs`:
        how often an answer that does not fit its schema is asked for again. `cache`: keep answers on disk."""
        super().__init__(repairs=repairs, cache=cache)
        if batch < 1:
            raise UsageError(f"Option `batch` is {batch}.", "It is 1 or more.")
        self._weights, self._batch, self._compiled, self._device_map = weights, batch, compiled, device_map
        place = torch_runtime.device_of(device, threads)
        self._dtype = ("bfloat16" if place.type == "cuda" else "float32") if dtype == "auto" else dtype
        from transformers import AutoModelForImageTextToText

        self._chat = Chat(weights, check_long_side(long_side))
        options: dict[str, Any] = {"dtype": torch_runtime.dtype_of(self._dtype)}
        options |= {"attn_implementation": attn_implementation} if attn_implementation else {}
        options |= {"device_map": device_map} if device_map else {}
        network = torch_runtime.pretrained(AutoModelForImageTextToText, weights, **options)
        # Not through `torch_runtime.ready`: a cast of the whole module would take the rotary frequencies, which
        # belong in float32, down to half precision.
        self._network = (network if device_map else network.to(place)).eval().requires_grad_(False)
        if compiled:
            self._network.forward = torch_runtime.import_torch().compile(self._network.forward)
        self._ends = self._end_tokens()
        text = network.config.get_text_config()
        self._context = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
        # Also on the CPU: tokenizers change state while they pad, and Qwen's networks keep the positions of the answer
        # that they are writing.
        self._lock = threading.Lock()
        self._worked = False

    def fingerprint(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"{self._chat.facts()}, greedy",
            "dtype": self._dtype,
            "compiled": self._compiled,
            "attention": getattr(self._network.config, "_attn_implementation", None),
            "device_map": self._device_map,
            **self._facts(),
            **runtime.versions("torch", "torchvision", "transformers"),
        }

    def _say(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        groups: dict[tuple[int, int], list[int]] = {}
        for number, ask in enumerate(asks):
            groups.setdefault((ask.max_tokens, len(ask.images)), []).append(number)
        for group in groups.values():
            for start in range(0, len(group), self._batch):
                numbers = group[start : start + self._batch]
                yield from zip(numbers, self._isolated([asks[number] for number in numbers]), strict=True)

    def _isolated(self, asks: list[Ask]) -> list[Answer]:
        """Answers of one batch; when it fails, of each of its halves, down to the question that is at fault."""
        try:
            with self._lock:
                return self._together(asks)
        # Processors and networks raise whatever they like at an image or a text that they cannot take.
        except Exception as error:
            if isinstance(error, IdtoolError) or is_out_of_memory(error) or "CUDA error" in str(error):
                raise
            if len(asks) == 1:
                # As long as nothing has worked, only what is plainly about values is the question's fault.
                if not self._worked and not isinstance(error, ValueError):
                    raise
                why = " ".join(str(error).split())[:300]
                return [Answer(None, reason="bad_input", detail=f"{type(error).__name__}: {why}")]
        half = len(asks) // 2
        return self._isolated(asks[:half]) + self._isolated(asks[half:])

    def _together(self, asks: list[Ask]) -> list[Answer]:
        """Answers of questions that have the same limit and the same number of images."""
        found = {number: answer for number, ask in enumerate(asks) if (answer := self._unaskable(ask))}
        limit, inputs, lengths = asks[0].max_tokens, None, []
        while left := [number for number in range(len(asks)) if number not in found]:
            inputs = self._chat.inputs([asks[number] for number in left])
            lengths = [int(length) for length in inputs["attention_mask"].sum(dim=1).tolist()]
            long = {
                number: length for number, length in zip(left, lengths, strict=True) if length + limit > self._context
            }
            if not long:
                break
            for number, length in long.items():
                detail = f"{length} tokens and {limit} for the answer, of {self._context} that the model can take"
                found[number] = Answer(None, reason="too_long", detail=detail, tokens_in=length)
        if left:
            rows, bad = self._generated(inputs, limit)
            said = zip(lengths, rows, bad, strict=True)
            found |= dict(zip(left, (self._answer(*one) for one in said), strict=True))
        return [found[number] for number in range(len(asks))]

    def _unaskable(self, ask: Ask) -> Answer | None:
        mark = self._chat.mark_in(ask)
        detail = f"the text holds {mark!r}, by which the model marks turns and images"
        return Answer(None, reason="bad_input", detail=detail) if mark else None

    def _generated(self, inputs: Any, limit: int) -> tuple[list[list[int]], list[bool]]:
        """The tokens that follow each row of the inputs, and whether its scores were ever NaN or infinite."""
        watch = _Watch()
        with torch_runtime.import_torch().inference_mode():
            output = self._network.generate(
                **inputs.to(self._network.device, self._network.dtype),
                max_new_tokens=limit,
                do_sample=False,
                num_beams=1,
                # Settings of sampling that some checkpoints bring along; greedy answers have no use for them.
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=self._ends,
                pad_token_id=self._chat.tokenizer.pad_token_id,
                logits_processor=[watch],
            )
        self._worked = True
        return output[:, inputs["input_ids"].shape[1] :].tolist(), watch.bad

    def _answer(self, length: int, row: list[int], bad: bool) -> Answer:
        """One row of generated tokens: the answer, the token that ends it, and padding."""
        end = next((place for place, token in enumerate(row) if token in self._ends), None)
        kept = row if end is None else row[:end]
        spent = Answer(None, tokens_in=length, tokens_out=len(row) if end is None else end + 1)
        if bad:
            return replace(spent, reason="invalid", detail="the network gave NaN")
        text = self._chat.tokenizer.decode(kept, skip_special_tokens=True).strip()
        if end is None:
            return replace(spent, text=text, reason="cut", detail=f"no end within {len(row)} tokens")
        return replace(spent, text=text)

    def _end_tokens(self) -> list[int]:
        """The tokens that end an answer: those of the generation settings and the tokenizer's own."""
        named = getattr(self._network.generation_config, "eos_token_id", None)
        ends = {*(named if isinstance(named, list) else [named]), self._chat.tokenizer.eos_token_id} - {None}
        if not ends:
            raise MissingError(f"Model {self._weights.model} names no token that ends an answer.", INSTRUCTED)
        return sorted(int(end) for end in ends)


class _Watch:
    """Sees the scores of every token go by, and notes which rows ever have NaN or infinity among them."""

    def __init__(self) -> None:
        self._bad: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        # -inf is how other processors forbid tokens; NaN compares as False.
        bad = ~(scores < float("inf")).all(dim=-1)
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    @property
    def bad(self) -> list[bool]:
        return [bool(row) for row in self._bad.tolist()]
