"""Ask a frozen detector of transformers for objects by a phrase: OWLv2, Grounding DINO, or SAM 3 with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.sam.transformers.bounds import refuse_larger_config, refuse_wild_config
from weaksam.sam.transformers.files import ModelSource, find_text_model, first_line, read_json, weight_files
from weaksam.sam.transformers.models import quiet_transformers
from weaksam.sam.transformers.networks import read_network
from weaksam.store.files import file_sha256, unchanged_files
from weaksam.structures.boxes import clip, nms
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


@dataclass(frozen=True)
class TextFamily:
    """One architecture: transformers' class of it, and the least score where the settings name none."""

    network: str
    min_score: float


FAMILIES: Mapping[str, TextFamily] = {
    "owlv2": TextFamily("Owlv2ForObjectDetection", 0.2),
    "owlvit": TextFamily("OwlViTForObjectDetection", 0.1),
    "grounding-dino": TextFamily("GroundingDinoForObjectDetection", 0.3),
    "mm-grounding-dino": TextFamily("MMGroundingDinoForObjectDetection", 0.3),
    "sam3": TextFamily("Sam3Model", 0.5),
    "sam3_video": TextFamily("Sam3Model", 0.5),
}
"""By the ``model_type`` of config.json; the least scores are those of transformers' and the models' own examples."""
_NOT_READ = r".*position_ids|tracker_.*|.*(memory|tracker).*"
"""Tensors that a published file may have too many or too few: buffers of positions, and SAM 3's tracker of videos."""
_TEXT_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
"""The small files that decide an answer."""
_NO_PART_OF_IT = ("transformers_version", "_name_or_path")
LEAST_SIDE = 1.0
"""Pixels of a side below which a box is no object."""


@dataclass(frozen=True)
class TextModel:
    """A detector on disk: where it lies, its ``kind`` (model_type), its weight files, and a hash of all of it."""

    source: ModelSource
    kind: str
    paths: tuple[Path, ...]
    fingerprint: str

    @classmethod
    def find(cls, weights: Path, setting: str = "clues.text.model") -> TextModel:
        """The model in the folder ``weights``, or with that id (``owner/name``) on the hub; its network is not read.

        ``setting`` names the key in errors. Raises `UserError` where there is no such model, it cannot be fetched, is
        of no family that reads text, or a file lacks.
        """
        source = find_text_model(weights, setting)
        config = read_json(source, "config.json")
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise UserError(
                f"wanted a detector that reads text ({', '.join(FAMILIES)}) as {setting}, found model_type {kind!r} in "
                f"config.json of {source.name}: give a model of one of these types"
            )
        refuse_wild_config(config, source)
        paths = weight_files(source)
        texts = [source.folder / name for name in _TEXT_FILES if (source.folder / name).is_file()]
        facts = {
            "algorithm": "text-1",
            "kind": kind,
            "config": {key: value for key, value in config.items() if key not in _NO_PART_OF_IT},
            "files": {path.name: file_sha256(path) for path in (*paths, *texts)},
        }
        return cls(source, kind, paths, fingerprint_of(facts))

    @property
    def default_min_score(self) -> float:
        """The least score of an answer where the settings name none."""
        return FAMILIES[self.kind].min_score

    @property
    def has_masks(self) -> bool:
        """Whether it answers with masks beside boxes."""
        return self.kind.startswith("sam3")

    def load(self, device: torch.device) -> TextDetector:
        """The detector on ``device``; raises `UserError` where its files do not fit each other or cannot be read."""
        name = FAMILIES[self.kind].network
        with unchanged_files(*self.paths), quiet_transformers():
            refuse_larger_config(getattr(import_module("transformers"), name), self.source, self.paths, self.kind)
            network = read_network(self.source, name, not_read=_NOT_READ).eval().requires_grad_(False)
            processor = _read_processor(self.source)
        return TextDetector(self, network, processor, device)


class TextDetector:
    """A frozen detector that finds the objects that a phrase names.

    Photos and phrases go through the model's own preprocessing, its answers through transformers' own postprocessing.
    """

    def __init__(self, model: TextModel, network: Any, processor: Any, device: torch.device) -> None:
        self.model, self.network, self.processor, self.device = model, network.to(device), processor, device

    @torch.inference_mode()
    def detect(
        self,
        image: np.ndarray,
        phrases: Mapping[int, Sequence[str]],
        *,
        min_score: float,
        nms_iou: float = 0.5,
        most: int = 20,
    ) -> Instances:
        """Objects in one upright RGB photo, uint8 ``(H, W, 3)``, of every class of ``phrases``: label to its phrases.

        By class in the order of ``phrases``, best first: boxes xyxy in pixels inside the photo, scores in
        (``min_score``, 1], masks where the model has them. An object that several phrases of a class name counts once,
        by non-maximum suppression at ``nms_iou``; ``most`` of a class stay. A class is asked for by itself, so that
        another one cannot take its boxes. No phrase, no object.
        """
        asked = {label: tuple(of_class) for label, of_class in phrases.items() if of_class}
        if not asked:
            return Instances.empty(scored=True)
        size = (image.shape[0], image.shape[1])
        ask = self._ask_grounding_dino
        if self.model.has_masks:
            ask = self._ask_sam3
        elif self.model.kind.startswith("owl"):
            ask = self._ask_owl
        answers = ask(image, size, asked, min_score)
        return Instances.cat([_kept(answers[label], label, size, nms_iou, most) for label in asked])

    def _ask_owl(
        self, image: np.ndarray, size: tuple[int, int], asked: Mapping[int, tuple[str, ...]], min_score: float
    ) -> dict[int, list[dict[str, Tensor]]]:
        """Answers by class: one look at the photo with all phrases, then each phrase's column by itself."""
        columns = [(label, phrase) for label, of_class in asked.items() for phrase in of_class]
        inputs = self._inputs(images=[image], text=[[phrase for _, phrase in columns]])
        outputs = self.network(**inputs)
        answers: dict[int, list[dict[str, Tensor]]] = {label: [] for label in asked}
        for column, (label, _) in enumerate(columns):
            of_phrase = SimpleNamespace(logits=outputs.logits[..., column : column + 1], pred_boxes=outputs.pred_boxes)
            answers[label] += self.processor.post_process_grounded_object_detection(
                of_phrase, threshold=min_score, target_sizes=[size]
            )
        return answers

    def _ask_grounding_dino(
        self, image: np.ndarray, size: tuple[int, int], asked: Mapping[int, tuple[str, ...]], min_score: float
    ) -> dict[int, list[dict[str, Tensor]]]:
        """Answers by class: a look at the photo for each class, whose phrases are one text."""
        answers = {}
        for label, of_class in asked.items():
            inputs = self._inputs(images=[image], text=[list(of_class)])
            outputs = self.network(**inputs)
            answers[label] = self.processor.post_process_grounded_object_detection(
                outputs, inputs["input_ids"], threshold=min_score, text_threshold=min_score, target_sizes=[size]
            )
        return answers

    def _ask_sam3(
        self, image: np.ndarray, size: tuple[int, int], asked: Mapping[int, tuple[str, ...]], min_score: float
    ) -> dict[int, list[dict[str, Tensor]]]:
        """Answers by class, with masks: the photo is encoded once, then asked for each phrase."""
        pixels = self._inputs(images=[image])["pixel_values"]
        seen = self.network.get_vision_features(pixels)
        answers: dict[int, list[dict[str, Tensor]]] = {label: [] for label in asked}
        for label, of_class in asked.items():
            for phrase in of_class:
                words = self.processor.tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=32)
                words = {name: values.to(self.device) for name, values in words.items()}
                outputs = self.network(vision_embeds=seen, **words)
                answers[label] += self.processor.post_process_instance_segmentation(
                    outputs, threshold=min_score, target_sizes=[size]
                )
        return answers

    def _inputs(self, **values: Any) -> Any:
        return self.processor(**values, return_tensors="pt").to(self.device)


def _kept(
    answers: Sequence[Mapping[str, Tensor]], label: int, size: tuple[int, int], nms_iou: float, most: int
) -> Instances:
    """What the phrases of one class found, each object once, best first; boxes without area are left out."""
    boxes = clip(torch.cat([answer["boxes"].float().cpu() for answer in answers]), size)
    scores = torch.cat([answer["scores"].float().cpu() for answer in answers])
    rows = (((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(dim=1)).nonzero()[:, 0]
    rows = rows[nms(boxes[rows], scores[rows], nms_iou)][:most]
    rles = None
    if "masks" in answers[0]:
        masks = [mask.cpu() > 0 for answer in answers for mask in answer["masks"]]
        rles = tuple(rle_from_mask(masks[row]) for row in rows.tolist())
    return Instances(boxes[rows], torch.full((len(rows),), label), scores[rows], rles)


def _read_processor(source: ModelSource) -> Any:
    """The preprocessing of photos and texts; `UserError` where a file of it lacks or is broken."""
    try:
        processor = import_module("transformers").AutoProcessor.from_pretrained(source.folder, local_files_only=True)
    except Exception as error:  # missing or broken files, each in its own way
        raise UserError(
            f"wanted the preprocessing of photos and texts (preprocessor_config.json, tokenizer.json) in "
            f"{source.name}, found what cannot be read ({first_line(error)}): download the whole model"
        ) from error
    if not hasattr(processor, "tokenizer"):
        raise UserError(
            f"wanted a tokenizer (tokenizer.json) beside the weights in {source.name}, found none: download it too"
        )
    return processor
