"""The report's parts by hand: figures, tables, drawings and the page."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from weaksam.evaluation.settings import EvaluationSettings
from weaksam.evaluation.stage_figures import mask_figures, peak_figures, recall_figures
from weaksam.evaluation.stage_summaries import proposal_summary, pseudo_gt_summary, retrain_summary, wsod_summary
from weaksam.evaluation.text import brief, table_lines
from weaksam.evaluation.truth import Truth
from weaksam.pipeline.summary import StageReport, metrics_dict, summary_text
from weaksam.report.gallery import confident, spread
from weaksam.report.page import Gallery, Page, Photo, Picture
from weaksam.report.pictures import COLOURS, Canvas, colour_of
from weaksam.report.tables import class_table, recall_table, tables
from weaksam.structures.clue_points import COARSE, CluePeaks
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


def boxes_of(*rows, labels, scores=None):
    kept = None if scores is None else torch.tensor(scores)
    return Instances(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels), kept)


@pytest.fixture
def truth():
    """Image a: a cat and a dog of 10 x 10; image b: a cat."""
    found = {
        "a": boxes_of([0, 0, 10, 10], [20, 20, 30, 30], labels=[0, 1]),
        "b": boxes_of([5, 5, 15, 15], labels=[0]),
    }
    return Truth(found, {"a": (0, 1), "b": (0,)}, {"a": (40, 40), "b": (40, 40)}, 2)


def test_truth_of_a_dataset_without_any_is_none():
    sample = Sample("a", "a", (4, 4), (0,), None, 1)
    assert Truth.of(None) is None and Truth.of(Dataset("d", ("cat",), (1,), (sample,))) is None


def test_has_masks_needs_one_for_every_object(truth):
    assert not truth.has_masks
    mask = rle_from_mask(torch.ones(40, 40, dtype=torch.bool))
    with_masks = {i: one.replace(masks=(mask,) * len(one)) for i, one in truth.instances.items()}
    assert Truth(with_masks, truth.tags, truth.sizes, 2).has_masks
    half = {**with_masks, "a": truth.instances["a"], "c": Instances.empty()}
    assert not Truth(half, truth.tags, truth.sizes, 2).has_masks
    assert mask_figures(truth, {}, EvaluationSettings(), "") == {}


def peaks_at(*points: list[float]) -> CluePeaks:
    """Peaks of class 0 at xy ``points``."""
    labels = torch.zeros(len(points), dtype=torch.int64)
    return CluePeaks(torch.tensor(points), labels, torch.full((len(points),), COARSE), torch.ones(len(points)))


def test_peaks_count_inside_a_true_box_of_their_own_class(truth):
    peaks = {
        # Inside the cat; on its far edge, which is outside; a cat's peak inside the dog
        "a": peaks_at([9.5, 0.5], [10.0, 5.0], [25.0, 25.0]),
        "b": CluePeaks.none(),
    }
    figures = peak_figures(truth, peaks.__getitem__)
    assert figures["inside"] == pytest.approx(1 / 3) and figures["num_peaks"] == 3
    assert peak_figures(truth, lambda _: peaks["b"])["inside"] is None


def test_recall_counts_photos_without_proposals(truth):
    figures = recall_figures(truth, {"a": torch.tensor([[0.0, 0, 10, 10]])}, EvaluationSettings(recall_counts=(1,)))
    assert [row["recall"]["0.5"] for row in figures["rows"]] == pytest.approx([1 / 3, 1 / 3])


def test_brief_says_what_was_measured():
    figures = {"a": {"mean": {"0.5": 0.25}}, "b": {"mean": None}}
    assert brief(figures, ("a/mean/0.5", "AP50"), ("b/mean", "CorLoc"), ("c/x", "none")) == "AP50 0.250"
    assert brief({}, ("a/mean/0.5", "AP50")) == "not measured"


def test_stages_without_truth_are_counted_and_not_measured():
    nothing = {"train": None, "test": None}
    found = {"train": {"a": boxes_of([0, 0, 1, 1], [0, 0, 2, 2], labels=[0, 0], scores=[0.5, 0.4])}}
    settings = EvaluationSettings()
    summary = wsod_summary(nothing, found, {}, settings, "")
    assert summary == ("2 train detections", "not measured", {})
    assert pseudo_gt_summary(nothing, found["train"], {}).made == "2 boxes on 1 photos"
    assert retrain_summary(nothing, {}, settings, "").made == "a trained detector"
    assert proposal_summary(nothing, {"a": torch.zeros(3, 4), "b": torch.zeros(0, 4)}, settings).made.startswith("2 ")


def test_wsod_summary_names_test_ap_and_train_corloc(truth):
    right = {i: one.replace(scores=torch.ones(len(one))) for i, one in truth.instances.items()}
    truths = {"train": truth, "test": truth}
    boxes = {"a": torch.tensor([[0.0, 0, 40, 40]]), "b": torch.tensor([[5.0, 5, 15, 15]])}
    summary = wsod_summary(truths, {"train": right, "test": right}, boxes, EvaluationSettings(), "own NMS")
    assert summary.quality == "test AP50 1.000, train CorLoc 1.000"
    assert summary.figures["test_boxes"]["protocol"].endswith("detector: own NMS")
    # The largest proposal of a is the whole image: wrong for its cat and its dog; that of b is right
    assert summary.figures["train_corloc_largest"]["per_class"] == [0.5, 0.0]


def test_table_lines_align():
    assert table_lines(("a", "bcd"), [("xx", "y")]) == ["a   bcd", "--  ---", "xx  y"]
    assert table_lines(("a",), []) == ["a", "-"]


@pytest.fixture
def metrics():
    figures = {
        "mean": {"0.5": 0.5, "0.75": 0.25},
        "per_class": {"0.5": [0.5, None], "0.75": [0.25, None]},
        "protocol": "VOC",
    }
    reports = [StageReport("wsod", "made", "good", 1.6, {"test_boxes": figures})]
    return metrics_dict("run", ["cat", "<dog>"], reports, {"train": 2}, {"train": [("x.jpg", "is empty")]}, "A note.")


def test_summary_text_holds_table_protocol_bad_photos_and_note(metrics):
    lines = summary_text(metrics).splitlines()
    assert lines[2].split() == ["wsod", "made", "good", "2"]
    assert "protocol of wsod test_boxes: VOC" in lines
    assert lines[-3:] == ["1 photos were set aside:", "  train: x.jpg: is empty", "A note."]


def test_class_table_has_a_bar_per_class_and_the_mean(metrics):
    table = class_table(metrics)
    assert table.columns == ["class", "WSOD"] and table.bars
    assert table.rows[0] == ["cat", {"percent": 50.0, "text": "0.500"}]
    assert table.rows[1] == ["<dog>", {"percent": 0, "text": "-"}]
    assert table.rows[2][1]["text"] == "0.500"
    assert recall_table(metrics).rows == [] and [one.title for one in tables(metrics)] == ["Test AP50 per class"]


def test_metrics_survive_json(metrics):
    assert json.loads(json.dumps(metrics)) == metrics


def test_page_escapes_and_embeds(metrics):
    picture = Picture("a <caption>", Canvas(np.zeros((4, 4, 3), np.uint8)).uri())
    gallery = Gallery("Photos", "text", [Photo("a&b.jpg", "cat", [picture])])
    html = Page(metrics, {"settings": {"seed": 3}}, [gallery, Gallery("Empty", "text", [])]).render()
    assert "<dog>" not in html and "&lt;dog&gt;" in html and "a &lt;caption&gt;" in html and "a&amp;b.jpg" in html
    assert "Empty" not in html and "x.jpg" in html and "seed 3" in html
    data = html.split('src="data:image/jpeg;base64,')[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (340, 340)


def drawn(canvas: Canvas) -> np.ndarray:
    return np.asarray(canvas.photo)


def test_canvas_draws_in_pixels_of_the_original():
    red = np.array(ImageColor.getrgb(colour_of(0)))
    canvas = Canvas(np.zeros((100, 200, 3), np.uint8), max_side=400)  # twice as large
    pixels = drawn(canvas.boxes(torch.tensor([[50.0, 20, 150, 80]]), [0]))
    assert pixels.shape == (200, 400, 3)
    assert (pixels[40, 200] == red).all() and (pixels[100, 300] == red).all() and (pixels[100, 200] == 0).all()
    pixels = drawn(canvas.points(torch.tensor([[100.0, 50.0]]), [1]))
    assert (pixels[100, 200] == ImageColor.getrgb(COLOURS[1])).all()


def test_canvas_tints_masks():
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[:, :10] = True
    white = np.full((10, 20, 3), 255, np.uint8)
    pixels = drawn(Canvas(white, max_side=20).masks([rle_from_mask(mask)], [0], opacity=1.0))
    assert (pixels[5, 2] == ImageColor.getrgb(colour_of(0))).all() and (pixels[5, 15] == 255).all()


def test_dashed_lines_show_two_colours():
    pixels = drawn(
        Canvas(np.zeros((100, 100, 3), np.uint8), 100).boxes(torch.tensor([[10.0, 10, 90, 90]]), dashed=True)
    )
    assert {tuple(pixel) for pixel in pixels[10, 15:85].tolist()} == {(255, 255, 255), (32, 32, 32)}
    nothing = drawn(Canvas(np.zeros((100, 100, 3), np.uint8), 100).boxes(torch.zeros(0, 4)))
    assert not nothing.any()


def test_colours_start_again_after_the_last():
    assert colour_of(len(COLOURS)) == colour_of(0) != colour_of(1)


def test_confident_keeps_the_good_ones_else_the_best():
    scores = [0.9, 0.1, 0.5]
    found = boxes_of(*([0, 0, n, n] for n in (1, 2, 3)), labels=[0, 0, 0], scores=scores)
    assert confident(found).scores.tolist() == pytest.approx([0.9, 0.5])
    assert confident(found[torch.tensor([1])]).scores.tolist() == pytest.approx([0.1])
    assert len(confident(Instances.empty())) == 0


def test_spread_takes_first_and_last():
    assert spread(list(range(11)), 3) == [0, 5, 10]
    assert spread([7], 3) == [7] and spread([], 3) == []
