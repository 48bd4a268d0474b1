"""Run the panorama recipe with masks of the proposal stage: windows as photos, their proposals sealed."""

from __future__ import annotations

from typing import Any

from weaksam.config import fingerprint_of
from weaksam.data.dataset import SplitSettings, load_photos
from weaksam.engine.context import RunContext
from weaksam.engine.log import RunLog
from weaksam.engine.output_folder import owned_together
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.ranks import ranks
from weaksam.recipes.panorama.photos import SemanticPhotos
from weaksam.recipes.panorama.recipe import run as run_recipe
from weaksam.recipes.panorama.settings import PanoramaSettings
from weaksam.recipes.panorama.windows import write_windows
from weaksam.sam.build import build_segmenter
from weaksam.stages.proposals import ProposalSettings
from weaksam.stages.proposals import run as run_proposals
from weaksam.store.store import Store
from weaksam.structures.clue_points import CluePoints


def run_panorama(settings: PanoramaSettings) -> dict[str, Any]:
    """Make what is missing of the masks, pseudo maps and networks of ``settings``; the figures of OUT/metrics.json.

    The windows of the panoramas are written below OUT/windows and segmented there once, by a grid of prompts or by the
    regions that the segmenter lists. Processes that were started together (tools/dist_train.sh, torchrun, Slurm) train
    together; the others than the first return no figures. Raises `UserError` as the recipe and the stage do.
    """

    def masks_of(photos: SemanticPhotos, split: str) -> Store:
        name = f"windows_{split}"
        inputs = {"panoramas": photos.fingerprint, "windows": settings.windows}
        folder = settings.out / "windows" / split / fingerprint_of(inputs)[:8]
        with ranks().first_before_others():
            write_windows(photos, settings.windows, folder)
        dataset = load_photos(SplitSettings(images=folder), name=name)
        log = RunLog(settings.out / "log.jsonl" if ranks().first else None)
        context = RunContext(settings.out, settings.seed, device, dataset, None, log, BackboneSettings())
        proposals = ProposalSettings(max_proposals=settings.max_masks, min_side=4.0)
        segmenter = build_segmenter(settings.segmenter, device)
        return run_proposals(context, proposals, segmenter, lambda _: CluePoints.none(), dataset, name)

    with owned_together(settings.out, fingerprint_of(settings), settings.device) as device:
        figures = run_recipe(settings, masks_of)
        return figures if ranks().first else {}
