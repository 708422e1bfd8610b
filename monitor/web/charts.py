"""Charts as SVG texts: the course of the probability with its band, the stages over time, and what was wrong.

Pure: points in, text out. Every text that came from outside is escaped. Colours are classes of the style sheet; nothing
is told by colour alone: lanes carry their words, marks their shapes, and a table beside the chart the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median

from markupsafe import Markup, escape

from monitor.vocabulary import PHASES, Outcome, elapsed_h
from monitor.web.tracks import Point
from monitor.web.words import PHASE_WORDS, probability_words

Place = Callable[[float], float]  # a value of the x axis -> where it lies in the chart

USUAL_END_H = 120.0  # a chart reaches to here at least: five days
GAP_IN_INTERVALS = 2.5
_LETTER = 12.0  # width of one in a lane, in units of the chart

_WIDTH, _LEFT, _RIGHT = 1000.0, 74.0, 20.0
_TOP, _CURVE_H = 16.0, 220.0
_LANES = {"live": 266.0, "path": 322.0, "frames": 378.0}
_LANE_H = 34.0
_HEIGHT = 466.0


@dataclass(frozen=True)
class Axis:
    """Where each point lies on the x axis: `xs`, None for one whose time is not known. `hours`: its unit."""

    label: str
    hours: bool
    xs: tuple[float | None, ...]
    end: float

    @property
    def known(self) -> list[float]:
        return [x for x in self.xs if x is not None]


def axis_of(points: Sequence[Point], end: float = USUAL_END_H) -> Axis:
    """Hours post insemination where they are known, else hours since the first frame, else frame by frame."""
    if any(point.hpi is not None for point in points):
        return _axis("hours post insemination", True, [point.hpi for point in points], end)
    first = next((point.at for point in points if point.at is not None), None)
    if first is not None:
        hours = [None if point.at is None else elapsed_h(point.at, first) for point in points]
        return _axis("hours since the first frame (time zero is not known)", True, hours, end)
    return _axis("frame by frame (no clock is known)", False, [float(n) for n in range(len(points))], 1.0)


def _axis(label: str, hours: bool, xs: Sequence[float | None], end: float) -> Axis:
    last = max((x for x in xs if x is not None), default=0.0)
    step = 12 if hours else 1
    return Axis(label, hours, tuple(xs), max(end, step * ceil(last / step)))


@dataclass(frozen=True)
class _Span:
    """From `x0` to `x1` one word held; None: no word."""

    x0: float
    x1: float
    word: str | None


def _stretches(points: Sequence[Point], axis: Axis) -> Iterator[list[tuple[float, Point]]]:
    """Neighbouring frames, cut where a gap is: a line across it would say what nobody saw."""
    placed = sorted(
        ((x, point) for x, point in zip(axis.xs, points, strict=True) if x is not None and x >= 0),
        key=lambda pair: pair[0],
    )
    steps = [later[0] - sooner[0] for sooner, later in pairwise(placed)]
    widest = GAP_IN_INTERVALS * median(steps) if steps else 0.0
    stretch: list[tuple[float, Point]] = []
    for x, point in placed:
        if stretch and x - stretch[-1][0] > widest > 0:
            yield stretch
            stretch = []
        stretch.append((x, point))
    if stretch:
        yield stretch


def _judged_stretches(points: Sequence[Point], axis: Axis) -> Iterator[list[tuple[float, float, float | None]]]:
    """(x, probability, spread), cut also at frames without a number."""
    for stretch in _stretches(points, axis):
        run: list[tuple[float, float, float | None]] = []
        for x, point in stretch:
            if point.probability is None:
                if run:
                    yield run
                run = []
            else:
                run.append((x, point.probability, point.spread))
        if run:
            yield run


def _spans(points: Sequence[Point], axis: Axis) -> Iterator[_Span]:
    """The live stage over time."""
    for stretch in _stretches(points, axis):
        start, word = stretch[0][0], stretch[0][1].stage
        for x, point in stretch:
            if point.stage != word:
                yield _Span(start, x, word)
                start, word = x, point.stage
        yield _Span(start, stretch[-1][0], word)


# -- the small chart of a card -----------------------------------------------------------------------------------------


def spark(points: Sequence[Point], axis: Axis) -> Markup:
    """Probability above, stages below; every card of an incubator has the same axis, so that they compare."""
    width, curve, strip = 200.0, 44.0, 12.0

    def at(x: float) -> float:
        return width * x / axis.end

    parts = [f'<rect class="paper" x="0" y="0" width="{width:.0f}" height="{curve:.0f}"/>']
    parts.append(f'<path class="grid" d="M0 {curve / 2:.0f}H{width:.0f}"/>')
    for run in _judged_stretches(points, axis):
        parts.append(_line([(at(x), curve * (1 - p)) for x, p, _ in run], "curve"))
    for span in _spans(points, axis):
        if span.word is not None:
            parts.append(_bar(at(span.x0), at(span.x1), curve + 3, strip, span.word))
    unit = "h" if axis.hours else ""
    told = [(x, point) for x, point in zip(axis.xs, points, strict=True) if point.probability is not None]
    says = "no probability yet"
    if told and told[0][0] is not None and told[-1][0] is not None:
        (x0, first), (x1, last) = told[0], told[-1]
        p0, p1 = probability_words(first.probability), probability_words(last.probability)
        says = f"P(blastocyst) {p0} at {x0:.0f} {unit}, {p1} at {x1:.0f} {unit}"
    return _svg(width, curve + strip + 3, "spark", says, parts)


# -- the large one -----------------------------------------------------------------------------------------------------


def course(points: Sequence[Point], onsets_h: Mapping[str, float], first_phase: str | None) -> Markup:
    """The whole course of one embryo. `onsets_h`: the likeliest path's, by phase; `first_phase`: where it began."""
    axis = axis_of(points)

    def at(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(x / axis.end, 0.0), 1.0)

    parts = [*_grid(axis, at), *_curve(points, axis, at)]
    parts += _lane("live", "stage, live", [s for s in _spans(points, axis) if s.word], at)
    if axis.hours:
        parts += _lane("path", "stage, revised", list(_path(onsets_h, first_phase, axis)), at)
    else:
        parts += _lane("path", "stage, revised", [], at)
    parts += _frames_lane(points, axis, at)
    parts.append(f'<line class="cursor" x1="-9" x2="-9" y1="{_TOP:.0f}" y2="{_LANES["frames"] + _LANE_H:.0f}"/>')
    last = next((point for point in reversed(points) if point.probability is not None), None)
    says = (
        "No probability is known yet."
        if last is None
        else f"The last probability is {probability_words(last.probability)}."
    )
    chart = _svg(_WIDTH, _HEIGHT, "course", f"Course over {axis.label}. {says} The table below has the numbers.", parts)
    return Markup('<div class="plot" data-left="{}" data-right="{}" data-width="{}" data-end="{}">{}</div>').format(
        _LEFT, _RIGHT, _WIDTH, axis.end, chart
    )


def _grid(axis: Axis, at: Place) -> Iterator[str]:
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _TOP + _CURVE_H * (1 - level)
        yield f'<path class="grid" d="M{_LEFT:.0f} {y:.0f}H{_WIDTH - _RIGHT:.0f}"/>'
        yield f'<text class="tick" x="{_LEFT - 8:.0f}" y="{y + 7:.0f}" text-anchor="end">{level:.2f}</text>'
    by_hours = 24.0 if axis.end > 72 else 12.0
    step = by_hours if axis.hours else float(max(1, ceil(axis.end / 8)))
    x, bottom = 0.0, _LANES["frames"] + _LANE_H
    while x <= axis.end:
        yield f'<path class="grid" d="M{at(x):.1f} {_TOP:.0f}V{bottom:.0f}"/>'
        yield f'<text class="tick" x="{at(x):.1f}" y="{bottom + 24:.0f}" text-anchor="middle">{x:.0f}</text>'
        x += step
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text class="tick" x="{middle:.0f}" y="{bottom + 50:.0f}" text-anchor="middle">{escape(axis.label)}</text>'


def _curve(points: Sequence[Point], axis: Axis, at: Place) -> Iterator[str]:

    def y(p: float) -> float:
        return _TOP + _CURVE_H * (1 - min(max(p, 0.0), 1.0))

    runs = list(_judged_stretches(points, axis))
    for run in runs:
        for banded in _with_spread(run):
            above = [(at(x), y(p + spread / 2)) for x, p, spread in banded]
            below = [(at(x), y(p - spread / 2)) for x, p, spread in reversed(banded)]
            yield f'<path class="band" d="{_path_of([*above, *below])}Z"/>'
    for run in runs:
        yield _line([(at(x), y(p)) for x, p, _ in run], "curve")
    if runs:
        x, p, _ = runs[-1][-1]
        yield f'<circle class="dot" cx="{at(x):.1f}" cy="{y(p):.1f}" r="6"/>'


def _with_spread(run: list[tuple[float, float, float | None]]) -> Iterator[list[tuple[float, float, float]]]:
    banded: list[tuple[float, float, float]] = []
    for x, p, spread in run:
        if spread is None:
            if len(banded) > 1:
                yield banded
            banded = []
        else:
            banded.append((x, p, spread))
    if len(banded) > 1:
        yield banded


def _path(onsets_h: Mapping[str, float], first_phase: str | None, axis: Axis) -> Iterator[_Span]:
    """The likeliest path that never steps back, from its onsets; before the first onset the phase it began with."""
    known = axis.known
    entered = sorted((hour, phase) for phase, hour in onsets_h.items())
    if first_phase is not None and known:
        entered.insert(0, (max(min(known), 0.0), first_phase))
    if not entered or not known:
        return
    ends = [hour for hour, _ in entered[1:]] + [max(known)]
    for (hour, phase), end in zip(entered, ends, strict=True):
        yield _Span(hour, max(hour, end), phase)


def _lane(name: str, title: str, spans: Sequence[_Span], at: Place) -> Iterator[str]:
    y = _LANES[name]
    yield f'<text class="lane" x="{_LEFT:.0f}" y="{y - 5:.0f}">{escape(title)}</text>'
    if not spans:
        width, height = _WIDTH - _LEFT - _RIGHT, _LANE_H - 8
        yield f'<rect class="none" x="{_LEFT:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}"/>'
        yield f'<text class="tick" x="{_LEFT + 8:.0f}" y="{y + 18:.0f}">unknown: no stage was told</text>'
        return
    for span in spans:
        yield _bar(at(span.x0), at(span.x1), y, _LANE_H - 8, span.word or "", worded=True)


def _frames_lane(points: Sequence[Point], axis: Axis, at: Place) -> Iterator[str]:
    """A cross where a frame was not judged, a small stroke where something was odd about it."""
    y = _LANES["frames"]
    yield f'<text class="lane" x="{_LEFT:.0f}" y="{y - 5:.0f}">pictures: | something odd, × not judged</text>'
    yield f'<path class="grid" d="M{_LEFT:.0f} {y + 10:.0f}H{_WIDTH - _RIGHT:.0f}"/>'
    odd, lost = [], []
    for x, point in zip(axis.xs, points, strict=True):
        if x is None or x < 0:
            continue
        if point.outcome not in (Outcome.JUDGED.value, Outcome.REVISED.value):
            lost.append(f"M{at(x) - 5:.1f} {y + 5:.0f}l10 10m-10 0l10 -10")
        elif point.flags:
            odd.append(f"M{at(x):.1f} {y + 4:.0f}v12")
    yield f'<path class="odd" d="{"".join(odd)}"/>' if odd else ""
    yield f'<path class="lost" d="{"".join(lost)}"/>' if lost else ""


# -- pieces ------------------------------------------------------------------------------------------------------------


def _bar(x0: float, x1: float, y: float, height: float, phase: str, worded: bool = False) -> str:
    number = PHASES.index(phase) if phase in PHASES else 0
    words = escape(PHASE_WORDS.get(phase, phase))
    width = max(x1 - x0, 1.0)
    bar = (
        f'<g class="s{number}"><title>{escape(phase)}: {words}</title>'
        f'<rect x="{x0:.1f}" y="{y:.0f}" width="{width:.1f}" height="{height:.0f}"/>'
    )
    if worded and width > _LETTER * len(phase) + 6:
        x, base = x0 + width / 2, y + height / 2 + 7
        bar += f'<text x="{x:.1f}" y="{base:.1f}" text-anchor="middle">{escape(phase)}</text>'
    return bar + "</g>"


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    if len(points) == 1:  # a line of one point would not be seen
        return f'<circle class="dot" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.5"/>'
    return f'<path class="{kind}" d="{_path_of(points)}"/>'


def _path_of(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _svg(width: float, height: float, kind: str, says: str, parts: Sequence[str]) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, says, Markup("".join(parts))
    )
