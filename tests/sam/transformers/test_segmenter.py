"""The SAM families of transformers against transformers itself, on toy models that the tests write."""

import importlib.util
from functools import cache

import pytest
import torch
import transformers as tf
from torch.nn import functional as F

from tests.helpers import noise_photo
from tests.sam.transformers.toys import TOYS, write_toy
from tests.sam.transformers.toys import sam as toy_sam
from weaksam.sam.batches import BatchEncoder
from weaksam.sam.embedding_cache import CacheableSegmenter
from weaksam.sam.mask_geometry import enlarge, measure
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Segmenter
from weaksam.sam.transformers.sam_hq import repair_sam_hq
from weaksam.sam.transformers.segmenter import TransformersSam, to_input
from weaksam.store.weights import load_state, save_weights

CPU = torch.device("cpu")
OWN = {
    "sam": ("SamModel", "SamProcessor", "sam_16x2"),
    "sam_hq": ("SamHQModel", "SamHQProcessor", "sam_hq_16x2"),
    "sam2": ("Sam2Model", "Sam2Processor", "sam2_8x5"),
    "sam2_video": ("Sam2Model", "Sam2Processor", "sam2_8x5"),
    "edgetam": ("EdgeTamModel", "Sam2Processor", "edgetam_repvit_m1"),
    "edgetam_video": ("EdgeTamModel", "Sam2Processor", "edgetam_repvit_m1"),
    "sam3_tracker": ("Sam3TrackerModel", "Sam3TrackerProcessor", "sam3_tracker_16x2"),
    "sam3_tracker_video": ("Sam3TrackerModel", "Sam3TrackerProcessor", "sam3_tracker_16x2"),
    "sam3_video": ("Sam3TrackerModel", "Sam3TrackerProcessor", "sam3_tracker_16x2"),
}
"""transformers' network and processor for each model_type, and our name of the toy."""
PHOTOS = {"square": (80, 80), "wide": (60, 100)}
POINTS = torch.tensor([[[20.0, 30.0], [25.5, 50.0]], [[29.0, 5.0], [3.0, 59.0]], [[10.0, 40.0], [7.0, 0.0]]])
LABELS = torch.tensor([[1, 0], [1, 1], [0, 1]])
BOXES = torch.tensor([[3.0, 4.0, 28.0, 51.0], [0.0, 0.0, 31.0, 60.0], [10.0, 20.0, 11.0, 21.0]])
EDGETAM = (
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="EdgeTAM's image encoder needs timm"),
    pytest.mark.skipif(
        tuple(map(int, tf.__version__.split(".")[:2])) < (5, 20), reason="before 5.20, its config needs the network"
    ),
)
FAMILIES = [pytest.param(name, marks=EDGETAM if name.startswith("edgetam") else ()) for name in TOYS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a toy by its model_type, written when it is first asked for."""
    return cache(lambda model_type: write_toy(model_type, tmp_path_factory.mktemp(model_type) / "toy"))


@pytest.fixture(scope="module")
def segmenter(folder):
    """The segmenter of a toy by its model_type, read once."""
    return cache(lambda model_type: TransformersSam.load(folder(model_type), CPU))


@pytest.fixture(scope="module")
def official(folder):
    """transformers' own network and processor of a toy."""

    def read(model_type):
        network, processor = (getattr(tf, name) for name in OWN[model_type][:2])
        network, report = network.from_pretrained(folder(model_type), output_loading_info=True)
        assert not report["missing_keys"]
        if model_type == "sam_hq":  # what this changes has its own test
            repair_sam_hq(network.mask_decoder)
        return network.eval(), processor(tf.AutoImageProcessor.from_pretrained(folder(model_type)))

    return cache(read)


def transformers_itself(network, processor, image, **prompts):
    """Low logits ``(P, 3, g, g)``, IoU and logits in the photo's size of transformers' own processor and network."""
    asked = {name: [rows.tolist()] for name, rows in prompts.items()}
    inputs = processor(images=image, return_tensors="pt", **asked)
    sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
    with torch.no_grad():
        answer = network(**inputs, multimask_output=True)
    full = processor.post_process_masks(answer.pred_masks, *sizes, binarize=False)[0]
    return answer.pred_masks[0], answer.iou_scores[0], full


@pytest.mark.parametrize("shape", PHOTOS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_answers_equal_those_of_transformers(model_type, shape, segmenter, official):
    image, sam = noise_photo(PHOTOS[shape]), segmenter(model_type)
    assert isinstance(sam, Segmenter)
    assert sam.name == OWN[model_type][2]
    embedding = sam.encode(image)
    inclusive = BOXES - torch.tensor([0.0, 0.0, 1.0, 1.0])  # the last pixel inside, as SAM takes boxes
    for ours, theirs in (
        (Prompts(POINTS, LABELS), {"input_points": POINTS, "input_labels": LABELS}),
        (Prompts(boxes=BOXES), {"input_boxes": inclusive}),
        (
            Prompts(POINTS, LABELS, BOXES),
            {"input_points": POINTS, "input_labels": LABELS, "input_boxes": inclusive},
        ),
    ):
        answer = sam.predict(embedding, ours)
        logits, iou, full = transformers_itself(*official(model_type), image, **theirs)
        torch.testing.assert_close(answer.iou, iou, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(answer.logits, logits, atol=1e-4, rtol=1e-4)
        p, k = torch.ones(3, 3).nonzero().T
        sure = full.flatten(0, 1).abs() > 1e-3  # rounding may flip a pixel at a zero crossing
        assert torch.equal((answer.full(p, k) & sure), (full.flatten(0, 1) > 0) & sure)
        assert answer.size == image.shape[:2]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_masks_prompt_as_transformers_takes_them(model_type, segmenter, official):
    """Prompts with masks, together, against transformers with one prompt after the other."""
    image, sam = noise_photo(PHOTOS["wide"]), segmenter(model_type)
    embedding = sam.encode(image)
    first = sam.predict(embedding, Prompts(boxes=BOXES))
    logits = first.as_prompts(torch.arange(3), torch.tensor([2, 0, 1]))
    answer = sam.predict(embedding, Prompts(POINTS, LABELS, BOXES, logits))
    network, processor = official(model_type)
    inclusive = BOXES - torch.tensor([0.0, 0.0, 1.0, 1.0])
    for p in range(3):
        asked = {"input_points": POINTS, "input_labels": LABELS, "input_boxes": inclusive}
        asked = {name: [rows[p, None].tolist()] for name, rows in asked.items()}
        inputs = processor(images=image, return_tensors="pt", **asked)
        for name in ("original_sizes", "reshaped_input_sizes"):
            inputs.pop(name, None)
        with torch.no_grad():
            theirs = network(**inputs, input_masks=logits[p, None, None], multimask_output=True)
        torch.testing.assert_close(answer.iou[p], theirs.iou_scores[0, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(answer.logits[p], theirs.pred_masks[0, 0], atol=1e-4, rtol=1e-4)


def test_masks_cover_the_photo_and_boxes_and_stability_are_measured_in_its_pixels(segmenter):
    sam = segmenter("sam")
    answer = sam.predict(sam.encode(noise_photo((60, 100))), Prompts(POINTS))
    assert answer.masks.shape == (3, 3, 19, 32)  # 100 x 60 in a square of 32 is 32 x 19.2
    p, k = torch.ones(3, 3).nonzero().T
    fine = enlarge(answer.logits[p, k], answer.frame)
    for mask, logits, box, stability in zip(
        answer.full(p, k), fine, answer.boxes[p, k], answer.stability[p, k], strict=True
    ):
        y, x = mask.nonzero().T
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert stability == pytest.approx((logits > 1).sum().item() / (logits > -1).sum().item())
    assert len({tuple(box) for box in answer.boxes[p, k].tolist()}) > 1


def test_measure_of_a_hand_made_mask(segmenter):
    sam = segmenter("sam2")
    frame = sam.encode(noise_photo((32, 48))).frame  # logits of 16 x 16, stretched by 2 and 3
    logits = torch.full((2, 16, 16), -8.0)
    logits[0, 4:8, 5:10] = 8.0
    boxes, stability = measure(logits, frame)
    # Between -8 and 8 the zero lies half-way between two pixel centres: on the border of the enlarged pixels
    assert boxes.tolist() == [[15, 8, 30, 16], [0, 0, 0, 0]]
    assert 0.5 < stability[0] < 1
    assert stability[1] == 0
    boxes, stability = measure(logits[:0], frame)
    assert (boxes.shape, stability.shape) == ((0, 4), (0,))


@pytest.mark.parametrize("model_type", ["sam", "sam_hq", "sam2"])
def test_batches_equal_one_by_one(model_type, segmenter):
    sam = segmenter(model_type)
    embedding = sam.encode(noise_photo((60, 100)))
    points = torch.rand(35, 1, 2, generator=torch.Generator().manual_seed(2)) * 60  # more than are put at once
    together = sam.predict(embedding, Prompts(points))
    for i in (0, 15, 16, 34):
        alone = sam.predict(embedding, Prompts(points[i : i + 1]))
        torch.testing.assert_close(together.iou[i], alone.iou[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-3, rtol=1e-3)


def test_padding_changes_nothing(segmenter):
    sam = segmenter("sam2")
    embedding = sam.encode(noise_photo((60, 100)))
    labels = torch.tensor([[1, 0], [-1, 1], [-1, -1]])
    together = sam.predict(embedding, Prompts(POINTS, labels))
    whole = sam.predict(embedding, Prompts(POINTS[:1], labels[:1]))
    shorter = sam.predict(embedding, Prompts(POINTS[1:2, 1:]))
    for row, alone in ((0, whole), (1, shorter)):
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-4, rtol=1e-4)
    # A box with no point beside it is a box alone
    both = sam.predict(embedding, Prompts(POINTS, labels, BOXES))
    box = sam.predict(embedding, Prompts(boxes=BOXES[2:]))
    torch.testing.assert_close(both.logits[2], box.logits[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both.logits[1], box.logits[0], atol=1e-2)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_photos_encoded_together_and_embeddings_from_disk_are_the_same(model_type, segmenter, tmp_path):
    sam = segmenter(model_type)
    assert isinstance(sam, BatchEncoder)
    assert isinstance(sam, CacheableSegmenter)
    images = [noise_photo((60, 100)), noise_photo((80, 80))]
    for image, together in zip(images, sam.encode_batch(images), strict=True):
        alone = sam.encode(image)
        assert together.frame == alone.frame
        for feature, expected in zip(together.features, alone.features, strict=True):
            torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-4)
        save_weights(path := tmp_path / "one.safetensors", sam.pack(together))
        read = sam.unpack(load_state(path))
        assert (read.size, read.frame) == (together.size, together.frame)
        assert all(
            torch.equal(feature, expected) for feature, expected in zip(read.features, together.features, strict=True)
        )
    assert sam.encode_batch([]) == []


def test_masks_that_are_not_wanted_are_empty_and_the_others_unchanged(segmenter):
    sam = segmenter("sam")
    embedding = sam.encode(noise_photo((60, 100)))
    everything = sam.predict(embedding, Prompts(POINTS))
    threshold = everything.iou.median().item()
    above = sam.predict(embedding, Prompts(POINTS), min_pred_iou=threshold)
    wanted = everything.iou > threshold
    assert 0 < wanted.sum() < 9
    assert torch.equal(above.iou, everything.iou)
    for name in ("masks", "stability", "boxes"):
        assert torch.equal(getattr(above, name)[wanted], getattr(everything, name)[wanted])
        assert not getattr(above, name)[~wanted].any()
    assert not above.full(*(~wanted).nonzero().T).any()


@pytest.mark.parametrize(("model_type", "frame"), [("sam", (20, 32)), ("sam2", (16, 16))])
def test_no_prompt_gives_empty_tensors(model_type, frame, segmenter):
    sam = segmenter(model_type)
    embedding = sam.encode(noise_photo((40, 64)))
    for prompts in (Prompts(torch.zeros(0, 1, 2)), Prompts(boxes=torch.zeros(0, 4))):
        answer = sam.predict(embedding, prompts)
        assert answer.masks.shape == (0, 3, *frame)
        assert (answer.iou.shape, answer.stability.shape, answer.boxes.shape) == ((0, 3), (0, 3), (0, 3, 4))
        assert answer.full(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)).shape == (0, 40, 64)


def test_a_photo_as_high_as_it_has_channels_is_read_row_by_row(segmenter):
    sam = segmenter("sam2")
    assert sam.encode(noise_photo((3, 50))).size == (3, 50)
    answer = sam.predict(sam.encode(noise_photo((1, 1))), Prompts(torch.zeros(1, 1, 2)))
    assert answer.full(torch.tensor([0]), torch.tensor([1])).shape == (1, 1, 1)


def test_sam_hq_draws_what_its_published_decoder_draws(segmenter):
    """SAM's masks of the tokens with the HQ token among them, plus the HQ token's mask over the fused features."""
    sam = segmenter("sam_hq")
    embedding = sam.encode(noise_photo((60, 100)))
    network, decoder = sam.network, sam.network.mask_decoder
    # transformers' plain SAM decoder with the same weights, the HQ token given as the first prompt token
    plain = tf.SamModel(toy_sam()).eval().requires_grad_(False).mask_decoder
    plain.load_state_dict({name: decoder.state_dict()[name] for name in plain.state_dict()})
    seen = {}
    plain.transformer.register_forward_hook(lambda _module, _inputs, output: seen.update(tokens=output[0]))
    plain.upscale_conv2.register_forward_hook(lambda _module, _inputs, output: seen.update(fine=F.gelu(output)))
    sparse, dense = network.get_prompt_embeddings(
        input_points=to_input(POINTS, embedding.frame)[None], input_labels=LABELS[None]
    )
    with torch.no_grad():
        masks, iou = plain(
            image_embeddings=embedding.features[0],
            image_positional_embeddings=network.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.cat([decoder.hq_token.weight.expand(1, 3, 1, -1), sparse], dim=2),
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        image = decoder.encoder_conv2(F.gelu(decoder.encoder_norm(decoder.encoder_conv1(embedding.features[0]))))
        early = decoder.compress_vit_norm(decoder.compress_vit_conv1(embedding.features[1].permute(0, 3, 1, 2)))
        fused = decoder.mask_conv2(F.gelu(decoder.mask_norm(decoder.mask_conv1(seen["fine"]))))
        fused = fused + image + decoder.compress_vit_conv2(F.gelu(early))
        weights = decoder.hq_mask_mlp(seen["tokens"][0, :, 5])
    expected = masks[0] + torch.einsum("pc,pchw->phw", weights, fused)[:, None]
    answer = sam.predict(embedding, Prompts(POINTS, LABELS))
    torch.testing.assert_close(answer.iou, iou[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answer.logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.equal(iou, iou.sort(dim=-1, descending=True).values)  # the order was put right


def test_bfloat16_stays_near_and_is_another_fingerprint(folder):
    exact, half = (TransformersSam.load(folder("sam2"), CPU, precision) for precision in ("float32", "bfloat16"))
    image = noise_photo((64, 64))
    full, rounded = exact.encode(image).features[-1], half.encode(image).features[-1]
    assert rounded.dtype == torch.float32
    assert not torch.equal(full, rounded)
    assert torch.corrcoef(torch.stack([full.flatten(), rounded.flatten()]))[0, 1] > 0.98
    assert exact.fingerprint != half.fingerprint
