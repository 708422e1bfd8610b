"""An incubator's clock against the clock of the machine its files are on: ahead or behind, and by how much.

What is compared is the time in a file's name with the time the file was finished. It knows no picture; it corrects
nothing: that is the operator's `clock_skew_s`.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from statistics import median

from monitor.vocabulary import FocalStack

AHEAD_BY_S = 60.0  # NTP, a name's whole seconds and a FAT or SMB share's 2 s stay far below it
LIVE_WITHIN_S = 900.0  # a frame whose files were finished longer ago says nothing of the clock now
FRAMES = 15  # of all wells together: it follows a clock put right within eight frames


def ahead_s(stack: FocalStack, finished_at: datetime | None) -> float | None:
    """How far the name's time lies after `finished_at`, in seconds; None where the source has no clock of its own."""
    captured_at = stack.moment.captured_at
    if captured_at is None or finished_at is None:
        return None
    return (captured_at - finished_at).total_seconds()


def clock_is_ahead(stack: FocalStack, clock_skew_s: float = 0.0) -> bool:
    """Whether a frame claims to be captured after its last file was finished, which cannot be.

    `clock_skew_s`: how far the operator says the clock is ahead; only what is left after that counts.
    """
    ahead = ahead_s(stack, stack.complete_at)
    return ahead is not None and ahead - clock_skew_s > AHEAD_BY_S


class Skew:
    """The running median over the last live frames of one incubator. Positive: its clock is ahead of the files' clock.

    What a camera takes from the exposure to its first finished file counts as behind, so a right clock reads a little
    below zero.
    """

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=FRAMES)

    def see(self, stack: FocalStack, now: datetime) -> float | None:
        """Take a frame in; the median in seconds as it is now. None until a live frame with a clock has come."""
        first = min((image.source.file.mtime for image in stack.images), default=None)
        ahead = ahead_s(stack, first)
        if first is not None and ahead is not None and abs(now - first) <= timedelta(seconds=LIVE_WITHIN_S):
            self._seen.append(ahead)
        return median(self._seen) if self._seen else None
