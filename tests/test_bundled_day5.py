"""The bundled models of day 5: every frame ends in a clear outcome, drawn parts are found where they lie."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from engines.day5 import EXPANSIONS, Part, label_image
from engines.day5_models import Day5Models, load_day5
from engines.load import BUNDLED_MODELS
from monitor.day5_judge import Day5Judge, Judged5
from monitor.simulator import VirtualEmbryo
from monitor.simulator.optics import FIELD_UM, PLANES_UM

SIZE_PX = 400
STORK = Path(__file__).resolve().parents[2] / "shared" / "data" / "stork"
FULL = {1_000_000 + seed: 116.0 for seed in (1, 3, 4)}  # of the fixed test embryos: blastocysts at that hour


@lru_cache(maxsize=1)
def models() -> Day5Models:
    return load_day5(BUNDLED_MODELS, "cpu", threads=1)


def judged(stack: np.ndarray, stage: str | None = None) -> Judged5:
    planes = dict(zip(PLANES_UM, stack, strict=True))
    return Day5Judge(models()).judge(planes, stage, still=False, um_per_px=FIELD_UM / SIZE_PX, title="test")


def test_a_segmenter_and_both_graders_are_there_and_weigh_under_10_mb_together() -> None:
    assert models().segmenter == "i2cnet-small" and models().graders == ("gardner-small", "memebg-small")
    files = [path for name in models().digests for path in BUNDLED_MODELS.glob(f"{name}.*")]
    assert len(files) == 2 * len(models().digests)
    assert sum(path.stat().st_size for path in files) < 10_000_000


def test_a_drawn_blastocyst_is_parted_much_as_it_was_drawn_and_gets_an_outcome() -> None:
    for seed, hpi_h in FULL.items():
        embryo = VirtualEmbryo(seed, arrest_share=0.0)
        stack = embryo.stack(hpi_h, SIZE_PX)
        planes = dict(zip(PLANES_UM, stack, strict=True))
        found = models().find(planes, still=False)
        labels, square = models().segment(planes, found)  # type: ignore[arg-type]
        truth = square.cut_labels(label_image(embryo.masks(hpi_h, SIZE_PX)))
        body = [np.isin(one, (Part.ICM, Part.BLASTOCOEL, Part.TE)) for one in (labels, truth)]
        assert (body[0] & body[1]).sum() > 0.85 * (body[0] | body[1]).sum()
        told = judged(stack)
        assert told.outcome in ("graded", "not_gradable") and told.picture is not None
        assert told.reading.measured is not None and told.reading.measured.unit == "um"


def test_an_empty_well_is_no_embryo_and_a_picture_without_anything_is_none() -> None:
    embryo = VirtualEmbryo(1_000_003)
    assert judged(embryo.empty(116.0, SIZE_PX)).outcome == "no_embryo"
    assert judged(np.full((7, SIZE_PX, SIZE_PX), 90, np.uint8)).outcome == "no_embryo"
    noise = np.random.default_rng(0).integers(0, 255, (7, SIZE_PX, SIZE_PX)).astype(np.uint8)
    assert judged(noise).outcome == "no_embryo"


def test_a_picture_upside_down_is_read_as_the_one_it_is_of() -> None:
    for seed, hpi_h in FULL.items():
        stack = VirtualEmbryo(seed, arrest_share=0.0).stack(hpi_h, SIZE_PX)
        up, down = judged(stack), judged(np.ascontiguousarray(stack[:, ::-1, ::-1]))
        assert {up.outcome, down.outcome} <= {"graded", "not_gradable"}
        one, other = (
            sum(e * told.reading.expansion.probabilities[e] for e in EXPANSIONS)
            for told in (up, down)
            if told.reading.expansion is not None
        )
        assert abs(one - other) < 1.0  # of six steps


def test_below_tsb_no_network_turns_a_blastocyst_out_of_the_history() -> None:
    told = judged(VirtualEmbryo(1_000_003).stack(40.0, SIZE_PX), stage="t4")
    assert (told.outcome, told.reading.grade.expansion) == ("no_blastocyst", None)


@pytest.mark.skipif(not STORK.is_dir(), reason="the real pictures (../shared/data) are not beside the checkout")
def test_ten_real_blastocysts_each_get_a_clear_outcome_and_a_picture() -> None:
    from monitor.day5_sheet import judged_sheet

    sheet, known = judged_sheet(STORK, [], Day5Judge(models()))
    assert len(known) == 10 and sheet.ndim == 3
    assert all(one.reading.measured is not None for one in known)  # crop found and parts seen on all
