"""Pictures of an evaluation: ROC curves, accuracy over time, reliability, stream against clip. It computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.amsnet.metrics import Bin, Floats
from training.amsnet.stream_pass import Streamed

Curves = Mapping[str, tuple[Floats, Floats]]  # name -> false and true positive rates


def _drawn(columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.2 * columns, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, place + 1) for place in range(columns)]


def roc(by_day: Mapping[float, Curves], out: Path) -> None:
    """One panel a day, a curve for each predictor; its name says its area."""
    figure, panels = _drawn(len(by_day))
    for axes, (day, curves) in zip(panels, by_day.items(), strict=True):
        for name, (false, true) in curves.items():
            axes.plot(false, true, label=name)
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.7)
        axes.set(title=f"day {day:g}", xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        axes.legend(loc="lower right", fontsize=8)
    figure.savefig(out, dpi=120)


def accuracy_over_time(
    days: Sequence[float], rows: Mapping[str, Sequence[float]], imaged: Sequence[int], out: Path
) -> None:
    """Accuracy by day for each predictor, and how many embryos are still imaged."""
    figure, (axes, below) = _drawn(2)
    for name, values in rows.items():
        axes.plot(days, values, marker=".", label=name)
    axes.set(xlabel="day", ylabel="accuracy", ylim=(0.0, 1.03))
    axes.legend(loc="lower right", fontsize=8)
    below.bar(days, imaged, width=0.4)
    below.set(xlabel="day", ylabel="embryos still imaged")
    figure.savefig(out, dpi=120)


def reliability(by_day: Mapping[float, Sequence[Bin]], out: Path) -> None:
    """What was said against what came true, one panel a day; a point's size is its share of embryos."""
    figure, panels = _drawn(len(by_day))
    for axes, (day, bins) in zip(panels, by_day.items(), strict=True):
        total = sum(one.count for one in bins)
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.7)
        said, came_true = [one.said for one in bins], [one.came_true for one in bins]
        axes.plot(said, came_true, linewidth=0.8)
        axes.scatter(said, came_true, s=[600 * one.count / total for one in bins], alpha=0.5)
        axes.set(title=f"day {day:g}", xlabel="said", ylabel="came true", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.savefig(out, dpi=120)


def cadences(streamed: Sequence[Streamed], out: Path, shown: int = 3) -> None:
    """The first few embryos: the stream, the clip's answers in it, and the wrong cadence."""
    figure, panels = _drawn(min(shown, len(streamed)))
    for axes, one in zip(panels, streamed, strict=False):
        axes.plot(one.hours_h, one.right, label="stream, 6-h segments", linewidth=0.9)
        axes.plot(one.hours_h, one.wrong, label="shifted at every frame", linewidth=0.9)
        axes.scatter(one.hours_h[one.at], one.clip, s=9, color="black", label="offline clip", zorder=3)
        title = "becomes a blastocyst" if one.reaches else "does not"
        axes.set(title=title, xlabel="hours post insemination", ylabel="probability", ylim=(0, 1))
    panels[0].legend(fontsize=7)
    figure.savefig(out, dpi=120)
