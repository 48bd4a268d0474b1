"""How far the words of a class agree with tags and class maps, by hand."""

from pathlib import Path

import pytest
import torch

from tests.helpers import instances
from weaksam.evaluation.text_agreement import ClassAgreement, agreement_sentence, class_agreement, doubted
from weaksam.stages.clues.maps import ClassMaps
from weaksam.structures.clue_points import COARSE
from weaksam.structures.dataset import Dataset, Sample

TAGS = [(0,), (0, 1), (1,), ()]


@pytest.fixture
def photos() -> Dataset:
    samples = [Sample(f"{row}.jpg", Path(f"{row}.jpg"), (40, 40), tags, None, row) for row, tags in enumerate(TAGS)]
    return Dataset("train", ("cat", "dog", "code 7"), (1, 2, 3), tuple(samples))


def maps_of(image_id: str) -> ClassMaps:
    """A map of 4 x 4 cells of ten pixels whose highest cell is the one in the second row and third column."""
    class_map = torch.zeros(1, 2, 4, 4)
    class_map[0, :, 1, 2] = 1.0
    return ClassMaps(torch.tensor([0, 1]), torch.zeros(3), {COARSE: (class_map,)}, (40, 40), (40, 40))


HITS = {
    "0.jpg": instances([[20, 10, 30, 20]], [0], scores=[0.9]),  # where the map is highest, (25, 15)
    "1.jpg": instances([[0, 0, 20, 20], [0, 0, 9, 9]], [0, 1], scores=[0.6, 0.3]),  # not there
    "2.jpg": instances([[0, 0, 9, 9]], [0], scores=[0.8]),  # no cat here
}


def test_shares_aps_and_places_by_hand(photos: Dataset) -> None:
    held_out = torch.tensor([0.9, 0.4, float("nan")])
    agreement = class_agreement(photos, HITS, maps_of, held_out=held_out, choose=True, asked={0, 1})
    # cat: photos 0 (.9) and 1 (.6) have it, photo 2 (.8) has not: precision 1/1 and 2/3
    assert agreement["cat"] == ClassAgreement(1.0, 0.5, pytest.approx(5 / 6), pytest.approx(0.9), 0.5, "maps")
    # dog: photo 1 (.3) first, photo 2 at 0 with all: 1/1 and 2/4
    assert agreement["dog"] == ClassAgreement(0.5, 0.0, pytest.approx(0.75), pytest.approx(0.4), 0.0, "text")
    assert agreement["code 7"] == ClassAgreement(None, None, None, None, None, "maps")


def test_without_held_out_tags_words_must_tell_half(photos: Dataset) -> None:
    agreement = class_agreement(photos, HITS, maps_of, held_out=None, choose=True, asked={0, 1, 2})
    assert {name: row.source for name, row in agreement.items()} == {"cat": "text", "dog": "text", "code 7": "maps"}
    blind = {"2.jpg": HITS["2.jpg"]}  # cats are where no cat is: AP 2/3 and 1/2 of all at 0
    few = class_agreement(photos, blind, maps_of, held_out=None, choose=True, asked={0, 1})
    assert few["cat"].text_ap == pytest.approx(0.5) and few["cat"].same_place is None and few["cat"].hit_share == 0.0


def test_without_a_choice_words_map_what_they_are_asked_for(photos: Dataset) -> None:
    agreement = class_agreement(photos, {}, maps_of, held_out=torch.ones(3), choose=False, asked={0, 2})
    assert [row.source for row in agreement.values()] == ["text", "maps", "text"]


def test_agreement_in_words_names_what_seems_wrong(photos: Dataset) -> None:
    held_out = torch.tensor([0.9, 0.4, float("nan")])
    agreement = class_agreement(photos, HITS, maps_of, held_out=held_out, choose=True, asked={0, 1})
    assert agreement_sentence(agreement) == (
        "cat: class maps (found on 100% of its photos, on 50% of the others, where the class map is highest on 50%, "
        "tag AP 0.833 of words, tag AP 0.900 of held-out class maps); dog: words (found on 50% of its photos, on 0% of "
        "the others, where the class map is highest on 0%, tag AP 0.750 of words, tag AP 0.400 of held-out class maps)"
        "; code 7: class maps, no words"
    )
    assert doubted(agreement) == ["dog"] and agreement_sentence({}) == "" and doubted({}) == []
