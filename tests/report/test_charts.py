"""Charts and the picture of the pipeline."""

import math
import re

from weaksam.report.charts import HEIGHT, MOST_LINES, WIDTH, Chart
from weaksam.report.pipeline_picture import pipeline_picture


def points_of(svg):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()] for line in re.findall(r'points="([^"]*)"', svg)
    ]


def test_a_line_goes_from_corner_to_corner():
    svg = Chart("t", {"a <b>": [(0, 0), (10, 1)]}, "x", "y").svg()
    ((start, end),) = points_of(svg)
    assert start == (46, HEIGHT - 40) and end == (WIDTH - 12, 12)
    assert "a &lt;b&gt;" in svg and "<b>" not in svg and 'role="img"' in svg and "ends at 1" in svg


def test_a_logarithmic_axis_and_a_free_top():
    (line,) = points_of(Chart("t", {"a": [(1, 1), (10, 2), (100, 4)]}, "x", "y", top=None, logarithmic=True).svg())
    assert line[1][0] == (line[0][0] + line[2][0]) / 2 and line[2][1] == 12 and line[1][1] == 121


def test_what_is_not_finite_is_left_out():
    chart = Chart("t", {"a": [(0, math.nan)], "b": [(1, 0.5)], **{str(n): [(0, 0)] for n in range(20)}}, "x", "y")
    assert "a" not in chart.drawn and len(chart.drawn) == MOST_LINES
    assert Chart("t", {}, "x", "y").svg() == "" and "<circle" in Chart("t", {"b": [(1, 0.5)]}, "x", "y").svg()


def test_the_pipeline_has_a_box_for_every_stage():
    rows = [{"stage": "clues", "made": "3 <peaks>", "quality": "inside a true box: 0.5", "seconds": 2.4}]
    svg = pipeline_picture(rows, 3)
    assert svg.count("<rect") == 6 and svg.count("unmade") == 5 and svg.count('class="arrow"') == 5
    assert "3 &lt;peaks&gt;" in svg and "2 s" in svg and "Retrained detector: not run" in svg
    assert pipeline_picture([], 3) == "" and pipeline_picture(rows, 1).count("<rect") == 6
