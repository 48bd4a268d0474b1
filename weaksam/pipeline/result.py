"""Hold what a run made, for Python: metrics, detections, pseudo labels, the report and the trained network."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data.detection_stores import instances_of
from weaksam.pipeline.state import Run
from weaksam.prediction.checkpoint import NAME
from weaksam.prediction.predictor import Predictor, load
from weaksam.structures.instances import Instances

_LAST_FIRST = {"wsis": "instance_segmenter", "retrain": "detector", "wsod": "weak_detector"}
"""The output of each stage that trains a detector, the last stage first."""


class RunResult:
    """What `weaksam.run` made; values are read from the run's stores when they are asked for.

    ``out``: its folder. ``metrics``: the content of ``metrics.json``: of each stage what it made, its seconds and its
    figures. In a worker process of a launcher, which shares stages and measures nothing, ``metrics`` are empty.
    """

    def __init__(self, run: Run, metrics: Mapping[str, Any]) -> None:
        self._run = run
        self.out: Path = run.context.out
        self.metrics = dict(metrics)

    def __repr__(self) -> str:
        stages = ", ".join(row["stage"] for row in self.metrics.get("stages", ()))
        return f"RunResult({self.out}: {stages})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self._run.context.train.classes

    @functools.cached_property
    def detections(self) -> dict[str, dict[str, Instances]]:
        """Detections by split (``train``, ``test``) and image id, those that the last detector stage handed on.

        Of ``retrain``, else of ``wsod``: the boxes. With masks are those of `instance_detections`. Raises `UserError`
        before either.
        """
        output = next((self._run.results[n] for n in ("detector", "weak_detector") if n in self._run.results), None)
        if output is None:
            raise self._missing("detections", "wsod")
        return {split: instances_of(store) for split, store in output.stores.items()}

    @functools.cached_property
    def instance_detections(self) -> dict[str, dict[str, Instances]]:
        """Detections with masks by split and image id; raises `UserError` before ``wsis``."""
        if "instance_segmenter" not in self._run.results:
            raise self._missing("detections with masks", "wsis")
        stores = self._run.results["instance_segmenter"].stores
        return {split: instances_of(store) for split, store in stores.items()}

    @property
    def pseudo_gt(self) -> dict[str, Instances]:
        """Pseudo ground truth of the training photos by image id; raises `UserError` before ``pseudo_gt``."""
        if "pseudo_gt" not in self._run.results:
            raise self._missing("pseudo ground truth", "pseudo_gt")
        return dict(self._run.results["pseudo_gt"])

    @functools.cached_property
    def masks(self) -> dict[str, Instances]:
        """Pseudo masks of the training photos by image id; raises `UserError` before ``wsis``."""
        if "instance_segmenter" not in self._run.results:
            raise self._missing("pseudo masks", "wsis")
        return instances_of(self._run.results["instance_segmenter"].pseudo_masks)

    @functools.cached_property
    def model(self) -> Predictor:
        """The network that was trained last, ready for `Predictor.predict`; raises `UserError` before ``wsod``."""
        stage = next((stage for stage, output in _LAST_FIRST.items() if output in self._run.results), None)
        if stage is None:
            raise self._missing("a trained network", "wsod")
        return load(self.out / stage / NAME, device=str(self._run.context.device))

    def report(self) -> Path:
        """The page of the run, one HTML file with its pictures in it."""
        return self.out / "report.html"

    def _missing(self, what: str, stage: str) -> UserError:
        last = self.metrics.get("stages") or [{"stage": "no stage"}]
        return UserError(
            f"wanted {what} of the run in {self.out}, found that it ended with {last[-1]['stage']}: run it again "
            f"until='{stage}', which keeps what is finished"
        )
