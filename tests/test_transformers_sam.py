"""The SAM families of transformers against transformers itself, on toy models that the tests write."""

import ast
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tests.toy_transformers import TOYS, write_toy
from tests.toy_transformers import sam as toy_sam
from weaksam.config import UserError
from weaksam.sam.batches import BatchEncoder
from weaksam.sam.build import SegmenterSettings, build_segmenter, family_of
from weaksam.sam.embedding_cache import CacheableSegmenter
from weaksam.sam.hf_files import names_transformers_model
from weaksam.sam.hf_sam_hq import repair_sam_hq
from weaksam.sam.mask_geometry import enlarge, measure
from weaksam.sam.protocol import Segmenter
from weaksam.sam.transformers_sam import TransformersSam, to_input
from weaksam.weights import load_state, save_weights

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


@pytest.fixture
def copy_of(folder, tmp_path):
    """A fresh copy of a toy's folder, to be spoilt."""

    def of(model_type):
        for path in folder(model_type).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return of


def photo(size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


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
    image, sam = photo(PHOTOS[shape]), segmenter(model_type)
    assert isinstance(sam, Segmenter)
    assert sam.name == OWN[model_type][2]
    embedding = sam.encode(image)
    inclusive = BOXES - torch.tensor([0.0, 0.0, 1.0, 1.0])  # the last pixel inside, as SAM takes boxes
    for ours, theirs in (
        ({"points": POINTS, "point_labels": LABELS}, {"input_points": POINTS, "input_labels": LABELS}),
        ({"boxes": BOXES}, {"input_boxes": inclusive}),
        (
            {"points": POINTS, "point_labels": LABELS, "boxes": BOXES},
            {"input_points": POINTS, "input_labels": LABELS, "input_boxes": inclusive},
        ),
    ):
        answer = sam.predict(embedding, **ours)
        logits, iou, full = transformers_itself(*official(model_type), image, **theirs)
        torch.testing.assert_close(answer.iou, iou, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(answer.logits, logits, atol=1e-4, rtol=1e-4)
        p, k = torch.ones(3, 3).nonzero().T
        sure = full.flatten(0, 1).abs() > 1e-3  # rounding may flip a pixel at a zero crossing
        assert torch.equal((answer.full(p, k) & sure), (full.flatten(0, 1) > 0) & sure)
        assert answer.size == image.shape[:2]


def test_masks_cover_the_photo_and_boxes_and_stability_are_measured_in_its_pixels(segmenter):
    sam = segmenter("sam")
    answer = sam.predict(sam.encode(photo((60, 100))), points=POINTS)
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
    frame = sam.encode(photo((32, 48))).frame  # logits of 16 x 16, stretched by 2 and 3
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
    embedding = sam.encode(photo((60, 100)))
    points = torch.rand(35, 1, 2, generator=torch.Generator().manual_seed(2)) * 60  # more than are put at once
    together = sam.predict(embedding, points=points)
    for i in (0, 15, 16, 34):
        alone = sam.predict(embedding, points=points[i : i + 1])
        torch.testing.assert_close(together.iou[i], alone.iou[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-3, rtol=1e-3)


def test_padding_changes_nothing(segmenter):
    sam = segmenter("sam2")
    embedding = sam.encode(photo((60, 100)))
    labels = torch.tensor([[1, 0], [-1, 1], [-1, -1]])
    together = sam.predict(embedding, points=POINTS, point_labels=labels)
    whole = sam.predict(embedding, points=POINTS[:1], point_labels=labels[:1])
    shorter = sam.predict(embedding, points=POINTS[1:2, 1:])
    for row, alone in ((0, whole), (1, shorter)):
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-4, rtol=1e-4)
    # A box with no point beside it is a box alone
    both = sam.predict(embedding, points=POINTS, point_labels=labels, boxes=BOXES)
    box = sam.predict(embedding, boxes=BOXES[2:])
    torch.testing.assert_close(both.logits[2], box.logits[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both.logits[1], box.logits[0], atol=1e-2)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_photos_encoded_together_and_embeddings_from_disk_are_the_same(model_type, segmenter, tmp_path):
    sam = segmenter(model_type)
    assert isinstance(sam, BatchEncoder)
    assert isinstance(sam, CacheableSegmenter)
    images = [photo((60, 100)), photo((80, 80))]
    for image, together in zip(images, sam.encode_batch(images), strict=True):
        alone = sam.encode(image)
        assert together.frame == alone.frame
        for one, other in zip(together.features, alone.features, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        save_weights(path := tmp_path / "one.safetensors", sam.pack(together))
        read = sam.unpack(load_state(path))
        assert (read.size, read.frame) == (together.size, together.frame)
        assert all(torch.equal(one, other) for one, other in zip(read.features, together.features, strict=True))
    assert sam.encode_batch([]) == []


def test_masks_that_are_not_wanted_are_empty_and_the_others_unchanged(segmenter):
    sam = segmenter("sam")
    embedding = sam.encode(photo((60, 100)))
    every = sam.predict(embedding, points=POINTS)
    threshold = every.iou.median().item()
    some = sam.predict(embedding, points=POINTS, min_pred_iou=threshold)
    wanted = every.iou > threshold
    assert 0 < wanted.sum() < 9
    assert torch.equal(some.iou, every.iou)
    for name in ("masks", "stability", "boxes"):
        assert torch.equal(getattr(some, name)[wanted], getattr(every, name)[wanted])
        assert not getattr(some, name)[~wanted].any()
    assert not some.full(*(~wanted).nonzero().T).any()


@pytest.mark.parametrize(("model_type", "frame"), [("sam", (20, 32)), ("sam2", (16, 16))])
def test_no_prompt_gives_empty_tensors(model_type, frame, segmenter):
    sam = segmenter(model_type)
    embedding = sam.encode(photo((40, 64)))
    for prompt in ({"points": torch.zeros(0, 1, 2)}, {"boxes": torch.zeros(0, 4)}):
        answer = sam.predict(embedding, **prompt)
        assert answer.masks.shape == (0, 3, *frame)
        assert (answer.iou.shape, answer.stability.shape, answer.boxes.shape) == ((0, 3), (0, 3), (0, 3, 4))
        assert answer.full(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)).shape == (0, 40, 64)


def test_a_photo_as_high_as_it_has_channels_is_read_row_by_row(segmenter):
    sam = segmenter("sam2")
    assert sam.encode(photo((3, 50))).size == (3, 50)
    answer = sam.predict(sam.encode(photo((1, 1))), points=torch.zeros(1, 1, 2))
    assert answer.full(torch.tensor([0]), torch.tensor([1])).shape == (1, 1, 1)


def test_sam_hq_draws_what_its_published_decoder_draws(segmenter):
    """SAM's masks of the tokens with the HQ token among them, plus the HQ token's mask over the fused features."""
    sam = segmenter("sam_hq")
    embedding = sam.encode(photo((60, 100)))
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
    answer = sam.predict(embedding, points=POINTS, point_labels=LABELS)
    torch.testing.assert_close(answer.iou, iou[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answer.logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.equal(iou, iou.sort(dim=-1, descending=True).values)  # the order was put right


def test_bfloat16_stays_near_and_is_another_fingerprint(folder):
    exact, half = (TransformersSam.load(folder("sam2"), CPU, precision) for precision in ("float32", "bfloat16"))
    image = photo((64, 64))
    one, other = exact.encode(image).features[-1], half.encode(image).features[-1]
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.98
    assert exact.fingerprint != half.fingerprint


def test_the_fingerprint_follows_content_not_place(copy_of, folder):
    original = TransformersSam.load(folder("sam"), CPU).fingerprint
    path = copy_of("sam")
    assert TransformersSam.load(path, CPU).fingerprint == original
    edit(path / "config.json", transformers_version="9.9")
    assert TransformersSam.load(path, CPU).fingerprint == original
    edit(path / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    changed = TransformersSam.load(path, CPU).fingerprint
    state = load_file(path / "model.safetensors")
    state["mask_decoder.iou_token.weight"] += 1
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert len({original, changed, TransformersSam.load(path, CPU).fingerprint}) == 3


# How a model is named


def test_auto_takes_transformers_for_folders_and_hub_ids(tmp_path):
    def chosen(weights):
        return family_of(SegmenterSettings(weights=weights))

    assert chosen(tmp_path) == "transformers"
    assert chosen("facebook/sam2.1-hiera-tiny") == "transformers"
    assert chosen("weights/sam_vit_b_01ec64.pth") == "segment_anything"
    assert chosen("/data/checkpoints/sam") == "segment_anything"
    assert chosen("a/b/c") == "segment_anything"
    assert chosen(None) == "tree"
    (tmp_path / "sam.bin").touch()
    assert not names_transformers_model(tmp_path / "sam.bin")


def test_settings_build_the_segmenter(folder):
    segmenter = build_segmenter(SegmenterSettings(weights=folder("sam2")), CPU)
    assert isinstance(segmenter, TransformersSam)
    assert segmenter.precision == "float32"
    for settings, wanted in (
        ({"family": "transformers"}, "segmenter.weights is empty"),
        ({"family": "transformers", "weights": "sam_vit_b.pth"}, "segmenter.family=segment_anything"),
        ({"precision": "bfloat16"}, "only for the family segment_anything or transformers"),
        ({"decoding": "fast", "weights": folder("sam")}, "decoding=fast is only for"),
    ):
        with pytest.raises(UserError, match=wanted):
            build_segmenter(SegmenterSettings(**settings), CPU)


def test_transformers_is_imported_only_when_a_model_of_it_is_read():
    for path in (Path(__file__).parents[1] / "weaksam").rglob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top]
        assert not [name for name in names if str(name).split(".")[0] in ("transformers", "timm", "huggingface_hub")]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub's library, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_is_read_from_the_cache_without_network(hub, folder):
    snapshot = hub / "models--owner--toy" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (hub / "models--owner--toy" / "refs").mkdir()
    (hub / "models--owner--toy" / "refs" / "main").write_text("0" * 40)
    for path in folder("sam2").iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    found = TransformersSam.load(Path("owner/toy"), CPU)
    assert found.fingerprint == TransformersSam.load(folder("sam2"), CPU).fingerprint


def test_a_hub_id_without_network_is_refused_at_once(hub, monkeypatch):
    assert "owner/toy, which is no folder here" in refusal(Path("owner/toy"), "owner/toy")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "ConnectError" in refusal(Path("owner/toy"), "owner/toy")


# What is refused


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(path, named=None):
    with pytest.raises(UserError) as caught:
        TransformersSam.load(path, CPU)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert ". " not in sentence
    assert str(named or path) in sentence
    return sentence


def test_a_folder_of_something_else_is_refused(copy_of, tmp_path):
    assert "no config.json" in refusal(tmp_path)
    path = copy_of("sam")
    edit(path / "config.json", model_type="bert")
    sentence = refusal(path)
    assert "'bert'" in sentence
    assert all(name in sentence for name in ("sam_hq", "sam2_video", "edgetam", "sam3_tracker"))
    (path / "config.json").write_text("<!DOCTYPE html><title>Sign in</title>")
    assert "JSON was wanted in config.json" in refusal(path)
    (path / "config.json").write_text("[1]")
    assert "mapping" in refusal(path)


def test_weights_cut_short_or_no_weights_are_refused(copy_of):
    path = copy_of("sam") / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "not a readable safetensors file" in refusal(path.parent)
    path.write_text("<html><body>Too many requests</body></html>")
    assert "web page" in refusal(path.parent)
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert "pointer of Git LFS" in refusal(path.parent)
    path.unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(path.parent)


def test_weights_of_another_variant_are_refused(copy_of, tmp_path):
    for name, config in (("wide", toy_sam(width=32)), ("deep", toy_sam(depth=3)), ("shallow", toy_sam(depth=1))):
        other = write_toy("sam", tmp_path / name, config)
        path = copy_of("sam")
        (path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        counts = {"wide": "lack 0 tensors, bring 0", "deep": "lack 0 tensors", "shallow": "bring 0 unknown"}
        assert counts[name] in refusal(path)
    assert "not of the sam2 variant" in refusal(write_toy("sam2", tmp_path / "a", without="no_memory_embedding"))


def test_positions_that_a_file_holds_once_are_shared(folder, tmp_path):
    place = "prompt_encoder.shared_embedding.positional_embedding"
    for model_type in ("sam", "sam2"):
        segmenter = TransformersSam.load(write_toy(model_type, tmp_path / model_type, without=place), CPU)
        state = segmenter.network.state_dict()
        assert torch.equal(state[place], state["shared_image_embedding.positional_embedding"])


def test_preprocessing_of_another_model_is_refused(copy_of):
    path = copy_of("sam")
    edit(path / "preprocessor_config.json", size={"longest_edge": 128})
    assert "128 and 64 pixels, but its network takes 64" in refusal(path)
    (path / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refusal(path)


def test_preprocessing_inside_the_processors_file_is_read(copy_of, folder):
    path = copy_of("sam2")
    inside = json.loads((path / "preprocessor_config.json").read_text())
    (path / "processor_config.json").write_text(json.dumps({"target_size": 64, "image_processor": inside}))
    (path / "preprocessor_config.json").unlink()
    assert TransformersSam.load(path, CPU).fingerprint == TransformersSam.load(folder("sam2"), CPU).fingerprint


def test_a_model_of_other_than_three_masks_is_refused(tmp_path):
    path = write_toy("sam", tmp_path / "toy", toy_sam(num_multimask_outputs=2))
    assert "num_multimask_outputs 2" in refusal(path)


def test_weights_in_parts_are_read_and_a_missing_part_is_named(folder, tmp_path, copy_of):
    path = copy_of("sam")
    tf.SamModel.from_pretrained(path).save_pretrained(path, max_shard_size="40KB")
    (path / "model.safetensors").unlink()
    parts = sorted(path.glob("model-*.safetensors"))
    assert len(parts) > 1
    answers = [
        segmenter.predict(segmenter.encode(photo((60, 100))), points=POINTS).iou
        for segmenter in (TransformersSam.load(path, CPU), TransformersSam.load(folder("sam"), CPU))
    ]
    torch.testing.assert_close(*answers)
    parts[1].unlink()
    assert parts[1].name in refusal(path)
    edit(path / "model.safetensors.index.json", weight_map={"a": "../elsewhere.safetensors"})
    assert "weight_map" in refusal(path)


def test_torch_files_are_read_as_tensors_only(copy_of):
    class Trap:
        def __reduce__(self):
            return (print, ("this must not run",))

    path = copy_of("sam")
    state = load_file(path / "model.safetensors")
    expected = TransformersSam.load(path, CPU).network.state_dict()
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    found = TransformersSam.load(path, CPU).network.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    whole = (path / "pytorch_model.bin").read_bytes()
    (path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert "could not be read" in refusal(path)
    torch.save({"mask_decoder.iou_token.weight": Trap()}, path / "pytorch_model.bin")
    assert "could not be read" in refusal(path)


def test_edgetam_without_timm_says_what_to_install(copy_of, monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "edgetam"}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install timm" in refusal(tmp_path)
