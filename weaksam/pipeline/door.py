"""Offer the pipeline to Python: plain arguments in, values out; ``import weaksam`` hands out these functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weaksam.config import Settings, UserError, load_settings
from weaksam.data import dataset as splits
from weaksam.data.images import LIMITS, read_image
from weaksam.data.photo_limits import PhotoLimits
from weaksam.engine.device import pick_device
from weaksam.pipeline import running
from weaksam.pipeline.settings import RunSettings
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.protocol import Segmenter
from weaksam.stages import proposals as proposal_stage
from weaksam.structures.clue_points import CluePoints
from weaksam.structures.dataset import Dataset
from weaksam.structures.proposals import Proposals

PathLike = str | Path


def run(
    config: PathLike | RunSettings | None = None,
    *,
    images: PathLike | None = None,
    tags: PathLike | None = None,
    out: PathLike | None = None,
    start: str | None = None,
    until: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run the pipeline, or the stages from ``start`` to ``until``, and return the content of ``OUT/metrics.json``.

    ``config`` is a YAML file or settings (None: the defaults); ``images`` and ``tags`` are those of the training
    photos. Further settings are keywords: a section takes a mapping (``wsod={"num_epochs": 20}``), and a dotted key
    goes in by ``**{"wsod.num_epochs": 20}``. The same settings resume. Raises `UserError` for bad input.
    """
    paths = {"data.train.images": images, "data.train.tags": tags, "out": out}
    values = {**settings, **{key: str(path) for key, path in paths.items() if path is not None}}
    return running.run(settings_of(config, values), start=start, until=until)


def settings_of(config: PathLike | RunSettings | None, values: Mapping[str, Any]) -> RunSettings:
    """`RunSettings` of a YAML file or of other settings, with ``values`` set in them; raises `UserError`."""
    if isinstance(config, RunSettings):
        overrides = [*overrides_of(written_values(config)), *overrides_of(values)]
        return load_settings(RunSettings, None, overrides)
    return load_settings(RunSettings, None if config is None else Path(config), overrides_of(values))


def overrides_of(values: Mapping[str, Any], section: str = "") -> list[str]:
    """``key=value`` overrides, as the command line takes them, of nested settings; an empty section gives none."""
    overrides: list[str] = []
    for name, value in values.items():
        if isinstance(value, Settings):
            value = written_values(value)
        if isinstance(value, Mapping):
            overrides += overrides_of(value, f"{section}{name}.")
        else:
            overrides.append(f"{section}{name}={json.dumps(value, default=str)}")
    return overrides


def written_values(settings: Settings) -> dict[str, Any]:
    """What was written into settings, as JSON-like values; a tagged section always says of which kind it is."""
    values: dict[str, Any] = settings.model_dump(mode="json", exclude_unset=True)
    for name, field in type(settings).model_fields.items():
        section = getattr(settings, name)
        if name in values and isinstance(section, Settings):
            tag = field.discriminator
            kind = {tag: getattr(section, tag)} if isinstance(tag, str) else {}
            values[name] = kind | written_values(section)
    return values


def propose(
    image: np.ndarray | PathLike,
    *,
    segmenter: Segmenter | PathLike | None = None,
    clues: CluePoints | None = None,
    device: str = "auto",
    limits: PhotoLimits = LIMITS,
    **settings: Any,
) -> Proposals:
    """Class-free proposals of one photo: boxes ``(N, 4)`` half-open xyxy in photo pixels, scores and masks, best first.

    ``image``: a photo as uint8 RGB ``(H, W, 3)``, or its file. ``segmenter``: a Segment Anything checkpoint, a folder
    or hub id of transformers, or a segmenter that `weaksam.sam.build.build_segmenter` made (once, for many photos);
    None takes the offline default. ``clues``: points of classes that prompt beside the grid. ``limits``: the largest
    file that is read. ``settings`` are fields of the section ``proposals``, such as ``max_proposals=100``. A photo in
    which nothing is found gives N = 0. Raises `UserError` for a file that is no photo, weights that do not fit and
    settings that are not there.
    """
    photo = image if isinstance(image, np.ndarray) else read_image(Path(image), limits)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise UserError(
            f"wanted a photo as uint8 RGB of shape (H, W, 3), found {photo.dtype} of shape {photo.shape}: convert it"
        )
    chosen = load_settings(proposal_stage.ProposalSettings, None, overrides_of(settings))
    if segmenter is None or isinstance(segmenter, (str, Path)):
        weights = None if segmenter is None else str(segmenter)
        segmenter = build_segmenter(SegmenterSettings(weights=weights), torch.device(pick_device(device)))
    return proposal_stage.propose_encoded(segmenter, segmenter.encode(photo), clues or CluePoints.none(), chosen)


def load_dataset(
    images: PathLike,
    tags: PathLike | None = None,
    truth: PathLike | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "train",
    limits: PhotoLimits = LIMITS,
) -> Dataset:
    """Read one split: the photos below ``images`` with their tags and, where ``truth`` is given, their true objects.

    ``tags``: a tag file (CSV, JSON, JSONL), class folders or VOC ``ImageSets/Main``; without it the tags are those of
    ``truth``, without either those of class folders. Photos that cannot be read, or are over ``limits``, are in
    ``Dataset.bad``. Raises `UserError`.
    """
    paths = {"images": images, "tags": tags, "truth": truth}
    split = splits.SplitSettings(**{key: Path(path) for key, path in paths.items() if path is not None})
    return splits.load_dataset(split, name=name, classes=None if classes is None else tuple(classes), limits=limits)
