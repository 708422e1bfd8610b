"""The picture of a run's losses. It knows the CSV that run.py writes, and nothing of the run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SMOOTHED_OVER = 25  # steps


def draw_curves(losses: Path, out: Path) -> None:
    """Outcome loss and auxiliary loss over the minutes, single frames and clips apart, smoothed; a PNG."""
    with losses.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, told) in enumerate((("loss", "loss of the outcome"), ("signs_loss", "loss of the signs"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for part in ("frames", "clips"):
            points = [(float(row["spent_s"]) / 60, float(row[name])) for row in rows if row["part"] == part]
            if points:
                minutes, values = np.array(points).T
                width = min(SMOOTHED_OVER, len(values))
                smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
                axes.plot(minutes[width - 1 :], smooth, label=part)
        axes.set(xlabel="minutes of optimiser steps", ylabel=told)
        axes.legend()
    figure.savefig(out, dpi=120)
