"""The page's tables, made from the content of metrics.json."""

from tests.helpers import small_metrics
from weaksam.report.tables import class_table, recall_table, tables


def test_class_table_has_a_bar_per_class_and_the_mean():
    metrics = small_metrics()
    table = class_table(metrics)
    assert table.columns == ["class", "WSOD"] and table.bars
    assert table.rows[0] == ["cat", {"percent": 50.0, "text": "0.500"}]
    assert table.rows[1] == ["<dog>", {"percent": 0, "text": "-"}]
    assert table.rows[2][1]["text"] == "0.500"
    assert recall_table(metrics).rows == [] and [table.title for table in tables(metrics)] == ["Test AP50 per class"]
