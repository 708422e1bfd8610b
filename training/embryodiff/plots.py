"""Pictures of an evaluation: the confusion matrix, and a timeline for each video. It computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monitor.vocabulary import PHASES

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def confusion(table: npt.NDArray[np.int64], out: Path) -> None:
    """Rows are the truth, in shares of each row; the numbers are frames."""
    figure = Figure(figsize=(8.0, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        shade = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", fontsize=7, color=shade)
    axes.set_xticks(range(len(PHASES)), PHASES, rotation=60)
    axes.set_yticks(range(len(PHASES)), PHASES)
    axes.set(xlabel="said", ylabel="is")
    figure.savefig(out, dpi=130)


def timeline(
    title: str, hours_h: Floats, lines: Mapping[str, Labels], probabilities: Floats, onsets_sd_h: Mapping[str, float],
    onsets_h: Mapping[str, float], out: Path
) -> None:  # fmt: skip
    """Phases over hours, a line for each predictor, onsets with their standard deviation; below it the posterior."""
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for name, labels in lines.items():
        known = labels >= 0
        above.step(hours_h[known], labels[known], where="post", label=name, linewidth=1.4)
    for phase, hour in onsets_h.items():
        above.errorbar(hour, PHASES.index(phase), xerr=onsets_sd_h[phase], color="black", capsize=2, linewidth=0.8)
    above.set_yticks(range(len(PHASES)), PHASES)
    above.set(title=title)
    above.legend(loc="lower right", fontsize=8)
    extent = (float(hours_h[0]), float(hours_h[-1]), -0.5, len(PHASES) - 0.5)
    below.imshow(probabilities.T, aspect="auto", origin="lower", extent=extent, cmap="magma", vmin=0, vmax=1)
    below.set_yticks(range(len(PHASES)), PHASES, fontsize=7)
    below.set(xlabel="hours", ylabel="raw posterior")
    figure.savefig(out, dpi=120)
