"""Keep what a text-prompted detector finds of every class on every photo of a split."""

from __future__ import annotations

from typing import Any

import torch

from weaksam.config import UserError, fingerprint_of, listed
from weaksam.data.detection_stores import detection_store
from weaksam.data.sample_photos import read_photo
from weaksam.engine.context import RunContext
from weaksam.likeness import did_you_mean
from weaksam.models.text.detector import TextModel
from weaksam.models.text.settings import TextSettings, phrases_of
from weaksam.store.store import Store, store_folder
from weaksam.structures.dataset import Dataset


class TextHits:
    """The hits of the classes' phrases: one store a split, filled when it is first asked for."""

    def __init__(self, context: RunContext, settings: TextSettings) -> None:
        """Raises `UserError` where no model is set, it cannot be read, or prompts name classes that are not there."""
        if settings.model is None:
            raise UserError(
                "wanted a model that reads text for clues.source=text, found none: set clues.text.model to the folder "
                "or hub id of an OWLv2, Grounding DINO or SAM 3 model"
            )
        for name in context.prompts:
            if name not in context.train.classes:
                raise UserError(
                    f"wanted classes of the run ({listed(context.train.classes)}) in classes.prompts, found {name!r}"
                    f"{did_you_mean(name, context.train.classes)}: correct it"
                )
        self.context, self.settings = context, settings
        self.model = TextModel.find(settings.model)
        self.phrases = phrases_of(context.train.classes, context.prompts)

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a hit beside the photos: the model, the phrases and how they are asked for."""
        settings = self.settings.model_dump(include={"min_score", "nms_iou", "most_hits", "ask"})
        phrases = [[label, *texts] for label, texts in self.phrases.items()]
        return fingerprint_of({"model": self.model.fingerprint, "phrases": phrases, "settings": settings})

    def of(self, dataset: Dataset, split: str) -> Store:
        """The sealed hits of every photo of ``dataset``, those of other classes than its tags too where they are asked.

        A detection store, with masks from SAM 3; scores are the model's own, at least ``min_score``.
        """
        key = fingerprint_of({"stage": "text hits", "hits": self.fingerprint, "dataset": dataset.fingerprint})
        folder = store_folder(self.context.out, "clues", f"text_{split}", key)
        store = detection_store(folder, "clues", key, dataset, masks=self.model.has_masks)
        if store.sealed:
            return store
        detector = self.model.load(self.context.device)
        min_score = self.model.default_min_score if self.settings.min_score is None else self.settings.min_score

        def row(image_id: str) -> dict[str, Any]:
            sample = dataset.by_id[image_id]
            asked = self.phrases
            if self.settings.ask == "tags" and sample.tags:
                asked = {label: self.phrases[label] for label in sample.tags}
            hits = detector.detect(
                read_photo(sample),
                asked,
                min_score=min_score,
                nms_iou=self.settings.nms_iou,
                most=self.settings.most_hits,
            )
            scores = torch.zeros(0) if hits.scores is None else hits.scores
            masks = {"rles": list(hits.masks or ())} if self.model.has_masks else {}
            return {"boxes": hits.boxes, "labels": hits.labels, "scores": scores, **masks}

        return store.fill(row, progress=f"clues: asking for classes by name ({split})")
