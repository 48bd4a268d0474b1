"""Instances: what it refuses, and that indexing and joining keep every field together."""

import pytest
import torch

from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


def three() -> Instances:
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]], dtype=torch.float32)
    masks = tuple(rle_from_mask(torch.ones(1, side, dtype=torch.bool)) for side in (1, 2, 3))
    return Instances(
        boxes,
        torch.tensor([4, 5, 6]),
        torch.tensor([0.1, 0.2, 0.3]),
        masks,
        torch.tensor([True, False, False]),
        torch.tensor([False, False, True]),
    )


def test_index_reorders_every_field_and_a_mask_selects() -> None:
    picked = three()[torch.tensor([2, 0])]
    assert picked.boxes[:, 2].tolist() == [3, 1]
    assert picked.labels.tolist() == [6, 4]
    torch.testing.assert_close(picked.scores, torch.tensor([0.3, 0.1]))
    assert [rle["size"][1] for rle in picked.masks] == [3, 1]
    assert picked.difficult.tolist() == [False, True]
    assert picked.crowd.tolist() == [True, False]
    kept = three()[torch.tensor([False, True, True])]
    assert kept.labels.tolist() == [5, 6]
    assert [rle["size"][1] for rle in kept.masks] == [2, 3]
    assert len(three()[torch.zeros(3, dtype=torch.bool)]) == 0
    with pytest.raises(ValueError, match="3 rows, one per object, found 2"):
        three()[torch.tensor([True, False])]


def test_cat_fills_flags_and_refuses_to_invent_scores_or_masks() -> None:
    plain = Instances(torch.zeros(1, 4), torch.tensor([9]), torch.tensor([0.5]), three().masks[:1])
    joined = Instances.cat([plain, Instances.empty(), three()])
    assert joined.labels.tolist() == [9, 4, 5, 6]
    assert joined.difficult.tolist() == [False, True, False, False]
    assert joined.crowd.tolist() == [False, False, False, True]
    assert [rle["size"][1] for rle in joined.masks] == [1, 1, 2, 3]
    for field in ("scores", "masks"):
        with pytest.raises(ValueError, match=field):
            Instances.cat([plain.replace(**{field: None}), three()])
    assert len(Instances.cat([])) == 0
    assert Instances.cat([Instances.empty(), Instances.empty()]).scores is None


def test_an_empty_part_does_not_lose_optional_fields() -> None:
    assert Instances.cat([Instances.empty(), three()]).scores is not None
    nothing = three()[torch.zeros(3, dtype=torch.bool)]
    assert Instances.cat([nothing, nothing]).masks == ()


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_an_empty_value_has_the_columns_it_is_asked_for_and_joins_and_indexes_as_a_full_one(scored, masked) -> None:
    nothing = Instances.empty(scored=scored, masked=masked)
    full = three().replace(scores=three().scores if scored else None, masks=three().masks if masked else None)
    columns = {name for name, value in vars(full).items() if value is not None} - {"difficult", "crowd"}
    assert {name for name, value in vars(nothing).items() if value is not None} == columns
    none_of_full = full[torch.zeros(0, dtype=torch.int64)]
    for name in columns:
        assert type(getattr(nothing, name)) is type(getattr(full, name)), name
        if isinstance(value := getattr(nothing, name), torch.Tensor):
            assert value.dtype == getattr(full, name).dtype and value.shape == getattr(none_of_full, name).shape
    for joined in (Instances.cat([nothing, full]), Instances.cat([full, nothing]), full):
        assert joined.labels.tolist() == [4, 5, 6]
        assert (joined.scores is None, joined.masks is None) == (not scored, not masked)
    for index in (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)):
        assert len(nothing[index]) == 0 and (nothing[index].scores is None) == (not scored)
    assert len(nothing.to("cpu")) == 0


def test_empty_parts_alone_keep_every_column_that_one_of_them_has() -> None:
    scored, masked = Instances.empty(scored=True), Instances.empty(masked=True)
    for parts in ([Instances.empty(), scored, masked], [masked, scored], [scored, masked, Instances.empty()]):
        joined = Instances.cat(parts)
        assert joined.scores is not None and joined.scores.shape == (0,) and joined.masks == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(3, 4, dtype=torch.float64)}, r"float32 \(N, 4\), found torch.float64"),
        ({"boxes": torch.zeros(3, 5)}, r"\(3, 5\)"),
        ({"boxes": torch.full((3, 4), float("nan"))}, "finite"),
        ({"boxes": torch.tensor([[5.0, 0, 1, 1]] * 3)}, "inverted"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"labels must be torch.int64 \(3,\), found torch.int64 \(2,\)"),
        ({"labels": torch.zeros(3)}, "labels"),
        ({"scores": torch.zeros(3, 1)}, "scores"),
        ({"masks": ()}, "3 RLEs, one per box, found 0"),
        ({"masks": [{}] * 3}, "tuple"),
        ({"difficult": torch.zeros(3)}, "difficult must be torch.bool"),
        ({"crowd": torch.zeros(4, dtype=torch.bool)}, "crowd"),
    ],
)
def test_every_field_is_checked(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        three().replace(**change)


def test_a_value_cannot_be_changed_in_place_of_its_fields() -> None:
    with pytest.raises(AttributeError):
        three().labels = torch.zeros(3, dtype=torch.int64)
    assert three().to("cpu").labels.tolist() == [4, 5, 6]


def test_pieces_are_the_rows_of_each() -> None:
    boxes = torch.arange(12.0).view(3, 4) + torch.tensor([0.0, 0, 9, 9])
    whole = Instances(boxes, torch.tensor([2, 0, 1]), torch.tensor([0.1, 0.2, 0.3]), masks=({"size": [1, 1]},) * 3)
    pieces = whole.split([0, 2, 0, 1])
    assert [len(piece) for piece in pieces] == [0, 2, 0, 1]
    joined = Instances.cat(pieces)
    assert torch.equal(joined.boxes, boxes) and joined.labels.tolist() == [2, 0, 1]
    assert torch.equal(pieces[1].scores, torch.tensor([0.1, 0.2])) and len(pieces[1].masks) == 2
    assert pieces[1].crowd is None and pieces[3].replace(labels=torch.tensor([5])).labels.tolist() == [5]
    assert Instances.empty().split([]) == []
