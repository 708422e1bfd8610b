"""What the pictures in a folder measure, whether the present limits would pass them, and limits that would suit them.

It looks at a sample and judges no embryo; it changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from monitor.config import Incubator
from monitor.errors import FrameError
from monitor.finding import Finding
from monitor.observe import Limits, sharpest_of, unfit_for
from monitor.pictures import read_pages, read_plane
from monitor.survey import even_sample
from monitor.vocabulary import Gray, Measured, PlaneFile, PlaneImage

FRAMES_LOOKED_AT = 200
FEWEST_TO_PROPOSE = 50
PERCENT = 2.0  # of a lab's own frames may be bad ones: limits are set by those above it (and below 100 less it)
# how far a limit stays from that percentile: as the built-in limits stay from the frames they were set on
MARGIN = Limits(mean_gray=3.0, mean_gray_most=1.5, contrast_ratio=2.4, sharpness=1.6)

MOST_SHARPNESS = 10.0  # what the configuration takes; noise alone is less

ReadGray = Callable[[PlaneFile], Gray]


def quality_findings(
    incubator: Incubator, planes: Sequence[PlaneFile], root: Path, read: ReadGray | None = None
) -> Iterator[Finding]:
    """Measure up to 200 frames, evenly over all. `root`: where the files' paths begin; `read` decodes a plane."""
    what = f"{incubator.name} quality"
    frames, reads = _sample(planes), read or _reader(root, len(incubator.planes))
    measured = [one for frame in frames if (one := _measure(frame, reads)) is not None]
    if not measured:
        return
    present = incubator.quality.limits
    yield Finding("ok", what, f"{len(measured)} frames looked at (2 %, median, 98 %): {_percentiles(measured)}")
    reasons = [unfit_for(one, present) for one in measured]
    if unfit := sum(map(bool, reasons)):
        why = Counter(flag for flags in reasons for flag in flags)
        words = ", ".join(f"{count} {flag}" for flag, count in sorted(why.items()))
        yield Finding("warning", what, f"{unfit} of them would not be judged with the present limits: {words}")
    if len(measured) < FEWEST_TO_PROPOSE:
        yield Finding("ok", what, f"limits are proposed from {FEWEST_TO_PROPOSE} frames on")
        return
    yield Finding(
        "ok", what, f"limits for pictures like these, if all is well with them: {toml(propose_limits(measured))}"
    )


def propose_limits(measured: Sequence[Measured]) -> Limits:
    """Limits for a lab's own pictures, which are taken to be good but for one in fifty. At least one is needed."""
    rows = np.array([(one.mean_gray, _ratio(one), one.sharpness) for one in measured])
    mean_gray, ratio, sharpness = (float(low) for low in np.percentile(rows, PERCENT, axis=0))
    most = float(np.percentile(rows[:, 0], 100 - PERCENT))
    return Limits(
        mean_gray=round(mean_gray / MARGIN.mean_gray, 1),
        mean_gray_most=round(min(max(most * MARGIN.mean_gray_most, 1.0), 250.0), 1),
        contrast_ratio=round(ratio / MARGIN.contrast_ratio, 3),
        sharpness=round(min(sharpness / MARGIN.sharpness, MOST_SHARPNESS), 2),
    )


def toml(limits: Limits) -> str:
    """The line that stands in an incubator's section."""
    return (
        f"quality = {{ mean_gray = {limits.mean_gray:g}, mean_gray_most = {limits.mean_gray_most:g}, "
        f"contrast_ratio = {limits.contrast_ratio:g}, sharpness = {limits.sharpness:g} }}"
    )


def _sample(planes: Iterable[PlaneFile]) -> list[list[PlaneFile]]:
    """The planes of at most 200 frames, evenly over all, in order of embryo and time."""
    frames: dict[tuple[object, str], list[PlaneFile]] = {}
    for plane in sorted(planes, key=lambda plane: (plane.place, plane.moment.order, plane.plane_um)):
        frames.setdefault((plane.place, plane.moment.key), []).append(plane)
    return even_sample(list(frames.values()), FRAMES_LOOKED_AT)


def _measure(frame: Sequence[PlaneFile], read: ReadGray) -> Measured | None:
    """None where no plane decodes; files that cannot be used are told of elsewhere."""
    images = []
    for plane in frame:
        try:
            images.append(PlaneImage(plane, read(plane), ""))
        except FrameError:
            continue
    return sharpest_of(tuple(images))


def _reader(root: Path, pages: int) -> ReadGray:
    """Reads a plane; of a file that holds several, all at once."""

    @lru_cache(maxsize=1)
    def stack(path: str) -> list[Gray | FrameError]:
        return read_pages(root / path, pages)[0]

    def read(plane: PlaneFile) -> Gray:
        if plane.page is None:
            return read_plane(root / plane.file.path)[0]
        page = stack(plane.file.path)[plane.page]
        if isinstance(page, FrameError):
            raise page
        return page

    return read


def _ratio(one: Measured) -> float:
    return one.contrast_gray / one.mean_gray if one.mean_gray > 0 else 0.0


def _percentiles(measured: Sequence[Measured]) -> str:
    def three(values: Iterable[float], digits: int) -> str:
        low, middle, high = np.percentile(list(values), (PERCENT, 50, 100 - PERCENT))
        return f"{low:.{digits}f}, {middle:.{digits}f}, {high:.{digits}f}"

    return (
        f"mean_gray {three((one.mean_gray for one in measured), 1)}; "
        f"contrast_ratio {three((_ratio(one) for one in measured), 3)}; "
        f"sharpness {three((one.sharpness for one in measured), 2)}; "
        f"sharpest plane {three((one.sharpest_plane_um for one in measured), 0)} um"
    )
