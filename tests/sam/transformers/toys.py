"""Toy models of the SAM families of transformers, with random weights, written as save_pretrained writes real ones."""

import json
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import save_file

WIDTH, SIDE = 16, 64
MEMORY = {
    "memory_attention_hidden_size": WIDTH,
    "memory_attention_num_layers": 1,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": WIDTH,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": WIDTH,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": WIDTH,
    "memory_fuser_intermediate_dim": WIDTH,
}


def sam(prefix="Sam", depth=2, width=WIDTH, **decoder):
    """Config of SAM or SAM-HQ."""
    return getattr(tf, f"{prefix}Config")(
        vision_config={
            "hidden_size": width,
            "output_channels": WIDTH,
            "num_hidden_layers": depth,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": WIDTH // 2,
            "mlp_ratio": 2.0,
        },
        **prompted(8, **decoder),
    )


def prompted(patch_size, prefix=None, image_size=SIDE, **decoder):
    """The parts that answer prompts, alike in all families.

    Of ``prefix`` as a config: transformers 5.17 takes no mapping for the mask decoder of Sam2Video.
    """
    parts = {
        "prompt_encoder_config": {
            "hidden_size": WIDTH,
            "image_size": image_size,
            "patch_size": patch_size,
            "mask_input_channels": 4,
        },
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "mlp_dim": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
            **decoder,
        },
    }
    if prefix is not None:
        parts["mask_decoder_config"] = getattr(tf, f"{prefix}MaskDecoderConfig")(**parts["mask_decoder_config"])
    return parts


def encoder(model_type, backbone, channels=None):
    """An image encoder of three levels."""
    levels = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": WIDTH}
    channels = {} if channels is None else {"backbone_channel_list": channels}
    return {"model_type": model_type, "backbone_config": backbone, **channels, **levels}


def hiera():
    """SAM 2's image encoder."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    return encoder("sam2_vision_model", backbone, [64, 32, 16, 8])


def repvit():
    """EdgeTAM's image encoder, which comes from timm."""
    arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    arguments |= {"embed_dim": [8, 8, 16, 16], "depth": [1, 1, 1, 1]}
    backbone = tf.TimmWrapperConfig(architecture="repvit_m1", model_args=arguments)
    return encoder("edgetam_vision_model", backbone.to_dict(), [16, 16, 8, 8])


def vit3():
    """SAM 3's image encoder, for images of 56 pixels."""
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    }
    return encoder("sam3_vision_model", backbone)


def sam3_video():
    """Config of the published SAM 3: a detector and a tracker that share the image encoder."""
    small = {"hidden_size": WIDTH, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": WIDTH}
    text = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    detector = tf.Sam3Config(
        vision_config=vit3(),
        text_config={**text, "vocab_size": 64, "projection_dim": WIDTH, "max_position_embeddings": 8},
        geometry_encoder_config=small,
        detr_encoder_config=small,
        detr_decoder_config={**small, "num_queries": 4},
        mask_decoder_config={"hidden_size": WIDTH, "num_upsampling_stages": 3, "num_attention_heads": 2},
    )
    return tf.Sam3VideoConfig(detector_config=detector, tracker_config=sam3_tracker_video())


def sam3_tracker_video():
    """Config of SAM 3's tracker with its memory."""
    return tf.Sam3TrackerVideoConfig(vision_config=vit3(), image_size=56, **MEMORY, **prompted(14, image_size=56))


TOYS = {
    "sam": ("SamModel", sam),
    "sam_hq": ("SamHQModel", lambda: sam("SamHQ", vit_dim=WIDTH)),
    "sam2": ("Sam2Model", lambda: tf.Sam2Config(vision_config=hiera(), **prompted(16))),
    "sam2_video": (
        "Sam2VideoModel",
        lambda: tf.Sam2VideoConfig(vision_config=hiera(), image_size=SIDE, **MEMORY, **prompted(16, "Sam2Video")),
    ),
    "edgetam": ("EdgeTamModel", lambda: tf.EdgeTamConfig(vision_config=repvit(), **prompted(16))),
    "edgetam_video": (
        "EdgeTamVideoModel",
        lambda: tf.EdgeTamVideoConfig(vision_config=repvit(), image_size=SIDE, **MEMORY, **prompted(16)),
    ),
    "sam3_tracker": (
        "Sam3TrackerModel",
        lambda: tf.Sam3TrackerConfig(vision_config=vit3(), **prompted(14, image_size=56)),
    ),
    "sam3_tracker_video": ("Sam3TrackerVideoModel", sam3_tracker_video),
    "sam3_video": ("Sam3VideoModel", sam3_video),
}
"""By model_type: the class that writes the weights, and what makes its config."""


def image_processor(model_type):
    """The family's own preprocessing at toy size."""
    if model_type in ("sam", "sam_hq"):
        square = {"height": SIDE, "width": SIDE}
        return tf.SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square)
    if model_type.startswith("sam3"):
        return tf.Sam3ImageProcessor(size={"height": 56, "width": 56})
    return tf.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})


def write_toy(model_type: str, folder: Path, config=None, without: str | None = None) -> Path:
    """Write a model with random weights (``without`` one tensor) and its preprocessing into ``folder``; return that."""
    class_name, make = TOYS[model_type]
    torch.manual_seed(5)  # for the buffers
    model = getattr(tf, class_name)(make() if config is None else config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    # Written by the model's own names, as published; SAM 3's save_pretrained would write some prefixes twice
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    state = {name: value.clone() for name, value in model.state_dict().items() if name != without}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    image_processor(model_type).save_pretrained(folder)
    return folder
