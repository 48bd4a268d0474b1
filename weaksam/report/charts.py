"""Draw line charts and bars as SVG that takes its colours from the page, so that it is read in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 40
MOST_LINES = 12
"""Lines of a chart at most: more would hide each other."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Strokes of the lines in turn, so that colour is not all that tells them apart."""


@dataclass(frozen=True)
class Chart:
    """Lines by name, each of ``(x, y)`` points, with what the axes are.

    ``top``: the highest y that is drawn; None: the highest point. ``logarithmic``: of x, which must be above 0 then.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str
    y_label: str
    top: float | None = 1.0
    logarithmic: bool = False
    text: str = ""

    @property
    def drawn(self) -> dict[str, list[tuple[float, float]]]:
        """The first `MOST_LINES` lines with their finite points; those without a point are left out."""
        finite = {
            name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
            for name, points in self.lines.items()
        }
        return dict(list({name: points for name, points in finite.items() if points}.items())[:MOST_LINES])

    def svg(self) -> Markup:
        """The chart as SVG with its legend; empty where no line has a point."""
        lines = self.drawn
        if not lines:
            return Markup("")
        every = [point for points in lines.values() for point in points]
        low, high = min(x for x, _ in every), max(x for x, _ in every)
        top = self.top if self.top is not None else (max(y for _, y in every) or 1.0)
        scale = math.log10 if self.logarithmic else float
        start, span = scale(low), (scale(high) - scale(low)) or 1.0

        def place(x: float, y: float) -> tuple[float, float]:
            across = _LEFT + (scale(x) - start) / span * (WIDTH - _LEFT - _RIGHT)
            return round(across, 1), round(HEIGHT - _BOTTOM - min(y, top) / top * (HEIGHT - _TOP - _BOTTOM), 1)

        marks = [self._grid(place, low, high, top)]
        for number, points in enumerate(lines.values()):
            path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
            style = Markup('class="line c{}" stroke-dasharray="{}"').format(number, _DASHES[number // 3 % 4])
            marks.append(Markup('<polyline {} points="{}"/>').format(style, path))
            if len(points) == 1:
                x, y = place(*points[0])
                marks.append(Markup('<circle class="dot c{}" cx="{}" cy="{}" r="3.5"/>').format(number, x, y))
        last = "; ".join(f"{name} ends at {points[-1][1]:.3g}" for name, points in lines.items())
        label = f"{self.title}: {self.y_label} over {self.x_label}. {last}."
        return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>{}').format(
            label, WIDTH, HEIGHT, Markup("").join(marks), self._legend(lines)
        )

    def _grid(self, place: object, low: float, high: float, top: float) -> Markup:
        """Lines and numbers of both axes."""
        assert callable(place)
        marks = []
        for step in range(5):
            value = top * step / 4
            _, y = place(low, value)
            marks.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _LEFT, WIDTH - _RIGHT, y, y
            ))  # fmt: skip
            marks.append(Markup('<text x="{}" y="{}" text-anchor="end">{:.3g}</text>').format(_LEFT - 6, y + 4, value))
        for value in _ticks(low, high, self.logarithmic):
            x, _ = place(value, 0)
            marks.append(Markup('<text x="{}" y="{}" text-anchor="middle">{:.4g}</text>').format(
                x, HEIGHT - _BOTTOM + 16, value
            ))  # fmt: skip
        marks.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, self.x_label
        ))  # fmt: skip
        return Markup("").join(marks)

    def _legend(self, lines: Mapping[str, object]) -> Markup:
        keys = [
            Markup(
                '<li><svg class="key-line" viewBox="0 0 26 8" aria-hidden="true"><line class="line c{}" x1="0" x2="26" '
                'y1="4" y2="4" stroke-dasharray="{}"/></svg>{}</li>'
            ).format(number, _DASHES[number // 3 % 4], escape(name))
            for number, name in enumerate(lines)
        ]
        return Markup('<ul class="legend">{}</ul>').format(Markup("").join(keys))


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """About five numbers from ``low`` to ``high`` for the axis; one where they are the same."""
    if high <= low:
        return [low]
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [10.0**power for power in powers if low <= 10.0**power <= high] or [low, high]
    if float(low).is_integer() and float(high).is_integer() and high - low <= 5:
        return [float(value) for value in range(int(low), int(high) + 1)]
    return [low + (high - low) * step / 4 for step in range(5)]
