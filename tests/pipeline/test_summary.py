"""What a run reports of itself: the content of metrics.json, and its table on the terminal."""

import json

from tests.helpers import small_metrics
from weaksam.pipeline.summary import summary_text


def test_summary_text_holds_table_protocol_bad_photos_and_note():
    metrics = small_metrics()
    lines = summary_text(metrics).splitlines()
    row = next(number for number, line in enumerate(lines) if line.split() == ["wsod", "made", "good", "2"])
    assert lines[: row - 2] == ["protocol of wsod test_boxes: VOC", ""]  # the table is what a reader sees last
    assert lines[-3:] == ["1 photos were set aside:", "  train: x.jpg: is empty", "A note."]


def test_metrics_survive_json():
    metrics = small_metrics()
    assert json.loads(json.dumps(metrics)) == metrics
