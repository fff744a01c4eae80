"""Tokenizers and chat templates of vision-language models, made without any network: a token per byte, and the special
tokens by which each family marks turns and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.zoo.tokens import byte_alphabet

QWEN_SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)


def turns(before: str, image: str, after: str, answer: str, start: str = "") -> str:
    """A Jinja chat template: every turn is `before` (with `ROLE` for the role), its images and texts, `after`; the
    model goes on behind `answer`. `start` stands in front of everything."""
    opening = "{{ '" + before.replace("ROLE", "' + turn['role'] + '") + "' }}"
    parts = (
        "{% for part in turn['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + image + "' }}{% elif part['type'] == 'text' %}{{ part['text'] }}"
        "{% endif %}{% endfor %}"
    )
    body = "{% for turn in messages %}" + opening + parts + "{{ '" + after + "' }}{% endfor %}"
    return "{{ '" + start + "' }}" + body + "{% if add_generation_prompt %}{{ '" + answer + "' }}{% endif %}"


QWEN_TEMPLATE = turns(
    r"<|im_start|>ROLE\n",
    "<|vision_start|><|image_pad|><|vision_end|>",
    r"<|im_end|>\n",
    r"<|im_start|>assistant\n",
)


def qwen_tokenizer(template: str = QWEN_TEMPLATE, extra: Sequence[str] = (), **named: str) -> Any:
    """Qwen2's tokenizer; `extra` special tokens, `named` those that a processor asks for by name."""
    from transformers import Qwen2Tokenizer

    tokens = [*byte_alphabet(), *QWEN_SPECIALS, *extra]
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        model_max_length=2048,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[*QWEN_SPECIALS[1:], *extra],
    )
    tokenizer.chat_template = template
    return with_named(tokenizer, named)


def llama_tokenizer(template: str, specials: Sequence[str], **named: str) -> Any:
    """A byte-level tokenizer with LLaMA's special tokens `<unk>` 0, `<s>` 1, `</s>` 2 and `<pad>` 3."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", "<pad>", *byte_alphabet()]
    inner = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=2048,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    tokenizer.chat_template = template
    return with_named(tokenizer, named)


def with_named(tokenizer: Any, named: Mapping[str, str]) -> Any:
    """Give the tokenizer attributes such as `image_token`, which come back after `save_pretrained`."""
    if named:
        tokenizer._set_model_specific_special_tokens(dict(named))
    return tokenizer
