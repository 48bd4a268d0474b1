"""Mix training photos: objects pasted from others, and four photos in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from weaksam.config import Settings
from weaksam.engine.detectors.copy_paste import NO_COPY_PASTE, CopyPasteSettings, CutOuts, with_pasted
from weaksam.engine.detectors.frames import PhotoFrame
from weaksam.engine.detectors.mosaic import MosaicSettings, mosaic
from weaksam.engine.seeds import derive_seed
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle


class MixingSettings(Settings):
    """Which training photos are mixed of several."""

    _as_before: ClassVar[Mapping[str, Any]] = {"copy_paste": NO_COPY_PASTE, "mosaic": MosaicSettings()}

    copy_paste: CopyPasteSettings = CopyPasteSettings()
    """Objects cut out by their masks, pasted onto photos of other classes."""
    mosaic: MosaicSettings = MosaicSettings()
    """Four photos in one."""


@dataclass(frozen=True)
class Mixing:
    """What the photos of a training are mixed by."""

    settings: MixingSettings
    cut_outs: CutOuts | None = None
    """Those that may be pasted; None: nothing is."""


class PhotoMixer:
    """Mixes the frames of the training photos; every draw follows from the seed, the photo's id and its view.

    ``frame_of`` gives the frame of a photo by its number below ``len(image_ids)``, ``cut_outs`` the objects of each
    with masks in that frame.
    """

    def __init__(
        self,
        settings: MixingSettings,
        frame_of: Callable[[int], PhotoFrame],
        image_ids: Sequence[str],
        tagged: Sequence[bool],
        cut_outs: Sequence[Instances],
    ) -> None:
        self.settings, self.frame_of, self.image_ids, self.cut_outs = settings, frame_of, image_ids, cut_outs
        onto, some_untagged = settings.copy_paste.onto, not all(tagged)
        untagged_alone = onto == "untagged" or (onto == "auto" and some_untagged)
        self.gets_objects = [not (untagged_alone and has_tags) for has_tags in tagged]
        """Of each photo whether objects may be pasted onto it."""
        self.classes: dict[int, list[tuple[int, int]]] = {}
        """Of each label its cut-outs: number of the photo, and of the object there."""
        for number, objects in enumerate(cut_outs):
            for row, label in enumerate(objects.labels.tolist()):
                self.classes.setdefault(label, []).append((number, row))

    def frame(self, number: int, view: int, seed: int) -> PhotoFrame:
        """What is shown in place of the photo of this number, in its size: itself, or a mosaic that begins with it."""
        generator = self._generator(number, view, seed, "mosaic")
        draws = torch.rand(4, generator=generator).tolist()
        if draws[0] >= self.settings.mosaic.probability:
            return self._with_objects(number, view, seed)
        others = [int(draw * len(self.image_ids)) for draw in draws[1:]]
        frames = [self._with_objects(each, view, seed) for each in (number, *others)]
        return mosaic(frames, self.settings.mosaic, generator)

    def _with_objects(self, number: int, view: int, seed: int) -> PhotoFrame:
        """The photo of this number, with objects on it where it gets some."""
        frame = self.frame_of(number)
        if not self.gets_objects[number] or self.settings.copy_paste.probability == 0:
            return frame
        generator = self._generator(number, view, seed, "copy paste")
        return with_pasted(frame, self.classes, self._cut_out, self.settings.copy_paste, generator)

    def _cut_out(self, number: int, row: int) -> tuple[Tensor, Tensor]:
        """Pixels uint8 ``(3, h, w)`` of a photo and the mask bool ``(h, w)`` of its object ``row``."""
        masks = self.cut_outs[number].masks
        assert masks is not None, "cut-outs have masks"
        return self.frame_of(number).read(), mask_from_rle(masks[row])

    def _generator(self, number: int, view: int, seed: int, what: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(seed, self.image_ids[number], view, what))
