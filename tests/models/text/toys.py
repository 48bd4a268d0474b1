"""Toy detectors that read text, with random weights and a tokenizer of letters, written as save_pretrained does."""

import json
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import save_file

from tests.sam.transformers.toys import sam3_video

WIDTH, SIDE = 16, 32
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SMALL = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}


def clip_tokenizer(length: int) -> tf.CLIPTokenizer:
    """CLIP's tokenizer that knows letters alone; texts are at most ``length`` tokens."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return tf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def bert_tokenizer() -> tf.BertTokenizer:
    """BERT's tokenizer that knows letters alone."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return tf.BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def owlv2() -> tuple[tf.PreTrainedModel, tf.ProcessorMixin]:
    """OWLv2 of 16 patches."""
    text = {
        **_SMALL,
        "vocab_size": 54,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 52,
        "eos_token_id": 53,
    }
    vision = {**_SMALL, "image_size": SIDE, "patch_size": 8}
    config = tf.Owlv2Config(text_config=text, vision_config=vision, projection_dim=WIDTH)
    images = tf.Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return tf.Owlv2ForObjectDetection(config), tf.Owlv2Processor(images, clip_tokenizer(16))


def grounding_dino() -> tuple[tf.PreTrainedModel, tf.ProcessorMixin]:
    """Grounding DINO of eight queries."""
    backbone = tf.SwinConfig(
        image_size=SIDE,
        patch_size=2,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 1, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3"],
    )
    text = tf.BertConfig(**_SMALL, vocab_size=59, max_position_embeddings=32)
    config = tf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=8,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=WIDTH,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_text_len=32,
        num_feature_levels=4,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    images = tf.GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    return tf.GroundingDinoForObjectDetection(config), tf.GroundingDinoProcessor(images, bert_tokenizer())


def sam3() -> tuple[tf.PreTrainedModel, tf.ProcessorMixin]:
    """SAM 3's detector of four queries."""
    config = sam3_video().detector_config
    config.text_config.vocab_size, config.text_config.max_position_embeddings = 64, 32
    images = tf.Sam3ImageProcessor(size={"height": 56, "width": 56})
    return tf.Sam3Model(config), tf.Sam3Processor(images, clip_tokenizer(32))


TOYS = {"owlv2": owlv2, "grounding-dino": grounding_dino, "sam3": sam3}


def write_text_toy(kind: str, folder: Path, without: str | None = None) -> Path:
    """Write a model with random weights (``without`` one tensor), preprocessing and tokenizer; returns the folder."""
    torch.manual_seed(5)
    model, processor = TOYS[kind]()
    scale = 0.1 if kind == "grounding-dino" else 0.4  # where boxes have an area
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    state = {name: value.clone() for name, value in model.state_dict().items() if name != without}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    return folder
