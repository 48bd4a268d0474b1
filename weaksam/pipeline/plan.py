"""List the stages in order, each with its inputs and outputs: the method, read from top to bottom.

A stage is a function of the run and of exactly the inputs that it names; what it returns is kept under the names of its
outputs. `check_plan` refuses a plan in which a stage reads what no earlier one makes, or more than it says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weaksam.config import listed
from weaksam.data.detection_stores import instances_of
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.evaluation.text_agreement import agreement_sentence, doubted
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.pipeline.checkpoints import keep_detector, keep_instance_segmenter, keep_weak_detector
from weaksam.pipeline.state import Run
from weaksam.stages import STAGE_NAMES, retrain, wsis, wsod
from weaksam.stages import clues as clue_stage
from weaksam.stages import proposals as proposal_stage
from weaksam.stages import pseudo_gt as pseudo_gt_stage
from weaksam.store.store import Store
from weaksam.structures.clue_points import CluePoints
from weaksam.structures.instances import Instances

GIVEN = frozenset({"train photos", "train tags", "test photos", "segmenter", "mask segmenter", "true labels"})
"""What a run is given. The true labels of the training photos are for the ceilings alone."""


@dataclass(frozen=True)
class Stage:
    """One stage: what it reads, what it makes, and the plain files that it writes below OUT.

    ``given`` is what it reads of the run, see `GIVEN`. ``inputs`` are outputs of earlier stages, and the parameters of
    ``make`` behind the run; those in ``optional`` may be missing (None). ``make`` computes what the stage's stores lack
    and returns the values of ``outputs``: one value, or a tuple of several. ``shared``: several processes can fill the
    stores together.
    """

    name: str
    given: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    files: tuple[str, ...]
    make: Callable[..., Any]
    optional: frozenset[str] = frozenset()
    shared: bool = False

    def run(self, run: Run) -> None:
        """Make the outputs from the results of earlier stages, and keep them among the run's results."""
        values = {name: run.results.get(name) if name in self.optional else run.results[name] for name in self.inputs}
        outputs = self.make(run, **values)
        run.results.update(zip(self.outputs, outputs if len(self.outputs) > 1 else (outputs,), strict=True))


def make_clues(run: Run) -> tuple[Store, BackboneSettings, Store | None]:
    """Train a classifier on the tags: class maps and their peaks, and the backbone that the tags may have trained.

    The test photos get those of the classes that the classifier predicts, unless nothing will be prompted with them.
    """
    context, settings = run.context, run.settings.clues
    clues = clue_stage.run(context, settings, context.train, "train")
    if (agreement := clue_stage.kept_agreement(clues.folder)) is not None:
        run.notes.append(f"Clues by the classes' names: {agreement_sentence(agreement)}.")
        if wrong := doubted(agreement):
            run.notes.append(f"The words of {listed(wrong)} seem wrong: see classes.prompts.")
    test = context.test if run.maps_test_photos else None
    test_clues = None if test is None else clue_stage.run(context, settings, test, "test")
    return clues, clue_stage.adapted_backbone(context, settings), test_clues


def make_proposals(run: Run, clues: Store | None, test_clues: Store | None) -> Mapping[str, Store]:
    """Prompt the frozen segmenter with a grid and the clue points; the boxes of its masks are proposals.

    Photos without clues are prompted by the grid alone. Given stores are taken as they are.
    """
    context, settings = run.context, run.settings.proposals
    if settings.given.folders:
        return {
            split: proposal_stage.run_given(context, settings, dataset, split, run.given[split])
            for split, dataset in run.splits.items()
        }
    stores = {}
    for split, dataset in run.splits.items():
        known = {"train": clues, "test": test_clues}[split]
        points_of = no_points if known is None else clue_stage.clue_points(known)
        arguments = (context, settings, run.segmenter, points_of, dataset, split)
        hits = None
        if clues is not None and run.settings.clues.source == "text" and run.settings.clues.text.as_proposals:
            hits = clue_stage.proposed_hits(context, run.settings.clues, clues, dataset, split)
        clue_fingerprint = "" if known is None else known.fingerprint
        stores[split] = proposal_stage.run(*arguments, clue_fingerprint=clue_fingerprint, hits=hits)
    return stores


def train_weak_detector(
    run: Run, clues: Store, backbone: BackboneSettings, proposals: Mapping[str, Store]
) -> DetectorResult:
    """Learn from the tags alone which proposal shows what (WSDDN with OICR, MIST or PCL), and detect with it."""
    context = with_backbone(run, backbone)
    weak_detector = wsod.run(context, run.settings.wsod, proposals, clues, clue_stage.class_maps(clues))
    keep_weak_detector(run, proposals["train"], weak_detector)
    return weak_detector


def choose_pseudo_gt(
    run: Run, weak_detector: DetectorResult, proposals: Mapping[str, Store]
) -> Mapping[str, Instances]:
    """Keep the detections on the training photos that are believed, or take a file's boxes: pseudo ground truth.

    What was labelled beside the tags overrules it, then the decisions of a review, where there are some. Labelled
    points that no detection holds take a proposal.
    """
    settings = run.settings.pseudo_gt
    if isinstance(settings, pseudo_gt_stage.GivenPseudoGtSettings):
        given = run.given_pseudo_gt
        return instances_of(pseudo_gt_stage.run_given(run.context, settings, given, run.review, proposals["train"]))
    detections = weak_detector.stores["train"]
    return instances_of(pseudo_gt_stage.run(run.context, settings, detections, run.review, proposals["train"]))


def retrain_detector(
    run: Run,
    backbone: BackboneSettings,
    proposals: Mapping[str, Store],
    pseudo_gt: Mapping[str, Instances],
    weak_detector: DetectorResult,
) -> retrain.RetrainResult:
    """Train the detector on the pseudo ground truth, detect, and choose: its detections, the weak ones or both merged.

    The rule of pseudo ground truth makes that of further rounds too; where a file gave it, they take the best box of
    every tag.
    """
    rule = run.settings.pseudo_gt
    if isinstance(rule, pseudo_gt_stage.GivenPseudoGtSettings):
        rule = pseudo_gt_stage.Top1Settings()

    def pseudo_gt_of(detections: Mapping[str, Instances]) -> dict[str, Instances]:
        photos = run.context.train
        tags = {image_id: photos.by_id[image_id].tags for image_id in detections}
        chosen = pseudo_gt_stage.choose_all(detections, tags, len(photos.classes), rule)
        overruled = pseudo_gt_stage.with_labels(run.context, chosen, detections, proposals["train"])
        return run.review.of_round(overruled, photos)

    context = with_backbone(run, backbone)
    detector = retrain.run_and_choose(
        retrain.Teaching(
            context, run.retrain, weak_detector, proposals, pseudo_gt_of, segmenter=lambda: run.mask_segmenter
        ),
        pseudo_gt,
    )
    keep_detector(run, detector)
    return detector


def segment_instances(
    run: Run,
    backbone: BackboneSettings,
    weak_detector: DetectorResult,
    detector: retrain.RetrainResult,
    clues: Store | None,
) -> wsis.WsisResult:
    """Prompt the segmenter with the pseudo boxes, train Mask R-CNN or Mask2Former on its masks, segment with it.

    The boxes are those that the retrained network was taught last. Peaks of the clues may prompt beside them.
    """
    context = with_backbone(run, backbone_of_masks(run, backbone, detector))
    weights = weights_for_masks(run, detector)
    peaks = None if clues is None else wsis.StoredPeaks(clue_stage.clue_peaks(clues), clues.fingerprint)
    arguments = (context, run.wsis, run.mask_segmenter, detector.pseudo_gt, weights)
    instance_segmenter = wsis.run(*arguments, weak_detector=weak_detector, peaks=peaks)
    keep_instance_segmenter(run, instance_segmenter)
    return instance_segmenter


def train_weak_detector_on_truth(
    run: Run, clues: Store, backbone: BackboneSettings, proposals: Mapping[str, Store]
) -> DetectorResult:
    """The weak detector on the same features and proposals, taught the true boxes."""
    arguments = (with_backbone(run, backbone), run.settings.wsod, proposals, clues, clue_stage.class_maps(clues))
    return wsod.run(*arguments, truths=run.true_train.truths, name="wsod_ceiling")


def retrain_on_truth(run: Run, backbone: BackboneSettings, proposals: Mapping[str, Store]) -> DetectorResult:
    """The retrained detector, taught the true boxes, from the run's backbone."""
    context = with_backbone(run, backbone)
    settings = run.retrain.with_complete_labels().model_copy(update={"start": "backbone"})
    return retrain.run(
        context,
        settings,
        run.true_train.truths,
        proposals=proposals,
        segmenter=lambda: run.mask_segmenter,
        name="retrain_ceiling",
    )


def segment_on_truth(run: Run, backbone: BackboneSettings, detector_ceiling: DetectorResult) -> wsis.WsisResult:
    """The instance segmenter, taught the true masks."""
    context = with_backbone(run, backbone_of_masks(run, backbone, detector_ceiling))
    settings, weights = run.wsis.with_complete_labels(), weights_for_masks(run, detector_ceiling)
    return wsis.run(context, settings, run.mask_segmenter, run.true_train.truths, weights, name="wsis_ceiling")


def with_backbone(run: Run, backbone: BackboneSettings) -> RunContext:
    """The run's context with the backbone that the later stages start from."""
    return replace(run.context, backbone=backbone)


def backbone_of_masks(run: Run, backbone: BackboneSettings, detector: DetectorResult) -> BackboneSettings:
    """The network of Mask R-CNN that has none of its own: that of the detector it starts from, else the run's.

    Mask2Former, which starts from no detector of boxes, takes the run's.
    """
    settings = run.wsis
    may_start = isinstance(settings, wsis.WsisSettings) and settings.init is None and settings.init_from_retrain
    return detector.backbone if may_start and weights_for_masks(run, detector) else backbone


def weights_for_masks(run: Run, detector: DetectorResult) -> Path | None:
    """The weights of our retrained Faster R-CNN, which Mask R-CNN may start from; None for any other."""
    ours = isinstance(run.retrain, retrain.RetrainSettings) and run.retrain.engine == "weaksam"
    return detector.weights if ours else None


def no_points(image_id: str) -> CluePoints:
    """The clue points of a photo without clues: none."""
    return CluePoints.none()


STAGES = (
    Stage(
        name="clues",
        given=("train photos", "train tags", "test photos"),
        inputs=(),
        outputs=("clues", "backbone", "test_clues"),
        files=(),
        make=make_clues,
    ),
    Stage(
        name="proposals",
        given=("train photos", "test photos", "segmenter"),
        inputs=("clues", "test_clues"),
        optional=frozenset({"clues", "test_clues"}),  # photos without clues are prompted by the grid alone
        outputs=("proposals",),
        files=(),
        make=make_proposals,
        shared=True,
    ),
    Stage(
        name="wsod",
        given=("train photos", "train tags", "test photos"),
        inputs=("clues", "backbone", "proposals"),
        outputs=("weak_detector",),
        files=("wsod/detections_train.json", "wsod/detections_test.json", "wsod/checkpoint.safetensors"),
        make=train_weak_detector,
    ),
    Stage(
        name="pseudo_gt",
        given=("train tags",),
        inputs=("weak_detector", "proposals"),  # these only where points were labelled
        outputs=("pseudo_gt",),
        files=("pseudo_gt/train.json",),
        make=choose_pseudo_gt,
    ),
    Stage(
        name="retrain",
        given=("train photos", "train tags", "test photos", "mask segmenter"),  # which cuts out what is pasted
        inputs=("backbone", "proposals", "pseudo_gt", "weak_detector"),
        outputs=("detector",),
        files=(
            "retrain/detections_train.json",
            "retrain/detections_test.json",
            "retrain/network_detections_train.json",
            "retrain/network_detections_test.json",
            "retrain/checkpoint.safetensors",
        ),
        make=retrain_detector,
    ),
    Stage(
        name="wsis",
        given=("train photos", "train tags", "test photos", "mask segmenter"),
        inputs=("backbone", "weak_detector", "detector", "clues"),
        optional=frozenset({"clues"}),  # their peaks prompt beside the boxes, if asked for
        outputs=("instance_segmenter",),
        files=("wsis/pseudo_masks_train.json", "wsis/detections_test.json", "wsis/checkpoint.safetensors"),
        make=segment_instances,
    ),
)
"""The method. ``*_test.json`` is written where there is a test split."""

CEILINGS = (
    Stage(
        name="wsod_ceiling",
        given=("train photos", "test photos", "true labels"),
        inputs=("clues", "backbone", "proposals"),
        outputs=("weak_detector_ceiling",),
        files=(),
        make=train_weak_detector_on_truth,
    ),
    Stage(
        name="retrain_ceiling",
        given=("train photos", "test photos", "true labels"),
        inputs=("backbone", "proposals"),
        outputs=("detector_ceiling",),
        files=(),
        make=retrain_on_truth,
    ),
    Stage(
        name="wsis_ceiling",
        given=("train photos", "test photos", "true labels"),
        inputs=("backbone", "detector_ceiling"),
        outputs=("instance_segmenter_ceiling",),
        files=(),
        make=segment_on_truth,
    ),
)
"""The same detectors trained on the true boxes and masks (``ceiling=true``): what perfect pseudo labels would give."""


def stage_named(name: str) -> Stage:
    """The stage or ceiling of that name; the name must be one of them."""
    return next(stage for stage in (*STAGES, *CEILINGS) if stage.name == name)


def check_plan(stages: Sequence[Stage]) -> None:
    """Raise ``ValueError`` where a stage reads what no earlier one makes, or its function has other parameters."""
    outputs: set[str] = set()
    for stage in stages:
        parameters = tuple(inspect.signature(stage.make).parameters)
        if parameters != ("run", *stage.inputs):
            raise ValueError(f"stage {stage.name} says that it reads {stage.inputs}, its function takes {parameters}")
        if strange := set(stage.given) - GIVEN:
            raise ValueError(f"stage {stage.name} wants {sorted(strange)}, which no run is given")
        if missing := set(stage.inputs) - outputs:
            raise ValueError(f"stage {stage.name} reads {sorted(missing)}, which no stage before it makes")
        outputs |= set(stage.outputs)


check_plan((*STAGES, *CEILINGS))
assert tuple(stage.name for stage in STAGES) == STAGE_NAMES
