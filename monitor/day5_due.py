"""When an embryo's day-5 work is due, and whose comes first: pure decisions, for the daemon to ask between frames.

Day 5 is 116 +- 2 h post insemination, or as soon as a blastocyst begins to form (tSB). From then on a newer frame is
worked on again, at most once in `AGAIN_AFTER_H`. No work is due while a frame waits for its step. It refuses to know
clocks, queues and networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from monitor.vocabulary import PHASES

DAY_5_H = 116.0
DAY_5_EITHER_WAY_H = 2.0
AGAIN_AFTER_H = 1.0  # 240 embryos at 8 steps of 55 ms each are under two minutes of work an hour
_BLASTOCYST_FROM = PHASES.index("tSB")


class Work(str, Enum):
    """`JUDGE`: crop, segment, grade. `SAY_NONE`: day 5 is here and no blastocyst is; say so, no network need run.
    `NOTHING`: nothing is due."""

    JUDGE = "judge"
    SAY_NONE = "say_none"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Progress:
    """What is known of one embryo.

    `newest_order`: of its newest frame that was judged fit (`Moment.order`), None where there is none; `newest_h`: that
    frame's hours on any fixed zero; `hpi`: hours post insemination, None where time zero is unknown. `furthest`: the
    latest phase it has reached, so that a collapse that looks like a morula takes nothing back; None without a history.
    `done_order`, `done_h`: of the frame last worked on, None before the first.
    """

    embryo_id: str
    newest_order: float | None
    newest_h: float | None
    hpi: float | None
    furthest: str | None
    done_order: float | None = None
    done_h: float | None = None


def due(one: Progress, again_after_h: float = AGAIN_AFTER_H) -> Work:
    """What is to be done for this embryo now. Raises ValueError on a phase that is none."""
    if one.furthest is not None and one.furthest not in PHASES:
        raise ValueError(f"{one.embryo_id}: `{one.furthest}` is no phase; phases are {', '.join(PHASES)}")
    if one.newest_order is None or not _is_news(one, again_after_h):
        return Work.NOTHING
    if one.furthest is not None and PHASES.index(one.furthest) >= _BLASTOCYST_FROM:
        return Work.JUDGE
    if one.hpi is None or one.hpi < DAY_5_H - DAY_5_EITHER_WAY_H:
        return Work.NOTHING
    return Work.JUDGE if one.furthest is None else Work.SAY_NONE


def next_due(
    embryos: Iterable[Progress], frames_waiting: int, again_after_h: float = AGAIN_AFTER_H
) -> tuple[Progress, Work] | None:
    """Whose work comes first: never worked on before worked on, of those the one that waits longest; None while a frame
    waits for its step or nothing is due. Equal ones in order of their id, so that the same standing gives the same
    choice."""
    if frames_waiting > 0:
        return None
    waiting = [(one, work) for one in embryos if (work := due(one, again_after_h)) is not Work.NOTHING]
    return min(waiting, key=lambda pair: _turn(pair[0]), default=None)


def _is_news(one: Progress, again_after_h: float) -> bool:
    """A frame newer than the one last worked on, and far enough from it where hours are known."""
    if one.done_order is None:
        return True
    if one.newest_order is None or one.newest_order <= one.done_order:
        return False
    if one.newest_h is None or one.done_h is None:
        return True
    return one.newest_h - one.done_h >= again_after_h - 1e-6


def _turn(one: Progress) -> tuple[bool, float, str]:
    waited_h = (one.newest_h or 0.0) - (one.done_h or 0.0)
    return one.done_order is not None, -waited_h, one.embryo_id
