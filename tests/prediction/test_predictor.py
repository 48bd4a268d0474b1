"""A predictor detects what the stage's own functions detect, takes photos in every form, and sets bad files aside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import CPU, block_photo, context, write_photo
from tests.prediction.toys import ARCHITECTURES, CLASSES, NUMBERS, toy_checkpoint
from weaksam.config import UserError
from weaksam.data.images import BadImage
from weaksam.engine.detectors.detecting import detect_sample
from weaksam.engine.detectors.mask2former import detect_sample_masks
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.prediction.predictor import Predictor, load
from weaksam.prediction.result import Prediction
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.stages.proposals import propose
from weaksam.stages.wsod.extent import Extent, ExtentRegressions
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of blocks, two of one size, in two folders, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    Image.fromarray(block_photo(0)).save(folder / "a.png")
    Image.fromarray(block_photo(1)).save(folder / "b.png")
    Image.fromarray(block_photo(2)[:90]).save(folder / "more" / "c.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not the rest of a photo")
    return folder


@pytest.fixture(scope="module")
def boxes() -> Predictor:
    return Predictor(toy_checkpoint("faster_rcnn"), device="cpu")


def same(detections: Instances, others: Instances) -> bool:
    return (
        torch.equal(detections.boxes, others.boxes)
        and torch.equal(detections.labels, others.labels)
        and torch.equal(detections.scores, others.scores)
        and detections.masks == others.masks
    )


BUILDERS = {
    "faster_rcnn": (build_faster_rcnn, detect_sample),
    "dino": (build_dino, detect_sample),
    "mask_rcnn": (build_mask_rcnn, detect_sample),
    "mask2former": (build_mask2former, detect_sample_masks),
}


@pytest.mark.parametrize("architecture", BUILDERS)
def test_it_detects_what_the_stage_detects(folder: Path, architecture: str) -> None:
    checkpoint = toy_checkpoint(architecture)
    build, detect = BUILDERS[architecture]
    model = build(checkpoint.header.backbone, checkpoint.settings, 2)
    model.load_state_dict(checkpoint.state)
    path = folder / "more" / "c.png"
    wanted = detect(model.eval(), Sample("c.png", path, (90, 160), (), None, 1), checkpoint.settings, CPU)
    prediction = Predictor(checkpoint, device="cpu").predict(path)
    assert len(wanted) > 0 and same(prediction.instances, wanted)
    assert (prediction.name, prediction.size, prediction.classes) == ("c.png", (90, 160), CLASSES)
    assert (prediction.masks is not None) == ("mask" in architecture)


def test_the_weak_detector_scores_given_proposals_as_the_stage_does(folder: Path, tmp_path: Path) -> None:
    checkpoint = toy_checkpoint("weak_frozen")
    sample = Sample("a.png", folder / "a.png", (120, 160), (), None, 1)
    dataset = Dataset("photos", CLASSES, NUMBERS, (sample,))
    detector = FrozenDetector(context(tmp_path, dataset), checkpoint.settings)
    parts = {
        part: {n.removeprefix(part): v for n, v in checkpoint.state.items() if n.startswith(part)}
        for part in ("head.", "backbone.")
    }
    detector.model.load_state_dict(parts["head."])
    detector.photos.network.load_state_dict(parts["backbone."])
    detector.begin_detecting()
    regressions = ExtentRegressions(2, 8, checkpoint.settings.extent.folds)
    regressions.of_all.copy_(checkpoint.state["extent.of_all"])
    detector.extent = Extent(regressions, {}, checkpoint.settings.extent)
    proposals = Proposals.of(torch.tensor([[30.0, 20, 90, 60], [100, 70, 150, 110], [0, 0, 80, 80]]))
    predictor = Predictor(checkpoint, device="cpu")
    (detections,) = predictor.detect([block_photo(0)], [proposals])
    assert len(detections) > 0 and same(detections, detector.detect(sample, proposals.boxes))
    (nothing,) = predictor.detect([block_photo(0)], [Proposals.none()])
    assert len(nothing) == 0


@pytest.mark.parametrize("architecture", ["weak_frozen", "weak_end_to_end"])
def test_the_weak_detector_makes_its_proposals_from_the_grid(folder: Path, architecture: str) -> None:
    checkpoint = toy_checkpoint(architecture)
    predictor = Predictor(checkpoint, device="cpu")
    segmenter = build_segmenter(SegmenterSettings(family="tree"), CPU)
    image = block_photo(0)
    proposals = propose(segmenter, image, settings=checkpoint.header.proposals.proposals)
    assert len(proposals) > 2
    (wanted,) = predictor.detect([image], [proposals])
    assert len(wanted) > 0 and same(predictor.predict(folder / "a.png").instances, wanted)


def test_faster_rcnn_takes_proposals_where_it_was_trained_with_some(folder: Path) -> None:
    checkpoint = toy_checkpoint("faster_rcnn", given_proposals=4)
    predictor = Predictor(checkpoint, device="cpu")
    image = block_photo(0)
    proposals = propose(predictor.segmenter, image, settings=checkpoint.header.proposals.proposals)
    (wanted,) = predictor.detect([image], [proposals.by_score()])
    (without,) = Predictor(toy_checkpoint("faster_rcnn"), device="cpu").detect([image])
    assert same(predictor.predict(image).instances, wanted) and not same(wanted, without)


def test_another_segmenter_than_that_of_the_training_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = toy_checkpoint("weak_frozen")
    making = checkpoint.header.proposals.model_copy(update={"segmenter_fingerprint": "00" * 32})
    header = checkpoint.header.model_copy(update={"proposals": making})
    other = type(checkpoint)(header, checkpoint.settings, checkpoint.state)
    Predictor(other, device="cpu").predict(block_photo(0))
    assert "another than the one whose proposals trained" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        Predictor(checkpoint, device="cpu", sam="nowhere.pth").predict(block_photo(0))


def test_a_photo_comes_in_many_forms(boxes: Predictor, folder: Path) -> None:
    path, pixels = folder / "a.png", block_photo(0)
    wanted = boxes.predict(path)
    pixels.flags.writeable = False
    for form in (str(path), pixels, Image.fromarray(pixels)):
        assert same(boxes.predict(form).instances, wanted.instances)
    with Image.open(path) as picture:
        assert same(boxes.predict(picture).instances, wanted.instances) and boxes.predict(picture).name == "a.png"
    assert boxes.predict(pixels).name == "photo"
    several = boxes.predict([path, pixels])
    assert isinstance(several, list) and [prediction.name for prediction in several] == ["a.png", "photo 1"]
    assert all(same(prediction.instances, wanted.instances) for prediction in several)
    assert boxes.predict([]) == []

    def generator() -> Iterator[np.ndarray]:
        yield pixels

    stream = boxes.predict(generator())
    assert not isinstance(stream, list) and same(next(stream).instances, wanted.instances)
    assert list(stream) == []


def test_pictures_of_pillow_are_turned_upright(boxes: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(block_photo(0)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        turned = boxes.predict(picture)
    assert turned.size == (160, 120)
    assert same(turned.instances, boxes.predict(tmp_path / "turned.png").instances)


def test_a_folder_is_read_as_it_is_asked_for_and_bad_files_are_set_aside(boxes: Predictor, folder: Path) -> None:
    stream = boxes.predict(folder)
    predictions = list(stream)
    assert [prediction.name for prediction in predictions] == ["a.png", "b.png", "more/c.png"]
    assert set(stream.bad) == {"broken.jpg"} and "is not a photo" in stream.bad["broken.jpg"]
    assert same(predictions[2].instances, boxes.predict(folder / "more" / "c.png").instances)
    with pytest.raises(BadImage, match=r"broken\.jpg"):
        boxes.predict([folder / "a.png", folder / "broken.jpg"])
    (folder.parent / "nothing").mkdir()
    with pytest.raises(UserError, match="wanted photos"):
        boxes.predict(folder.parent / "nothing")


def test_a_stream_reads_no_further_than_it_is_asked(boxes: Predictor) -> None:
    taken: list[int] = []

    def photos() -> Iterator[np.ndarray]:
        for number in range(5):
            taken.append(number)
            yield block_photo(number)

    next(boxes.predict(photos()))
    assert taken == [0]


@pytest.mark.parametrize("architecture", ["faster_rcnn", "dino", "mask_rcnn", "mask2former"])
def test_batches_equal_one_by_one(architecture: str) -> None:
    checkpoint = toy_checkpoint(architecture)
    images = [block_photo(number) for number in range(3)] + [block_photo(3)[:90]]
    by_one = Predictor(checkpoint, device="cpu", batch_size=1).detect(images)
    together = Predictor(checkpoint, device="cpu", batch_size=3).detect(images)
    for alone, in_batch in zip(by_one, together, strict=True):
        assert torch.equal(alone.labels, in_batch.labels)
        torch.testing.assert_close(alone.boxes, in_batch.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(alone.scores, in_batch.scores, rtol=0, atol=1e-5)


def test_the_least_score_drops_the_rest(boxes: Predictor) -> None:
    all_of_them = boxes.predict(block_photo(0))
    least = float(all_of_them.scores[1])
    kept = boxes.predict(block_photo(0), min_score=least)
    assert len(kept) == int((all_of_them.scores >= least).sum()) < len(all_of_them)
    assert len(boxes.predict(block_photo(0), min_score=1.0)) == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 RGB of shape \(H, W, 3\), found uint8 of shape \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), "found float32"),
        (np.zeros((0, 8, 3), np.uint8), r"found uint8 of shape \(0, 8, 3\)"),
        ("nowhere.jpg", "nowhere.jpg"),
        (7, "found int: convert it"),
        ([7], "found int: convert it"),
    ],
)
def test_what_is_no_photo_is_refused(boxes: Predictor, source: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        boxes.predict(source)


def test_loading_disturbs_no_random_numbers(tmp_path: Path) -> None:
    toy_checkpoint("mask_rcnn").write(tmp_path / "checkpoint.safetensors")
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    load(tmp_path / "checkpoint.safetensors")
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_photo_of_a_single_pixel_gives_a_prediction(architecture: str) -> None:
    prediction = Predictor(toy_checkpoint(architecture), device="cpu").predict(np.full((1, 1, 3), 9, np.uint8))
    assert isinstance(prediction, Prediction) and prediction.size == (1, 1)


def test_a_written_photo_has_the_name_of_its_file(boxes: Predictor, tmp_path: Path) -> None:
    assert boxes.predict(write_photo(tmp_path / "x.jpg")).photo == tmp_path / "x.jpg"
