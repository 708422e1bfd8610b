"""How AMSNet is taught: what a batch holds, what the loss asks, and that a killed run goes on as if nothing was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.load import load_engine  # noqa: E402
from engines.segments import SegmentPolicy  # noqa: E402
from monitor.simulator import Life  # noqa: E402
from training.amsnet import ablation, batches, checkpoint, export, train, validation  # noqa: E402
from training.amsnet.batches import Pupil  # noqa: E402
from training.amsnet.lesson import RECIPES, Signs, forget_the_past, outcome_loss  # noqa: E402
from training.amsnet.model import AMSNet, AMSNetConfig  # noqa: E402
from training.amsnet.reclaim import measure_norms, reclaim  # noqa: E402
from training.amsnet.run import Limits, Run  # noqa: E402
from training.amsnet.targets import NO_PHASE, SIGNS, Teacher, targets_of  # noqa: E402
from training.datasets.embryo import PHASES  # noqa: E402

pytestmark = pytest.mark.train

TINY = AMSNetConfig("small", planes=3, input_px=32, hours=True)
RECIPE = replace(
    RECIPES["small"], frame_rows=4, clip_rows=2, clip_steps=(3, 5), chances=batches.Chances((1, 3), (0.5, 0.5))
)


@dataclass(frozen=True)
class Drawn:
    """A stand-in for a cached virtual embryo: a real life, pictures of noise."""

    seed: int
    hours_known: bool = True
    planes_um: tuple[int, ...] = (-15, 0, 15)
    source: str = field(default="virtual")

    @property
    def name(self) -> str:
        return str(self.seed)

    @cached_property
    def life(self) -> Life:
        return Life.sample(self.seed)

    @cached_property
    def hours_h(self) -> np.ndarray:
        return 2.0 + 3.0 * np.arange(40)

    @cached_property
    def phases(self) -> tuple[str | None, ...]:
        return tuple(self.life.phase_at(float(hour)) for hour in self.hours_h)

    @property
    def reaches_blastocyst(self) -> bool:
        return self.life.reaches_blastocyst

    def stack(self, t: int) -> np.ndarray:
        return np.random.default_rng((self.seed, t)).integers(0, 256, (len(self.planes_um), 32, 32), np.uint8)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(lives=300)


@pytest.fixture(scope="module")
def pupils(teacher: Teacher) -> list[Pupil]:
    return [Pupil(embryo, targets_of(embryo, teacher)) for embryo in map(Drawn, range(8))]


def run_over(pupils: list[Pupil], path: Path, steps: int, resume: bool = False) -> Run:
    return Run(RECIPE, TINY, pupils, Limits(steps), path, resume=resume)


def test_the_teacher_knows_little_at_first_and_nearly_all_on_day_5(teacher: Teacher) -> None:
    """The odds are near the share of blastocysts on day 1, and on day 5 they are the outcome."""
    lives = [Life.sample(seed) for seed in range(60)]
    reaches = np.array([life.reaches_blastocyst for life in lives])
    day1, day5 = np.array([teacher.probability(life, [12.0, 120.0]) for life in lives]).T
    assert day1.std() < 0.15 and abs(day1.mean() - 0.64) < 0.1
    assert ((day5 > 0.5) == reaches).mean() > 0.95


def test_the_teacher_says_nothing_of_what_has_not_happened_yet(teacher: Teacher) -> None:
    """Two lives that are the same up to an hour have the same odds at that hour."""
    life = next(life for life in map(Life.sample, range(99)) if life.reaches_blastocyst)
    other = replace(life, onsets_h={phase: hour for phase, hour in life.onsets_h.items() if hour <= 60})
    assert teacher.probability(life, [60.0]) == teacher.probability(other, [60.0])


def test_fragments_are_asked_for_only_while_they_can_be_seen(pupils: list[Pupil]) -> None:
    """From the first cleavage until a cavity forms; the number of cells always."""
    for pupil in pupils:
        shown = [PHASES.index(name) if name else -1 for name in pupil.embryo.phases]
        seen = [PHASES.index("t2") <= phase < PHASES.index("tSB") for phase in shown]
        assert (~np.isnan(pupil.targets.signs[:, 0])).tolist() == seen
        assert not np.isnan(pupil.targets.signs[:, SIGNS.index("cells")]).any()


def test_an_embryo_that_tells_only_its_outcome_can_be_learned_from() -> None:
    """A real video without labels: no teacher, no phase, no signs; and without an outcome it is refused by name."""

    @dataclass
    class Real:
        hours_h: np.ndarray = field(default_factory=lambda: np.arange(4.0))
        phases: tuple[str | None, ...] = (None, "t2", None, None)
        reaches_blastocyst: bool | None = True
        source: str = "clinic"
        name: str = "A1"

    told = targets_of(Real())
    assert told.reaches == 1.0 and np.isnan(told.outlook).all() and np.isnan(told.signs).all()
    assert told.phase.tolist() == [NO_PHASE, PHASES.index("t2"), NO_PHASE, NO_PHASE]
    with pytest.raises(ValueError, match="clinic A1"):
        targets_of(Real(reaches_blastocyst=None))


def test_a_clip_has_one_frame_per_segment_counted_from_its_own_first_frame() -> None:
    """Whatever the start, no two chosen frames lie in one 6-hour segment, and they ascend."""
    hours_h, starts = Drawn(0).hours_h, set()
    for seed in range(60):
        chosen = batches.draw_segments(hours_h, np.random.default_rng(seed), 12)
        starts.add(chosen[0] > 2)
        assert chosen == sorted(chosen) and 1 <= len(chosen) <= 12
        # in segments counted from a start unknown here two frames 3 h apart may touch, three never lie within 6 h
        assert all(hours_h[c] - hours_h[a] >= 6 for a, c in zip(chosen, chosen[2:], strict=False))
    assert starts == {True, False}


def test_a_batch_shows_its_planes_pads_without_counting_and_hides_some_hours(pupils: list[Pupil]) -> None:
    """Padding repeats the last frame and its hour; a clip's hours are all known or all hidden."""
    rng = np.random.default_rng(0)
    rows = [(pupil, [0, 4, 9][: 1 + k % 3]) for k, pupil in enumerate(pupils)]
    batch = batches.make_batch(rows, 4, [0, 2], rng, 0.5, 0.25)
    assert batch.frames.shape == (8, 4, 2, 32, 32) and batch.source == [0, 0, 1]
    assert batch.counts.sum(dim=1).tolist() == [len(at) for _, at in rows]
    assert torch.equal(batch.frames[1, 2], batch.frames[1, 3])
    known = batch.hours[:, :, 1]
    assert torch.equal(known, known[:, :1].expand(-1, 4)) and 0 < known[:, 0].sum() < 8
    assert not batch.hours[known[:, 0] == 0].any()


def test_padded_steps_carry_no_loss(pupils: list[Pupil]) -> None:
    """Whatever is said of padding, the loss and the answers to the other questions stay."""
    batch = batches.make_batch([(pupils[0], [3, 9])], 4, [1], np.random.default_rng(0), 0.5, 0.25)
    features, signs = torch.rand(1, 4, 16), Signs(16)
    other = features.clone()
    other[:, 2:] += 5.0
    logits = torch.tensor([[0.3, -0.2, 0.0, 0.0]])
    assert outcome_loss(logits, batch, 0.5) == outcome_loss(logits + torch.tensor([0.0, 0, 9, -9]), batch, 0.5)
    assert signs.loss(features, batch) == signs.loss(other, batch)


def test_the_teachers_share_moves_the_loss_from_the_label_to_the_odds(pupils: list[Pupil]) -> None:
    """Share 0 is plain cross-entropy with the outcome; share 1 is lowest where the odds are said."""
    batch = batches.make_batch([(pupils[0], [12, 14])], 2, [1], np.random.default_rng(0), 0.5, 0.25)
    logits = torch.logit(batch.outlook)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.reaches)
    assert outcome_loss(logits, batch, 0.0) == pytest.approx(float(plain))
    assert outcome_loss(logits, batch, 1.0) < outcome_loss(logits + 0.3, batch, 1.0)
    assert outcome_loss(logits, batch, 1.0) < outcome_loss(logits - 0.3, batch, 1.0)


def test_what_single_frames_taught_is_where_clips_begin() -> None:
    """With the columns that read the past at zero, a clip is judged as its frames alone are."""
    model, frames = checkpoint.with_random_weights(TINY, 0).model, torch.rand(1, 4, 3, 32, 32)
    forget_the_past(model)
    with torch.inference_mode():
        together = model(frames)[0]
        alone = torch.stack([model(frames[:, t : t + 1])[0, 0] for t in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_hour_matters_and_an_unknown_hour_is_not_hour_zero() -> None:
    """Known and unknown differ at the same number; beyond the last knot nothing changes any more."""
    model, features = checkpoint.with_random_weights(TINY, 0).model, torch.rand(1, 1, 512)

    def said(hour: float, known: float) -> float:
        return float(model.judged(features, torch.tensor([[[hour, known]]])))

    assert said(0, 1) != said(0, 0) and said(30, 1) != said(60, 1)
    assert said(30, 0) == said(60, 0) == float(model.judged(features, None))
    assert said(168, 1) == said(400, 1)


def test_a_killed_run_goes_on_with_the_very_same_losses(pupils: list[Pupil], tmp_path: Path) -> None:
    """Killed after a save, in the single frames and in the clips: the later losses are the same to the last digit."""
    straight = run_over(pupils, tmp_path / "straight.pt", 12)
    rows = [straight.once() for _ in range(12)]
    losses = [(row["part"], row["loss"], row["signs_loss"]) for row in rows]
    assert {part for part, _, _ in losses} == {"frames", "clips"}
    for stop in (3, 9):
        first = run_over(pupils, tmp_path / "killed.pt", 12)
        for _ in range(stop):
            first.once()
        first.save()
        first.once()  # done, and lost with the kill
        resumed = run_over(pupils, tmp_path / "killed.pt", 12, resume=True)
        again = [resumed.once() for _ in range(12 - stop)]
        assert [(row["part"], row["loss"], row["signs_loss"]) for row in again] == losses[stop:]


def test_a_resumed_csv_has_every_step_once_and_another_network_is_refused(pupils: list[Pupil], tmp_path: Path) -> None:
    """Rows after the last save are written again, not twice."""
    run = run_over(pupils, tmp_path / "a.pt", 4)
    for _ in range(2):
        run._record(run.once())
    run.save()
    run._record(run.once())
    run_over(pupils, tmp_path / "a.pt", 4, resume=True).go_on(say=False)
    steps = [line.split(",")[0] for line in (tmp_path / "a-losses.csv").read_text().splitlines()]
    assert steps == ["step", "1", "2", "3", "4"]
    with pytest.raises(ValueError, match="another network"):
        Run(RECIPE, replace(TINY, hours=False), pupils, Limits(4), tmp_path / "a.pt", resume=True)


def test_settled_norms_stay_while_clips_are_learned(pupils: list[Pupil], tmp_path: Path) -> None:
    """Small batches of clips do not move them; the single frames before did."""
    run = run_over(pupils, tmp_path / "a.pt", 12)
    while run.progress < RECIPE.frames_share:
        run.once()
    run.once()
    norm = run.model.res2[0].conv1.norm
    before = norm.running_mean.clone()
    run.once()
    assert torch.equal(norm.running_mean, before) and before.any()


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, checkpoint.Checkpoint]:
    """An export, and the network it was made of: norms far from the identity, a shift that is used."""
    source = checkpoint.with_random_weights(TINY, 7)
    source.width_in_well_radii = 1.45
    return export.export(source, tmp_path_factory.mktemp("bundle"), "tiny", tolerance=5e-5), source


def clip_of(frames: torch.Tensor, model: AMSNet) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(frames, None, torch.tensor([[[40.0, 1.0]] * 4]))


def test_a_run_begun_from_an_export_is_the_very_network_that_was_exported(
    bundled: tuple[Path, checkpoint.Checkpoint], pupils: list[Pupil], tmp_path: Path
) -> None:
    """Norms measured anew, kernels of a fresh one's size, pixels scaled as they were: the same answers."""
    manifest, source = bundled
    run = Run(RECIPE, TINY, pupils, Limits(4), tmp_path / "a.pt", first_weights=manifest)
    frames = torch.rand(1, 4, 3, 32, 32)
    torch.testing.assert_close(clip_of(frames, run.model), clip_of(frames, source.model), atol=1e-4, rtol=1e-4)
    assert train._named(manifest) == "tiny 0.1.0" and train._named(tmp_path / "a.pt") == "a.pt"
    assert (run.kept.mean, run.kept.std) == (source.mean, source.std)
    assert run.kept.width_in_well_radii == 1.45
    block = run.model.res2[0].conv2
    assert float(block.conv.weight.detach().std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.1)
    run.go_on(say=False)
    assert not torch.equal(clip_of(frames, run.model), clip_of(frames, source.model))


def test_measured_norms_see_in_training_what_they_say_in_use(bundled: tuple[Path, checkpoint.Checkpoint]) -> None:
    """A batch's own mean and variance are then about the kept ones, so that training does not begin with a jump."""
    kept, frames = reclaim(bundled[0], TINY), torch.randn(32, 1, 3, 32, 32)
    before = kept.model(frames)
    measure_norms(kept.model, lambda: kept.model.features(frames))
    norm = kept.model.res3[0].conv1.norm
    assert norm.running_mean.abs().max() > 0.05 and (norm.running_var - 1).abs().max() > 0.05
    torch.testing.assert_close(kept.model(frames), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept.model.train()(frames), before, atol=0.02, rtol=0.02)


def test_an_export_of_another_network_is_refused(bundled: tuple[Path, checkpoint.Checkpoint], tmp_path: Path) -> None:
    """By shape, by a weight that is not there, and by what the graph answers."""
    with pytest.raises(ValueError, match="another network"):
        reclaim(bundled[0], replace(TINY, planes=5))
    with pytest.raises(ValueError, match=r"no weight 'head.weight'"):
        reclaim(bundled[0], replace(TINY, hours=False))
    with pytest.raises(ValueError, match="differs from its graph"):
        reclaim(bundled[0], replace(TINY, affinity_scale=0.01))


def test_a_run_begun_from_our_checkpoint_scales_pixels_as_they_were(pupils: list[Pupil], tmp_path: Path) -> None:
    """Whoever goes on from weights must show them the pictures they know."""
    source = checkpoint.with_random_weights(TINY, 7)
    source.mean, source.std = 0.31, 0.19
    checkpoint.save(tmp_path / "first.pt", source)
    run = Run(RECIPE, TINY, pupils, Limits(4), tmp_path / "a.pt", first_weights=tmp_path / "first.pt")
    assert (run.kept.mean, run.kept.std) == (0.31, 0.19)
    assert torch.equal(run.model.res1[0].conv1.conv.weight, source.model.res1[0].conv1.conv.weight)


def test_a_resnets_weights_from_a_local_file_fit_the_papers_network(tmp_path: Path) -> None:
    """torchvision's names: all but the classifier are taken, a stem for colours as the sum over them."""
    with torch.device("meta"):
        model = AMSNet(AMSNetConfig("resnet50", planes=1, input_px=32))
    theirs = {"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.weight": torch.full((64,), 0.7), "fc.weight": torch.ones(9)}
    theirs["layer1.0.conv2.weight"] = torch.full((64, 64, 3, 3), 0.2)
    theirs["layer3.0.downsample.0.weight"] = torch.full((1024, 512, 1, 1), 0.3)
    theirs["layer3.0.downsample.1.running_mean"] = torch.full((1024,), 0.4)
    torch.save(theirs, tmp_path / "resnet.pth")
    model = model.to_empty(device="cpu")
    taken = checkpoint.load_first_weights(model, tmp_path / "resnet.pth")
    assert len(taken) == 5
    assert (model.stem[0].conv.weight == 3).all() and (model.res3[0].identity.norm.running_mean == 0.4).all()
    torch.save({"something": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no weight of it fits"):
        checkpoint.load_first_weights(model, tmp_path / "other.pth")


def judged_as(logits: np.ndarray, reaches: bool) -> validation.Judged:
    hours_h = 6.0 * np.arange(len(logits))
    return validation.Judged(hours_h, logits, np.full(len(logits), 0.5), reaches, np.zeros((len(logits), 0)))


def test_the_temperature_undoes_a_boast_and_is_folded_into_the_last_layer() -> None:
    """Logits three times too large are divided by about three; the network then says the divided ones."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, 4000)
    judged = [judged_as(np.array([3 * x]), bool(rng.random() < 1 / (1 + np.exp(-x)))) for x in honest]
    kept = checkpoint.with_random_weights(TINY, 0)
    frames = torch.rand(1, 2, 3, 32, 32)
    before = kept.model(frames)
    validation.calibrate(kept, judged, "tests")
    assert kept.calibration["temperature"] == pytest.approx(3.0, abs=0.3)
    assert kept.calibration["ece_after"] < 0.03 < kept.calibration["ece_before"]
    torch.testing.assert_close(kept.model(frames) * kept.calibration["temperature"], before, atol=1e-5, rtol=1e-5)


def test_enough_segments_are_those_after_which_the_answer_is_told_from_chance() -> None:
    """Two steps of noise, then the truth: three segments."""
    rng = np.random.default_rng(1)
    judged = [judged_as(np.array([*rng.normal(size=2), 2.0 * reach - 1]), reach) for reach in [True, False] * 40]
    assert validation.least_segments(judged) == 3
    assert validation.least_segments([judged_as(rng.normal(size=3), reach) for reach in [True, False] * 40]) == 4


def test_judging_step_by_step_says_what_the_clip_says(pupils: list[Pupil]) -> None:
    """And the spread is that of the same frame with planes taken away, from the same memory."""
    config = AMSNetConfig("small", planes=7, input_px=32, hours=True)
    kept = checkpoint.with_random_weights(config, 0)

    embryo = Drawn(3, planes_um=(-45, -30, -15, 0, 15, 30, 45))
    judged = validation.judge(kept, [Pupil(embryo, pupils[3].targets)], with_spread=True)[0]
    x = torch.stack([torch.from_numpy(embryo.stack(t).astype(np.float32)) / 255 for t in range(40)])
    hours = torch.tensor([[hour, 1.0] for hour in embryo.hours_h], dtype=torch.float32)
    with torch.inference_mode():
        whole = kept.model(((x - kept.mean) / kept.std)[None], None, hours[None])[0]
    np.testing.assert_allclose(judged.logits, whole.numpy(), atol=1e-5)
    assert (judged.spread > 0).all()
    shown = [[2, 2, 2, 3, 4, 4, 4][plane] for plane in range(7)]  # of {-15, 0, 15} the nearest
    with torch.inference_mode():
        narrow = kept.model.step(kept.model.initial_state(), ((x[:1] - kept.mean) / kept.std)[:, shown], hours[:1])[0]
    assert judged.others[0, 2] == pytest.approx(float(narrow), abs=1e-5)
    validation.divide_logits(kept.model, 2.0)
    cooled = validation.judge(kept, [Pupil(embryo, pupils[3].targets)], with_spread=True)[0]
    np.testing.assert_allclose(judged.divided(2.0).spread, cooled.spread, atol=1e-5)


def test_the_exported_hours_reach_the_graph_and_the_policy_gives_them(tmp_path: Path) -> None:
    """The engine asks for them by name; known and unknown hours give other answers, and the manifest keeps the rest."""
    source = checkpoint.with_random_weights(TINY, 3)
    source.width_in_well_radii, source.calibration = 1.45, {"temperature": 1.2}
    source.stability = {"plane_subsets_um": [[-15, 15], [0]], "most_spread": 0.1, "least_segments": 2}
    path = export.export(source, tmp_path, "tiny")
    assert export.verify(path, source)
    loaded = load_engine(path, "cpu", 1)
    assert [tensor.name for tensor in loaded.engine.spec.inputs] == ["x", "hours"]
    manifest = loaded.manifest
    assert manifest.segments is not None and manifest.preprocess.crop == "embryo"
    policy = SegmentPolicy(loaded.engine, manifest.segments, manifest.preprocess, manifest.stability)
    stack = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    said = {}
    for hpi in (None, 20.0, 90.0):
        (memory,), (answer,) = policy.advance([policy.start()], [stack], [0.0], [hpi])
        said[hpi] = float(answer.outputs["y_blastocyst"][0])
        assert answer.spread is not None and answer.not_enough_data
        assert memory.representative_hpi == hpi
    assert len(set(said.values())) == 3


@pytest.mark.slow
def test_a_smoke_run_draws_trains_calibrates_and_leaves_what_export_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line as in the README, made tiny."""
    tiny = "--embryos 2 --validation 2 --frames 1 --last-hour 20 --steps 3 --input-px 32 --workers 1 --rows 2"
    arguments = [
        *tiny.split(),
        "--teacher-lives",
        "200",
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path),
        "--name",
        "smoke",
    ]
    assert train.main(arguments) == 0
    kept = checkpoint.load(tmp_path / "smoke.pt")
    assert kept.preprocess()["crop"] == "embryo" and kept.calibration["temperature"] > 0
    assert (tmp_path / "smoke-losses.png").stat().st_size > 1000
    assert "validation_auc_day2" in capsys.readouterr().out


def test_a_network_of_fewer_planes_is_finished_with_the_planes_it_was_given(
    pupils: list[Pupil], tmp_path: Path
) -> None:
    """Its manifest names the very planes it saw, not the ones around the middle; it claims no stability."""
    apart = [Pupil(Drawn(pupil.embryo.seed, planes_um=(-45, 0, 45)), pupil.targets) for pupil in pupils[:2]]
    run = Run(RECIPE, TINY, apart, Limits(1), tmp_path / "three.pt")
    run.go_on(say=False)
    train.finish(run, apart)
    kept = checkpoint.load(tmp_path / "three.pt")
    assert kept.preprocess()["planes_um"] == [-45, 0, 45]
    assert kept.calibration["temperature"] > 0 and not kept.stability
    resumed = Run(RECIPE, TINY, apart, Limits(1), tmp_path / "three.pt", resume=True)
    train.finish(resumed, apart)  # the same command once more: nothing was learned, the temperature is in the weights
    again = checkpoint.load(tmp_path / "three.pt")
    assert again.calibration == kept.calibration
    assert checkpoint.state_id(again) == checkpoint.state_id(kept)


def test_early_embryos_are_other_seeds_and_every_drawn_frame_is_as_likely(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole clip of twice the length is there twice; the manifest tells how many were early ones."""
    monkeypatch.setattr(train, "fill", lambda *_: iter(()))
    words = "--embryos 3 --early-embryos 4 --frames 1 --last-hour 168 --early-last-hour 84 --cache"
    chosen = train.parser().parse_args([*words.split(), str(tmp_path)])
    pupils = train.taught(chosen, 112, teacher)
    assert [pupil.embryo.name for pupil in pupils] == ["0", "1", "2", "0", "1", "2", "3", "4", "5", "6"]
    assert pupils[6].embryo.hours_h[-1] < 90 < 160 < pupils[0].embryo.hours_h[-1]
    assert train._embryos_of(pupils) == "7 drawn embryos (4 of them early on only)"
    assert train._embryos_of(pupils[:6]) == "3 drawn embryos"
    assert train.main(["--embryos", "899999", "--early-embryos", "2"]) == 2


def test_help_names_every_part_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` is the manual."""
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = capsys.readouterr().out
    for option in ("--recipe", "--time-limit-min", "--threads", "--device", "--precision", "--init", "--resume"):
        assert option in said


def test_every_row_of_the_ablation_is_another_network_and_is_held_against_one_that_is_there() -> None:
    """Table 1's five rows and its plane counts."""
    names = [row.name for row in ablation.ROWS]
    assert len({row.config(32) for row in ablation.ROWS}) == len(names) == 8
    assert all(row.against is None or row.against in names[: names.index(row.name)] for row in ablation.ROWS)
    assert {row.planes for row in ablation.ROWS} == {1, 3, 5, 7}


@pytest.mark.parametrize("row", ablation.ROWS, ids=lambda row: row.name)
def test_every_row_of_the_ablation_can_be_trained_and_judged(
    row: ablation.Row, teacher: Teacher, tmp_path: Path
) -> None:
    """Also the plain network of one plane, which has neither a reduction nor a state."""
    planes_um = (-45, -30, -15, 0, 15, 30, 45)
    embryos = [Drawn(seed, planes_um=planes_um) for seed in range(3)]
    pupils = [Pupil(embryo, targets_of(embryo, teacher)) for embryo in embryos]
    answers = ablation.train_row(row, pupils, pupils, Limits(2), 32, tmp_path, 0)
    assert answers["steps"] == 2 and all(len(said) == 3 for said in answers["probability"].values())


def test_a_row_sees_the_middle_planes_of_the_same_embryo_shrunk(pupils: list[Pupil]) -> None:
    (seen, *_) = ablation.shrunk(pupils, ablation.Row("one", 1), 16)
    assert seen.embryo.planes_um == (0,) and seen.embryo.name == pupils[0].embryo.name
    assert seen.embryo.stack(3).shape == (1, 16, 16)
    assert seen.embryo.stack(3).mean() == pytest.approx(pupils[0].embryo.stack(3)[1].mean(), abs=1.0)


def test_a_finished_row_is_not_trained_again_and_the_table_pairs_the_rows(pupils: list[Pupil], tmp_path: Path) -> None:
    """The second call reads the answers; the same answers differ by nothing."""
    row = ablation.Row("full, 3 planes", 3, against="full")
    first = ablation.train_row(row, pupils, pupils[:4], Limits(3), 32, tmp_path, 0)
    (tmp_path / "full,_3_planes.pt").unlink()
    assert ablation.train_row(row, pupils, pupils[:4], Limits(3), 32, tmp_path, 0) == first
    assert first["steps"] == 3 and not (tmp_path / "full,_3_planes.pt").exists()
    with pytest.raises(ValueError, match="give another --out"):
        ablation.train_row(row, pupils, pupils[:3], Limits(3), 32, tmp_path, 0)
    with pytest.raises(ValueError, match="give another --out"):
        ablation.train_row(row, pupils, pupils[:4], Limits(3), 32, tmp_path, 1)
    first["reaches"] = [True, False, True, False]
    said = ablation.table({"full": first, "full, 3 planes": first})
    assert said.count("+0.000, +0.000 to +0.000") == 6
