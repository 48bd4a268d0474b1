"""Take a reviewer's decisions on the pseudo labels of a run into its next training."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data.review_decisions import VERDICTS, Decisions, read_decisions
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.running import recorded_settings, run
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import REVIEWS, Run, open_run, require_finished
from weaksam.stages import STAGE_NAMES
from weaksam.stages.pseudo_gt.review import read_review
from weaksam.store.files import atomic_file
from weaksam.terminal import say

BEFORE = ("clues", "proposals", "wsod", "pseudo_gt")
"""Stages that must be finished before their labels can be reviewed."""


def apply_review(out: Path, decisions: Path, until: str | None = None) -> dict[str, Any]:
    """Train the run in ``out`` again with the ``decisions`` of a review of its report: pseudo_gt, retrain and wsis.

    The decisions are copied to ``OUT/review``, and the setting ``pseudo_gt.review`` names the copy beside those of
    earlier reviews. Stages before are kept, and so are the stores of the training without the review: a run without
    that setting finds them. ``until``: the last stage, by default the last one that the run had finished. Returns the
    content of ``metrics.json``. Raises `UserError`, before anything is written, for decisions that are not about the
    pseudo labels that this run has now, and where these are not finished.
    """
    opened = open_run(recorded_settings(out))
    require_finished(opened, BEFORE)
    file = require_own(opened, read_decisions(decisions))
    last = until or [name for name in STAGE_NAMES if opened.finished(name)][-1]
    counts = Counter(decision.verdict for decision in file.rows)
    copy = out / REVIEWS / f"decisions-{file.fingerprint[:12]}.json"
    copy.parent.mkdir(exist_ok=True)
    with atomic_file(copy) as temporary:
        shutil.copyfile(decisions, temporary)
    say(f"review: {', '.join(f'{verdict} {counts[verdict]}' for verdict in VERDICTS)}; kept as {copy}")
    return run(with_review(opened.settings, copy), until=last)


def require_own(opened: Run, file: Decisions) -> Decisions:
    """``file``, whose decisions are about the pseudo labels that the run has now; `UserError` for others, and none."""
    if not file.rows:
        raise UserError(f"wanted decisions in {file.path}, found none: decide on some boxes in the report first")
    if file.labels_key != opened.key("pseudo_gt"):
        raise UserError(
            f"wanted decisions on the pseudo labels of the run in {opened.context.out}, found those of another run or "
            f"of other settings in {file.path}: review in {opened.context.out / 'report.html'}"
        )
    for name in BEFORE:
        stage_named(name).run(opened)
    photos = opened.context.train
    read_review([file.path], photos).apply(opened.results["pseudo_gt"], photos)
    return file


def with_review(settings: RunSettings, path: Path) -> RunSettings:
    """The settings of a run that takes the decisions in ``path`` too, after those that it takes already."""
    rule = settings.pseudo_gt.model_copy(update={"review": (*settings.pseudo_gt.review, path)})
    return settings.model_copy(update={"pseudo_gt": rule})
