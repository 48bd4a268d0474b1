"""Map classes by their names: hits of a text-prompted detector that the tags allow, class maps for the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import row_instances
from weaksam.engine.context import RunContext
from weaksam.evaluation.text_agreement import ClassAgreement, class_agreement
from weaksam.models.ranks import ranks
from weaksam.stages.clues.maps import ClassMaps
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.clues.source import ClueSource
from weaksam.stages.clues.text_hits import TextHits
from weaksam.stages.clues.text_maps import hit_points, painted_map
from weaksam.store.records import read_record, write_record
from weaksam.store.store import Store
from weaksam.structures.clue_points import COARSE, CROSS
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

KEPT = "text_agreement.json"
"""File beside the clues of the training photos: how far words and class maps agree, and the source of each class."""
_CELL = 8
"""Pixels of the frame that a cell of a painted map covers, as in every stored map."""


class TextSource:
    """Class maps and points of what the words of a class find; of the rest the maps of another source.

    A tag vetoes: on a photo with tags other classes' hits are left out. A tagged class without a hit, and a class whose
    words tell less of its tags than the class maps do, has the maps of ``fallback``.
    """

    def __init__(
        self, context: RunContext, settings: ClueSettings, dataset: Dataset, split: str, fallback: ClueSource
    ) -> None:
        """Raises `UserError` where the model or the prompts cannot be used."""
        self.context, self.settings, self.dataset, self.split = context, settings, dataset, split
        self.fallback, self.hits = fallback, TextHits(context, settings.text)

    @property
    def inputs(self) -> dict[str, str]:
        """The model, the phrases and the training photos' tags, and what the fallback's maps come from."""
        return {"text": self.hits.fingerprint, "tags": self.context.train.fingerprint, **self.fallback.inputs}

    def prepare(self, folder: Path, fingerprint: str) -> None:
        """Ask for the classes on the photos, train the fallback, and choose the source of every class by the tags."""
        self.fallback.prepare(folder, fingerprint)
        train = self.hits.of(self.context.train, "train")
        self.kept_hits = train if self.dataset is self.context.train else self.hits.of(self.dataset, self.split)
        with ranks().first_before_others():
            self.agreement = self._agreement(folder / KEPT, train)
        by_words = [name for name, of_class in self.agreement.items() if of_class.source == "text"]
        self.by_words = frozenset(self.context.train.classes.index(name) for name in by_words)

    def _agreement(self, path: Path, train: Store) -> Mapping[str, ClassAgreement]:
        """How far words and class maps agree class by class, read where it was kept, else computed and kept."""
        if (kept := kept_agreement(path.parent)) is not None:
            return kept
        hits = {row["image_id"]: row_instances(row, train.folder) for row in train.rows()}
        agreement = class_agreement(
            self.context.train,
            hits,
            functools.partial(self.fallback.map_classes, self.context.train),
            held_out=self.fallback.held_out_tag_ap(),
            choose=self.settings.text.choice == "tags",
            asked={label for label, phrases in self.hits.phrases.items() if phrases},
        )
        write_record(path, {"classes": {name: vars(row) for name, row in agreement.items()}})
        self.context.log.write("text agreement", classes={name: vars(row) for name, row in agreement.items()})
        return agreement

    def held_out_tag_ap(self) -> Tensor | None:
        """Nothing: what is chosen here was chosen by the tags."""
        return None

    def map_classes(self, dataset: Dataset, image_id: str) -> ClassMaps:
        """The maps of one photo: of its tags, or without tags of the classes that words or class maps tell in it."""
        maps = self.fallback.map_classes(dataset, image_id)
        tags = dataset.by_id[image_id].tags
        hits = row_instances(self.kept_hits[image_id], self.kept_hits.folder)
        by_label = {
            label: hits[hits.labels == label]
            for label in sorted(set(hits.labels.tolist()) & self.by_words)
            if not tags or label in tags
        }
        if not tags:  # what the words alone decide, they also deny
            denied = self.by_words - set(by_label)
            kept = torch.tensor([label not in denied for label in maps.labels.tolist()], dtype=torch.bool)
            maps = _with_rows(maps, maps.labels[kept])
        return with_hits(maps, by_label)


def proposed_hits(
    context: RunContext, settings: ClueSettings, clues: Store, dataset: Dataset, split: str
) -> tuple[Callable[[str], Instances], str]:
    """What the words find on each photo of ``dataset`` by image id, as far as tags and the choice allow; and its hash.

    ``clues``: the sealed clues of the training photos, of source ``text``, whose folder tells the classes that words
    map. The hits are stored already where the photos have clues, else they are asked for now.
    """
    agreement = kept_agreement(clues.folder)
    assert agreement is not None, "clues of the source text keep their agreement"
    by_words = {context.train.classes.index(name) for name, of_class in agreement.items() if of_class.source == "text"}
    store = TextHits(context, settings.text).of(dataset, split)

    def hits_of(image_id: str) -> Instances:
        hits, tags = row_instances(store[image_id], store.folder), dataset.by_id[image_id].tags
        allowed = by_words & set(tags) if tags else by_words
        return hits[torch.tensor([label in allowed for label in hits.labels.tolist()], dtype=torch.bool)]

    return hits_of, fingerprint_of([store.fingerprint, sorted(by_words)])


def kept_agreement(folder: Path) -> dict[str, ClassAgreement] | None:
    """How far words and class maps agreed, class by class, in the ``folder`` of a clue store; None of other sources."""
    kept = read_record(folder / KEPT) if (folder / KEPT).is_file() else None
    return None if kept is None else {name: ClassAgreement(**values) for name, values in kept["classes"].items()}


def with_hits(maps: ClassMaps, hits: Mapping[int, Instances]) -> ClassMaps:
    """``maps`` of a photo in which the classes of ``hits`` (by label) have painted maps, points and scores instead.

    A class that was not mapped is added. Coarse and fine maps are painted, of cross-attention nothing is left. Maps of
    a scale are enlarged to one cell for `_CELL` pixels of the frame, so that a hit keeps its extent. No hit leaves all.
    """
    if not hits:
        return maps
    labels = torch.tensor(sorted({*maps.labels.tolist(), *hits}), dtype=torch.int64)
    grid = (max(1, maps.frame[0] // _CELL), max(1, maps.frame[1] // _CELL))
    painted = {label: painted_map(of_class, maps.size, grid) for label, of_class in hits.items()}
    wide = _with_rows(maps if maps.kinds else replace(maps, kinds={COARSE: (torch.zeros(1, 0, *grid),)}), labels)
    kinds = {}
    for kind, scales in wide.kinds.items():
        of_kind = []
        for scale in scales:
            resized = _enlarged(scale, grid)
            for label, of_class in painted.items():
                row = labels.tolist().index(label)
                resized[:, row] = 0.0 if kind == CROSS else of_class
            of_kind.append(resized)
        kinds[kind] = tuple(of_kind)
    scores = maps.scores.clone()
    for label, of_class in hits.items():
        assert of_class.scores is not None
        scores[label] = of_class.scores.max()
    points = {label: hit_points(of_class) for label, of_class in hits.items()}
    return ClassMaps(labels, scores, kinds, maps.frame, maps.size, points)


def _with_rows(maps: ClassMaps, labels: Tensor) -> ClassMaps:
    """The maps of ``labels`` (L,): those that are there, zeros for others."""
    places = {label: row for row, label in enumerate(maps.labels.tolist())}
    kinds = {}
    for kind, scales in maps.kinds.items():
        of_kind = []
        for scale in scales:
            rows = [
                scale[:, places[label]] if label in places else scale.new_zeros(len(scale), *scale.shape[2:])
                for label in labels.tolist()
            ]
            of_kind.append(torch.stack(rows, dim=1) if rows else scale[:, :0])
        kinds[kind] = tuple(of_kind)
    return replace(maps, labels=labels, kinds=kinds)


def _enlarged(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps ``(N, L, h, w)`` on ``grid``, bilinearly; a copy."""
    if maps.numel() == 0 or maps.shape[2:] == grid:
        return maps.new_zeros(*maps.shape[:2], *grid) if maps.numel() == 0 else maps.clone()
    return F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)
