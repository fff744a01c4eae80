"""Tiny vision-language models in the architectures of Qwen2-VL, Qwen2.5-VL, Qwen3-VL, LLaVA-1.5, InternVL, SmolVLM and
Gemma 3. Their weights are drawn wide, so that the answer depends on every token of the question and on its images;
they answer in printable ASCII."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.zoo.chat_tokens import llama_tokenizer, qwen_tokenizer, turns
from tests.zoo.weights import drawn

CONTEXT = 2048
"""Tokens that each of the models can take."""


def qwen2_vl(folder: Path) -> None:
    """Qwen2-VL: patches of 14 px, 2 x 2 of them a token, any size."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    tokenizer = qwen_tokenizer()
    config = Qwen2VLConfig(
        text_config=_qwen_text(tokenizer, rope_parameters=_rope([1, 1, 2])),
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        **qwen_ids(tokenizer),
    )
    _save(folder, lambda: Qwen2VLForConditionalGeneration(config), qwen_processor(Qwen2VLProcessor, tokenizer))


def qwen25_vl(folder: Path) -> None:
    """Qwen2.5-VL: as Qwen2-VL, with attention in windows in the first layer of the vision tower."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    tokenizer = qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config=_qwen_text(tokenizer, rope_parameters=_rope([1, 1, 2])),
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        **qwen_ids(tokenizer),
    )
    processor = qwen_processor(Qwen2_5_VLProcessor, tokenizer)
    _save(folder, lambda: Qwen2_5_VLForConditionalGeneration(config), processor)


def qwen3_vl(folder: Path) -> None:
    """Qwen3-VL: patches of 16 px, features of both layers of the vision tower enter the language model."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = qwen_tokenizer()
    config = Qwen3VLConfig(
        text_config=_qwen_text(tokenizer, head_dim=8, rope_parameters=_rope([2, 1, 1]) | {"mrope_interleaved": True}),
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **qwen_ids(tokenizer),
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, min_pixels=64 * 64, max_pixels=128 * 128),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    _save(folder, lambda: Qwen3VLForConditionalGeneration(config), processor)


def llava(folder: Path) -> None:
    """LLaVA-1.5: CLIP's vision tower at one size, the class token left out."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = llama_tokenizer(turns("ROLE: ", r"<image>\n", " ", "ASSISTANT:", start="<s>"), ("<image>",))
    config = LlavaConfig(
        text_config=_llama_text(tokenizer, model_type="llama"),
        vision_config=_vit("clip_vision_model", layers=3, projection_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    _save(folder, lambda: LlavaForConditionalGeneration(config), processor)


def internvl(folder: Path) -> None:
    """InternVL 2.5 / 3 in the form of transformers: large images as several tiles and a thumbnail."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    template = turns(r"<|im_start|>ROLE\n", r"<IMG_CONTEXT>\n", r"<|im_end|>\n", r"<|im_start|>assistant\n")
    tokenizer = qwen_tokenizer(template, (*marks.values(), "<video>"), **marks, video_token="<video>")
    config = InternVLConfig(
        text_config=_qwen_text(tokenizer, model_type="qwen2"),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size={"height": 56, "width": 56}),
        image_seq_length=4,
        chat_template=template,
    )
    _save(folder, lambda: InternVLForConditionalGeneration(config), processor)


def smolvlm(folder: Path) -> None:
    """SmolVLM: SigLIP's vision tower, images as rows and columns of tiles and a thumbnail. Needs `num2words`."""
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>")
    template = turns("ROLE: ", "<image>", r"<end_of_utterance>\n", "Assistant:", start="<s>")
    tokenizer = llama_tokenizer(template, (*marks, *tiles))
    config = SmolVLMConfig(
        text_config=_llama_text(tokenizer, model_type="llama", num_key_value_heads=2),
        vision_config=_vit(image_size=64, patch_size=16),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 64}),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 64}),
        image_seq_len=4,
        chat_template=template,
    )
    _save(folder, lambda: SmolVLMForConditionalGeneration(config), processor)


def gemma3(folder: Path) -> None:
    """Gemma 3: SigLIP's vision tower at one size, attention in both directions inside an image."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    marks = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    template = turns(
        r"<start_of_turn>ROLE\n", "<start_of_image>", r"<end_of_turn>\n", r"<start_of_turn>model\n", start="<s>"
    )
    tokenizer = llama_tokenizer(template, (*marks.values(), "<start_of_turn>", "<end_of_turn>"), **marks)
    config = Gemma3Config(
        text_config=_llama_text(tokenizer, num_key_value_heads=2, head_dim=8, sliding_window=64),
        vision_config=_vit(),
        mm_tokens_per_image=4,
        **{f"{name}_index": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()},
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        chat_template=template,
        image_seq_length=4,
    )
    _save(folder, lambda: Gemma3ForConditionalGeneration(config), processor, tokens=0.001)


def _rope(sections: list[int]) -> dict[str, Any]:
    """Rotary positions over time, height and width, of so many frequencies each."""
    return {"mrope_section": sections, "rope_type": "default", "rope_theta": 1_000_000.0}


def _text(tokenizer: Any, **further: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **further,
    }


def _qwen_text(tokenizer: Any, **further: Any) -> dict[str, Any]:
    return _text(tokenizer, num_key_value_heads=2, **further)


_llama_text = _text


def qwen_processor(kind: type[Any], tokenizer: Any) -> Any:
    """A processor of class `kind`, for images of 56 x 56 to 112 x 112 pixels."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    return kind(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """Where Qwen's configurations look for the tokens of images and videos."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _vit(kind: str = "", layers: int = 2, **further: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2}
    return {**sizes, "image_size": 56, "patch_size": 14, **({"model_type": kind} if kind else {}), **further}


def _save(folder: Path, network: Callable[[], Any], processor: Any, tokens: float = 1.0) -> None:
    """Weights drawn from one seed, whatever else draws in this process. `tokens`: how loud the embeddings of tokens
    are; where they drown what the layers add, every answer is one token again and again."""
    with drawn() as torch:
        model = network()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=2 * weight[0].numel() ** -0.5)
            model.get_input_embeddings().weight.mul_(tokens)
            _speak_ascii(model.get_output_embeddings().weight, processor.tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _speak_ascii(rows: Any, tokenizer: Any) -> None:
    """Silence all tokens but printable ASCII, and double the end of the answer, so that some answers end early."""
    allowed = tokenizer.convert_tokens_to_ids([chr(code) for code in range(ord("!"), ord("~") + 1)])
    ending = rows[tokenizer.eos_token_id].clone()
    kept = rows[allowed].clone()
    rows.zero_()
    rows[allowed] = kept
    rows[tokenizer.eos_token_id] = ending
