"""sam_nano: SAM's own decoder at toy size, the loss it learns from, and the weights that ship."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from weaksam.config import UserError
from weaksam.data.images import read_image
from weaksam.data.part_prompts import sample_prompts
from weaksam.data.part_scenes import render_part_scene
from weaksam.sam.nano import BUNDLED, SamNano, prompt_slots, stability, working_logits
from weaksam.sam.nano_decode import NanoDecoder, merge_padding
from weaksam.sam.nano_frame import areas, frame_size, framed
from weaksam.sam.nano_loss import matched_loss, nano_losses, pair_iou, pair_losses
from weaksam.sam.nano_model import Architecture, NanoSam, draw_prompts, sample_points
from weaksam.sam.prompts import grid_points
from weaksam.sam.protocol import Segmenter, boxes_in_photo
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.weights import save_weights

TOY = Architecture(dim=32, width=8, deep=32, depth=1)
FRESH = 2_000_000_000  # scene numbers neither trained on nor used to watch training


def toy(encoder: str = "conv", seed: int = 0) -> NanoSam:
    torch.manual_seed(seed)
    return NanoSam(dataclasses.replace(TOY, encoder=encoder)).eval()


@pytest.fixture(scope="module")
def bundled() -> SamNano:
    return SamNano.load()


@pytest.fixture(scope="module")
def plain() -> SamNano:
    """The network as it was trained, nothing rewritten."""
    return SamNano.load(fast=False)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return render_part_scene(FRESH, 256).image[:192]  # 192 x 256: not square


@pytest.mark.parametrize("encoder", ["conv", "vit"])
def test_both_encoders_answer_through_the_protocol(encoder, photo):
    segmenter = SamNano(toy(encoder), "0")
    assert isinstance(segmenter, Segmenter)
    embedding = segmenter.encode(photo)
    assert embedding.size == (192, 256) and [tuple(f.shape[2:]) for f in embedding.features] == [
        (16, 16),
        (32, 32),
        (64, 64),
    ]
    answer = segmenter.predict(embedding, points=torch.tensor([[[30.0, 40.0]], [[200.0, 100.0]]]))
    assert answer.masks.shape == (2, 3, 96, 128) and answer.masks.dtype == torch.bool
    assert answer.iou.shape == answer.stability.shape == (2, 3) and answer.boxes.shape == (2, 3, 4)
    areas = answer.masks.sum((2, 3))
    assert (areas[:, 1:] + 80 >= areas[:, :-1]).all(), "small to large"
    assert answer.full(torch.tensor([0, 1]), torch.tensor([2, 0])).shape == (2, 192, 256)


def test_no_prompts_give_empty_tensors(bundled, photo):
    answer = bundled.predict(bundled.encode(photo), points=torch.zeros(0, 1, 2))
    assert answer.masks.shape == (0, 3, 96, 128) and answer.boxes.shape == (0, 3, 4) and answer.iou.shape == (0, 3)


def test_many_prompts_at_once_equal_one_by_one(bundled, photo):
    embedding = bundled.encode(photo)
    points = torch.rand(40, 1, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([256.0, 192.0])
    together = bundled.predict(embedding, points=points)
    for index in (0, 17, 39):
        alone = bundled.predict(embedding, points=points[index : index + 1])
        assert torch.allclose(alone.iou[0], together.iou[index], atol=1e-4)
        assert (alone.masks[0] != together.masks[index]).float().mean() < 1e-3


def test_padding_points_change_nothing(bundled, photo):
    embedding = bundled.encode(photo)
    plain = bundled.predict(embedding, points=torch.tensor([[[60.0, 60.0]]]))
    padded = bundled.predict(
        embedding, points=torch.tensor([[[60.0, 60.0], [9.0, 9.0]]]), point_labels=torch.tensor([[1, -1]])
    )
    assert torch.equal(plain.masks, padded.masks) and torch.allclose(plain.iou, padded.iou)


def test_a_larger_photo_gets_boxes_in_its_own_pixels(bundled, photo):
    embedding = bundled.encode(photo)
    doubled = dataclasses.replace(embedding, size=(384, 512))  # as if the photo had twice the pixels
    small = bundled.predict(embedding, points=torch.tensor([[[60.0, 50.0]]]))
    large = bundled.predict(doubled, points=torch.tensor([[[120.0, 100.0]]]))
    assert torch.equal(small.masks, large.masks) and torch.equal(2 * small.boxes, large.boxes)


def test_prompt_slots_put_the_box_first_and_pad(bundled, photo):
    embedding = bundled.encode(photo.repeat(2, axis=0).repeat(2, axis=1))  # 384 x 512, half size inside
    coords, labels = prompt_slots(embedding, None, None, torch.tensor([[10.0, 20.0, 110.0, 220.0]]))
    assert labels.tolist() == [[2, 3, -1]] and coords.tolist() == [[[5, 10], [55, 110], [0, 0]]]
    coords, labels = prompt_slots(
        embedding, torch.tensor([[[8.0, 6.0]]]), torch.tensor([[0]]), torch.tensor([[10.0, 20.0, 110.0, 220.0]])
    )
    assert labels.tolist() == [[2, 3, 0]] and coords[0, 2].tolist() == [4, 3]


def test_drawn_prompts_by_hand():
    drawn = draw_prompts(torch.tensor([[[2.0, 6.0], [200.0, 200.0]]]), torch.tensor([[1, 0]]))[0, 0]
    assert drawn[1, 0] == 1 and drawn[49, 49] < -0.85  # the cells that hold (2, 6) and nearly (200, 200)
    assert math.isclose(float(drawn[1, 2]), math.exp(-0.5), rel_tol=1e-5)  # two cells away: one sigma
    box = draw_prompts(torch.tensor([[[0.0, 0.0], [128.0, 64.0]]]), torch.tensor([[2, 3]]))[0, 0]
    assert box[:16, :32].min() == 1 and box.sum() == 2 * 16 * 32 - 64 * 64
    assert draw_prompts(torch.zeros(1, 2, 2), torch.tensor([[-1, -1]])).abs().sum() == 0


def test_points_read_the_cell_they_lie_in():
    level = torch.arange(16.0).reshape(1, 1, 4, 4)
    coords = torch.tensor([[[70.0, 0.0], [255.9, 130.0]]])  # cells of 64 pixels
    assert sample_points(level, coords, torch.zeros(1, dtype=torch.long)).flatten().tolist() == [1, 11]


def test_working_frame_cuts_the_padding():
    logits = torch.full((1, 3, 64, 64), -1.0)
    logits[:, :, :, :32] = 1.0
    frame = working_logits(logits, (100, 256))
    assert frame.shape == (1, 3, 50, 128) and (frame[0, 0, 7] > 0).sum() == 64
    assert working_logits(logits[:0], (1, 256)).shape == (0, 3, 1, 128)


def test_stability_by_hand():
    logits = torch.tensor([[2.0, 2.0, 0.5, -0.5, -3.0]]).reshape(1, 1, 1, 5)
    assert stability(logits).tolist() == [[0.5]]  # 2 above +1, 4 above -1
    assert stability(torch.full((1, 1, 2, 2), -9.0)).tolist() == [[0.0]]


def some_prompts(kind: str, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """A dozen prompts of a kind on a photo ``(H, W)``, at its corners too."""
    rng = torch.Generator().manual_seed(0)
    points = torch.cat([grid_points(size, 2), torch.rand(10, 2, generator=rng) * torch.tensor(size[::-1])])
    points[-2:] = torch.tensor([[0.0, 0.0], [size[1], size[0]]])
    boxes = torch.cat([points.roll(1, 0).minimum(points), points.roll(1, 0).maximum(points) + 5], 1)
    labels = torch.randint(-1, 2, (7, 8), generator=rng)
    return {
        "points": {"points": points[:, None]},
        "point_labels": {"points": points[:, None], "point_labels": torch.tensor([[0], [1]]).repeat(7, 1)},
        "padded points": {"points": points.view(7, 2, 2), "point_labels": torch.tensor([[1, -1]] * 7)},
        "joint points": {"points": points.repeat(4, 1).view(7, 8, 2), "point_labels": labels},
        "boxes": {"boxes": boxes},
        "boxes and points": {"boxes": boxes, "points": points[:, None]},
        "nothing": {"points": points[:0, None]},
    }[kind]


KINDS = ("points", "point_labels", "padded points", "joint points", "boxes", "boxes and points", "nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_fast_decoding_equals_the_plain_network(kind, bundled, plain, photo):
    found = compare(bundled, plain, photo, some_prompts(kind, photo.shape[:2]))
    assert len(found) == {"nothing": 0, "padded points": 7, "joint points": 7}.get(kind, 14)


@pytest.mark.parametrize("kind", KINDS)
def test_fast_decoding_equals_the_plain_network_on_a_real_photo(kind, bundled, plain, real_photo):
    compare(bundled, plain, real_photo, some_prompts(kind, real_photo.shape[:2]))


@pytest.mark.parametrize("encoder", ["conv", "vit"])
def test_fast_decoding_follows_the_architecture(encoder, photo):
    model = toy(encoder)
    compare(SamNano(model, "0"), SamNano(model, "0", fast=False), photo, some_prompts("joint points", (192, 256)))


def compare(fast: SamNano, plain: SamNano, image: np.ndarray, prompts: dict[str, torch.Tensor]):
    """Hold the fast answer to the plain one: equal but for pixels whose logit is within rounding of 0."""
    embedding = fast.encode(image)
    assert embedding.shared is not None and plain.encode(image).shared is None
    mine, theirs = fast.predict(embedding, **prompts), plain.predict(plain.encode(image), **prompts)
    assert torch.allclose(mine.iou, theirs.iou, atol=1e-4)
    differ = mine.masks != theirs.masks
    if differ.any():  # they may, where the logit is nearly 0
        slots = prompt_slots(embedding, *(prompts.get(name) for name in ("points", "point_labels", "boxes")))
        logits, _ = plain.model.prompted(embedding.features, torch.zeros(len(slots[0]), dtype=torch.long), *slots)
        order = (logits > 0).sum((2, 3)).argsort(dim=1, stable=True)
        frame = working_logits(logits, embedding.covered).gather(1, order[:, :, None, None].expand_as(differ))
        assert frame[differ].abs().max() < 1e-3
    same = ~differ.any(-1).any(-1)
    assert torch.equal(mine.boxes[same], theirs.boxes[same])
    assert torch.allclose(mine.stability, theirs.stability, atol=2e-3)
    return mine


@pytest.fixture
def real_photo(shared_data) -> np.ndarray:
    return read_image(sorted((shared_data / "fruit3/images/train").iterdir())[24])


def test_fast_proposals_are_the_plain_ones(bundled, plain, photo):
    same_proposals(bundled, plain, photo)


def test_fast_proposals_are_the_plain_ones_on_a_real_photo(bundled, plain, real_photo):
    same_proposals(bundled, plain, real_photo)


def same_proposals(fast: SamNano, plain: SamNano, image: np.ndarray) -> None:
    settings = ProposalSettings(grid_side=10, min_stability=0.05, grid_nms_iou=0.9, min_side=4)
    clues = torch.tensor([[60.0, 50.0], [90.0, 80.0], [10.0, 150.0]]), torch.tensor([0, 0, 1])
    mine, theirs = (propose(segmenter, image, *clues, settings) for segmenter in (fast, plain))
    assert len(mine.boxes) > 10 and torch.equal(mine.boxes, theirs.boxes) and torch.equal(mine.sources, theirs.sources)
    assert torch.allclose(mine.scores, theirs.scores, atol=1e-4)


def test_masks_that_nobody_wants_are_not_drawn(bundled, photo):
    embedding, points = bundled.encode(photo), grid_points((192, 256), 5)[:, None]
    everything = bundled.predict(embedding, points=points)
    limit = float(everything.iou.amax(1).median())  # so that half of the prompts have no mask above it
    few = bundled.predict(embedding, points=points, min_pred_iou=limit)
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


def test_pair_losses_by_hand():
    logits = torch.tensor([0.0, 0.0]).reshape(1, 1, 1, 2)
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    focal = 0.25 * math.log(2)  # both pixels: (1 - 1/2)^2 ln 2
    dice = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert math.isclose(float(pair_losses(logits, target)), 20 * focal + dice, rel_tol=1e-5)


def test_pair_iou_by_hand():
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]]).reshape(1, 2, 2, 2)
    targets = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]]).bool().reshape(1, 2, 2, 2)
    found = pair_iou(logits, targets)
    assert torch.allclose(found, torch.tensor([[[1 / 3, 0.0], [0.0, 0.0]]]))


def test_matched_loss_keeps_the_order():
    pairs = torch.tensor([[9.0, 1.0, 5.0], [2.0, 9.0, 7.0], [4.0, 3.0, 6.0]]).expand(4, 3, 3)  # outputs x targets
    found = matched_loss(pairs, torch.tensor([0, 1, 2, 3]))
    # none; the best output for target 0; outputs 1, 2 for targets 0, 1; the diagonal
    assert found.tolist() == [0.0, 2.0, 2.5, 8.0]


def test_losses_reach_every_part_and_ignore_prompts_without_target():
    model = toy().train()
    scene = render_part_scene(1, 256)
    prompts = sample_prompts(scene.levels, 12, np.random.default_rng(0))
    coords, labels, targets = (torch.from_numpy(getattr(prompts, n)) for n in ("coords", "labels", "targets"))
    images = model.preprocess(torch.from_numpy(scene.image.copy()).permute(2, 0, 1).float())[None]
    features = model.image_encoder(images.repeat(2, 1, 1, 1))
    logits, iou = model.prompted(features, torch.zeros(12, dtype=torch.long), coords, labels)
    losses = nano_losses(logits, iou, targets, torch.from_numpy(prompts.counts))
    sum(losses.values()).backward()
    unused = {"prompt_encoder.no_mask_embed.weight"}  # a mask prompt is always drawn
    assert {n for n, p in model.named_parameters() if p.grad is None} == unused
    nothing = nano_losses(logits.detach(), iou.detach(), targets, torch.zeros(12, dtype=torch.long))
    assert [float(v) for v in nothing.values()] == [0, 0, 0]


def test_weights_of_another_model_are_refused_in_one_sentence(tmp_path):
    state = {k: v for k, v in toy().state_dict().items()}
    save_weights(tmp_path / "plain.safetensors", state)
    with pytest.raises(UserError, match="holds those of another model"):
        SamNano.load(tmp_path / "plain.safetensors")
    save_weights(tmp_path / "wrong.safetensors", state, {"architecture": {"encoder": "vit"}})
    with pytest.raises(UserError, match="give weights of sam_nano") as caught:
        SamNano.load(tmp_path / "wrong.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a file"):
        SamNano.load(tmp_path / "absent.safetensors")


def test_weights_make_a_round_trip(tmp_path, photo):
    model = toy("vit")
    save_weights(tmp_path / "w.safetensors", model.state_dict(), {"architecture": dataclasses.asdict(model.spec)})
    loaded = SamNano.load(tmp_path / "w.safetensors")
    first, second = SamNano(model, "0"), loaded
    point = torch.tensor([[[60.0, 60.0]]])
    assert torch.equal(
        first.predict(first.encode(photo), points=point).iou, second.predict(second.encode(photo), points=point).iou
    )
    assert loaded.fingerprint != SamNano.load().fingerprint


def test_bundled_weights_are_small():
    assert BUNDLED.stat().st_size <= 10 * 1024 * 1024


def test_bundled_weights_reach_their_floor_on_fresh_scenes(bundled):
    """Best of three masks of a single point, and the trusted mask of a box, against rendered truth."""
    point_iou, box_iou = [], []
    for number in range(1, 4):
        scene = render_part_scene(FRESH + number, 256)
        prompts = sample_prompts(scene.levels, 40, np.random.default_rng(number))
        coords, labels, targets, counts = (torch.from_numpy(getattr(prompts, name)) for name in PROMPT_FIELDS)
        truth = torch.nn.functional.interpolate(targets.float(), size=128) > 0
        used = torch.arange(3) < counts[:, None]
        embedding = bundled.encode(scene.image)
        point, box = ((labels == torch.tensor(kind)).all(1) for kind in ((1, -1, -1), (2, 3, -1)))
        answer = bundled.predict(embedding, points=coords[point, :1])
        point_iou.append(_iou(answer.masks, truth[point]).amax(1)[used[point]])
        answer = bundled.predict(embedding, boxes=coords[box, :2].reshape(-1, 4))
        box_iou.append(_iou(answer.masks, truth[box])[torch.arange(len(answer)), answer.iou.argmax(1), 0])
    points, boxes = torch.cat(point_iou), torch.cat(box_iou)
    assert len(points) > 60 and len(boxes) > 10
    assert points.mean() > POINT_FLOOR, float(points.mean())
    assert boxes.mean() > BOX_FLOOR, float(boxes.mean())


PROMPT_FIELDS = ("coords", "labels", "targets", "counts")
POINT_FLOOR, BOX_FLOOR = 0.58, 0.62  # measured: 0.645 and 0.698


def _iou(masks: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """IoU ``(P, 3, 3)`` of ``masks (P, 3, h, w)`` with ``truth (P, 3, h, w)``."""
    masks, truth = masks.flatten(2).float(), truth.flatten(2).float()
    overlap = masks @ truth.transpose(1, 2)
    return overlap / (masks.sum(2)[:, :, None] + truth.sum(2)[:, None] - overlap).clamp(min=1)
