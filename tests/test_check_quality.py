"""What a look at a folder's pictures says of the limits: percentiles, what would be unfit, and limits that suit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from monitor.check import folder_findings
from monitor.check_quality import FEWEST_TO_PROPOSE, FRAMES_LOOKED_AT, propose_limits, quality_findings, toml
from monitor.config import Incubator, read_config
from monitor.errors import FrameError
from monitor.finding import Finding
from monitor.observe import Limits, unfit_for
from monitor.vocabulary import FileSeen, Gray, Measured, Moment, Place, PlaneFile
from tests.house import START, write_frame


def incubator(path: Path = Path("/srv/none"), **more: object) -> Incubator:
    return Incubator.model_validate({"name": "inc1", "path": path, "planes": [0], **more})


def planes(count: int, planes_um: tuple[int, ...] = (0,)) -> list[PlaneFile]:
    return [
        PlaneFile(Place("inc1", "D1", "1"), Moment(run=run), plane_um, FileSeen(f"{run}_F{plane_um}", 1, 1))
        for run in range(1, count + 1)
        for plane_um in planes_um
    ]


def noise(level: int, spread: int = 30) -> Callable[[PlaneFile], Gray]:
    """Reads every plane as noise of its own around a level."""
    return lambda plane: (
        np.random.default_rng(plane.moment.run).normal(level, spread, (60, 60)).clip(0, 255).astype(np.uint8)
    )


def told(found: list[Finding], word: str) -> Finding:
    (finding,) = [finding for finding in found if word in finding.detail]
    return finding


def test_good_pictures_are_told_with_their_percentiles_and_without_a_warning() -> None:
    found = list(quality_findings(incubator(), planes(60), Path("/"), noise(100)))
    assert {finding.level for finding in found} == {"ok"}
    assert {finding.what for finding in found} == {"inc1 quality"}
    assert "60 frames looked at (2 %, median, 98 %): mean_gray 9" in told(found, "looked at").detail


def test_frames_that_would_not_be_judged_are_a_warning_with_the_reasons() -> None:
    def read(plane: PlaneFile) -> Gray:
        return np.full((60, 60), 3 if (plane.moment.run or 0) % 3 else 90, np.uint8)

    finding = told(list(quality_findings(incubator(), planes(9), Path("/"), read)), "would not be judged")
    assert finding.level == "warning"
    assert finding.detail.startswith("9 of them would not be judged with the present limits: 3 blank, 6 dark")


def test_the_incubators_own_limits_are_the_present_ones() -> None:
    found = quality_findings(incubator(quality={"mean_gray": 150}), planes(5), Path("/"), noise(100))
    assert "5 of them would not be judged" in told(list(found), "present limits").detail


def test_at_most_200_frames_are_read_evenly_over_all_with_all_their_planes() -> None:
    read = []

    def reader(plane: PlaneFile) -> Gray:
        read.append(plane)
        return noise(100)(plane)

    list(quality_findings(incubator(), planes(2000, (-15, 0)), Path("/"), reader))
    runs = [plane.moment.run for plane in read]
    assert len(read) == 2 * FRAMES_LOOKED_AT
    assert (min(runs), max(runs), len(set(runs))) == (1, 2000, FRAMES_LOOKED_AT)


def test_pictures_that_do_not_decode_are_passed_over_and_none_at_all_says_nothing() -> None:
    def half(plane: PlaneFile) -> Gray:
        if (plane.moment.run or 0) % 2:
            raise FrameError("truncated", "cut off")
        return noise(100)(plane)

    assert told(list(quality_findings(incubator(), planes(60), Path("/"), half)), "looked at").detail[:2] == "30"
    assert list(quality_findings(incubator(), planes(60), Path("/nowhere"))) == []
    assert list(quality_findings(incubator(), [], Path("/"))) == []


def test_few_pictures_are_no_ground_for_limits() -> None:
    found = list(quality_findings(incubator(), planes(FEWEST_TO_PROPOSE - 1), Path("/"), noise(100)))
    assert not [finding for finding in found if "quality = {" in finding.detail]


def test_the_proposed_line_is_toml_that_the_configuration_takes(tmp_path: Path) -> None:
    found = list(quality_findings(incubator(), planes(80), Path("/"), noise(120)))
    line = told(found, "quality = {").detail.partition("if all is well with them: ")[2]
    sections = '[site]\nname = "a"\nnode = "b"\n[mqtt]\nhost = "h"\n[storage]\npath = "/s"\n'
    (tmp_path / "p.toml").write_text(f'{sections}[[incubator]]\nname = "inc1"\npath = "/i"\n{line}\n')
    limits = read_config(tmp_path / "p.toml").incubator[0].quality.limits
    assert limits.mean_gray == pytest.approx(120 / 3, abs=2)


def seen(mean_gray: float, ratio: float = 0.1, sharpness: float = 1.4) -> Measured:
    return Measured(mean_gray=mean_gray, contrast_gray=ratio * mean_gray, sharpness=sharpness, sharpest_plane_um=0)


def test_one_bad_frame_in_a_hundred_moves_no_proposed_limit() -> None:
    good = [seen(60 + k % 10, 0.06 + 0.001 * (k % 20), 1.2 + 0.01 * (k % 30)) for k in range(198)]
    limits = propose_limits(good)
    assert propose_limits([*good, seen(0, 0, 0), seen(255, 0.9, 9)]) == limits
    assert not any(unfit_for(one, limits) for one in good)
    assert limits == Limits(mean_gray=20.0, mean_gray_most=103.5, contrast_ratio=0.025, sharpness=0.75)
    assert toml(limits).startswith("quality = { mean_gray = 20, mean_gray_most = 103.5, contrast_ratio = 0.025, ")


def test_black_and_white_pictures_still_give_limits_that_leave_something_between() -> None:
    for level in (0.0, 255.0):
        limits = propose_limits([seen(level)] * 60)
        assert limits.mean_gray < limits.mean_gray_most


def test_a_look_over_a_folder_ends_with_its_quality(tmp_path: Path) -> None:
    for hour in range(3):
        write_frame(tmp_path, "1", START + timedelta(hours=hour), (0,))
    assert "3 frames looked at" in told(list(folder_findings(incubator(tmp_path))), "looked at").detail
