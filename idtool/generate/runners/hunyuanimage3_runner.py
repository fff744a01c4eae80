"""Runner for HunyuanImage-3.0 (github.com/Tencent-Hunyuan/HunyuanImage-3.0).

Unproven: written from the repository's code, never run with its weights.
Text to image only: at this revision the repository takes no pictures (the Instruct weights, which do, need its later
code). About 80 billion parameters: several large GPUs.
"""

from __future__ import annotations

from typing import Any

from protocol import enter, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    enter(start)
    from hunyuan_image_3.hunyuan import HunyuanImage3ForCausalMM  # type: ignore[import-not-found]

    base, settings = start["models"]["base"], start["settings"]
    model = HunyuanImage3ForCausalMM.from_pretrained(
        base,
        attn_implementation=settings["attention"],
        torch_dtype="auto",
        device_map="auto",
        moe_impl=settings["moe"],
    )
    model.load_tokenizer(base)
    return model


def make(model: Any, request: dict[str, Any]) -> Any:
    settings = request["settings"]
    return model.generate_image(
        prompt=request["prompt"],
        seed=request["seed"],
        image_size=f"{request['height']}x{request['width']}",  # taken to the nearest of its preset sizes
        use_system_prompt=settings["system_prompt"],
        bot_task=settings["task"],
        diff_infer_steps=settings["steps"],
        stream=True,
    )


serve(load, make, dtype="bfloat16")
