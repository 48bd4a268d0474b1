"""When tags are the wrong labels, and which segmenter suits a machine."""

from pathlib import Path

from weaksam.pipeline.plan_advice import better_served, segmenter_note, suitable_segmenter
from weaksam.structures.dataset import Dataset, Sample


def dataset(*tags: tuple[int, ...]) -> Dataset:
    samples = [Sample(f"{n}.png", Path("x"), (8, 8), of_photo, None, n) for n, of_photo in enumerate(tags)]
    return Dataset("train", ("a", "b"), (1, 2), tuple(samples))


def test_tags_on_every_photo_and_on_few_are_better_served_otherwise() -> None:
    assert better_served(dataset(*[(0,)] * 20, *[(1,)] * 20)) == []
    (empty,) = better_served(dataset())
    assert empty.startswith("few photos of a (0), b (0): ")
    constant, few = better_served(dataset(*[(0,)] * 39, (0, 1)))
    assert constant.startswith("a is on nearly every photo") and "text-prompted" in constant
    assert few.startswith("few photos of b (1):") and "few true boxes" in few


def test_a_segmenter_by_memory_or_by_hours() -> None:
    sizes = [suitable_segmenter(gib, 2, 10_000).split(" fits")[0] for gib in (4.0, 8.0, 24.0)]
    assert sizes == ["SAM 2.1 tiny or EdgeTAM", "SAM ViT-B or SAM 2.1 base-plus", "SAM ViT-H or SAM 2.1 large"]
    # 44 s of a core a photo: 900 photos on two cores are 5.5 h, 9,000 are 55
    short = suitable_segmenter(None, 2, 900)
    assert "about 5.5 h for 900 photos on 2 cores" in short and short.endswith("it suits this machine")
    assert "55.0 h" in suitable_segmenter(None, 2, 9000) and "take EdgeTAM" in suitable_segmenter(None, 2, 9000)


def test_a_note_of_the_segmenter() -> None:
    assert segmenter_note(False, 0.1, None, "X suits") == (
        "no weights of a Segment Anything model are given: for real work X suits (docs/segmenters.md)"
    )
    assert "8 s a photo" in (segmenter_note(True, 8.0, None, "") or "")
    assert segmenter_note(True, 8.0, 16.0, "") is None and segmenter_note(True, 4.9, None, "") is None
