"""Keep the weights of the epoch that is best on a validation split, also where a training is killed and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.evaluation.map_files import measure_pairs
from weaksam.models.ranks import ranks
from weaksam.recipes.concealed.photos import ConcealedPhotos
from weaksam.recipes.concealed.predicting import MapPredictor
from weaksam.recipes.concealed.settings import ConcealedTrainingSettings
from weaksam.store.files import write_json_atomic
from weaksam.store.records import read_record
from weaksam.store.weights import load_into, load_state, save_weights

SCORES, WEIGHTS = "scores.json", "best.safetensors"
SCORE = "mae"
"""What chooses: the mean absolute error, lower is better, as published, but never on test photos."""


def recorded_scores(folder: Path) -> dict[int, float]:
    """The score by epoch (0-based) that lies in ``folder``; none where nothing was measured."""
    return _scores_in(_read_scores(folder))


def _read_scores(folder: Path) -> dict[str, Any]:
    return read_record(folder / SCORES) or {}


def _scores_in(record: dict[str, Any]) -> dict[int, float]:
    return {int(epoch): score for epoch, score in record.get("scores", {}).items()}


class EpochChoice:
    """Measures epochs on validation photos; the one with the lowest MAE, the first of equals, is kept.

    Scores by epoch lie in ``folder``/scores.json, the best weights beside them. An epoch that a resumed training runs
    again has the same score and the same weights, so nothing depends on when it was killed. ``inputs``: hash of the
    training and of the photos; a folder of another one is begun anew.
    """

    def __init__(
        self,
        folder: Path,
        predictor: MapPredictor,
        photos: ConcealedPhotos,
        settings: ConcealedTrainingSettings,
        inputs: str,
    ) -> None:
        if not photos.truth:
            raise UserError(
                "wanted true masks of the validation photos, which choose the epoch, found none: set "
                "data.validation.truth, or data.validation=null to take the last epoch"
            )
        self.folder, self.predictor, self.photos, self.settings, self.inputs = (
            folder,
            predictor,
            photos,
            settings,
            inputs,
        )

    @property
    def scores(self) -> dict[int, float]:
        """MAE by epoch (0-based) of those measured so far."""
        record = _read_scores(self.folder)
        return _scores_in(record) if record.get("inputs") == self.inputs else {}

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the lowest score, None where none was measured."""
        scores = self.scores
        return min(scores, key=lambda epoch: (scores[epoch], epoch)) if scores else None

    def after_epoch(self, epoch: int) -> None:
        """Measure the network after ``epoch`` where it is due, on the first process alone."""
        last = self.settings.num_epochs - 1
        first = round(self.settings.validate_from * last)
        due = epoch >= first and ((epoch - first) % self.settings.validate_every == 0 or epoch == last)
        if not due or not ranks().first:
            return
        score = self._score(epoch)
        scores = self.scores | {epoch: score}
        if min(scores, key=lambda other: (scores[other], other)) == epoch:
            save_weights(self._weights, self.predictor.network.state_dict(), {"epoch": epoch, SCORE: score})
        write_json_atomic(self.folder / SCORES, {"inputs": self.inputs, "score": SCORE, "scores": scores})

    def take_best(self) -> int | None:
        """Load the best epoch's weights into the network and return its number; None where none was measured."""
        best = self.best_epoch
        if best is not None:
            load_into(self.predictor.network, load_state(self._weights), "the best epoch")
        return best

    def _score(self, epoch: int) -> float:
        report = measure_pairs(
            list(self.photos.image_ids),
            lambda image_id: (self.predictor(self.photos.image(image_id)), self.photos.mask(image_id).numpy()),
            stretch=False,
            title=f"concealed: validation of epoch {epoch + 1}",
        )
        return float(getattr(report.figures, SCORE))

    @property
    def _weights(self) -> Path:
        return self.folder / WEIGHTS
