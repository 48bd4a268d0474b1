"""Define the settings of the clues: the source of the class maps, the views of a photo, and its clue points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from weaksam.config import Settings
from weaksam.models.text.settings import TextSettings
from weaksam.models.weaktr.network import WeakTrSettings
from weaksam.stages.clues.weaktr_training import WeakTrTrainingSettings
from weaksam.structures.clue_points import KindName

Source = Literal["cam", "weaktr", "files", "text"]
SCALES = {"cam": (1.0,), "weaktr": (1.0, 0.8, 1.2), "files": (1.0,)}
"""Scales of the views where none are set: WeakTr's as published; heat maps from files come as one view."""
MIN_SCORES = {"cam": 0.5, "weaktr": 0.3775, "files": 0.5}
"""Least class probability where none is set: WeakTr's is a logit of -0.5, as published."""


class ClueSettings(Settings):
    """Where class maps come from, how photos are seen, and which peaks of the maps become points."""

    # Clues of the test photos are a store of their own
    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"heat_maps", "test_photos"})
    _as_before: ClassVar[Mapping[str, Any]] = {"text": TextSettings()}

    source: Source = Field(
        "cam",
        description="cam (a CNN), weaktr (a vision transformer), files (your heat maps) or text (the classes' names, "
        "asked of a text-prompted model)",
    )
    long_side: int = Field(448, ge=64, le=4096, description="longer side of the CNN's input at scale 1, pixels")
    max_side: int = Field(
        640, ge=64, le=4096, description="weaktr, files: photos keep their size up to this longer side, then shrink"
    )
    scales: tuple[float, ...] | None = Field(
        None, description="sizes each photo is seen at; none: 1.0 for cam, 1.0 0.8 1.2 for weaktr, as published"
    )
    flip: bool = Field(True, description="average the maps of the photo and of its mirror image, one forward for both")
    weight_decay: float = Field(0.01, gt=0, description="L2 penalty of the tag classifier")
    network: str | None = Field(
        None, description="cam: another torchvision classification CNN than the backbone, by name"
    )
    network_weights: str = Field("imagenet", description="of that network: imagenet, none, or a state dict")
    finetune_epochs: int = Field(0, ge=0, description="passes that train the backbone itself on the tags; 0 freezes it")
    finetune_lr: float = Field(5e-4, gt=0, description="peak learning rate of the backbone, 20 times that for the head")
    finetune_batch: int = Field(8, ge=1, description="photos per step of that training")
    pool_sharpness: float = Field(1.0, gt=0, description="soft maximum that pools class maps in that training")
    weaktr: WeakTrSettings = Field(WeakTrSettings(), description="the transformer of source weaktr")
    weaktr_training: WeakTrTrainingSettings = Field(
        WeakTrTrainingSettings(), description="how it learns the tags; num_epochs=0 takes a trained WeakTr as it is"
    )
    heat_maps: Path | None = Field(None, description="folder of heat maps of source files, see docs/clues.md")
    text: TextSettings = Field(TextSettings(), description="the model of source text, and how far it is believed")
    kinds: tuple[KindName, ...] = Field(
        ("coarse", "fine", "cross"), description="maps whose peaks become points, as far as the source has them"
    )
    peak_kernel: int = Field(17, ge=3, description="window of a peak of a class map, input pixels, odd")
    cross_kernel: int = Field(129, ge=3, description="window of a peak of cross-attention, input pixels, odd")
    min_peak: float = Field(0.9, ge=0, le=1, description="least height of a peak on the map stretched to 0..1")
    max_peaks: int = Field(25, ge=1, description="most peaks of a map")
    cross_layers: tuple[int, int] = Field(
        (5, 12), description="first and last block whose cross-attention is searched, counted from 1"
    )
    cross_points: Literal["clustered", "per_class", "all"] = Field(
        "clustered",
        description="cross-attention peaks: clusters of all classes (published), of each class, or as they are",
    )
    min_score: float | None = Field(
        None, ge=0, le=1, description="least class probability for a photo without tags; none: 0.5, weaktr 0.3775"
    )
    test_photos: bool = Field(
        True, description="test photos get points too, of the classes that score min_score; else the grid alone"
    )

    @field_validator("scales")
    @classmethod
    def _positive_scales(cls, scales: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if scales is not None and (not scales or min(scales) <= 0 or max(scales) > 4):
            raise ValueError("wanted sizes above 0 and up to 4, such as [1.0, 0.8, 1.2]: name at least one")
        return scales

    @field_validator("peak_kernel", "cross_kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"the window of a peak must be odd, found {kernel}: use {kernel + 1}")
        return kernel

    @model_validator(mode="after")
    def _fitting(self) -> ClueSettings:
        first, last = self.cross_layers
        if not 1 <= first <= last:
            raise ValueError(f"cross_layers must be a first and a last block from 1 on, found {first} and {last}")
        if self.maps_source == "files" and self.heat_maps is None:
            raise ValueError("source files reads heat maps from a folder: set clues.heat_maps")
        if self.source == "text" and self.text.model is None:
            raise ValueError("source text asks a model for the classes' names: set clues.text.model")
        if self.network is not None and self.finetune_epochs:
            raise ValueError("finetune_epochs trains the backbone that all stages share: leave clues.network unset")
        return self

    @property
    def maps_source(self) -> Literal["cam", "weaktr", "files"]:
        """The source of class maps: with ``text`` that of what the words do not find."""
        return self.text.fallback if self.source == "text" else self.source

    @property
    def view_scales(self) -> tuple[float, ...]:
        """The scales of a photo's views, the source's own where none are set."""
        return SCALES[self.maps_source] if self.scales is None else self.scales

    @property
    def class_threshold(self) -> float:
        """Least probability of a class of a photo without tags, the source's own where none is set."""
        return MIN_SCORES[self.maps_source] if self.min_score is None else self.min_score

    def fingerprinted(self) -> ClueSettings:
        """The settings that decide the clues of this source, for their fingerprint: the other sources' at default."""
        unread = {name for source, names in _READ_BY_ONE_SOURCE.items() if source != self.maps_source for name in names}
        unread |= {"weaktr", "weaktr_training"}  # whose fingerprints are inputs, so that a file may move
        if self.source != "text":
            unread.add("text")
        defaults = {name: type(self).model_fields[name].default for name in unread}
        return self.model_copy(update=defaults | {"scales": self.view_scales, "min_score": self.class_threshold})


_READ_BY_ONE_SOURCE: dict[str, tuple[str, ...]] = {
    "cam": ("long_side", "weight_decay", "network", "network_weights"),
    "weaktr": ("weaktr", "weaktr_training", "cross_layers", "cross_points", "cross_kernel"),
    "files": (),
}
"""Settings that only one source reads; those of the backbone's training decide all later stages."""
