"""sam_nano's fast decoding against its plain twin: the network as it was trained, and torch's own measurements."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers import TOY_NANO
from weaksam.data.images import read_image
from weaksam.sam.nano.decoder import NanoDecoder, denormals_as_zero, merge_padding
from weaksam.sam.nano.frame import areas, frame_size, framed
from weaksam.sam.nano.model import NanoSam, draw_prompts, folded
from weaksam.sam.nano.segmenter import SamNano, prompt_slots, stability, working_logits
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import boxes_in_photo
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.stages.proposals.prompts import grid_points
from weaksam.structures.clue_points import CluePoints


@pytest.fixture(scope="module")
def plain() -> SamNano:
    """The network as it was trained, nothing rewritten."""
    return SamNano.load(fast=False)


def some_prompts(kind: str, size: tuple[int, int]) -> Prompts:
    """A dozen prompts of a kind on a photo ``(H, W)``, at its corners too."""
    rng = torch.Generator().manual_seed(0)
    points = torch.cat([grid_points(size, 2), torch.rand(10, 2, generator=rng) * torch.tensor(size[::-1])])
    points[-2:] = torch.tensor([[0.0, 0.0], [size[1], size[0]]])
    boxes = torch.cat([points.roll(1, 0).minimum(points), points.roll(1, 0).maximum(points) + 5], 1)
    labels = torch.randint(-1, 2, (7, 8), generator=rng)
    return {
        "points": Prompts.single_points(points),
        "point_labels": Prompts(points[:, None], torch.tensor([[0], [1]]).repeat(7, 1)),
        "padded points": Prompts(points.view(7, 2, 2), torch.tensor([[1, -1]] * 7)),
        "joint points": Prompts(points.repeat(4, 1).view(7, 8, 2), labels),
        "boxes": Prompts(boxes=boxes),
        "boxes and points": Prompts(points[:, None], boxes=boxes),
        "nothing": Prompts.single_points(points[:0]),
    }[kind]


KINDS = ("points", "point_labels", "padded points", "joint points", "boxes", "boxes and points", "nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_fast_decoding_equals_the_plain_network(kind, bundled, plain, photo):
    answer = compare(bundled, plain, photo, some_prompts(kind, photo.shape[:2]))
    assert len(answer) == {"nothing": 0, "padded points": 7, "joint points": 7}.get(kind, 14)


@pytest.mark.parametrize("kind", KINDS)
def test_fast_decoding_equals_the_plain_network_on_a_real_photo(kind, bundled, plain, real_photo):
    compare(bundled, plain, real_photo, some_prompts(kind, real_photo.shape[:2]))


@pytest.mark.parametrize("encoder", ["conv", "vit"])
def test_fast_decoding_follows_the_architecture(encoder, photo):
    torch.manual_seed(0)
    model = NanoSam(dataclasses.replace(TOY_NANO, encoder=encoder)).eval()
    compare(SamNano(model, "0"), SamNano(model, "0", fast=False), photo, some_prompts("joint points", (192, 256)))


def compare(fast: SamNano, plain: SamNano, image: np.ndarray, prompts: Prompts):
    """Hold the fast answer to the plain one: equal but for pixels whose logit is within rounding of 0."""
    embedding = fast.encode(image)
    assert embedding.shared is not None and plain.encode(image).shared is None
    ours, theirs = fast.predict(embedding, prompts), plain.predict(plain.encode(image), prompts)
    assert torch.allclose(ours.iou, theirs.iou, atol=1e-4)
    differ = ours.masks != theirs.masks
    if differ.any():  # they may, where the logit is nearly 0
        slots = prompt_slots(embedding, prompts)
        logits, _ = plain.model.prompted(embedding.features, torch.zeros(len(slots[0]), dtype=torch.long), *slots)
        order = (logits > 0).sum((2, 3)).argsort(dim=1, stable=True)
        frame = working_logits(logits, embedding.covered).gather(1, order[:, :, None, None].expand_as(differ))
        assert frame[differ].abs().max() < 1e-3
    same = ~differ.any(-1).any(-1)
    assert torch.equal(ours.boxes[same], theirs.boxes[same])
    assert torch.allclose(ours.stability, theirs.stability, atol=2e-3)
    return ours


@pytest.fixture
def real_photo(shared_data) -> np.ndarray:
    return read_image(sorted((shared_data / "fruit3/images/train").iterdir())[24])


def test_fast_proposals_are_the_plain_ones(bundled, plain, photo):
    same_proposals(bundled, plain, photo)


def test_fast_proposals_are_the_plain_ones_on_a_real_photo(bundled, plain, real_photo):
    same_proposals(bundled, plain, real_photo)


def same_proposals(fast: SamNano, plain: SamNano, image: np.ndarray) -> None:
    settings = ProposalSettings(grid_side=10, min_stability=0.05, grid_nms_iou=0.9, min_side=4)
    clues = CluePoints.of(torch.tensor([[60.0, 50.0], [90.0, 80.0], [10.0, 150.0]]), torch.tensor([0, 0, 1]))
    ours, theirs = (propose(segmenter, image, clues, settings) for segmenter in (fast, plain))
    assert len(ours.boxes) > 10 and torch.equal(ours.boxes, theirs.boxes) and torch.equal(ours.sources, theirs.sources)
    assert torch.allclose(ours.scores, theirs.scores, atol=1e-4)


def test_masks_that_nobody_wants_are_not_drawn(bundled, photo):
    embedding, prompts = bundled.encode(photo), Prompts.single_points(grid_points((192, 256), 5))
    everything = bundled.predict(embedding, prompts)
    limit = float(everything.iou.amax(1).median())  # so that half of the prompts have no mask above it
    few = bundled.predict(embedding, prompts, min_pred_iou=limit)
    above = few.iou > limit
    assert 0 < above.any(1).sum() < 20 and torch.allclose(
        few.iou.sort().values, everything.iou.sort().values, atol=1e-5
    )
    assert torch.equal(above[above.any(1)], (everything.iou > limit)[above.any(1)])
    assert torch.equal(few.masks[above], everything.masks[above]) and not few.masks[~above].any()
    assert torch.equal(few.boxes[above], everything.boxes[above]) and not few.boxes[~above].any()
    assert torch.equal(few.stability[above], everything.stability[above]) and not few.stability[~above].any()


def test_a_lone_point_is_drawn_by_its_window(bundled):
    decoder, last = NanoDecoder(bundled.model), bundled.model.prompt_encoder.mask_downscaling[6]
    points = torch.cat([grid_points((256, 256), 8), torch.tensor([[0.0, 0.0], [256.0, 256.0], [-9.0, 300.0]])])
    coords = torch.cat([points[:, None], torch.zeros(len(points), 2, 2)], 1)
    labels = torch.tensor([[1, -1, -1]]).repeat(len(points), 1)
    labels[::3, 0] = 0
    drawn = decoder.drawing(coords, labels)
    assert drawn.shape == (67, 256, 16)
    dense = last.weight.flatten(1) @ drawn.transpose(1, 2) + last.bias[:, None]
    wanted = bundled.model.prompt_encoder.mask_downscaling(draw_prompts(coords, labels)).flatten(2)
    assert torch.allclose(dense, wanted, atol=1e-5 * float(wanted.abs().max()))


def test_padding_slots_merge_only_where_all_prompts_are_padded():
    coords = torch.arange(16.0).reshape(2, 4, 2)
    merged = merge_padding(coords, torch.tensor([[-1, 1, -1, -1], [-1, 0, -1, 1]]))
    assert merged[0][:, :, 0].tolist() == [[2, 6, 0], [10, 14, 8]] and merged[2] == 2
    assert merged[1].tolist() == [[1, -1, -1], [0, 1, -1]]
    assert merge_padding(coords, torch.tensor([[1, 1, -1, 1]] * 2))[2] == 1


@pytest.mark.parametrize("covered", [(256, 256), (192, 256), (256, 171), (57, 256), (256, 1)])
def test_framed_masks_equal_the_plain_measurements(covered):
    blobs = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    logits = 3 * torch.nn.functional.interpolate(blobs, size=64, mode="bicubic")[:, 0] - 1
    logits[3] = -5  # an empty mask
    size = (covered[0] * 3, covered[1] * 3)
    masks, steady, boxes = framed(logits, covered, size)
    frame = working_logits(logits[:, None], covered)
    assert masks.shape[1:] == frame_size(covered) and 0 < masks.sum() < masks.numel()
    differ = masks != (frame[:, 0] > 0)
    assert not differ.any() or frame[:, 0][differ].abs().max() < 1e-5
    assert torch.equal(steady, stability(frame)[:, 0]) and steady[3] == 0
    assert torch.equal(boxes, boxes_in_photo(masks, size)) and boxes[3].tolist() == [0, 0, 0, 0]
    assert torch.equal(areas(logits), (logits > 0).sum((1, 2)))
    assert framed(logits[:0], covered, size)[0].shape == (0, *frame_size(covered))


@pytest.mark.parametrize("encoder", ["conv", "vit"])
def test_the_folded_encoder_computes_the_same_without_batch_norm(encoder):
    torch.manual_seed(0)
    model = NanoSam(dataclasses.replace(TOY_NANO, encoder=encoder)).train().image_encoder
    with torch.no_grad():
        model(3 * torch.randn(2, 3, 256, 256) + 1)  # moves the running means and variances
    quick, image = folded(model.eval()), torch.randn(1, 3, 256, 256)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    for level, expected in zip(quick(image), model(image), strict=True):
        assert torch.allclose(level, expected, atol=1e-4)


def test_denormal_numbers_come_back_afterwards():
    tiny = torch.tensor([1e-39])
    with denormals_as_zero():
        assert float(tiny * 1.0) == 0
    assert float(tiny * 1.0) > 0
    torch.set_flush_denormal(True)
    try:  # where they were off already, they stay off
        with denormals_as_zero():
            pass
        assert float(tiny * 1.0) == 0
    finally:
        torch.set_flush_denormal(False)
