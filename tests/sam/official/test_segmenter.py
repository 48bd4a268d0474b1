"""segment-anything's own classes at toy size, on checkpoints the tests write themselves."""

import hashlib

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from tests.helpers import CPU, TOY_SAM, noise_photo, random_sam
from weaksam.sam.official.architecture import build_sam, infer_architecture
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Segmenter

LARGEST = {
    "vit_b": ("sam_vit_b", 12, (2, 5, 8, 11)),
    "vit_l": ("sam_vit_l", 16, (5, 11, 17, 23)),
    "vit_h": ("sam_vit_h", 16, (7, 15, 23, 31)),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("sam") / "toy.pth"
    torch.save(random_sam(3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def sam(checkpoint):
    return SegmentAnything.load(checkpoint, CPU)


@pytest.fixture(scope="module")
def photo():
    return noise_photo((100, 160))


@pytest.mark.parametrize("variant", LARGEST)
def test_each_official_variant_is_told_by_its_shapes(variant, tmp_path):
    with torch.device("meta"):
        official = sam_model_registry[variant]()
    shapes = {key: value.shape for key, value in official.state_dict().items()}
    architecture = infer_architecture(official.state_dict(), tmp_path)
    assert (architecture.name, architecture.num_heads, architecture.global_blocks) == LARGEST[variant]
    assert (architecture.image_size, architecture.window_size) == (1024, 14)
    assert (architecture.decoder_mlp, architecture.channels) == (2048, 256)
    if variant == "vit_b":
        assert {key: value.shape for key, value in build_sam(architecture).state_dict().items()} == shapes


def test_load_reads_the_architecture_and_the_fingerprint_off_the_file(sam, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    assert infer_architecture(state, checkpoint) == TOY_SAM
    assert isinstance(sam, Segmenter)
    assert sam.name == "sam_32x2"
    assert sam.fingerprint.endswith(hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    assert torch.equal(sam.sam.state_dict()["mask_decoder.iou_token.weight"], state["mask_decoder.iou_token.weight"])


def official_answer(sam, photo, **prompt):
    predictor = SamPredictor(sam.sam)
    predictor.set_image(photo)
    return predictor.predict(multimask_output=True, **prompt)


def test_points_are_answered_as_sams_own_predictor_does(sam, photo):
    points = torch.tensor([[[20.0, 30.0], [90.0, 60.0]], [[150.0, 5.0], [3.0, 90.0]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    answer = sam.predict(sam.encode(photo), Prompts(points, labels))
    for p in range(2):
        masks, iou, low = official_answer(sam, photo, point_coords=points[p].numpy(), point_labels=labels[p].numpy())
        np.testing.assert_allclose(answer.iou[p], iou, atol=1e-5)
        full = answer.full(torch.full((3,), p), torch.arange(3))
        assert (full.numpy() == masks).mean() > 0.999  # rounding may flip a pixel at a zero crossing
        # The frame is the low-resolution one without the padding: 160 x 100 in a square of 32 is 32 x 20
        assert torch.equal(answer.masks[p], torch.from_numpy(low[:, :20] > 0))


def test_half_open_boxes_reach_sam_as_corner_pixels(sam, photo):
    answer = sam.predict(sam.encode(photo), Prompts(boxes=torch.tensor([[10.0, 20.0, 71.0, 81.0]])))
    _, iou, _ = official_answer(sam, photo, box=np.array([10.0, 20.0, 70.0, 80.0]))
    np.testing.assert_allclose(answer.iou[0], iou, atol=1e-5)


def test_masks_prompt_as_sams_own_predictor_takes_them(sam, photo):
    boxes = torch.tensor([[10.0, 20.0, 71.0, 81.0], [60.0, 5.0, 150.0, 90.0], [5.0, 5.0, 30.0, 40.0]])
    points = torch.tensor([[[40.0, 50.0]], [[100.0, 40.0]], [[0.0, 0.0]]])
    labels = torch.tensor([[1], [0], [-1]])  # the last box has no point
    embedding = sam.encode(photo)
    first = sam.predict(embedding, Prompts(points, labels, boxes))
    logits = first.as_prompts(torch.arange(3), torch.tensor([0, 1, 2]))
    answer = sam.predict(embedding, Prompts(points, labels, boxes, logits))
    for p in range(3):
        box = (boxes[p] - torch.tensor([0.0, 0.0, 1.0, 1.0])).numpy()
        point = {"point_coords": points[p].numpy(), "point_labels": labels[p].numpy()} if p < 2 else {}
        _, iou, low = official_answer(sam, photo, box=box, mask_input=logits[p, None].numpy(), **point)
        np.testing.assert_allclose(answer.iou[p], iou, atol=1e-5)
        np.testing.assert_allclose(answer.logits[p], low, atol=1e-3)


def test_boxes_come_from_masks_at_the_input_resolution(sam, photo):
    answer = sam.predict(
        sam.encode(photo), Prompts(torch.rand(6, 1, 2, generator=torch.Generator().manual_seed(1)) * 100)
    )
    assert answer.boxes.shape == (6, 3, 4)
    p, k = answer.masks.flatten(2).any(-1).nonzero().T
    full = answer.full(p, k)
    step = 160 / 64  # one pixel of the input frame in photo pixels
    for mask, box in zip(full, answer.boxes[p, k], strict=True):
        y, x = mask.nonzero().T
        inside = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        assert (inside - box).abs().max() <= step
    assert (answer.boxes[..., 2] <= 160).all()
    assert (answer.boxes[..., 3] <= 100).all()


def test_batches_equal_one_by_one(sam, photo):
    embedding = sam.encode(photo)
    points = torch.rand(40, 1, 2, generator=torch.Generator().manual_seed(2)) * 100  # more than are put at once
    together = sam.predict(embedding, Prompts(points))
    alone = [sam.predict(embedding, Prompts(points[i : i + 1])) for i in (0, 31, 32, 39)]
    for i, answer in zip((0, 31, 32, 39), alone, strict=True):
        torch.testing.assert_close(together.iou[i], answer.iou[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.stability[i], answer.stability[0], atol=0.02, rtol=0)


def test_no_prompt_gives_empty_tensors(sam, photo):
    embedding = sam.encode(photo)
    for prompts in (Prompts(torch.zeros(0, 1, 2)), Prompts(boxes=torch.zeros(0, 4))):
        answer = sam.predict(embedding, prompts)
        assert answer.masks.shape == (0, 3, 20, 32)
        assert answer.iou.shape == (0, 3)
        assert answer.boxes.shape == (0, 3, 4)


def refusal(path):
    with pytest.raises(ValueError) as caught:
        SegmentAnything.load(path, CPU)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence or "sam_32x2" in sentence
    return sentence


def test_other_weights_are_refused_in_one_sentence(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "vgg.pth")
    assert "no 'image_encoder.patch_embed.proj.weight'" in refusal(tmp_path / "vgg.pth")
    # A hybrid: the prompt encoder of another model
    other = state | {"prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 16)}
    torch.save(other, tmp_path / "hybrid.pth")
    assert "not_a_point_embed" in refusal(tmp_path / "hybrid.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><title>Too many requests</title>")
    assert "web page" in refusal(tmp_path / "page.pth")
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:5000])
    assert "download" in refusal(tmp_path / "cut.pth")
    refusal(tmp_path / "missing.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("this must not run",))

    torch.save({"image_encoder.pos_embed": Trap()}, tmp_path / "trap.pth")
    refusal(tmp_path / "trap.pth")


def test_photos_together_are_encoded_as_one_by_one(sam):
    rng = np.random.default_rng(2)
    photos = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((100, 160, 3), (64, 64, 3), (90, 30, 3))]
    together = sam.encode_batch(photos)
    assert [embedding.size for embedding in together] == [(100, 160), (64, 64), (90, 30)]
    for image, embedding in zip(photos, together, strict=True):
        alone = sam.encode(image)
        assert (embedding.size, embedding.input_size) == (alone.size, alone.input_size)
        torch.testing.assert_close(embedding.features, alone.features)
    assert sam.encode_batch([]) == []
