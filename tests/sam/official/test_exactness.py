"""Our SAM against segment-anything's own predictor and mask generator, on the same random weights at toy size."""

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch.nn import functional as F

from tests.helpers import noise_photo, random_sam
from weaksam.sam.mask_geometry import Frame, enlarge, measure, measure_in_input
from weaksam.sam.official.encoder import FusedEncoder
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.stages.proposals.prompts import grid_points

SIZES = [(64, 64), (48, 80), (97, 40)]


@pytest.fixture(scope="module")
def sam():
    model = random_sam(5, scale=1.0, patch_size=4).requires_grad_(False)
    last = model.mask_decoder.iou_prediction_head.layers[-1]
    last.weight.mul_(0.01), last.bias.fill_(0.5)  # predicted IoU in [0, 1], which random weights do not know
    return model


def between(values, share):
    """A threshold half-way between two neighbours among the values, ``share`` of which lie below."""
    ordered_values = values.flatten().unique()
    at = int(share * len(ordered_values))
    low, high = ordered_values[at - 1 : at + 1].tolist()
    assert high - low > 1e-6
    return (low + high) / 2


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (90, 333), (17, 160)])
def test_masks_are_enlarged_and_measured_bit_for_bit_as_sam_does(size):
    torch.manual_seed(0)
    blobs = F.avg_pool2d(torch.randn(7, 32, 32), 5, 1, 2) * 20 - 2
    blobs[3] = -5  # an empty mask
    ratio = 128 / max(size)
    frame = Frame(size, tuple(int(side * ratio + 0.5) for side in size), 128)
    fine = F.interpolate(blobs[:, None], (128, 128), mode="bilinear", align_corners=False)
    fine = fine[..., : frame.input_size[0], : frame.input_size[1]]
    fine = F.interpolate(fine, size, mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(enlarge(blobs, frame), fine)
    boxes, stability = measure(blobs, frame)
    drawn = (fine > 0).any(-1).any(-1)
    inclusive = boxes - torch.tensor([0.0, 0.0, 1.0, 1.0]) * drawn[:, None]
    assert torch.equal(inclusive, batched_mask_to_box(fine > 0).float())
    assert torch.equal(stability, calculate_stability_score(fine, 0.0, 1.0).nan_to_num())
    assert not boxes[3].any() and stability[3] == 0


@pytest.mark.parametrize("size", SIZES)
def test_grid_equals_sams_mask_generator(sam, size, monkeypatch):
    """The same boxes and scores; no candidate lies within rounding of a threshold here."""
    image, segmenter = noise_photo(size, seed=1), SegmentAnything(sam, "sam_vit_toy", "x")
    prompts = Prompts.single_points(grid_points(size, 8))
    answer = segmenter.predict(segmenter.encode(image), prompts)
    # Sparse masks, whose boxes differ; above zero random masks cover every photo
    monkeypatch.setattr(sam, "mask_threshold", answer.logits.flatten()[::7].quantile(0.97).item())
    answer = segmenter.predict(segmenter.encode(image), prompts)
    min_pred_iou = between(answer.iou, 0.6)
    min_stability = between(answer.stability[answer.iou > min_pred_iou], 0.5)
    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=8,
        pred_iou_thresh=min_pred_iou,
        stability_score_thresh=min_stability,
        box_nms_thresh=0.9,
    )
    expected = generator.generate(image)
    settings = ProposalSettings(
        rules="original",
        grid_side=8,
        min_pred_iou=min_pred_iou,
        min_stability=min_stability,
        grid_nms_iou=0.9,
    )
    proposals = propose(segmenter, image, settings=settings)
    boxes = np.array([record["bbox"] for record in expected], dtype=np.float32)
    boxes[:, 2:] += boxes[:, :2] + 1  # inclusive width and height -> half-open corners
    scores = np.array([record["predicted_iou"] for record in expected])
    assert len(proposals.boxes) == len(expected) > 3
    ours, theirs = ordered(proposals.boxes.numpy(), proposals.scores.numpy()), ordered(boxes, scores)
    np.testing.assert_array_equal(ours[:, :4], theirs[:, :4])
    np.testing.assert_allclose(ours[:, 4], theirs[:, 4], atol=1e-5)


def ordered(boxes, scores):
    """Rows of box and score in one order, which rounding of the scores cannot change."""
    rows = np.concatenate([boxes, scores[:, None]], 1)
    return rows[np.lexsort(rows[:, :4].T)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_points", [1, 3, 12])
def test_prompts_equal_sams_predictor(sam, size, num_points):
    """Masks at the photo's size, boxes on them and predicted IoU, also of more points than the fast decoder takes."""
    image, segmenter = noise_photo(size, seed=1), SegmentAnything(sam, "sam_vit_toy", "x")
    generator = torch.Generator().manual_seed(num_points)
    points = torch.rand(2, num_points, 2, generator=generator) * torch.tensor([size[1], size[0]])
    answer = segmenter.predict(segmenter.encode(image), Prompts(points))
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    for row in range(2):
        masks, iou, low = predictor.predict(points[row].numpy(), np.ones(num_points), multimask_output=True)
        np.testing.assert_allclose(answer.iou[row], iou, atol=1e-5)
        np.testing.assert_allclose(answer.logits[row], low, atol=1e-4 * np.abs(low).max())
        full = answer.full(torch.full((3,), row), torch.arange(3))
        assert (full.numpy() != masks).sum() <= 2  # pixels within rounding of zero
        box = batched_mask_to_box(torch.from_numpy(masks)).float()
        box[:, 2:] += torch.from_numpy(masks).flatten(1).any(1).float()[:, None]
        torch.testing.assert_close(answer.boxes[row], box)


def test_exact_and_plain_decoding_agree_and_padding_changes_nothing(sam):
    image = noise_photo((48, 80), seed=1)
    points = torch.tensor([[[10.0, 20.0], [60.0, 40.0]], [[30.0, 5.0], [0.0, 0.0]]])
    labels = torch.tensor([[1, 1], [1, -1]])
    exact, plain = (SegmentAnything(sam, "sam_vit_toy", "x", decoding) for decoding in ("exact", "plain"))
    ours = exact.predict(exact.encode(image), Prompts(points, labels))
    theirs = plain.predict(plain.encode(image), Prompts(points, labels))
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5 * theirs.logits.abs().max().item())
    torch.testing.assert_close(ours.iou, theirs.iou, rtol=0, atol=1e-5)
    alone = exact.predict(exact.encode(image), Prompts(points[1:, :1]))
    torch.testing.assert_close(ours.logits[1], alone.logits[0], rtol=0, atol=1e-5 * alone.logits.max().item())


def test_masks_nobody_wants_are_empty_and_the_others_unchanged(sam):
    image, segmenter = noise_photo((48, 80), seed=1), SegmentAnything(sam, "sam_vit_toy", "x")
    points = torch.rand(10, 1, 2, generator=torch.Generator().manual_seed(0)) * 48
    embedding = segmenter.encode(image)
    everything = segmenter.predict(embedding, Prompts(points))
    bar = everything.iou.median().item()
    above = segmenter.predict(embedding, Prompts(points), min_pred_iou=bar)
    good = everything.iou > bar
    assert torch.equal(above.iou, everything.iou)
    assert torch.equal(above.boxes[good], everything.boxes[good])
    assert torch.equal(above.masks[good], everything.masks[good])
    assert not above.masks[~good].any() and not above.boxes[~good].any() and not above.stability[~good].any()


@pytest.mark.parametrize(("size", "num"), [((1536, 2048), 25), ((900, 1200), 75), ((240, 200), 100)])
def test_fast_boxes_of_large_photos_are_within_a_pixel_of_sams_input(size, num):
    """Ellipses with rough rims; a photo no larger than the input is measured exactly."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    centre, radius = torch.rand(num, 2, 1, 1) * 40 + 8, torch.rand(num, 2, 1, 1) * 9 + 2
    distance = ((x - centre[:, 0]) / radius[:, 0]).square() + ((y - centre[:, 1]) / radius[:, 1]).square()
    logits = 10 * (1 - distance.sqrt()) + torch.randn(num, 64, 64) * 0.3
    ratio = 256 / max(size)
    frame = Frame(size, tuple(int(side * ratio + 0.5) for side in size), 256)
    boxes, stability = measure(logits, frame)
    fast_boxes, fast_stability = measure_in_input(logits, frame)
    off = (fast_boxes - boxes).abs().amax(1) * ratio  # in pixels of the input
    assert (off <= 1.01).float().mean() >= 0.99
    assert (stability - fast_stability).abs().max() < 0.05
    assert (fast_boxes[:, 2] > fast_boxes[:, 0]).all()
    if max(size) <= 256:
        assert torch.equal(boxes, fast_boxes)


def test_fast_is_another_segmenter_to_the_store(sam):
    exact, fast = (SegmentAnything(sam, "sam_vit_toy", "x", decoding) for decoding in ("exact", "fast"))
    assert exact.fingerprint != fast.fingerprint


def test_fused_encoder_equals_sams_own(sam):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = sam.image_encoder(pixels)
    torch.testing.assert_close(FusedEncoder(sam.image_encoder)(pixels), plain, rtol=1e-4, atol=1e-4)
    rounded = FusedEncoder(sam.image_encoder, "bfloat16")(pixels)
    assert rounded.dtype == torch.float32
    error = (rounded - plain).norm() / plain.norm()
    assert 1e-4 < error < 0.1  # bfloat16 shows, and does no more than that


def test_precision_is_part_of_the_fingerprint_and_of_the_caches_key(sam):
    plain, rounded = (
        SegmentAnything(sam, "sam_vit_toy", "x", precision=precision) for precision in ("float32", "bfloat16")
    )
    assert plain.fingerprint != rounded.fingerprint
    assert plain.embedding_version != rounded.embedding_version


def test_photos_in_turn_do_not_answer_for_each_other(sam):
    """What prompts share is kept for one photo; another photo must not be answered from it."""
    segmenter = SegmentAnything(sam, "sam_vit_toy", "x")
    image = noise_photo((48, 80), seed=1)
    first, second = segmenter.encode(image), segmenter.encode(image[::-1].copy())
    points = torch.tensor([[[30.0, 20.0]]])
    for embedding in (first, second, first):
        alone = SegmentAnything(sam, "sam_vit_toy", "x").predict(embedding, Prompts(points))
        assert torch.equal(segmenter.predict(embedding, Prompts(points)).logits, alone.logits)
    assert not torch.equal(*(segmenter.predict(embedding, Prompts(points)).logits for embedding in (first, second)))
