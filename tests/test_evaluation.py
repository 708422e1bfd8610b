"""Figures of predictions against answers computed by hand, and the report made of them; one run of the command."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.amsnet import metrics, report
from training.amsnet.answers import Judged, answers_at, representatives
from training.amsnet.baselines import CellCounter
from training.amsnet.metrics import DAYS, Estimate
from training.amsnet.report import CEILING, COUNTER, OURS
from training.amsnet.stream_pass import Streamed, compare

# scores and truth of some embryos of both outcomes; few levels, so that ties occur
cases = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: {reaches for _, reaches in rows} == {True, False}
)


def arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score / 20 for score, _ in rows]), np.array([reaches for _, reaches in rows])


# --- accuracy over time


@pytest.mark.parametrize(
    ("row", "area"),
    [
        ("62.15 64.24 68.40 70.83 71.88 71.60 69.69 74.74 77.18 81.04 80.99 82.33 84.21 100.00", 0.6987),
        ("64.24 68.58 72.57 71.53 74.31 73.69 73.87 76.31 81.01 86.23 89.92 89.27 90.18 100.00", 0.7354),
        ("67.88 72.57 75.00 76.91 76.39 78.40 78.57 82.23 84.15 88.55 91.83 89.27 90.88 100.00", 0.7633),
    ],
)
def test_the_area_under_accuracy_is_the_papers_own_for_rows_of_its_table(row: str, area: float) -> None:
    assert metrics.area_over_days([float(word) / 100 for word in row.split()]) == pytest.approx(area, abs=1e-4)


def test_the_area_does_not_exist_where_a_day_has_no_embryo_left() -> None:
    assert math.isnan(metrics.area_over_days([0.8] * 13 + [float("nan")]))


# --- ROC


def test_an_auc_of_four_embryos_is_counted_by_hand() -> None:
    scores, truth = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert metrics.auc(scores, truth) == 0.75  # of four pairs one is the wrong way round
    assert metrics.auc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert math.isnan(metrics.auc(scores, np.ones(4, bool)))


@given(cases)
def test_the_auc_is_the_share_of_pairs_and_the_area_under_the_curve(rows: list[tuple[int, bool]]) -> None:
    scores, truth = arrays(rows)
    pairs = np.sign(scores[truth][:, None] - scores[~truth][None])
    assert metrics.auc(scores, truth) == pytest.approx((pairs.mean() + 1) / 2)
    false, true = metrics.roc_curve(scores, truth)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = ((true[1:] + true[:-1]) / 2 * np.diff(false)).sum()
    assert area == pytest.approx(metrics.auc(scores, truth))


@given(cases)
def test_turning_the_scores_round_turns_the_auc_round_and_an_interval_holds_its_value(
    rows: list[tuple[int, bool]],
) -> None:
    scores, truth = arrays(rows)
    assert metrics.auc(1 - scores, truth) == pytest.approx(1 - metrics.auc(scores, truth))
    one = metrics.auc_interval(scores, truth, rounds=50)
    assert 0 <= one.low <= one.high <= 1
    assert one == metrics.auc_interval(scores, truth, rounds=50), "the same draws every time"


def test_a_bootstrap_interval_is_as_wide_as_theory_says_and_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(60):
        drawn = rng.random(200) < 0.7
        one = metrics.bootstrap(lambda rows, drawn=drawn: float(drawn[rows].mean()), 200, rounds=300)
        covered += one.low <= 0.7 <= one.high
        widths.append(one.high - one.low)
    assert covered >= 51  # 57 of 60 are to be expected
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 200), rel=0.1)


def test_a_paired_difference_of_equals_is_nothing_and_much_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(300) < 0.6
    scores = truth + rng.normal(0, 1.2, 300)
    others = scores + rng.normal(0, 0.1, 300)
    assert metrics.auc_difference(scores, scores, truth, 100) == Estimate(0.0, 0.0, 0.0)
    paired, alone = metrics.auc_difference(scores, others, truth, 300), metrics.auc_interval(scores, truth, 300)
    assert paired.high - paired.low < 0.4 * (alone.high - alone.low)
    assert paired.low < 0 < paired.high
    assert metrics.accuracy_difference(truth.astype(float), 1.0 - truth, truth, 20).value == 1.0


# --- calibration


def test_calibration_of_a_known_case() -> None:
    scores = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.9])
    truth = np.array([False, False, False, True, True, False])
    low, high = metrics.reliability(scores, truth)
    assert (low.count, low.came_true, high.count, high.came_true) == (4, 0.25, 2, 0.5)
    # four embryos .15 too low, two embryos .4 too high
    assert metrics.expected_calibration_error(scores, truth) == pytest.approx((4 * 0.15 + 2 * 0.4) / 6)
    assert math.isnan(metrics.expected_calibration_error(scores[:0], truth[:0]))
    assert metrics.brier(scores, truth) == pytest.approx((3 * 0.01 + 0.81 + 0.01 + 0.81) / 6)
    assert metrics.expected_calibration_error(truth.astype(float), truth) == 0.0


@given(cases)
def test_every_embryo_is_in_one_bin_and_the_error_lies_within_0_and_1(rows: list[tuple[int, bool]]) -> None:
    scores, truth = arrays(rows)
    bins = metrics.reliability(scores, truth)
    assert sum(one.count for one in bins) == len(rows)
    assert all(one.low - 1e-9 <= one.said <= one.high + 1e-9 for one in bins)
    assert 0 <= metrics.expected_calibration_error(scores, truth) <= 1
    assert sum(one.count * one.came_true for one in bins) == pytest.approx(truth.sum())


# --- the four rates


def test_the_four_rates_of_a_known_case() -> None:
    truth = np.array([True] * 8 + [False] * 4)
    scores = np.array([0.9] * 6 + [0.1] * 2 + [0.8] + [0.2] * 3)
    found = metrics.rates(scores, truth)
    assert (found.sensitivity.value, found.specificity.value) == (0.75, 0.75)
    assert (found.ppv.value, found.npv.value) == pytest.approx((6 / 7, 3 / 5))
    strict = metrics.rates(scores, truth, threshold=0.85)
    assert (strict.sensitivity.value, strict.specificity.value) == (0.75, 1.0)


def test_a_share_has_wilsons_interval_also_at_its_ends() -> None:
    one = metrics.share(8, 10)
    assert (one.low, one.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson's own formula, worked by hand
    assert metrics.share(5, 5).low == pytest.approx(0.5655, abs=1e-4)
    assert metrics.share(5, 5).high == 1.0
    assert math.isnan(metrics.share(0, 0).value)


# --- answers and the report


def judged(name: str, hours_h: list[float], said: list[float], reaches: bool) -> Judged:
    return Judged(name, np.array(hours_h), np.array(said), reaches)


def test_an_embryo_counts_by_its_last_answer_as_long_as_it_is_still_imaged() -> None:
    one = judged("a", [2.0, 8.0, 14.0, 20.0], [0.1, 0.2, 0.3, 0.4], True)
    assert [one.at(hour) for hour in (1.9, 2.0, 13.9, 14.0, 26.0, 26.1)] == [None, 0, 1, 2, 3, None]
    late = judged("b", [30.0], [0.9], False)
    scores, truth, rows = answers_at([one, late], 32.0)
    assert (scores.tolist(), truth.tolist(), rows) == ([0.9], [False], [1])


def test_representatives_are_the_first_frames_of_segments_counted_from_the_first_frame() -> None:
    hours_h = np.array([3.5, 4.0, 9.4, 9.5, 10.0, 27.5, 33.4])
    assert representatives(hours_h) == [0, 3, 5]
    assert representatives(np.array([5.0])) == [0]


def some_answers(embryos: int = 60) -> dict[str, list[Judged]]:
    """A good predictor as OURS, a perfect one, one that knows nothing; some embryos leave after day 5."""
    rng = np.random.default_rng(2)
    found: dict[str, list[Judged]] = {OURS: [], CEILING: [], COUNTER: []}
    for i in range(embryos):
        reaches, hours_h = bool(i % 3), np.arange(2.0, 122.0 if i % 5 == 0 else 168.0, 6.0)
        sure = np.clip(0.5 + (reaches - 0.5) * hours_h / 168 + rng.normal(0, 0.15), 0.01, 0.99)
        for name, said in ((OURS, sure), (CEILING, np.full(len(hours_h), float(reaches))), (COUNTER, 0 * sure + 0.6)):
            found[name].append(Judged(str(i), hours_h, np.asarray(said), reaches))
    return found


def test_the_days_of_a_report_tell_who_is_still_imaged_and_what_each_predictor_is_worth() -> None:
    answers = some_answers()
    days = [report.day_of(answers, day, rounds=50) for day in DAYS]
    assert [day.embryos for day in days] == [60] * 10 + [48] * 4
    for day in days:
        assert day.auc[CEILING].value == 1.0 == day.accuracy[CEILING].value
        assert day.auc[COUNTER].value == 0.5
        assert day.auc_less[CEILING].value == pytest.approx(day.auc[OURS].value - 1.0)
        assert day.auc_less[COUNTER].value == pytest.approx(day.auc[OURS].value - 0.5)
    assert days[-1].auc[OURS].value > days[0].auc[OURS].value
    areas = report.areas_of(answers, rounds=50)
    assert areas[CEILING].value == areas[CEILING].low == pytest.approx(6.5 / 7)
    own = metrics.area_over_days([day.accuracy[OURS].value for day in days])
    assert areas[OURS].value == pytest.approx(own)
    assert areas[OURS].low < own < areas[OURS].high
    text = report.text_of(days, areas, None)
    assert report.NOT_PATIENTS in text
    assert "0.874" in text


def test_predictors_asked_about_other_embryos_are_refused() -> None:
    answers = some_answers()
    answers[CEILING] = answers[CEILING][:-1]
    with pytest.raises(ValueError, match="other embryos"):
        report.day_of(answers, 3.0)


def test_the_written_report_is_read_back_and_what_does_not_exist_is_null(tmp_path: Path) -> None:
    answers = some_answers(1)  # one embryo: no AUC, no paired difference
    days = [report.day_of(answers, day, rounds=10) for day in DAYS]
    report.write_json(tmp_path / "r.json", {"weights": "w.pt"}, days, report.areas_of(answers, rounds=10), None)
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["weights"] == "w.pt"
    assert told["days"][5]["auc"][OURS]["value"] is None
    assert told["days"][5]["embryos"] == 1
    answers = some_answers(6)
    days = [report.day_of(answers, day, rounds=10) for day in DAYS]
    for name, write in (("days", report.write_days), ("rates", report.write_rates)):
        write(tmp_path / f"{name}.csv", days)
    report.write_answers(tmp_path / "answers.csv", answers)
    report.write_reliability(tmp_path / "reliability.csv", answers)
    rows = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("days", "rates", "answers")}
    assert [len(rows[name]) for name in ("days", "rates")] == [42, 14]
    assert float(rows["days"][0]["accuracy"]) == pytest.approx(days[0].accuracy[OURS].value, abs=1e-4)
    assert len(rows["answers"]) == sum(len(one.hours_h) for one in answers[OURS])
    assert rows["answers"][0][OURS] == str(round(float(answers[OURS][0].probability[0]), 5))


# --- those it is held against


def test_whoever_counts_cells_knows_the_share_of_lives_with_that_count_at_that_hour() -> None:
    from monitor.simulator.life import Life

    lives = [Life.sample(5_000_000 + n) for n in range(300)]
    counter = CellCounter.fit(lives)
    same = [one for one in lives if one.cell_count_at(44.0) == lives[0].cell_count_at(44.0)]
    share, overall = (np.mean([one.reaches_blastocyst for one in some]) for some in (same, lives))
    asked = counter.probability(lives[0], [43.6, 44.0])
    assert asked[1] == pytest.approx((share * len(same) + 2 * overall) / (len(same) + 2))
    assert asked[0] == pytest.approx(asked[1]) or lives[0].cell_count_at(43.6) != lives[0].cell_count_at(44.0)
    strangers = [Life.sample(6_000_000 + n) for n in range(300)]
    truth = np.array([one.reaches_blastocyst for one in strangers])
    said = np.array([counter.probability(one, [96.0])[0] for one in strangers])
    assert 0.6 < metrics.auc(said, truth) < 0.99


# --- stream and clip


def test_stream_clip_and_wrong_cadence_are_compared_at_the_end_of_the_window() -> None:
    rng, streams = np.random.default_rng(0), []
    for i in range(30):
        reaches, hours_h = bool(i % 2), np.array([2.0, 8.0, 14.0, 16.0, 18.0, 20.0])
        clip = np.array([0.5, 0.5, 0.2 + 0.6 * reaches, 0.5])
        right = np.array([0.5, 0.5, clip[2], clip[2] + 0.01, clip[2] + 0.02, 0.5])
        wrong = np.array([np.nan, np.nan, *rng.random(3), np.nan])
        streams.append(Streamed(hours_h, right, wrong, clip, [0, 1, 2, 5], 4, float(right[4]), reaches))
    found = compare(streams, (14.0, 20.0), rounds=60)
    assert (found.embryos, found.frames, found.worst_on_representatives) == (30, 180, 0.0)
    assert found.clip.value == found.stream.value == 1.0
    assert found.stream_moved == pytest.approx(0.01)
    assert found.wrong.value < 0.9 and found.wrong_less_clip.high < 0
    assert found.agrees
    streams[0].right[5] += 2e-5
    assert not compare(streams, (14.0, 20.0), rounds=60).agrees
    streams[0].right[5] -= 2e-5
    streams[1].right[4] += 2e-5
    assert compare(streams, (14.0, 20.0), rounds=60).worst_at_end == pytest.approx(2e-5)
    for one in streams[:20]:
        one.right[4] = 1 - one.right[4]
    assert not compare(streams, (14.0, 20.0), rounds=60).agrees


# --- with a network (its weights are random: only the bookkeeping is measured)


class Noise:
    """An embryo of random pictures, a frame an hour but for the segments that are left out."""

    name, source, group, planes_um, hours_known, grades, reaches_blastocyst = "n", "test", "n", (0,), True, None, True

    def __init__(self, start_h: float = 3.0, without_segments: tuple[int, ...] = ()) -> None:
        elapsed_h = np.arange(168.0)
        kept = ~np.isin(elapsed_h // 6, without_segments)
        self.hours_h = start_h + elapsed_h[kept]
        self.phases = (None,) * len(self.hours_h)

    def stack(self, t: int) -> np.ndarray:
        return np.random.default_rng(t).integers(0, 255, (1, 32, 32), dtype=np.uint8)

    def masks(self, t: int) -> None:
        return None


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and manifest of a tiny network that asks for hours."""
    pytest.importorskip("torch").set_num_threads(1)
    from training.amsnet import checkpoint
    from training.amsnet.export import export
    from training.amsnet.model import AMSNetConfig

    folder = tmp_path_factory.mktemp("model")
    kept = checkpoint.with_random_weights(AMSNetConfig("small", planes=1, input_px=32, hours=True), seed=3)
    kept.width_in_well_radii = 1.45
    checkpoint.save(folder / "tiny.pt", kept)
    return folder / "tiny.pt", export(kept, folder, "tiny")


@pytest.mark.train
@pytest.mark.parametrize(
    "embryo", [Noise(), Noise(without_segments=(3, 4, 11)), Noise(start_h=76.5)], ids=["whole", "holes", "late"]
)
@pytest.mark.parametrize("hours", [True, False])
def test_the_stream_equals_the_clip_on_representatives_over_a_week_and_the_wrong_cadence_does_not(
    exported: tuple[Path, Path], embryo: Noise, hours: bool
) -> None:
    from engines.load import load_engine
    from training.amsnet import checkpoint
    from training.amsnet.predictions import offline
    from training.amsnet.stream_pass import clip_to, shifted_at_every_frame, stream

    kept, loaded = checkpoint.load(exported[0]), load_engine(exported[1], "cpu", threads=1)
    at = representatives(embryo.hours_h)
    assert len(at) == len(set((embryo.hours_h - embryo.hours_h[0]) // 6))
    right, clip = stream(loaded, embryo, hours), offline(kept, embryo, at, hours)
    assert np.abs(right[at] - clip).max() <= 1e-5
    for t in (5, 64, 67, len(right) - 1):  # a peek is the clip in which that frame stands for its segment
        assert abs(right[t] - offline(kept, embryo, clip_to(embryo.hours_h, t), hours)[-1]) <= 1e-5
    window_h = (float(embryo.hours_h[0]) + 60, float(embryo.hours_h[0]) + 90)
    wrong = shifted_at_every_frame(loaded, embryo, window_h, hours)
    within = (embryo.hours_h >= window_h[0]) & (embryo.hours_h < window_h[1])
    assert np.isfinite(wrong[within]).all() and np.isnan(wrong[~within]).all()
    assert np.abs(wrong - right)[within].max() > 1e-4
    assert np.abs(offline(kept, embryo, at, not hours) - clip).max() > 1e-4, "the hour is heard"


@pytest.mark.train
def test_the_command_writes_tables_and_pictures_and_tells_of_days_on_which_nobody_is_left(
    exported: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.amsnet import evaluate

    line = ["--weights", str(exported[0]), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    line += [
        "--first-seed",
        "7000000",
        "--embryos",
        "6",
        "--last-hour",
        "96",
        "--workers",
        "1",
        "--lives",
        "200",
        "--rounds",
        "20",
    ]
    line += ["--stream-embryos", "2", "--stream-window", "60:61", "--engine", str(exported[1])]
    assert evaluate.main(line) == 0
    said = capsys.readouterr().out
    assert "6 virtual embryos from seed 7000000" in said and "not patients" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("report.json", "days.csv", "rates.csv", "reliability.csv", "answers.csv"),
        *("roc.png", "accuracy.png", "reliability.png", "stream.png"),
    }
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [day["embryos"] for day in told["days"]][:8] == [6] * 8
    assert told["days"][13]["embryos"] == 0 and told["days"][13]["accuracy"][OURS]["value"] is None
    assert told["area_under_accuracy_over_7"][OURS]["value"] is None
    assert told["stream"]["agrees"] and told["stream"]["worst_on_representatives"] <= 1e-5
    with pytest.raises(SystemExit):
        evaluate.main([*line, "--stream-window", "61:60"])
    _the_figures_go_into_the_manifest_of_these_weights_only(exported[0], tmp_path / "out" / "report.json")


def _the_figures_go_into_the_manifest_of_these_weights_only(weights: Path, report_path: Path) -> None:
    from training.amsnet import checkpoint

    state_id, told = checkpoint.state_id(checkpoint.load(weights)), json.loads(report_path.read_text())
    found, day3 = report.figures_of(report_path, state_id), next(day for day in told["days"] if day["day"] == 3)
    assert found["test_embryos"] == 6 and found["test_auc_day3"] == day3["auc"][OURS]["value"]
    assert "test_auc_day5" not in found, "nobody was left on day 5"
    with pytest.raises(ValueError, match="other weights"):
        report.figures_of(report_path, "0" * 64)


@pytest.mark.train
def test_a_window_after_the_last_picture_is_refused_before_anything_is_drawn(
    exported: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.amsnet import evaluate

    line = ["--weights", str(exported[0]), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert evaluate.main([*line, "--embryos", "1", "--workers", "1", "--last-hour", "60"]) == 2
    assert "--stream-window" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.train
def test_weights_that_saw_whole_wells_are_not_judged_on_crops(exported: tuple[Path, Path], tmp_path: Path) -> None:
    from training.amsnet import checkpoint, evaluate

    kept = checkpoint.load(exported[0])
    kept.width_in_well_radii, kept.provenance = None, {"steps": 100}
    checkpoint.save(tmp_path / "old.pt", kept)
    assert evaluate.main(["--weights", str(tmp_path / "old.pt"), "--cache", str(tmp_path), "--out", str(tmp_path)]) == 2
