"""Train Mask R-CNN or Mask2Former on pseudo masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torchvision.models.detection import MaskRCNN

from weaksam.data.formats.coco import write_instances
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.doubtful import doubtful_regions
from weaksam.engine.detectors.early import EarlyDetector, train_early
from weaksam.engine.detectors.initial_weights import InitialWeights, detector_backbone, initial_weights, start_from
from weaksam.engine.detectors.result import DetectorResult, train_and_detect
from weaksam.engine.pseudo_masks import StoredPeaks, make_pseudo_masks, stored_qualities, usable_pseudo_gt
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training_state import load_sealed, sealed_sha256
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn, start_from_detector
from weaksam.sam.protocol import Segmenter
from weaksam.stages.wsis.rounds import NetworkMasks, compare_masks, masks_among_detections, masks_of_boxes_by
from weaksam.stages.wsis.settings import AnyWsisSettings, Mask2FormerWsisSettings, WsisSettings
from weaksam.stages.wsis.weights import training_masks
from weaksam.store.store import Store
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class WsisResult(DetectorResult):
    """The trained detector, its detections with masks, and the pseudo masks it was trained on."""

    pseudo_masks: Store
    """One row per training photo; see `make_pseudo_masks`."""


def run(
    context: RunContext,
    settings: AnyWsisSettings,
    segmenter: Segmenter,
    pseudo_gt: Mapping[str, Instances],
    retrain_weights: Path | None = None,
    *,
    weak_detector: DetectorResult | None = None,
    peaks: StoredPeaks | None = None,
    name: str = "wsis",
) -> WsisResult:
    """Prompt the segmenter with the boxes of ``pseudo_gt``, train a network on the masks, detect on the test photos.

    With ``settings.rounds`` it is trained again on masks weighed by how far the network agrees (`compare_masks`).
    Instances that carry masks already (the true ones, for the ceiling under another ``name``) keep them; those marked
    ``crowd`` are ignored in training. Mask R-CNN may start from ``retrain_weights``, the retrained detector's, and its
    ``negatives`` may read the ``weak_detector``'s detections on the training photos. ``peaks`` may prompt beside
    boxes, see `make_pseudo_masks`. Writes ``OUT/<name>/pseudo_masks_train.json`` (COCO instances with the quality of
    each mask) and ``OUT/<name>/detections_test.json`` (COCO results with RLE in the original photo's frame).

    Raises:
        UserError: no box at all, a detector to start from of another kind, shape or number of classes, no weak
            detector where the settings want it, or no peaks where they are wanted.
    """
    initial = None
    if isinstance(settings, WsisSettings):
        context, initial = _with_own_backbone(context, settings, name)
    pseudo_gt = usable_pseudo_gt(context, pseudo_gt, name)
    store = make_pseudo_masks(context, settings, segmenter, pseudo_gt, name, peaks)
    of_each = settings.model_copy(update=settings.of_each_training())
    training = _Training(context, of_each, initial, retrain_weights, weak_detector, name)
    segmenter_masks = store
    for number in range(2, settings.rounds + 1):
        network_masks, network = training.masks_of_network(store, training_masks(store, settings))
        store = compare_masks(context, settings, segmenter_masks, network_masks, network, number, name)
    masks = training_masks(store, settings)
    write_instances(context.out / name / "pseudo_masks_train.json", context.train, masks, _numbers(store))
    trained, _ = training.run(store, masks)
    return WsisResult(trained.weights, trained.fingerprint, trained.stores, trained.backbone, store)


def _numbers(store: Store) -> dict[str, Mapping[str, Tensor]]:
    """What is written of each mask beside it, by key."""
    agreement = {"agreement": store.column("agreement")} if "agreement" in store.columns else {}
    return {"mask_quality": stored_qualities(store), **agreement}


@dataclass(frozen=True)
class _Training:
    """The training of the network on masks, once or once more with others."""

    context: RunContext
    settings: AnyWsisSettings
    initial: InitialWeights | None
    retrain_weights: Path | None
    weak_detector: DetectorResult | None
    name: str

    def run(self, store: Store, masks: Mapping[str, Instances]) -> tuple[DetectorResult, MaskRCNN | None]:
        """Train on the ``masks`` of ``store`` and detect; the second is the trained Mask R-CNN, if it is one."""
        settings, inputs = self.settings, {"pseudo_masks": store.fingerprint}
        if isinstance(settings, Mask2FormerWsisSettings):
            # Here, as transformers takes seconds to import
            from weaksam.engine.detectors.mask2former import train_mask2former

            return train_mask2former(self.context, settings, masks, inputs, self.name), None
        context, name = self.context, self.name
        regions, of_regions = doubtful_regions(context, settings.negatives, masks, self.weak_detector, name)
        model, inputs = _prepared(context, settings, self.initial, store, self.retrain_weights, name)
        trained = train_and_detect(context, settings, model, masks, inputs | of_regions, name, regions=regions)
        return trained, model

    def masks_of_network(self, store: Store, masks: Mapping[str, Instances]) -> tuple[NetworkMasks, str]:
        """The masks of a network trained on ``masks``, and what decides them; the test photos are not detected on."""
        on_train = isinstance(self.settings, Mask2FormerWsisSettings)
        settings = self.settings.model_copy(update={"detect_train": on_train})
        early = replace(self, context=replace(self.context, test=None), settings=settings)
        trained, model = early.run(store, masks)
        if model is None:
            return masks_among_detections(trained.detections("train")), trained.stores["train"].fingerprint
        assert isinstance(settings, WsisSettings)
        return masks_of_boxes_by(model, settings, self.context), trained.fingerprint


def run_early(
    context: RunContext,
    settings: WsisSettings,
    pseudo_masks: Store,
    share: float,
    retrain_weights: Path | None = None,
    *,
    weak_detector: DetectorResult | None = None,
    name: str = "wsis",
) -> EarlyDetector:
    """The detector of `run` after the first ``share`` of its training, without RoI drop; detects and logs nothing.

    Its weights lie in ``context.out``, see `train_early`. Raises `UserError` as `run` does.
    """
    context, initial = _with_own_backbone(context, settings, name)
    instances = training_masks(pseudo_masks, settings)
    regions, of_regions = doubtful_regions(context, settings.negatives, instances, weak_detector, name)
    model, inputs = _prepared(context, settings, initial, pseudo_masks, retrain_weights, name)
    settings = settings.model_copy(update=settings.of_each_training())
    return train_early(context, settings, model, instances, inputs | of_regions, name, share, regions)


def _with_own_backbone(
    context: RunContext, settings: WsisSettings, name: str
) -> tuple[RunContext, InitialWeights | None]:
    """The context with the backbone of the detector, and the weights that it starts from where these are given."""
    initial = initial_weights(settings, None, name)
    return replace(context, backbone=detector_backbone(context, settings, initial, name)), initial


def _prepared(
    context: RunContext,
    settings: WsisSettings,
    initial: InitialWeights | None,
    pseudo_masks: Store,
    retrain_weights: Path | None,
    name: str,
) -> tuple[MaskRCNN, dict[str, str]]:
    """The detector with its first weights, and the fingerprints of what they and the training depend on."""
    # Every random number below, the heads' first weights included, follows from the seed
    seed_everything(derive_seed(context.seed, name, "weights"))
    model = build_mask_rcnn(context.backbone, settings, len(context.train.classes))
    init = start_from(model, initial, context, name, settings.new_classes)
    if initial is None and retrain_weights is not None and settings.init_from_retrain:
        start_from_detector(model, load_sealed(retrain_weights, "the retrained detector"))
        init = sealed_sha256(retrain_weights)
    return model, {"pseudo_masks": pseudo_masks.fingerprint, "init": init}
