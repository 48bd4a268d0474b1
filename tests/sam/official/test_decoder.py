"""The fast mask decoder against segment-anything's own, on random weights at toy size."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from weaksam.sam.official.decoder import FastDecoder

DIM, SIDE = 32, 6


def random_parts(dtype: torch.dtype, activation=torch.nn.GELU) -> tuple[MaskDecoder, PromptEncoder]:
    """A decoder and prompt encoder in which no weight, bias or gain is a round number."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(2, DIM, num_heads=4, mlp_dim=48)
    decoder = MaskDecoder(transformer_dim=DIM, transformer=transformer, activation=activation, iou_head_hidden_dim=16)
    prompt_encoder = PromptEncoder(DIM, (SIDE, SIDE), (16 * SIDE, 16 * SIDE), 4)
    for module in (decoder, prompt_encoder):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, mean=0.1, std=0.5)
        module.requires_grad_(False)
    decoder.to(dtype)
    return decoder, prompt_encoder


def plain_and_fast(dtype, points, labels, boxes=None, activation=torch.nn.GELU):
    """Logits and predicted IoU of the plain decoder and of the fast one, for the same prompts."""
    decoder, prompt_encoder = random_parts(dtype, activation)
    features = torch.randn(1, DIM, SIDE, SIDE, dtype=dtype)
    pair = None if points is None else (points, labels)
    sparse, dense = prompt_encoder(points=pair, boxes=boxes, masks=None)
    sparse, dense, position = sparse.to(dtype), dense.to(dtype), prompt_encoder.get_dense_pe().to(dtype)
    plain = decoder(
        image_embeddings=features,
        image_pe=position,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    fast = FastDecoder(decoder)
    photo = fast.photo(features, dense[:1], position)
    side, iou = fast.prompts(photo, sparse)
    return plain, (fast.logits(photo, side, torch.arange(len(sparse))), iou)


@pytest.mark.parametrize("num_points", [1, 2, 5])
def test_fast_decoder_equals_the_plain_one_in_double_precision(num_points):
    points = torch.rand(3, num_points, 2) * 16 * SIDE
    labels = torch.randint(0, 2, (3, num_points))
    (logits, iou), (fast_logits, fast_iou) = plain_and_fast(torch.float64, points, labels)
    assert fast_logits.shape == logits.shape == (3, 3, 4 * SIDE, 4 * SIDE)
    torch.testing.assert_close(fast_logits, logits, rtol=1e-9, atol=1e-9 * logits.abs().max().item())
    torch.testing.assert_close(fast_iou, iou, rtol=1e-9, atol=1e-9)


def test_fast_decoder_equals_the_plain_one_in_single_precision_on_boxes():
    boxes = torch.tensor([[4.0, 8.0, 50.0, 70.0], [20.0, 1.0, 40.0, 30.0]])
    (logits, iou), (fast_logits, fast_iou) = plain_and_fast(torch.float32, None, None, boxes, torch.nn.ReLU)
    torch.testing.assert_close(fast_logits, logits, rtol=0, atol=3e-5 * logits.abs().max().item())
    torch.testing.assert_close(fast_iou, iou, rtol=1e-4, atol=1e-4)


def test_rows_are_drawn_in_the_order_asked_and_none_gives_none():
    decoder, prompt_encoder = random_parts(torch.float64)
    features = torch.randn(1, DIM, SIDE, SIDE, dtype=torch.float64)
    points = torch.rand(4, 1, 2) * 16 * SIDE
    sparse, dense = prompt_encoder(points=(points, torch.ones(4, 1)), boxes=None, masks=None)
    fast = FastDecoder(decoder)
    photo = fast.photo(features, dense[:1].double(), prompt_encoder.get_dense_pe().double())
    side, _ = fast.prompts(photo, sparse.double())
    every = fast.logits(photo, side, torch.arange(4))
    torch.testing.assert_close(fast.logits(photo, side, torch.tensor([3, 1])), every[[3, 1]])
    assert fast.logits(photo, side, torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 4 * SIDE, 4 * SIDE)


def test_bands_of_the_photo_do_not_show(monkeypatch):
    points, labels = torch.rand(2, 1, 2) * 16 * SIDE, torch.ones(2, 1)
    _, (whole, _) = plain_and_fast(torch.float64, points, labels)
    monkeypatch.setattr("weaksam.sam.official.decoder.BAND", 2 * SIDE + 1)  # two rows at a time, then the rest
    _, (banded, _) = plain_and_fast(torch.float64, points, labels)
    torch.testing.assert_close(banded, whole)


def test_a_decoder_of_another_depth_is_not_taken_apart():
    three = MaskDecoder(transformer_dim=DIM, transformer=TwoWayTransformer(3, DIM, num_heads=4, mlp_dim=48))
    assert not FastDecoder.fits(three)
    assert FastDecoder.fits(random_parts(torch.float32)[0])
