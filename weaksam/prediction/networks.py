"""Build the network of a checkpoint, and detect with it on decoded photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from weaksam.engine.context import RunContext
from weaksam.engine.detectors.detecting import detect_photos
from weaksam.engine.detectors.photos import ResizedPhoto, resize_photo
from weaksam.engine.log import RunLog
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.prediction.checkpoint import Checkpoint
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.store.weights import load_into
from weaksam.structures.box_voting import voted_detections
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals


class PhotoDetector(Protocol):
    """A built network that detects on photos, uint8 RGB ``(H, W, 3)``, each with its proposals where it wants some."""

    num_proposals: int
    """Best proposals of a photo that are read; 0: it wants none."""
    has_masks: bool

    @property
    def model(self) -> nn.Module:
        """The network."""

    def detect(self, images: Sequence[np.ndarray], proposals: Sequence[Proposals]) -> list[Instances]:
        """Detections of each photo in its own frame, best first; ``proposals`` is empty where none are wanted."""


def build_detector(checkpoint: Checkpoint, device: torch.device) -> PhotoDetector:
    """The network of ``checkpoint`` on ``device``, with its weights.

    Raises:
        UserError: tensors that are not those of the network that the header describes.
    """
    with torch.random.fork_rng(devices=[]):  # random first weights are drawn and replaced
        if isinstance(checkpoint.settings, WsodSettings):
            return _WeakDetector(checkpoint, checkpoint.settings, device)
        if checkpoint.header.architecture == "mask2former":
            return _MaskDetector(checkpoint, device)
        return _BoxDetector(checkpoint, device)


class _BoxDetector:
    """Faster R-CNN, DINO or Mask R-CNN."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        header = checkpoint.header
        self.settings: Any = checkpoint.settings
        self.device = device
        self.has_masks = header.architecture == "mask_rcnn"
        self.num_proposals = getattr(self.settings, "given_proposals", 0)
        build: Any = {"faster_rcnn": build_faster_rcnn, "dino": build_dino, "mask_rcnn": build_mask_rcnn}
        self.model = build[header.architecture](header.backbone, self.settings, len(header.classes))
        load_into(self.model, checkpoint.state, _what(checkpoint))
        self.model.to(device).eval()

    def detect(self, images: Sequence[np.ndarray], proposals: Sequence[Proposals]) -> list[Instances]:
        """See `PhotoDetector`."""
        if not images:
            return []
        photos = [_scales(image, self.settings) for image in images]
        boxes = [of_photo.boxes[: self.num_proposals] for of_photo in proposals] if self.num_proposals else None
        return detect_photos(self.model, photos, self.settings, self.device, boxes)


class _MaskDetector:
    """Mask2Former."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        # Here, as transformers takes seconds to import
        from weaksam.models.detectors.mask2former.network import build_mask2former

        header, self.settings, self.device = checkpoint.header, checkpoint.settings, device
        self.has_masks, self.num_proposals = True, 0
        settings: Any = self.settings
        self.model = build_mask2former(header.backbone, settings, len(header.classes))
        load_into(self.model, checkpoint.state, _what(checkpoint))
        self.model.to(device).eval()

    def detect(self, images: Sequence[np.ndarray], proposals: Sequence[Proposals]) -> list[Instances]:
        """See `PhotoDetector`; photo by photo, as the masks of one fill the memory already."""
        from weaksam.engine.detectors.mask2former import segment_views

        settings: Any = self.settings
        return [segment_views(self.model, _scales(image, settings), settings, self.device) for image in images]


class _WeakDetector:
    """The weak detector, on frozen features or trained end to end."""

    has_masks = False

    def __init__(self, checkpoint: Checkpoint, settings: WsodSettings, device: torch.device) -> None:
        # Here, as only this detector needs them
        from weaksam.stages.wsod.end_to_end import EndToEndDetector
        from weaksam.stages.wsod.extent import Extent, ExtentRegressions
        from weaksam.stages.wsod.frozen import FrozenDetector

        header, what = checkpoint.header, _what(checkpoint)
        nothing = Dataset("none", header.classes, header.category_ids, ())
        context = RunContext(Path(), 0, device, nothing, None, RunLog(None), header.backbone)
        self.settings, self.num_proposals = settings, settings.num_proposals
        self.detector: FrozenDetector | EndToEndDetector
        if settings.mode == "frozen":
            self.detector = FrozenDetector(context, settings)
            parts = {name: _under(name, checkpoint.state) for name in ("head.", "backbone.", "extent.")}
            load_into(self.detector.photos.network, parts["backbone."], what)
            load_into(self.detector.model, parts["head."], what)
            if settings.extent.share > 0:
                depth = len(self.detector.model.directions)
                regressions = ExtentRegressions(len(header.classes), depth, settings.extent.folds)
                load_into(regressions, parts["extent."], what, allow_missing=("of_folds",))
                self.detector.extent = Extent(regressions, {}, settings.extent)
        else:
            self.detector = EndToEndDetector(context, settings)
            load_into(self.detector.model, checkpoint.state, what)
        self.detector.begin_detecting()

    @property
    def model(self) -> nn.Module:
        """The head, or the whole network where it was trained end to end."""
        return self.detector.model

    def detect(self, images: Sequence[np.ndarray], proposals: Sequence[Proposals]) -> list[Instances]:
        """See `PhotoDetector`; photo by photo, as each has its own proposals."""
        detections = []
        for image, of_photo in zip(images, proposals, strict=True):
            instances = self.detector.detect_in(image, of_photo.boxes[: self.num_proposals])
            detections.append(voted_detections(instances, of_photo, self.settings.box_voting))
        return detections


def _scales(image: np.ndarray, settings: Any) -> list[ResizedPhoto]:
    """A photo at every size that the detector looks at."""
    return resize_photo(image, settings.short_side, settings.long_side, settings.test_scales, settings.longest_test)


def _what(checkpoint: Checkpoint) -> str:
    """How errors call the network."""
    return f"the {checkpoint.header.architecture} of {checkpoint.path or 'a checkpoint'}"


def _under(prefix: str, state: Any) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
