"""The measuring room: labels, crops on disk, the arithmetic of its figures; a run of seconds (marked train)."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from monitor.simulator import PHASES as DRAWN_PHASES
from monitor.simulator import Life
from monitor.vocabulary import PHASES
from training.sim2real import crops, labels, scores
from training.sim2real.augment import INPUT_PX, mirrored, plain, varied
from training.sim2real.crops import CROP_PX, Settings
from training.sim2real.labels import STAGE_OF, STAGES

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SMALL = Settings(frame_px=112)


def one_video(root: Path, phases: str, runs: list[int]) -> Path:
    """A tiny data folder in the layout of the Nantes set, pictures of one gray each."""
    for folder in ("embryo_dataset/V1", "embryo_dataset_annotations", "embryo_dataset_time_elapsed"):
        (root / folder).mkdir(parents=True)
    (root / "embryo_dataset_annotations" / "V1_phases.csv").write_text(phases)
    rows = "".join(f"{run},{0.25 * run:.4f}\n" for run in range(max(runs) + 1))
    (root / "embryo_dataset_time_elapsed" / "V1_timeElapsed.csv").write_text("frame_index,time\n" + rows)
    for run in runs:
        cv2.imwrite(str(root / "embryo_dataset" / "V1" / f"D2013_S1_I1_WELL7_RUN{run}.jpeg"), np.zeros((120, 120)))
    return root


# --- labels


def test_every_phase_belongs_to_one_stage_and_stages_follow_the_phases() -> None:
    assert tuple(DRAWN_PHASES) == PHASES
    order = [STAGE_OF[phase] for phase in PHASES]
    assert order == sorted(order)
    assert set(order) == set(range(len(STAGES)))


def test_a_video_is_read_in_the_order_of_its_runs_and_unlabelled_frames_are_left_out(tmp_path: Path) -> None:
    root = one_video(tmp_path, "tPB2,3,9\nt2,10,11\n", runs=[1, 2, 3, 9, 10, 11, 12])
    pictures = labels.video(root, "V1")
    assert [(picture.phase, picture.stage, picture.hour) for picture in pictures] == [
        ("tPB2", 0, 0.75),
        ("tPB2", 0, 2.25),
        ("t2", 1, 2.5),
        ("t2", 1, 2.75),
    ]


@pytest.mark.parametrize("line", ["t2,1", "t99,1,2", "t2,one,2"])
def test_an_annotation_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "phases.csv"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"phases\.csv|one"):
        labels.read_phases(path)


def test_generated_pictures_for_tuning_and_for_the_report_never_overlap(tmp_path: Path) -> None:
    for folder in labels.STAGE_OF_GENERATED:
        (tmp_path / folder).mkdir()
        for i in range(33):
            (tmp_path / folder / f"{1000 + i}.png").touch()
    tune, report = ([p.path for p in labels.generated(tmp_path, tune)] for tune in (True, False))
    assert (len(tune), len(report)) == (150, 15)
    assert not set(tune) & set(report)
    with pytest.raises(ValueError, match="no pictures"):
        labels.generated(tmp_path / "2cell", tune=True)


@pytest.mark.skipif(not DATA.is_dir(), reason="the pictures to try on (../shared/data) are not here")
def test_the_hour_alone_gets_77_percent_of_the_video_that_we_tune_on() -> None:
    pictures = labels.pictures_of(DATA, labels.TUNE_VIDEO)
    assert len(pictures) == 280
    right = [labels.stage_by_hour(picture.hour or 0) == picture.stage for picture in pictures]
    assert np.mean(right) == pytest.approx(0.771, abs=0.001)


def test_the_hour_only_predictor_follows_the_median_onsets() -> None:
    assert [labels.stage_by_hour(h) for h in (3, 24.3, 24.4, 35.0, 46.0, 65.7, 90.4, 130.0)] == [0, 0, 1, 2, 3, 4, 5, 5]


def test_the_hour_prior_adds_up_and_rules_nothing_out() -> None:
    prior = labels.hour_prior(np.array([0.0, 24.4, 60.0, 90.4, 200.0]))
    assert prior.sum(1) == pytest.approx(np.ones(5))
    assert prior.min() > 0.01
    assert prior[[0, 4]].argmax(1).tolist() == [0, 5]
    assert prior[1, 0] == pytest.approx(prior[1, 1], abs=0.02)  # at the median half have divided


def test_spans_of_a_life_follow_each_other_and_the_first_hours_are_a_zygote() -> None:
    spans = labels.phases_to_spans({"tPB2": 3.0, "tPNa": 7.0, "t2": 25.0, "t4": 36.0}, first_h=1.0, last_h=30.0)
    assert spans == [("tPB2", 1.0, 7.0), ("tPNa", 7.0, 25.0), ("t2", 25.0, 30.0)]


# --- scores


def test_confusion_and_recall_of_a_known_case() -> None:
    truth, said = np.array([0, 0, 1, 1, 5]), np.array([0, 1, 1, 1, 4])
    table = scores.confusion(said, truth)
    assert table[0, :2].tolist() == [1, 1]
    assert scores.recall(table) == [0.5, 1.0, None, None, None, 0.0]
    assert scores.accuracy(said, truth) == pytest.approx(0.6)
    assert "0.500" in scores.confusion_text(table)


def test_the_scatter_of_blocks_is_wider_than_that_of_single_frames() -> None:
    right = np.repeat(np.random.default_rng(0).random(40) < 0.5, 12)
    assert scores.scatter(right, block=12) > 2 * scores.scatter(right, block=1)
    assert scores.scatter(np.ones(30, bool), block=12) == 0.0


def test_the_path_never_steps_back_and_forgives_single_slips() -> None:
    rows = np.full((8, 6), 0.02)
    for i, stage in enumerate((0, 0, 3, 0, 1, 1, 0, 4)):
        rows[i, stage] = 0.9
    path = scores.monotone(rows)
    assert path.tolist() == [0, 0, 0, 0, 1, 1, 1, 4]
    assert (np.diff(path) >= 0).all()


def test_the_path_is_the_best_of_all_monotone_paths() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        rows = rng.dirichlet(np.ones(6), 4)
        log = np.log(rows)
        best = max(
            ((a, b, c, d) for a in range(6) for b in range(a, 6) for c in range(b, 6) for d in range(c, 6)),
            key=lambda path: sum(log[i, stage] for i, stage in enumerate(path)),
        )
        assert scores.monotone(rows).tolist() == list(best)


def test_a_prior_decides_only_where_the_picture_does_not() -> None:
    unsure, sure = np.full((1, 6), 1 / 6), np.array([[0.95, 0.01, 0.01, 0.01, 0.01, 0.01]])
    prior = np.array([[0.05, 0.75, 0.05, 0.05, 0.05, 0.05]])
    assert scores.monotone(unsure, prior).tolist() == [1]
    assert scores.monotone(sure, prior).tolist() == [0]


# --- crops


def test_shards_are_kept_resumed_and_the_same_on_every_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "SHARD_EMBRYOS", 1)
    folder = tmp_path / crops.digest(SMALL)
    folder.mkdir()
    for seed in (4, 5):
        crops.write_shard(folder, seed, SMALL)
    kept = (folder / "5.npy").stat().st_mtime_ns
    crops.write_shard(folder, 5, SMALL)
    assert (folder / "5.npy").stat().st_mtime_ns == kept
    assert list(crops.draw_all(tmp_path, 2, SMALL, workers=1, first_seed=4)) == [2]  # all there: no process started
    loaded = crops.load(tmp_path, 2, SMALL, first_seed=4)
    assert loaded.pixels.shape[1:] == (3, CROP_PX, CROP_PX)
    assert loaded.pixels.dtype == np.uint8
    assert set(loaded.seeds) == {4, 5}
    assert [STAGE_OF[PHASES[i]] for i in loaded.phases] == loaded.stages.tolist()
    again = crops.draw_embryo(5, SMALL)
    assert np.array_equal(again[-1][0], loaded.pixels[-1])
    assert not list(folder.glob(".*"))


def test_another_setting_or_shard_never_answers_for_this_one(tmp_path: Path) -> None:
    assert crops.digest(SMALL) == crops.digest(Settings(frame_px=112)) != crops.digest(replace(SMALL, frame_px=113))
    with pytest.raises(FileNotFoundError, match="40"):
        crops.load(tmp_path, 80, SMALL, first_seed=40)


def test_the_moments_of_an_embryo_lie_in_the_stage_they_are_labelled_with() -> None:
    for seed in range(6):
        embryo = crops.VirtualEmbryo(seed)
        moments = crops.moments(seed, embryo, Settings())
        stages = [STAGE_OF[phase] for phase, _ in moments]
        assert stages == sorted(set(stages))
        for phase, hpi_h in moments:
            assert embryo.life.phase_at(hpi_h) in (phase, None)


def test_some_lives_get_more_fragments_and_uneven_cells_but_no_other_hours() -> None:
    lives = [(Life.sample(seed), crops.lived(seed, Settings())) for seed in range(300)]
    changed = [(own, shown) for own, shown in lives if own != shown]
    assert len(changed) / 300 == pytest.approx(Settings().heavy_share, abs=0.08)
    for own, shown in changed:
        assert shown.fragmentation_ratio >= own.fragmentation_ratio
        assert shown.unevenness >= own.unevenness
        assert (shown.onsets_h, shown.divisions_h) == (own.onsets_h, own.divisions_h)
    assert crops.lived(7, Settings(heavy_share=0.0)) == Life.sample(7)


def test_augmentation_keeps_shape_and_standard_and_changes_with_the_seed() -> None:
    crop = np.random.default_rng(0).integers(40, 160, (3, CROP_PX, CROP_PX)).astype(np.uint8)
    one, same, other = (varied(crop, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (3, INPUT_PX, INPUT_PX)
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)
    middle = plain(crop)[:, 30:80, 30:80]
    assert abs(float(middle.mean())) < 0.2
    assert 0.8 < float(middle.std()) < 1.2
    assert np.array_equal(mirrored(crop)[1], plain(crop)[:, :, ::-1])


# --- a run of a few seconds


@pytest.mark.train
def test_a_tiny_run_learns_resumes_and_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    from training.sim2real import evaluate, train

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    stages = np.repeat(np.arange(6), 4)
    stripes = np.sin(np.arange(CROP_PX) * 0.12)[None, None, None] * 60 + 100  # dark and light in the middle of each
    pixels = np.broadcast_to(stripes, (24, 3, CROP_PX, CROP_PX)).copy()
    pixels[stages >= 3] = pixels[stages >= 3].transpose(0, 1, 3, 2)
    pixels = (pixels + rng.normal(0, 5, pixels.shape)).astype(np.uint8)
    source = train.Source(pixels, (stages >= 3).astype(np.int64) * 3, np.full(24, train.NO_PHASE, dtype=np.int64))
    recipe = train.Recipe(embryos=1, minutes=1.0, batch=6)
    seconds = iter(np.arange(0, 10_000, 2.0))  # each look at the clock takes two seconds

    def run_until(minutes: float) -> train.Run:
        run = train.Run(tmp_path / "tiny", replace(recipe, minutes=minutes), digest="d")
        run.resume()
        train.train(run, [source], [1.0], None, now=lambda: float(next(seconds)))
        return run

    first = run_until(0.4)
    second = run_until(1.1)
    assert second.steps > first.steps > 5
    with (tmp_path / "tiny" / "losses.csv").open() as file:
        steps = [int(row["steps"]) for row in csv.DictReader(file)]
    assert steps == sorted(steps)
    assert steps[-1] == second.steps
    with pytest.raises(ValueError, match="another --name"):
        train.Run(tmp_path / "tiny", recipe, digest="other").resume()

    network, kept = evaluate.load_network(tmp_path / "tiny")
    assert kept["steps"] == second.steps
    pictures = [labels.Picture(Path(f"{i}.png"), 0, "tPNa", 10.0 + i) for i in range(4)]
    assert evaluate.predict(network, [pixels[0, :1], pixels[23, :1]]).stages.argmax(1).tolist() == [0, 3]  # it learned
    predicted = evaluate.predict(network, [one[:1] for one in pixels[:4]])
    assert predicted.stages.shape == (4, 6)
    assert predicted.stages.sum(1) == pytest.approx(np.ones(4), abs=1e-5)
    said = evaluate.text("tiny", pictures, predicted)
    assert "hour only 1.000" in said
    evaluate.write_predictions(tmp_path / "tiny.csv", pictures, predicted)
    assert len((tmp_path / "tiny.csv").read_text().splitlines()) == 5


@pytest.mark.train
def test_without_the_flag_no_report_picture_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from training.sim2real import evaluate, train

    run = train.Run(tmp_path / "untrained", train.Recipe(embryos=1, minutes=1.0), digest="d")
    run.folder.mkdir()
    run.save()
    opened: list[str] = []

    def pictures_of(data: Path, name: str) -> list[labels.Picture]:
        opened.append(name)
        return [labels.Picture(Path("a.png"), 1)]

    monkeypatch.setattr(labels, "pictures_of", pictures_of)
    monkeypatch.setattr(evaluate, "read_picture", lambda path: np.zeros((1, CROP_PX, CROP_PX), np.uint8))
    assert evaluate.main(["--run", str(run.folder)]) == 0
    assert opened == ["AA83-7", "stagegen-tune"]
    assert evaluate.main(["--run", str(run.folder), "--report"]) == 0
    assert opened[2:] == ["AA83-7", "stagegen-tune", "AAL839-6", "stagegen-report"]
    assert "LOG.md" in capsys.readouterr().out
