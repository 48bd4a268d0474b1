"""Text-prompted detectors of transformers: their answers beside the library's own, and what is refused."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from tests.models.text.toys import TOYS, write_text_toy
from weaksam.config import UserError
from weaksam.models.text.detector import TextModel
from weaksam.models.text.settings import phrases_of
from weaksam.structures.boxes import nms
from weaksam.structures.masks import mask_from_rle

CPU = torch.device("cpu")
PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
LEAST = {"owlv2": 0.38, "grounding-dino": 0.3, "sam3": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a toy by its kind, written when it is first asked for."""
    return cache(lambda kind: write_text_toy(kind, tmp_path_factory.mktemp("text") / kind))


@pytest.fixture(scope="module")
def detector(folder):
    return cache(lambda kind: TextModel.find(folder(kind)).load(CPU))


def library_answer(folder: Path, kind: str, phrase: str) -> dict[str, torch.Tensor]:
    """What transformers' own classes answer to one phrase on the photo, as its documentation calls them."""
    model = getattr(
        tf, {"owlv2": "Owlv2ForObjectDetection", "sam3": "Sam3Model"}.get(kind, "GroundingDinoForObjectDetection")
    )
    network, processor = model.from_pretrained(folder).eval(), tf.AutoProcessor.from_pretrained(folder)
    size = [PHOTO.shape[:2]]
    with torch.inference_mode():
        if kind == "sam3":
            outputs = network(**processor(images=[PHOTO], text=phrase, return_tensors="pt"))
            return processor.post_process_instance_segmentation(outputs, threshold=LEAST[kind], target_sizes=size)[0]
        inputs = processor(images=[PHOTO], text=[[phrase]], return_tensors="pt")
        outputs = network(**inputs)
        more = () if kind == "owlv2" else (inputs["input_ids"],)
        return processor.post_process_grounded_object_detection(
            outputs, *more, threshold=LEAST[kind], target_sizes=size
        )[0]


@pytest.mark.parametrize("kind", TOYS)
def test_one_phrase_answers_as_the_library_does(kind, folder, detector):
    hits = detector(kind).detect(PHOTO, {3: ("a cat",)}, min_score=LEAST[kind], nms_iou=1.0, most=100)
    wanted = library_answer(folder(kind), kind, "a cat")
    boxes = wanted["boxes"].clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([60.0, 40.0, 60.0, 40.0]))
    order = wanted["scores"].argsort(descending=True, stable=True)
    order = order[((boxes[order, 2:] - boxes[order, :2]) >= 1).all(dim=1)]
    assert len(hits) == len(order) > 2 and hits.labels.unique().tolist() == [3]
    torch.testing.assert_close(hits.boxes, boxes[order])
    torch.testing.assert_close(hits.scores, wanted["scores"][order])
    if kind == "sam3":
        for rle, row in zip(hits.masks, order.tolist(), strict=True):
            assert torch.equal(mask_from_rle(rle), wanted["masks"][row].bool())
    else:
        assert hits.masks is None


@pytest.mark.parametrize("kind", TOYS)
def test_a_class_is_asked_for_by_itself(kind, detector):
    ask = {"min_score": LEAST[kind], "nms_iou": 0.5, "most": 3}
    alone = detector(kind).detect(PHOTO, {1: ("dog",)}, **ask)
    both = detector(kind).detect(PHOTO, {0: ("a cat",), 1: ("dog",)}, **ask)
    of_class = both[both.labels == 1]
    torch.testing.assert_close(of_class.boxes, alone.boxes)
    torch.testing.assert_close(of_class.scores, alone.scores)
    assert 0 < len(alone) <= 3 and both.labels.tolist() == sorted(both.labels.tolist())
    assert len(nms(alone.boxes, alone.scores, 0.5)) == len(alone)
    nothing = detector(kind).detect(PHOTO, {0: (), 1: ()}, **ask)
    assert len(nothing) == 0 and len(detector(kind).detect(PHOTO, {0: ("a cat",)}, min_score=0.99)) == 0


def test_phrases_of_a_class_count_as_one(detector):
    ask = {"min_score": LEAST["owlv2"], "most": 100}
    either = [detector("owlv2").detect(PHOTO, {0: (phrase,)}, **ask, nms_iou=1.0) for phrase in ("a cat", "dog")]
    boxes, scores = (torch.cat([getattr(hits, name) for hits in either]) for name in ("boxes", "scores"))
    rows = nms(boxes, scores, 0.5)
    both = detector("owlv2").detect(PHOTO, {0: ("a cat", "dog")}, **ask, nms_iou=0.5)
    torch.testing.assert_close(both.boxes, boxes[rows])
    torch.testing.assert_close(both.scores, scores[rows])


def test_phrases_are_names_but_for_prompts():
    prompts = {"bat": "a baseball bat", "ball": ("a ball", "a white ball"), "defect B": None}
    phrases = phrases_of(("bat", "ball", "defect B", "traffic_light"), prompts)
    assert phrases == {0: ("a baseball bat",), 1: ("a ball", "a white ball"), 2: (), 3: ("traffic light",)}


def test_the_fingerprint_follows_weights_and_tokenizer(folder, tmp_path):
    source = folder("owlv2")
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert TextModel.find(tmp_path).fingerprint == TextModel.find(source).fingerprint
    words = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**words, "version": "1.1"}))
    assert TextModel.find(tmp_path).fingerprint != TextModel.find(source).fingerprint


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "found model_type 'bert'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds neither model.safetensors"),
        (lambda folder: (folder / "processor_config.json").unlink(), "preprocessing of photos and texts"),
        (lambda folder: write_text_toy("owlv2", folder, without="class_head.dense0.weight"), "1 tensors missing"),
    ],
)
def test_what_is_no_such_model_is_one_sentence(spoil, wanted, folder, tmp_path):
    for path in folder("owlv2").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    with pytest.raises(UserError, match=wanted) as error:
        TextModel.find(tmp_path).load(CPU)
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_model_names_the_setting(tmp_path):
    with pytest.raises(UserError, match=r"clues.text.model, found .*weights.pth"):
        TextModel.find(tmp_path / "weights.pth")
