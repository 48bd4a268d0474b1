"""Say of a planned run when something else than tags serves better, and which Segment Anything model suits it."""

from __future__ import annotations

from weaksam.data.tag_signal import is_almost_constant
from weaksam.structures.dataset import Dataset

FEW_PHOTOS = 20
"""A class on fewer photos than this is better served by a few boxes drawn by hand."""
VIT_B_SECONDS = 44.0
"""Seconds of one core that SAM ViT-B takes for a photo with the default grid (docs/results/proposals.md)."""
LONGEST_HOURS = 12.0
"""Hours of proposals up to which a larger segmenter is worth the wait."""
SLOW_PROPOSALS = 5.0
"""Seconds a photo above which a smaller segmenter is worth a try."""
INSTEAD = "a detector prompted with the class's name (a text-prompted model), or a few true boxes drawn by hand,"


def better_served(dataset: Dataset) -> list[str]:
    """A sentence for each way in which tags are the wrong labels for ``dataset``; none where they may do."""
    num = len(dataset)
    counts = {
        name: sum(label in sample.tags for sample in dataset) for label, name in enumerate(dataset.classes)
    }  # photos by class
    constant = [name for name, count in counts.items() if is_almost_constant(count, num)]
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW_PHOTOS and name not in constant]
    notes = []
    if constant:
        notes.append(
            f"{_first(constant)} {'is' if len(constant) == 1 else 'are'} on nearly every photo, so that tags cannot "
            f"tell what the object is: {INSTEAD} will serve better, or add photos without it"
        )
    if few:
        notes.append(f"few photos of {_first(few)}: {INSTEAD} will serve better than tags")
    return notes


def suitable_segmenter(gpu_gib: float | None, num_cores: int, num_photos: int) -> str:
    """Which Segment Anything model suits this machine for so many photos, as the end of a sentence.

    ``gpu_gib``: memory of the GPU, GiB; None without one. By size on a GPU, by hours on a processor.
    """
    if gpu_gib is not None:
        if gpu_gib >= 10:
            return f"SAM ViT-H or SAM 2.1 large fits the GPU ({gpu_gib:.0f} GiB)"
        if gpu_gib >= 5:
            return f"SAM ViT-B or SAM 2.1 base-plus fits the GPU ({gpu_gib:.0f} GiB)"
        return f"SAM 2.1 tiny or EdgeTAM fits the GPU ({gpu_gib:.0f} GiB)"
    hours = VIT_B_SECONDS * num_photos / max(1, num_cores) / 3600
    vit_b = f"SAM ViT-B takes about {hours:.1f} h for {num_photos} photos on {num_cores} cores without a GPU"
    if hours <= LONGEST_HOURS:
        return f"{vit_b}: it suits this machine"
    return f"{vit_b}: take EdgeTAM or SAM 2.1 tiny, or the region tree (segmenter.weights=null), or a GPU"


def segmenter_note(weights_given: bool, seconds_a_photo: float, gpu_gib: float | None, suitable: str) -> str | None:
    """A sentence about the segmenter of the run; None where nothing better is known."""
    if not weights_given:
        return f"no weights of a Segment Anything model are given: for real work {suitable} (docs/segmenters.md)"
    if seconds_a_photo > SLOW_PROPOSALS and gpu_gib is None:
        smaller = "EdgeTAM, SAM 2.1 tiny or the region tree (segmenter.weights=null)"
        return f"{seconds_a_photo:.0f} s a photo for proposals: without a GPU try {smaller}"
    return None


def _first(names: list[str], num: int = 5) -> str:
    return f"{', '.join(names[:num])}{' and others' if len(names) > num else ''}"
