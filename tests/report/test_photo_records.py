"""What the gallery is told of each photo, by hand."""

import torch

from tests.report.pages import results
from weaksam.evaluation.detection_errors import ERROR_KINDS
from weaksam.report.insight_tables import doubtful_table, error_table, insight_tables, quality_table, zone_table
from weaksam.report.insights import insights
from weaksam.report.photo_records import LABELS, MASKS, PROPOSALS, ZONES, gallery_data, outline
from weaksam.structures.masks import rle_from_mask


def test_a_training_photo_has_its_layers(tmp_path):
    made = results(tmp_path)
    data = gallery_data(made, insights(made))
    assert data.stages == [PROPOSALS, "WSOD", LABELS, "retrained or merged", "retrained network", MASKS]
    photo = next(photo for photo in data.photos if photo["i"] == "train_0000.png")
    assert (photo["w"], photo["h"], photo["t"], photo["s"]) == (80, 60, [0], "train")
    assert photo["truth"] == [[5, 10, 30, 40, 0]]
    boxes = photo["layers"][LABELS]["b"]
    # The half-high box is a part (IoU 12/30 with the object) of which the object is missed
    believed, ignored, background = boxes
    assert believed[:5] == [5, 10, 30, 22, 0] and ERROR_KINDS[believed[6]] == "part" and believed[9] == 0
    assert ZONES[ignored[7]] == "ignored" and ignored[6] == -1 and ignored[9] == 1
    assert ZONES[background[7]] == "background" and background[9] == -1 and background[5] == 0.05
    assert photo["layers"][LABELS]["m"] == [0]
    assert data.reasons[believed[8]] == "the best detection of its tag"
    assert photo["layers"][PROPOSALS]["k"] == [[12, 20, 0]] and photo["layers"][PROPOSALS]["b"][0][4] == -1
    assert photo["layers"][MASKS]["p"][0].startswith("M8 12L") and set(photo["layers"]) == set(data.stages) - {
        "retrained or merged"
    }


def test_a_test_photo_without_detections_misses_all(tmp_path):
    made = results(tmp_path)
    data = gallery_data(made, insights(made))
    photo = next(photo for photo in data.photos if photo["i"] == "test_0002.png")
    assert photo["layers"] == {stage: {"b": [], "m": [0]} for stage in ("WSOD", "retrained or merged")}
    assert photo["d"] is None and photo["t"] == [0]


def test_the_most_doubtful_photos_are_kept_first(tmp_path):
    made = results(tmp_path)
    known = insights(made)
    assert set(known.doubts) == set(made.train.image_ids)
    data = gallery_data(made, known, most=4)
    doubts = [photo["d"] for photo in data.photos if photo["s"] == "train"]
    assert doubts == sorted(doubts, reverse=True) == [round(v, 3) for v in sorted(known.doubts.values())[::-1][:3]]
    assert len(data.photos) == 4 and data.left_out == 5


def test_outlines_are_in_photo_pixels():
    mask = torch.zeros(300, 600, dtype=torch.bool)
    mask[100:200, 0:300] = True
    corners = [tuple(map(int, pair.split(" "))) for pair in outline(rle_from_mask(mask)).strip("MZ").split("L")]
    assert min(x for x, _ in corners) == 0 and abs(max(x for x, _ in corners) - 300) <= 6
    assert abs(min(y for _, y in corners) - 100) <= 6 and abs(max(y for _, y in corners) - 200) <= 6
    assert outline(rle_from_mask(torch.zeros(10, 10, dtype=torch.bool))) == ""


def test_tables_of_a_run(tmp_path):
    made = results(tmp_path)
    known = insights(made)
    data = gallery_data(made, known)
    classes = made.train.classes
    titles = [table.title for table in insight_tables(classes, known, data)]
    assert titles == [
        "Tags",
        "Tags together",
        "Proposals by source",
        "Pseudo ground truth, box by box",
        "Kinds of errors",
        "Label quality without truth",
        "The most doubtful photos",
    ]
    zones = {(row[0]["text"], row[1]): row[2] for row in zone_table(data).rows}
    assert zones["believed", "the best detection of its tag"] == "9" and sum(map(int, zones.values())) == 9 + 6 + 6
    # Test photos: 0 has a part, 1 is right twice, 2 has nothing; of class 0 the best three of two detections count
    row = error_table(classes, known).rows[0]
    counts = dict(zip(["right", "localisation", "part"], (cell["text"] for cell in row[1:4]), strict=True))
    assert counts == {"right": "2", "localisation": "0", "part": "1"} and row[-2]["text"] == "2" and row[-1] == "4"
    assert row[3]["href"] == "#gallery?stage=WSOD&kind=part&split=test"
    quality = quality_table(known).rows
    assert quality[0][3] == "0.778" and known.true_precision == 7 / 9  # two of nine boxes are parts
    assert [cells[0] for cells in quality[2:]] == [
        "tag AP of WSOD, train photos, taught",
        "tag AP of retrained network, train photos, taught",
        "tag AP of WSOD, test photos, held out",
        "tag AP of retrained or merged, test photos, held out",
    ]
    assert doubtful_table(classes, known, data).rows[0][0]["href"].startswith("#gallery?photo=train_000")


def test_a_run_without_anything_has_no_table(tmp_path):
    empty = {name: None for name in ("peaks", "proposals", "sources", "pseudo_gt", "pseudo_masks", "weak_train")}
    made = results(
        tmp_path, 2, 0, **empty, train_detections={}, detections={}, held_out_tags={}, truths={"train": None}
    )
    known = insights(made)
    data = gallery_data(made, known)
    assert data.stages == [] and [table.title for table in insight_tables(made.train.classes, known, data)] == [
        "Tags",
        "Tags together",
    ]
