"""What a run reports of itself: the content of metrics.json, and its table on the terminal."""

import json

from tests.helpers import small_metrics
from weaksam.pipeline.summary import summary_text


def test_summary_text_holds_table_protocol_bad_photos_and_note():
    metrics = small_metrics()
    lines = summary_text(metrics).splitlines()
    assert lines[2].split() == ["wsod", "made", "good", "2"]
    assert "protocol of wsod test_boxes: VOC" in lines
    assert lines[-3:] == ["1 photos were set aside:", "  train: x.jpg: is empty", "A note."]


def test_metrics_survive_json():
    metrics = small_metrics()
    assert json.loads(json.dumps(metrics)) == metrics
