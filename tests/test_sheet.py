"""Contact sheets: virtual beside real where the pictures are there, virtual alone where they are not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.locate import locate
from monitor.simulator import VirtualEmbryo, curves, focus, sheet

DATA = Path("../shared/data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public pictures are not beside the checkout")
SIDE_PX = 40


def halves(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = picture.shape[1] - 6 * SIDE_PX
    return picture[:, 60 : middle - 8], picture[:, middle:]


def test_without_the_pictures_the_virtual_half_is_drawn_alone(tmp_path: Path):
    virtual, real = halves(sheet.phase_sheet(tmp_path, ["t2"], SIDE_PX, False, 0, False))
    assert virtual.std() > 10
    assert not real.any()


def test_a_run_without_a_place_for_the_sheets_says_so(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        sheet.main([])
    assert "--out DIR" in capsys.readouterr().err


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        sheet.read_gray(tmp_path / "broken.jpg")


@needs_data
def test_pictures_kept_for_the_report_are_never_shown_while_tuning():
    tuning, report = (set(sheet.stork_stacks(DATA, report)) for report in (False, True))
    assert tuning
    assert report
    assert not tuning & report
    assert {name.split()[0] for name, _ in sheet.nantes_frames(DATA, "t2")} == {"AA83-7"}
    assert len(sheet.stagegen_frames(DATA, "t2")) == 30


def frame_with_a_disc(sigma_px: float) -> curves.Frame:
    """A granular disc at (120, 90) of a 250-pixel frame."""
    noise = np.random.default_rng(0).normal(0, 40, (250, 250))
    rows, columns = np.mgrid[:250, :250]
    disc = cv2.GaussianBlur(noise, (0, 0), sigma_px) * sigma_px * (np.hypot(rows - 120, columns - 90) < 40)
    gray = np.clip(90 + disc, 0, 255).astype(np.uint8)
    return curves.Frame(gray, (120, 90))


def test_fine_grain_shows_as_contrast_at_fine_scales():
    fine, coarse = (curves.contrast_by_scale(frame_with_a_disc(sigma_px)) for sigma_px in (0.7, 4.0))
    assert fine.argmax() < coarse.argmax()


def planes_sharp_at(inside_plane: int, rim_plane: int) -> list[np.ndarray]:
    """Seven 500-px planes of a drawn blastocyst; its inside and its rim are sharp in one plane each."""
    gray = VirtualEmbryo(3, arrest_share=0.0).stack(118.0, 500, (0,))[0]
    body = locate(gray).embryo
    y, x = np.mgrid[:500, :500]
    within = (np.hypot(y - body.y_px, x - body.x_px) < 0.6 * body.radius_px).astype(np.float32)
    within = cv2.GaussianBlur(within, (0, 0), 2.0)
    blurred = [
        [cv2.GaussianBlur(gray, (0, 0), 0.9 * abs(i - at) + 0.01) for i in range(7)] for at in (inside_plane, rim_plane)
    ]
    return [(within * a + (1 - within) * b).astype(np.uint8) for a, b in zip(*blurred, strict=True)]


@pytest.mark.parametrize(("inside", "rim"), [(2, 4), (5, 3)])
def test_each_structure_is_sharpest_in_the_plane_it_was_left_sharp_in(inside: int, rim: int):
    found = focus.detail_by_plane(planes_sharp_at(inside, rim))
    assert (found["inside"].argmax(1) == inside).all()
    assert (found["trophectoderm rim"].argmax(1) == rim).mean() > 0.7
    assert all(rows.sum(1) == pytest.approx(np.ones(8)) for rows in found.values())


def test_the_table_of_focus_counts_sectors_in_percent():
    found = focus.detail_by_plane(planes_sharp_at(2, 4))
    inside = next(line for line in focus.table({"virtual": [found]}).splitlines() if " inside " in line)
    assert [int(share) for share in inside.split()[2:]] == [0, 0, 100, 0, 0, 0, 0]
