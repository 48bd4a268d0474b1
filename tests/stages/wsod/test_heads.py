"""The weak detector's published heads, end to end on drawn discs, and what it says to bad tags, photos and weights."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.helpers import context, draw_discs
from weaksam.config import UserError, fingerprint_of
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.tag_signal import tag_notes
from weaksam.engine.detectors.result import DetectorResult
from weaksam.models.wsod.head import HeadOutput
from weaksam.models.wsod.targets import empty_seeds
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.stages import clues, proposals, wsod
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.detections import detections_from
from weaksam.stages.wsod.examples import TrainingExample, present_labels
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.stages.wsod.losses import photo_losses
from weaksam.store.store import Store, stage_fingerprint
from weaksam.structures.dataset import Dataset, Sample

CLUES = clues.ClueSettings(long_side=256)
TINY = WsodSettings(long_side=256, reduced=8, hidden=16, roi_size=2, num_epochs=1, warmup_steps=2, num_branches=2)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Store, Store]:
    """Six photos of discs, their sealed proposals and clues."""
    folder = tmp_path_factory.mktemp("discs")
    dataset = draw_discs(folder, 6)
    run_context = context(folder / "out", dataset)
    clue_store = clues.run(run_context, CLUES, dataset, "train")
    segmenter, points = (
        build_segmenter(SegmenterSettings(family="tree"), torch.device("cpu")),
        clues.clue_points(clue_store),
    )
    proposal_store = proposals.run(
        run_context, proposals.ProposalSettings(min_side=8), segmenter, points, dataset, "train"
    )
    return dataset, proposal_store, clue_store


def train(discs: tuple[Dataset, Store, Store], out: Path, **changes: object) -> DetectorResult:
    dataset, proposal_store, maps = discs
    settings = WsodSettings(**{**TINY.model_dump(), **changes})
    return wsod.run(context(out, dataset), settings, {"train": proposal_store}, maps, clues.class_maps(maps))


@pytest.mark.parametrize(
    "changes",
    [{"seeds": "mist", "box_regression": True}, {"seeds": "oicr"}, {"seeds": "oicr_top"}],
    ids=["mist", "oicr", "oicr_top"],
)
def test_every_head_trains_and_detects_the_same_twice(discs, tmp_path: Path, changes: dict[str, object]) -> None:
    first, second = train(discs, tmp_path / "one", **changes), train(discs, tmp_path / "two", **changes)
    assert first.weights.read_bytes() == second.weights.read_bytes()
    assert first.fingerprint != stage_fingerprint("wsod", TINY, {})
    for sample in discs[0]:
        detections = first.detections("train")[sample.image_id]
        assert len(detections) > 0 and detections.boxes.isfinite().all()
        assert (detections.boxes >= 0).all() and (detections.boxes[:, 2] <= sample.size[1]).all()


def test_every_rule_and_each_of_its_settings_has_a_fingerprint_of_its_own() -> None:
    plain = fingerprint_of(WsodSettings())
    assert plain == fingerprint_of(WsodSettings(seeds="relocation", box_regression=False))
    rules = ["class_maps", "scores", "oicr", "oicr_top", "mist", "pcl"]
    changes = [{"share": 0.2}, {"rule": "mist", "share": 0.2}, {"rule": "mist", "compare": "kept"}]
    others = [fingerprint_of(WsodSettings(seeds=seeds)) for seeds in (*rules, *changes)]
    assert len({plain, *others, fingerprint_of(WsodSettings(box_regression=True))}) == 11


def example(boxes: torch.Tensor, tags: list[float]) -> TrainingExample:
    vector = torch.tensor(tags)
    return TrainingExample(None, boxes, vector, present_labels(vector), empty_seeds())  # type: ignore[arg-type]


def test_the_first_branch_weighs_three_with_mist_for_classes_and_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    scores, logits = torch.tensor([[0.8], [0.1]]), torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    output = HeadOutput(scores, (logits,), (torch.zeros(2, 2, 4),))
    single, three = (
        photo_losses(output, example(boxes, [1.0]), WsodSettings(seeds="mist", first_branch_weight=weight))
        for weight in (1.0, None)
    )
    assert three["refine1"].item() == pytest.approx(3 * single["refine1"].item())
    # box 2 must grow by 10 / 9 and move by half a pixel: 10 * 0.5 / 9 and 5 * log(10 / 9)
    shift, growth = 10 * 0.5 / 9, 5 * torch.tensor(10 / 9).log().item()
    assert single["box1"].item() == pytest.approx(0.8 * 0.5 * (shift**2 + growth**2) / 2, rel=1e-4)
    assert three["box1"].item() == pytest.approx(3 * single["box1"].item())


def test_no_tag_teaches_the_branches_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    output = HeadOutput(torch.rand(2, 2), (torch.randn(2, 3),), (torch.randn(2, 3, 4),))
    for rule in ("oicr", "oicr_top", "mist"):
        losses = photo_losses(output, example(boxes, [0.0, 0.0]), WsodSettings(seeds=rule))
        assert losses["refine1"].item() == losses["box1"].item() == 0.0


def test_detections_take_their_class_s_own_box() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 5, 20, 20]]])
    detections = detections_from(torch.tensor([[0.4, 0.6]]), boxes, WsodSettings())
    assert detections.boxes.tolist() == [[5, 5, 20, 20], [0, 0, 10, 10]]
    assert detections.labels.tolist() == [1, 0]


def test_weights_that_are_not_finite_stop_the_training_and_name_the_photo(discs, tmp_path: Path, monkeypatch) -> None:
    photo, outputs = discs[0].samples[3].image_id, FrozenDetector.outputs

    def poisoned(self, shown: list[tuple[Sample, torch.Tensor, bool]]) -> list[HeadOutput]:
        if any(sample.image_id == photo for sample, _, _ in shown):
            with torch.no_grad():
                self.model.streams.class_stream.weight.fill_(float("nan"))
        return outputs(self, shown)

    monkeypatch.setattr(FrozenDetector, "outputs", poisoned)
    with pytest.raises(UserError, match=f"wanted a finite .*, found nan on the images .*{photo}"):
        train(discs, tmp_path, batch_size=1)


def tagged(dataset: Dataset, tags: list[tuple[int, ...]]) -> Dataset:
    """As many photos as ``tags``, with them."""
    samples = tuple(dataclasses.replace(dataset.samples[0], tags=of_photo) for of_photo in tags)
    return dataclasses.replace(dataset, samples=samples)


def test_tags_without_signal_and_rare_classes_are_named(discs) -> None:
    dataset = discs[0]
    assert dataset.classes == ("blue", "red")
    (everything,) = tag_notes(tagged(dataset, [(0, 1)] * 6))
    assert "every class (blue, red)" in everything and "carry no signal, because" in everything
    always, rare = tag_notes(tagged(dataset, [(0, 1)] * 4 + [(0,)] * 6))
    assert "'blue' is on 10 of 10 photos: its tag carries no signal" in always
    assert "'red' is on 4 of 10 photos, fewer than 5" in rare
    assert tag_notes(tagged(dataset, [(0,)] * 5 + [(1,)] * 5)) == []
    assert tag_notes(tagged(dataset, [])) == []


def test_a_rare_class_is_said_aloud_when_training_begins(discs, tmp_path: Path, capsys) -> None:
    train(discs, tmp_path)
    said = capsys.readouterr().err
    assert "wsod: the class 'blue' is on 4 of 6 photos, fewer than 5" in said


def test_blood_cells_are_almost_constant(shared_data: Path) -> None:
    root = shared_data / "bccd3"
    voc = next(root.rglob("ImageSets")) / "Main"
    dataset = load_dataset(SplitSettings(images=next(root.rglob("JPEGImages")), tags=voc), name="train")
    said = " ".join(tag_notes(dataset))
    assert "'RBC'" in said and "'WBC'" in said and "almost no signal" in said
