"""What the public time-lapse videos say about when embryos do what: the numbers that virtual lives are held against.

Gomez et al. 2022 (Zenodo 7912264): onsets and intervals of 82 videos, shares and skips of 524. Hours are hours post
insemination. Nothing here is fitted: what was fitted to these numbers stands in `timing`.
"""

from __future__ import annotations

from collections.abc import Mapping

PHASES = (
    "tPB2", "tPNa", "tPNf", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9+", "tM", "tSB", "tB", "tEB", "tHB",
)  # fmt: skip

ONSET_VIDEOS = 82
SHARE_VIDEOS = 524
ONSET_PERCENT = (5, 25, 50, 75, 95)
INTERVAL_PERCENT = (5, 50, 95)

# of the videos that reach the phase; tHB is nearly absent from the public labels
ONSET_H: Mapping[str, tuple[float, ...]] = {
    "tPB2": (2.0, 2.7, 3.4, 4.4, 5.8),
    "tPNa": (4.4, 5.6, 6.8, 7.8, 9.7),
    "tPNf": (16.6, 20.4, 21.8, 24.7, 28.1),
    "t2": (19.0, 22.8, 24.4, 27.5, 31.4),
    "t3": (27.4, 31.8, 35.0, 38.3, 43.4),
    "t4": (28.9, 33.0, 35.9, 40.0, 44.5),
    "t5": (35.4, 42.8, 45.9, 51.6, 57.3),
    "t6": (40.1, 44.5, 48.7, 53.2, 60.0),
    "t7": (37.0, 44.9, 48.7, 54.3, 63.6),
    "t8": (40.6, 47.1, 51.7, 58.8, 70.4),
    "t9+": (49.7, 60.1, 65.7, 71.6, 81.9),
    "tM": (69.1, 77.3, 83.9, 93.2, 102.4),
    "tSB": (76.9, 84.7, 90.4, 99.7, 110.4),
    "tB": (83.6, 89.1, 99.3, 106.7, 117.2),
    "tEB": (84.4, 91.1, 103.7, 109.1, 128.7),
}
# (earlier, later) -> hours between them, of the videos that show both
INTERVAL_H: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("tPNf", "t2"): (1.5, 2.2, 2.9),
    ("t2", "t3"): (6.4, 10.2, 13.5),
    ("t3", "t4"): (0.25, 0.72, 6.2),
    ("t3", "t5"): (1.9, 11.2, 15.5),
    ("t5", "t8"): (1.4, 4.4, 23.3),
    ("t8", "t9+"): (0.9, 14.3, 21.5),
    ("t9+", "tM"): (7.5, 17.1, 33.6),
    ("tM", "tSB"): (2.2, 6.2, 15.8),
    ("tSB", "tB"): (2.8, 6.6, 11.1),
    ("tB", "tEB"): (0.7, 1.7, 11.4),
}
# share of all videos in which a phase is seen
REACHED: Mapping[str, float] = {
    "t2": 0.99, "t3": 0.75, "t4": 0.93, "t5": 0.76, "t6": 0.78, "t7": 0.73, "t8": 0.87, "t9+": 0.86, "tM": 0.79,
    "tSB": 0.72, "tB": 0.64, "tEB": 0.52,
}  # fmt: skip
# (from, to) -> share of all videos in which one is followed by the other at once
SKIPPED: Mapping[tuple[str, str], float] = {
    ("t2", "t4"): 0.24,
    ("t4", "t6"): 0.18,
    ("t6", "t8"): 0.17,
    ("t5", "t7"): 0.12,
}
# the numbers above hardly hold direct cleavages; studies that look for them count 10 to 25 %
DIRECT_CLEAVAGE_SHARE = 0.12
DIRECT_CLEAVAGE_H = 5.0  # t3 - t2 below this
LEAST_GAP_H = 0.19  # the shortest wait between two frames: onsets closer than this are one
