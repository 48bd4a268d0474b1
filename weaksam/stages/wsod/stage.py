"""Train the weak detector on the training photos, detect with it, and seal both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weaksam.config import UserError, fingerprint_of
from weaksam.data.detection_stores import detection_store, instances_key, instances_of
from weaksam.data.formats.coco import write_results
from weaksam.data.sample_photos import rows_reading_ahead
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training import fit
from weaksam.engine.training_state import load_trained
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.wsod.extent import NO_EXTENT
from weaksam.stages.wsod.detector import WeakDetector
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.examples import ClassMaps, best_proposals, make_examples
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.stages.wsod.guard import with_largest
from weaksam.stages.wsod.photo_features import PhotoFeatures
from weaksam.stages.wsod.seeds.relocate_examples import relocated
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.box_voting import NO_VOTING, voted_detections
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import labels_fingerprint
from weaksam.structures.proposals import Proposals


def run(
    context: RunContext,
    settings: WsodSettings,
    proposals: Mapping[str, Store],
    clue_store: Store,
    class_maps: ClassMaps,
    *,
    truths: Mapping[str, Instances] | None = None,
    name: str = "wsod",
    photos: PhotoFeatures | None = None,
) -> DetectorResult:
    """Train on ``context.train`` and detect on it and on the test photos; weights and detections end up sealed.

    ``proposals`` maps ``train`` (and ``test``) to sealed stores; ``class_maps`` answers from ``clue_store``. Writes
    ``OUT/<name>/detections_train.json`` and ``detections_test.json`` (COCO results). With the true boxes of the
    training photos as ``truths``, and another ``name``, this measures the ceiling of the same features and proposals.
    ``photos`` (mode frozen) are features that another run with the same backbone, photos and sizes has read.

    Raises:
        UserError: no training photo has a proposal, the proposals are another dataset's, or ``guard`` where the
            backbone is trained along.
    """
    if settings.guard != "off" and settings.mode != "frozen":
        raise UserError(
            f"{name}.guard={settings.guard} wants the frozen features of {name}.mode=frozen, found "
            f"{name}.mode={settings.mode}: take {name}.guard=off"
        )
    for split, store in proposals.items():
        _require_same_photos(store, _photos(context, split), split)
    # Boxes move, and are guarded, after it
    learnt = settings.model_copy(update={"box_voting": NO_VOTING, "extent": NO_EXTENT, "guard": "off"})
    fingerprint = stage_fingerprint("wsod", learnt, _inputs(context, proposals["train"], clue_store, truths))
    folder = store_folder(context.out, name, "weights", fingerprint)
    seed_everything(derive_seed(context.seed, "wsod", "weights"))
    frozen = settings.mode == "frozen"
    detector: WeakDetector = (
        FrozenDetector(context, settings, photos) if frozen else EndToEndDetector(context, settings)
    )
    job = detector.training_job(folder, fingerprint, name)
    if not load_trained(detector.model, job):
        detector.begin_training()
        examples = make_examples(context, settings, proposals["train"], class_maps, detector.prepare, truths)
        if isinstance(settings.seeds, RelocationSettings) and truths is None:
            examples = relocated(examples, detector.frozen_features(), settings, settings.seeds)
        fit(
            detector.model,
            detector.objectives(),
            lambda epoch: detector.batches(examples),
            job,
            num_steps_per_epoch=-(-len(examples) // settings.batch_size),
        )
    detector.begin_detecting()
    guarded: tuple[int, ...] = ()
    if isinstance(detector, FrozenDetector) and (settings.extent.share > 0 or settings.guard != "off"):
        detector.learn_extent(proposals["train"], fingerprint, name)
        if settings.guard != "off":
            guarded = detector.judge_classes(proposals["train"], fingerprint, name).guarded
    stores = {
        split: _detect(context, settings, detector, store, split, fingerprint, name, guarded)
        for split, store in proposals.items()
    }
    return DetectorResult(folder / "weights.safetensors", fingerprint, stores, context.backbone)


def _inputs(
    context: RunContext, proposals: Store, clue_store: Store, truths: Mapping[str, Instances] | None
) -> dict[str, str]:
    """Fingerprints of all that decides the trained weights besides the settings."""
    inputs = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "proposals": proposals.fingerprint,
        "clues": clue_store.fingerprint,
        "seed": str(context.seed),
    }
    labels = labels_fingerprint(context.labels, "boxes", "marks", "counts", "complete")
    if truths is not None:
        inputs["truth"] = fingerprint_of(instances_key(truths))
    elif labels:
        inputs["labels"] = labels
    return inputs


def _detect(
    context: RunContext,
    settings: WsodSettings,
    detector: WeakDetector,
    proposals: Store,
    split: str,
    weights_key: str,
    name: str,
    guarded: Sequence[int],
) -> Store:
    """Detections of one split as a sealed store and as COCO results; tags that are ``guarded`` get `with_largest`."""
    dataset = _photos(context, split)
    inputs = {"weights": weights_key, "dataset": dataset.fingerprint, "proposals": proposals.fingerprint}
    fingerprint = stage_fingerprint("wsod detections", settings, inputs)
    folder = store_folder(context.out, name, f"detections_{split}", fingerprint)
    store = detection_store(folder, name, fingerprint, dataset, masks=False)

    def row(image_id: str) -> dict[str, Any]:
        stored = proposals[image_id]
        detections = detector.detect(dataset.by_id[image_id], best_proposals(stored, settings.num_proposals))
        detections = voted_detections(detections, Proposals.from_row(stored), settings.box_voting)
        if split == "train":  # whose tags are known
            labels = [label for label in dataset.by_id[image_id].tags if label in guarded]
            boxes = best_proposals(stored, settings.num_proposals)
            detections = with_largest(detections, labels, boxes, settings.min_score)
        return {"boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores}

    store.fill_parts(rows_reading_ahead(dataset, row), progress=f"{name}: detecting ({split})")
    write_results(context.out / name / f"detections_{split}.json", dataset, instances_of(store))
    return store


def _photos(context: RunContext, split: str) -> Dataset:
    dataset: Dataset | None = context.train if split == "train" else context.test
    assert dataset is not None, f"proposals of {split} without its photos"
    return dataset


def _require_same_photos(store: Store, dataset: Dataset, split: str) -> None:
    """UserError where the proposals were made for other photos."""
    ours, theirs = set(dataset.image_ids), set(store.image_ids)
    if ours != theirs:
        first = min(ours ^ theirs)
        raise UserError(
            f"wanted the proposals of the {len(ours)} {split} photos, found a store of {len(theirs)} photos that "
            f"differ from them in {len(ours ^ theirs)} (first: {first}): run 'weaksam proposals' on these photos"
        )
