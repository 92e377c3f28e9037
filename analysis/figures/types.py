"""The values of a figure before it is drawn: curves over splits, and rows of a forest plot."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A curve of one method over its splits; the arrays are (points,).

    Attributes:
        method: Name of the method, or another name for the legend.
        x: Positions.
        mean: Mean over the splits.
        low: Minimum over the splits, or the lower end of an interval.
        high: Maximum over the splits, or the upper end of an interval.
        points: Single splits, shown as dots; (dots, 2) of x and y.
    """

    method: str
    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    points: FloatArray = field(default_factory=lambda: np.empty((0, 2)))

    @classmethod
    def over_splits(cls, method: str, x: FloatArray, values: npt.ArrayLike) -> Series:
        """Return mean, minimum and maximum of values (splits, points); NaN where no split defines the point."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=RuntimeWarning)  # about points that are NaN in every split
            seen = np.asarray(values, dtype=np.float64)
            return cls(method, x, np.nanmean(seen, 0), np.nanmin(seen, 0), np.nanmax(seen, 0))


@dataclass(frozen=True)
class LineFigure:
    """Curves on one pair of axes.

    Attributes:
        name: File name without its ending.
        title: What the figure shows, in a few words.
        note: How to read it, in one sentence.
        series: One curve per method; a figure without series is not shown.
        y_limits: Range of the y axis; None to fit the curves.
        spread: How low and high are drawn: `dotted` lines, a `band`, `bars` side by side, or `none`.
        x_scale: `linear` or `log`.
        reference: A reference line: `none`, `zero` or `diagonal`.
        steps: Whether a curve keeps its value up to the next point.
        marks: A marked point (x, y) of each method's curve, by method.
        ticks: Names of positions that are not numbers; no line joins positions more than 1 apart.
        region: Half width of the shaded region around 0; None for no region.
        columns: Names of mean, low and high in the CSV file.
    """

    name: str
    title: str
    note: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_limits: tuple[float, float] = (0.0, 1.0)
    y_limits: tuple[float, float] | None = None
    spread: str = "band"
    x_scale: str = "linear"
    reference: str = "none"
    steps: bool = False
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ticks: Mapping[float, str] = field(default_factory=dict)
    region: float | None = None
    columns: tuple[str, str, str] = ("mean", "minimum", "maximum")

    @property
    def is_zero(self) -> bool:
        """Whether every value of every curve is 0, or not defined."""
        return not any(np.nan_to_num(series.mean).any() for series in self.series)

    @property
    def alternative_text(self) -> str:
        """The figure in words, for readers who do not see it."""
        describe = self._points if self.ticks else self._trend
        curves = "; ".join(f"{series.method}{':' if self.ticks else ''} {describe(series)}" for series in self.series)
        return f"{self.title}. {self.y_label} against {self.x_label}. {curves}."

    def _trend(self, series: Series) -> str:
        defined = ~np.isnan(series.mean)
        x, mean = series.x[defined], series.mean[defined]
        top = int(np.argmax(mean))
        ends = f"from {mean[0]:.3f} at {x[0]:.3g} to {mean[-1]:.3f} at {x[-1]:.3g}"
        inner = 0 < top < len(mean) - 1 and not math.isclose(mean[top], max(mean[0], mean[-1]))
        return f"{ends}, highest {mean[top]:.3f} at {x[top]:.3g}" if inner else ends

    def _points(self, series: Series) -> str:
        sign = "+" if self.reference == "zero" else ""
        points = zip(series.x, series.mean, series.low, series.high, strict=True)
        words = []
        for x, mean, low, high in points:
            ends = f" ({low:{sign}.4f} to {high:{sign}.4f})" if math.isfinite(low) else ""
            words.append(f"{self.ticks[float(x)]} {mean:{sign}.4f}{ends}".replace("\n", " "))
        return ", ".join(words)


@dataclass(frozen=True)
class ForestRow:
    """One method of a forest plot; the interval is (low, high).

    Attributes:
        estimate: Difference to the method's control.
        interval: The interval that decides.
        decision: The decision in one word.
    """

    method: str
    estimate: float
    interval: tuple[float, float]
    decision: str


@dataclass(frozen=True)
class ForestFigure:
    """Differences to the methods' controls in one figure, with their intervals; texts are as in `LineFigure`.

    Attributes:
        region: Half width of the region of practical equivalence.
        rows: One row per method, in the study's order.
    """

    name: str
    title: str
    note: str
    x_label: str
    region: float
    rows: tuple[ForestRow, ...]

    @property
    def alternative_text(self) -> str:
        """The figure in words, for readers who do not see it."""
        words = "; ".join(
            f"{row.method} {row.estimate:+.4f}, {row.interval[0]:+.4f} to {row.interval[1]:+.4f}, {row.decision}"
            for row in self.rows
        )
        return f"{self.title}, with 95 % intervals. {words}."
