"""Tokenizers without any network: the real classes over an alphabet of bytes or characters, no merges."""

from __future__ import annotations

from typing import Any


def byte_alphabet() -> list[str]:
    """The 256 characters by which byte-level tokenizers write bytes, in the order of the bytes."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in shown}
    hidden = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def clip_tokenizer(length: int = 77) -> Any:
    """CLIP's tokenizer: a token per byte, `<|startoftext|>` and `<|endoftext|>`, which also pads."""
    from transformers import CLIPTokenizer

    letters = byte_alphabet()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>", model_max_length=length)


def bert_tokenizer() -> Any:
    """BERT's tokenizer over printable ASCII, lower case. Grounding DINO parts its phrases at fixed numbers of tokens
    (101 [CLS], 102 [SEP], 1012 full stop, 1029 question mark), so here they have the numbers of bert-base-uncased."""
    from transformers import BertTokenizer

    vocabulary = {f"[unused{number}]": number for number in range(1030)}
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper() and chr(code) not in ".?"]
    fixed |= {token: 104 + number for number, token in enumerate([*letters, *(f"##{letter}" for letter in letters)])}
    names = {number: token for token, number in vocabulary.items()} | {number: token for token, number in fixed.items()}
    return BertTokenizer(
        vocab={token: number for number, token in sorted(names.items())}, do_lower_case=True, model_max_length=512
    )
