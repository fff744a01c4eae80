"""Grounders and segmenters: two or so thin layers each, in the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo.tokens import bert_tokenizer, clip_tokenizer
from tests.zoo.weights import drawn

SAM_FILE = "sam_tiny.pth"


def grounding_dino(folder: Path) -> None:
    """Grounding DINO on a Swin of width 8."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    _grounder(folder, GroundingDinoConfig, GroundingDinoForObjectDetection)


def mm_grounding_dino(folder: Path) -> None:
    """The same with MM-Grounding-DINO's class heads."""
    from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

    _grounder(folder, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)


def _grounder(folder: Path, config_class: Any, network_class: Any) -> None:
    import torch
    from transformers import GroundingDinoImageProcessor, GroundingDinoProcessor, SwinConfig

    tokenizer = bert_tokenizer()
    config = config_class(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
            out_indices=[2, 3, 4],
        ),
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
        },
        num_queries=10,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_text_len=64,
    )
    with drawn():
        network = network_class(config)
        # Untrained, the products of queries and tokens would all be far from 0 and every score 0 or 1.
        torch.nn.init.constant_(network.model.decoder.layer_norm.weight, 0.2)
        network.save_pretrained(folder)
    # The coarsest of four feature maps has 1/64 of the side: from 64 px it would be one pixel, which the norm refuses.
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 200})
    GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def sam(folder: Path) -> None:
    """SAM at 64 px."""
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    with drawn():
        SamModel(config).save_pretrained(folder)
    images = SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    SamProcessor(images).save_pretrained(folder)


def sam2(folder: Path) -> None:
    """SAM 2 at 128 px, its Hiera in stages of one or two blocks."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "num_attention_heads": 1,
                "image_size": [128, 128],
                "window_positional_embedding_background_size": [4, 4],
                "num_query_pool_stages": 3,
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 2, 2],
                "window_size_per_stage": [8, 4, 4, 2],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 128, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    with drawn():
        Sam2Model(config).save_pretrained(folder)
    images = Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})
    Sam2Processor(images, target_size=128).save_pretrained(folder)


def sam3(folder: Path) -> None:
    """SAM 3 at 112 px with ten queries."""
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    tokenizer = clip_tokenizer(32)
    part = {"hidden_size": 16, "num_attention_heads": 2}
    layer = {**part, "num_layers": 1, "intermediate_size": 16}
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                **part,
                "model_type": "sam3_vit_model",
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "image_size": 112,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": 112,
            },
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 32,
            "projection_dim": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        },
        geometry_encoder_config=dict(layer),
        detr_encoder_config=dict(layer),
        detr_decoder_config={**layer, "num_queries": 10},
        mask_decoder_config=dict(part),
    )
    with drawn():
        Sam3Model(config).save_pretrained(folder)
    images = Sam3ImageProcessor(size={"height": 112, "width": 112}, mask_size={"height": 32, "width": 32})
    Sam3Processor(image_processor=images, tokenizer=tokenizer, target_size=112).save_pretrained(folder)


def segment_anything(folder: Path) -> None:
    """The original package's network with an encoder of two layers. What follows the encoder has one published size:
    that is 16 MB."""
    import torch
    from segment_anything.build_sam import _build_sam

    with drawn():
        network = _build_sam(16, 2, 2, [1])
        # Published relative positions are learnt; zeros would hide a mistaken number of heads.
        for name, tensor in network.named_parameters():
            if "rel_pos" in name:
                torch.nn.init.normal_(tensor, std=0.2)
    torch.save(network.state_dict(), folder / SAM_FILE)
