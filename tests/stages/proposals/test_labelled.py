"""What was labelled takes part in the proposals: points prompt, boxes come first, and another store is made."""

import torch
from PIL import Image

from tests.helpers import block_photo, context, instances
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.engine.context import RunContext
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.proposals import ProposalSettings, propose, run
from weaksam.stages.proposals.labelled import with_given_boxes
from weaksam.stages.proposals.prompts import clue_prompts
from weaksam.structures.clue_points import COARSE, GIVEN, CluePoints
from weaksam.structures.masks import mask_from_rle, rle_from_mask
from weaksam.structures.photo_labels import NO_LABELS, Marks, PhotoLabels
from weaksam.structures.proposals import Proposals


def no_clues(image_id: str) -> CluePoints:
    """No clue points."""
    return CluePoints.none()


def block_context(tmp_path, labels: dict[str, PhotoLabels]) -> RunContext:
    """A run on two photos of blocks."""
    (tmp_path / "photos").mkdir(exist_ok=True)
    for number in range(2):
        Image.fromarray(block_photo(number)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "tags.csv").write_text("image,tags\n0.png,block\n1.png,block\n")
    dataset = load_dataset(SplitSettings(images=tmp_path / "photos", tags=tmp_path / "tags.csv"), name="train")
    plain = context(tmp_path / "out", dataset)
    return RunContext(plain.out, 0, plain.device, dataset, None, plain.log, plain.backbone, labels=labels)


def test_labelled_points_prompt_alone_beside_the_clue_points():
    clues = CluePoints.of(torch.tensor([[1.0, 1], [2, 2]]), torch.tensor([0, 0]))
    both = clues.with_given(torch.tensor([[3.0, 3], [4, 4]]), torch.tensor([0, 1]))
    assert both.kinds.tolist() == [COARSE, COARSE, GIVEN, GIVEN]
    singles, joints = clue_prompts(both, ("coarse",), ("coarse",), False)
    assert singles.points[:, 0].tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert joints.points.tolist() == [[[1, 1], [2, 2]]]  # labelled points may be on several objects
    (only,) = clue_prompts(both, ("fine",), (), False)
    assert only.sources.tolist() == [GIVEN, GIVEN]


def test_given_boxes_come_first_with_their_masks_in_the_frame_of_the_others():
    frame = torch.zeros(10, 20, dtype=torch.bool)
    frame[:5, :5] = True
    proposals = Proposals(
        torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1.25]), torch.tensor([1]), (rle_from_mask(frame),), (10, 20)
    )
    own = torch.zeros(20, 40, dtype=torch.bool)
    own[4:8, 8:16] = True
    boxes = instances([(20, 10, 30, 14), (8, 4, 16, 8), (0, 0, 4, 4)], crowd=[False, False, True])
    result = with_given_boxes(proposals, PhotoLabels(boxes, (None, rle_from_mask(own), None)), (20, 40))
    assert result.boxes.tolist() == [[20, 10, 30, 14], [8, 4, 16, 8], [0, 0, 10, 10]]
    assert result.scores.tolist() == [1.25, 1.25, 1.25] and result.sources.tolist() == [GIVEN, GIVEN, 1]
    assert result.mask_size == (10, 20) and result.rles[2] == proposals.rles[0]
    first, second = (mask_from_rle(rle) for rle in result.rles[:2])
    assert first.shape == (10, 20) and bool(first[5:7, 10:15].all()) and int(first.sum()) == 10
    assert bool(second[2:4, 4:8].all()) and int(second.sum()) == 8
    assert with_given_boxes(proposals, NO_LABELS, (20, 40)) is proposals
    alone = with_given_boxes(Proposals.none(), PhotoLabels(instances([(2, 2, 4, 4)]), (None,)), (20, 40))
    assert alone.scores.tolist() == [1.0] and int(mask_from_rle(alone.rles[0]).sum()) == 4
    without_masks = Proposals.of(torch.tensor([[0.0, 0, 10, 10]]))
    assert with_given_boxes(without_masks, PhotoLabels(instances([(2, 2, 4, 4)]), (None,)), (20, 40)).rles == ()


def test_a_store_with_labels_is_another_one_and_holds_them(tmp_path):
    segmenter, settings = RegionTreeSegmenter(), ProposalSettings(max_proposals=20)
    plain = block_context(tmp_path, {})
    store = run(plain, settings, segmenter, no_clues, plain.train, "train")
    labels = {
        "0.png": PhotoLabels(
            instances([(31, 21, 90, 60)]), (None,), Marks.of_points(torch.tensor([[120.0, 90]]), torch.tensor([0]))
        )
    }
    labelled = block_context(tmp_path, labels)
    known = run(labelled, settings, segmenter, no_clues, labelled.train, "train")
    assert known.fingerprint != store.fingerprint
    points = CluePoints.none().with_given(torch.tensor([[120.0, 90]]), torch.tensor([0]))
    expected = propose(segmenter, block_photo(0), points, settings)
    assert known["0.png"]["boxes"].tolist() == [[31, 21, 90, 60], *expected.boxes.tolist()]
    assert GIVEN in expected.sources.tolist()
    assert torch.equal(known["1.png"]["boxes"], store["1.png"]["boxes"])
    # Of counts proposals know nothing, and test photos have no labels
    counted = block_context(tmp_path, {"0.png": PhotoLabels(counts={0: 2}, complete=True)})
    assert run(counted, settings, segmenter, no_clues, counted.train, "train").fingerprint == store.fingerprint
    test = run(labelled, settings, segmenter, no_clues, labelled.train, "test")
    assert test.fingerprint == run(plain, settings, segmenter, no_clues, plain.train, "test").fingerprint
