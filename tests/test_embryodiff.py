"""EmbryoDiff's streaming promises: stepping equals the whole causal pass, time goes one way, planes may be missing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from engines.load import load_engine  # noqa: E402
from engines.stages import StageFrame, StagePolicy  # noqa: E402
from engines.verify import contract_faults  # noqa: E402
from monitor.vocabulary import PHASES  # noqa: E402
from training.embryodiff import checkpoint, diffusion, scores  # noqa: E402
from training.embryodiff.bundled import read_bundled, thawed  # noqa: E402
from training.embryodiff.encoder import EncoderConfig, FrameEncoder, standardised, start_trunk  # noqa: E402
from training.embryodiff.evaluate import Said, onset_lines  # noqa: E402
from training.embryodiff.export import Pair, compare, export  # noqa: E402
from training.embryodiff.features import Fuser, Video, nearest_alike  # noqa: E402
from training.embryodiff.frames import CropFrames, Picker  # noqa: E402
from training.embryodiff.lives import following  # noqa: E402
from training.embryodiff.losses import (  # noqa: E402
    UNLABELLED,
    Labels,
    ordinal_cross_entropy,
    ordinal_targets,
    shown,
)
from training.embryodiff.model import SMALL, EmbryoDiff, HeadConfig, Sequence  # noqa: E402
from training.embryodiff.restyle import Restyler, Restyling  # noqa: E402
from training.embryodiff.run import Recipe, Run, parameter_groups  # noqa: E402
from training.embryodiff.train import head_loss  # noqa: E402
from training.sim2real.model import StageNet  # noqa: E402

pytestmark = pytest.mark.train
torch.set_num_threads(1)  # two threads wait for each other longer than these small products take

TINY = HeadConfig(features=8, channels=8, layers=4, heads=2, window=4, label_channels=8, blocks=2)
CONFIGS = [TINY, replace(TINY, boundary=False), replace(TINY, diffusion=False)]


def head(config: HeadConfig = TINY, seed: int = 0) -> EmbryoDiff:
    torch.manual_seed(seed)
    return EmbryoDiff(config).eval()


def sequence(config: HeadConfig = TINY, batch: int = 2, frames: int = 30, seed: int = 1) -> Sequence:
    rng = torch.Generator().manual_seed(seed)
    elapsed_h = torch.rand(batch, frames, generator=rng)
    known = (torch.rand(batch, frames, generator=rng) > 0.4).float()
    features = torch.randn(batch, frames, config.features, generator=rng)
    return Sequence(features, elapsed_h.cumsum(1), known, elapsed_h, torch.ones(batch, frames))


def stepped(model: EmbryoDiff, given: Sequence, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Log posteriors (B, T, K) and the last state, one step at a time."""
    state = model.initial_state(given.valid.shape[0]) if state is None else state
    said = []
    with torch.inference_mode():
        for t in range(given.valid.shape[1]):
            at = slice(t, t + 1)
            frame = (given.features[:, t], given.hours_h[:, at], given.known[:, at], given.elapsed_h[:, at])
            one, state = model.step(state, *frame)
            said.append(one)
    return torch.stack(said, dim=1), state


def whole(model: EmbryoDiff, given: Sequence, steps: int = 1) -> torch.Tensor:
    with torch.inference_mode():
        return model(given, steps)


def part(given: Sequence, rows: slice, frames: slice) -> Sequence:
    return Sequence(*(getattr(given, name)[rows, frames] for name in given.__dataclass_fields__))


@pytest.mark.parametrize("config", CONFIGS, ids=["full", "no boundary", "semantic only"])
def test_stepping_equals_the_whole_causal_pass(config: HeadConfig) -> None:
    """The stream may say nothing else than the whole sequence."""
    model, given = head(config), sequence(config)
    assert (stepped(model, given)[0] - whole(model, given)).abs().max() < 1e-5


def test_stepping_equals_the_whole_causal_pass_of_the_shipped_size_over_700_frames() -> None:
    """Longer than its memory by far, and than any video of five days."""
    model, given = head(SMALL), sequence(SMALL, batch=1, frames=700)
    assert model.receptive_field < 700
    assert (stepped(model, given)[0] - whole(model, given)).abs().max() < 1e-5


@pytest.mark.parametrize("config", CONFIGS, ids=["full", "no boundary", "semantic only"])
def test_a_later_frame_never_changes_an_earlier_posterior(config: HeadConfig) -> None:
    model, given = head(config), sequence(config)
    features = torch.cat([given.features[:, :20], sequence(seed=9).features[:, 20:]], dim=1)
    before, after = whole(model, given), whole(model, replace(given, features=features))
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])


def test_the_other_twin_looks_ahead_and_does_not_step() -> None:
    model, given = head(replace(TINY, causal=False)), sequence()
    features = torch.cat([given.features[:, :20], sequence(seed=9).features[:, 20:]], dim=1)
    assert not torch.allclose(whole(model, given)[:, 19], whole(model, replace(given, features=features))[:, 19])
    with pytest.raises(ValueError, match="only the causal twin steps"):
        stepped(model, given)


def test_the_memory_ends_where_the_receptive_field_says() -> None:
    model, given = head(), sequence(frames=60)
    reach = model.receptive_field
    features = torch.cat([sequence(seed=9).features[:, :1], given.features[:, 1:]], dim=1)
    apart = (whole(model, given) - whole(model, replace(given, features=features))).abs().amax(dim=(0, 2))
    assert apart[reach // 2] > 0  # at its very end what is left of a frame drowns in float32
    assert torch.all(apart[reach:] == 0)


def test_embryos_of_different_ages_step_in_one_batch_as_each_alone() -> None:
    model, given = head(), sequence(frames=20)
    old = stepped(model, part(given, slice(0, 1), slice(0, 9)))[1]
    young = model.initial_state()
    rest = sequence(frames=6, seed=3)
    together = stepped(model, rest, torch.cat([old, young]))[0]
    alone = [stepped(model, part(rest, slice(i, i + 1), slice(None)), state)[0] for i, state in enumerate((old, young))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_after_the_end_changes_nothing(causal: bool) -> None:
    """Sequences of different lengths are trained on side by side."""
    model, given = head(replace(TINY, causal=causal)), sequence()
    valid = given.valid.clone()
    valid[:, 18:] = 0.0
    short = whole(model, part(given, slice(None), slice(0, 18)))
    assert torch.allclose(whole(model, replace(given, valid=valid))[:, :18], short, atol=1e-5)


def test_an_unknown_hour_is_not_looked_at() -> None:
    model, given = head(), sequence()
    blind = replace(given, known=torch.zeros_like(given.known))
    other = replace(blind, hours_h=given.hours_h + 50.0)
    assert torch.equal(whole(model, blind), whole(model, other))
    assert not torch.allclose(whole(model, blind), whole(model, given))


def test_four_denoising_steps_say_something_else_than_one_and_are_posteriors() -> None:
    model, given = head(), sequence()
    said = whole(model, given, steps=4)
    assert torch.allclose(said.exp().sum(-1), torch.ones(2, 30), atol=1e-5)
    assert not torch.allclose(said, whole(model, given))


def test_nothing_of_a_label_is_left_at_the_last_diffusion_step() -> None:
    """Why one step is a regression from the conditions, and the noise may be one fixed vector."""
    kept = diffusion.alpha_bars()
    assert len(kept) == 1000
    assert bool((kept[1:] < kept[:-1]).all())
    assert float(kept[0]) > 0.9999 and float(kept[-1].sqrt()) < 1e-4
    assert diffusion.sampling_steps(4) == [999, 749, 499, 249]


def test_a_ddim_step_to_the_next_noise_level_keeps_the_predicted_label() -> None:
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(1, 5, 8, generator=rng), torch.randn(1, 5, 8, generator=rng)
    noisy = diffusion.noised(clean, noise, torch.tensor([0.3]))
    assert torch.allclose(
        diffusion.towards(noisy, clean, 0.3, 0.8), diffusion.noised(clean, noise, torch.tensor([0.8])), atol=1e-5
    )


# -- the frame encoder -------------------------------------------------------------------------------------------------

TINY_ENCODER = EncoderConfig("tiny", planes=3, features=8, heads=2)


def encoder(config: EncoderConfig = TINY_ENCODER) -> FrameEncoder:
    torch.manual_seed(0)
    return FrameEncoder(config).eval()


def test_a_plane_that_is_absent_has_no_say() -> None:
    model, x = encoder(), torch.rand(2, 3, 32, 32)
    present = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    other = torch.where(present[:, :, None, None] > 0, x, torch.rand(2, 3, 32, 32))
    with torch.inference_mode():
        assert torch.equal(model(x, present), model(other, present))
        assert not torch.allclose(model(x, present), model(x, torch.ones(2, 3)))


def test_planes_fused_without_the_absent_ones_give_the_same_vector() -> None:
    """Training does not run the trunk on planes that are not there."""
    model, x = encoder(), torch.rand(2, 3, 32, 32)
    present = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    rows = standardised(x[present > 0].unsqueeze(1))
    with torch.inference_mode():
        assert torch.allclose(model(x, present), model.fuse_present(rows, present), atol=1e-6)


def test_light_and_contrast_tell_the_encoder_nothing() -> None:
    model, x, present = encoder(), torch.rand(1, 3, 32, 32), torch.ones(1, 3)
    with torch.inference_mode():
        assert torch.allclose(model(x, present), model(0.5 * x + 0.2, present), atol=1e-4)


@pytest.mark.parametrize("trunk", ["resnet50", "resnet18", "small"])
def test_every_trunk_gives_one_vector_a_frame(trunk: str) -> None:
    model = encoder(EncoderConfig(trunk, planes=3, input_px=64))
    with torch.inference_mode():
        vectors = model(torch.rand(1, 3, 64, 64), torch.ones(1, 3))
        phases, stages = model.classify(vectors)
    assert (vectors.shape, phases.shape, stages.shape) == ((1, 128), (1, 16), (1, 6))


def test_the_measuring_classifiers_weights_start_the_small_trunk_and_no_other() -> None:
    torch.manual_seed(3)
    source = StageNet(1).eval()
    model = encoder(EncoderConfig("small", planes=3))
    start_trunk(model, source.state_dict())
    x = torch.rand(2, 1, 112, 112)
    with torch.inference_mode():
        assert torch.equal(model.trunk(x), source(x)[2])
    with pytest.raises(ValueError, match="do not start a tiny trunk"):
        start_trunk(encoder(), source.state_dict())


# -- training and export -----------------------------------------------------------------------------------------------


def test_a_frozen_encoder_says_what_the_trained_one_says_but_for_its_rounding() -> None:
    model = encoder(EncoderConfig("small", planes=3, input_px=64))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.6)
    x, present = torch.rand(2, 3, 64, 64), torch.ones(2, 3)
    with torch.inference_mode():
        said = [one(x, present) for one in (model, checkpoint.folded(model), checkpoint.frozen(model))]
    assert torch.allclose(said[0], said[1], atol=1e-4)
    assert 0 < (said[0] - said[2]).abs().max() < 0.15
    kernels = [m.weight for m in checkpoint.frozen(model).trunk.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(len(kernel[0].unique()) <= 2 * checkpoint.LEVELS + 1 for kernel in kernels)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pair]:
    """A pair of random weights, written."""
    pair = Pair.with_random_weights("tiny", replace(TINY, features=128), seed=0)
    return export(pair, tmp_path_factory.mktemp("models"), "pair", "0"), pair


def test_the_graphs_say_what_pytorch_says_over_700_steps(exported: tuple[Path, Pair]) -> None:
    path, pair = exported
    assert compare(path, pair, steps=700).holds


def test_an_exported_pair_loads_keeps_the_contract_and_has_8_bit_kernels(exported: tuple[Path, Pair]) -> None:
    path, pair = exported
    loaded = load_engine(path, "cpu", 1)
    assert [fault for engine in loaded.engines for fault in contract_faults(engine)] == []
    assert loaded.engine.spec.state_id == checkpoint.state_id(pair.encoder, pair.head)
    graph = onnx.load(path.with_name("pair-encoder.onnx")).graph
    assert any(kernel.data_type == onnx.TensorProto.INT8 for kernel in graph.initializer)


def make_distinct(pair: Pair) -> None:
    """The exporter merges constants that are equal, as many are before any training."""
    with torch.no_grad():
        for network in (pair.encoder, pair.head):
            for parameter in network.parameters():
                if bool((parameter == parameter.flatten()[0]).all()):
                    parameter.add_(0.1 * torch.randn_like(parameter))


def test_an_exported_pair_reads_back_as_networks_that_say_the_same(tmp_path: Path) -> None:
    """Training may go on from what is shipped: no checkpoint needs to be kept."""
    pair = Pair.with_random_weights("tiny", replace(TINY, features=128), seed=4)
    make_distinct(pair)
    path = export(pair, tmp_path, "pair", "0.3")
    back = read_bundled(path)
    assert back.origin.startswith("pair 0.3 (")
    assert back.head.config == pair.head.config
    assert compare(path, Pair(back.encoder, back.head, {}), steps=60).holds
    back.save(tmp_path, "base")
    kept = [checkpoint.load_encoder(tmp_path / "base-frozen.pt"), checkpoint.load_head(tmp_path / "base-causal.pt")]
    assert kept[1].provenance["encoder"] == checkpoint.encoder_id(kept[0].network)
    assert compare(path, Pair(kept[0].network, kept[1].network, {}), steps=5).holds
    with pytest.raises(ValueError, match="no stage model"):
        path.write_text(path.read_text().replace('"task": "stage"', '"task": "grade"'))
        read_bundled(path)


def test_windows_that_the_exporter_merged_are_not_guessed_apart(tmp_path: Path) -> None:
    pair = Pair.with_random_weights("tiny", replace(TINY, features=128), seed=4)
    with pytest.raises(ValueError, match="merge"):
        read_bundled(export(pair, tmp_path, "pair", "0"))


def test_a_thawed_encoder_is_the_frozen_one_and_can_be_trained_and_frozen_again() -> None:
    source = checkpoint.frozen(encoder(EncoderConfig("small", planes=3, input_px=64)))
    planes, present = torch.rand(24, 1, 64, 64) * 4 - 2, torch.ones(8, 3)
    warm = thawed(source, planes)
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(warm(x, torch.ones(2, 3)), source(x, torch.ones(2, 3)), atol=1e-4)
        expected = source.fuse_present(planes, present)
        assert torch.allclose(warm.train().fuse_present(planes, present), expected, atol=1e-3)
        assert torch.allclose(
            checkpoint.frozen(warm.eval())(x, torch.ones(2, 3)), source(x, torch.ones(2, 3)), atol=1e-3
        )
    assert all(parameter.requires_grad for parameter in warm.parameters())


def test_the_streamed_pair_says_what_the_whole_pass_says_of_pictures(exported: tuple[Path, Pair]) -> None:
    """Picture to posterior, as the monitor goes it, against training's own pass over the whole sequence."""
    path, pair = exported
    policy = StagePolicy(load_engine(path, "cpu", 1))
    stacks = np.random.default_rng(0).integers(0, 255, (12, 7, 32, 32), dtype=np.uint8)
    hours_h = 20 + 0.25 * np.arange(12)
    memory, said = policy.start(), []
    for stack, hour_h in zip(stacks, hours_h, strict=True):
        (vector,) = policy.encode([stack], [(-15, 0, 15)])
        assert vector is not None
        (memory,), (answer,) = policy.take([memory], [StageFrame(vector, float(hour_h), float(hour_h - 20))])
        said.append(answer.probabilities)
    present = torch.zeros(12, 7)
    present[:, 2:5] = 1.0
    elapsed_h = torch.tensor([0.0] + [0.25] * 11)
    ones, told = torch.ones(1, 12), torch.tensor(hours_h, dtype=torch.float32)
    with torch.inference_mode():
        vectors = pair.encoder(torch.from_numpy(stacks.astype(np.float32) / 255), present)
        expected = pair.head(Sequence(vectors[None], told[None], ones, elapsed_h[None], ones))[0].exp()
    assert np.abs(np.stack(said) - expected.numpy()).max() < 1e-5


def test_a_head_of_another_encoders_features_is_not_exported() -> None:
    first, second = (checkpoint.frozen(encoder(EncoderConfig("tiny", planes=7))) for _ in range(2))
    kept = checkpoint.Checkpoint(first, frozen=True)
    other = checkpoint.Checkpoint(EmbryoDiff(TINY), {"encoder": "f" * 64})
    with pytest.raises(ValueError, match="not of this one"):
        Pair.of(kept, other)
    with pytest.raises(ValueError, match="not frozen"):
        Pair.of(checkpoint.Checkpoint(second), other)


def test_training_goes_on_where_it_was_stopped_and_refuses_another_recipe(tmp_path: Path) -> None:
    ticks = itertools.count()
    given, labels = sequence(batch=2, frames=12), Labels(torch.randint(0, 16, (2, 12)), torch.ones(2, 12))

    def loss_of(network: EmbryoDiff, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        losses = head_loss(network, given, labels, torch.Generator().manual_seed(step))
        return sum(losses.values(), torch.zeros(())), {}

    def run(minutes: float, lr: float = 1e-3) -> Run:
        recipe = Recipe(minutes, lr, 0.01, batch=2)
        return Run(tmp_path / "head.pt", head(), recipe, {})

    first = run(0.2)
    first.train(loss_of, lambda text: None, lambda: float(next(ticks)))
    again = run(0.4)
    assert (again.steps, again.trained_s) == (first.steps, first.trained_s)
    assert torch.equal(again.network.labels, first.network.labels)
    again.train(loss_of, lambda text: None, lambda: float(next(ticks)))
    rows = (tmp_path / "head.csv").read_text().splitlines()
    assert again.steps > first.steps and len(rows) > 2
    with pytest.raises(ValueError, match="another recipe"):
        run(0.4, lr=1.0)


def test_the_head_learns_a_sequence_it_sees_again_and_again() -> None:
    """Every one of the four losses falls, so every part of the network is reached."""
    model, given = head(), sequence(batch=2, frames=40)
    labels = Labels(torch.arange(40).div(10, rounding_mode="floor").repeat(2, 1), torch.ones(2, 40))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    seen = []
    for step in range(60):
        losses = head_loss(model, given, labels, torch.Generator().manual_seed(step % 5))
        optimiser.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        optimiser.step()
        seen.append({name: float(value.detach()) for name, value in losses.items()})
    for name in ("semantic", "boundary", "diffusion"):
        assert np.mean([one[name] for one in seen[-10:]]) < 0.7 * seen[0][name], name
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_hidden_from_the_denoiser_follows_the_labels() -> None:
    phases = torch.tensor([[3] * 8 + [5] * 8] * 4)
    rng = torch.Generator().manual_seed(0)
    full, none, boundary, relation = shown(
        Labels(phases, torch.ones(4, 16)), ["full", "none", "boundary", "relation"], rng
    )
    assert (full.sum(), none.sum()) == (16, 0)
    assert torch.nonzero(boundary == 0).flatten().tolist() == [6, 7, 8, 9, 10]
    assert relation.tolist() in ([0.0] * 8 + [1.0] * 8, [1.0] * 8 + [0.0] * 8)


def test_a_neighbouring_phase_costs_less_than_a_far_one_and_an_unknown_one_nothing() -> None:
    targets = ordinal_targets()
    assert torch.allclose(targets.sum(1), torch.ones(16)) and (targets.argmax(1) == torch.arange(16)).all()
    assert targets[6, 7] == pytest.approx(float(targets[6, 5])) and targets[6, 7] > 3 * targets[6, 8]
    said = torch.full((1, 16), -6.0)
    said[0, 7] = 6.0

    def cost(phase: int) -> float:
        return float(ordinal_cross_entropy(said, torch.tensor([phase]), targets))

    assert cost(7) < cost(6) < cost(3)
    assert cost(UNLABELLED) == 0.0
    both = ordinal_cross_entropy(said.repeat(2, 1), torch.tensor([3, UNLABELLED]), targets)
    assert float(both) == pytest.approx(cost(3))


def test_short_phases_of_a_stage_are_picked_as_often_as_long_ones_more_than_half_of_the_time() -> None:
    phases = np.array([9] * 98 + [6, 7])
    stages = np.full(100, 3, np.int64)
    frames = CropFrames(np.zeros((100, 1, 128, 128), np.uint8), stages, phases, (0,))
    batch = Picker([(frames, 1.0)]).batch(300, np.random.default_rng(0))
    shares = [float((batch.phases == phase).float().mean()) for phase in (6, 7, 9)]
    assert shares[0] == pytest.approx(0.206, abs=0.07) and shares[1] == pytest.approx(0.206, abs=0.07)


def test_a_restyled_crop_keeps_its_outlines_and_takes_over_the_others_texture() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:112, :112]
    disc = ((x - 56) ** 2 + (y - 56) ** 2 < 30**2).astype(np.float32)
    coarse = rng.standard_normal((3, 112, 112)).astype(np.float32)
    how = Restyling(blended=1.0, most_blended=0.8, banded=1.0, lit=1.0)
    seen = [Restyler(coarse, how)(disc[None], np.random.default_rng(seed))[0] for seed in range(20)]
    assert all(np.isfinite(one).all() and one.shape == (112, 112) for one in seen)
    middle = seen[0][22:90, 22:90]
    assert abs(middle.mean()) < 0.01 and middle.std() == pytest.approx(1.0, abs=0.15)
    alike = [np.corrcoef(one.ravel(), disc.ravel())[0, 1] for one in seen]
    assert min(alike) > 0.2 and np.mean(alike) > 0.5

    def fine(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture[22:90, 22:90], axis=1)).mean())

    untouched = Restyler(coarse, Restyling(blended=0.0, banded=0.0, lit=0.0))(disc[None], rng)[0]
    assert np.mean([fine(one) for one in seen]) > 1.5 * fine(untouched)
    same = Restyler(np.zeros((0, 112, 112), np.float32), Restyling(blended=1.0, banded=0.0, lit=0.0))(disc[None], rng)[
        0
    ]
    assert np.allclose(same, untouched)


def test_a_resampled_sequence_shows_no_frame_of_another_phase_beside_a_division() -> None:
    video = Video(
        name="drawn",
        planes_um=(0,),
        trunk=np.zeros((4, 1, 8), np.float16),
        hours_h=np.array([10.0, 11.0, 12.0, 13.0]),
        phases=np.array([3, 3, 5, 5]),
        onsets_h=((3, 8.0), (5, 11.2)),
    )
    hours_h = np.array([10.4, 11.1, 11.3, 11.45, 12.9])
    phases = video.phases_at(hours_h)
    assert phases.tolist() == [3, 3, 5, 5, 5]
    assert nearest_alike(video, hours_h, phases).tolist() == [0, 1, 2, 2, 3]


def test_planes_fused_from_what_was_kept_are_those_fused_at_once() -> None:
    model = encoder(EncoderConfig("tiny", planes=7))
    trunk = np.random.default_rng(0).normal(size=(5, 3, model.trunk.channels)).astype(np.float16)
    video = Video("drawn", (-15, 0, 15), trunk, np.arange(5.0), np.zeros(5, np.int64))
    seen, present = torch.zeros(5, 7, model.trunk.channels), torch.zeros(5, 7)
    seen[:, [2, 4]], present[:, [2, 4]] = torch.from_numpy(trunk[:, [0, 2]].astype(np.float32)), 1.0
    with torch.inference_mode():
        at_once = model.fusion(seen, present)
    fuse = Fuser(model)
    assert torch.allclose(fuse(video, [0, 2]), at_once, atol=1e-6)
    assert torch.allclose(fuse(video, [0, 2], np.array([3, 3, 1])), at_once[[3, 3, 1]], atol=1e-6)


def test_a_trunk_that_starts_from_weights_is_trained_at_a_share_of_the_rate() -> None:
    groups = parameter_groups(encoder(), Recipe(1.0, 1.0, 0.1, 4, trunk_share=0.3))
    assert [(group["share"], group["weight_decay"]) for group in groups] == [
        (1.0, 0.1),
        (1.0, 0.0),
        (0.3, 0.1),
        (0.3, 0.0),
    ]
    assert sum(len(group["params"]) for group in groups) == len(list(encoder().parameters()))


def test_hours_spent_are_counted_over_those_who_leave_and_those_who_stay() -> None:
    """An arrested embryo makes leaving rarer; a phase that was jumped over counts as passed."""
    told = following([{"tPB2": 2.0, "t2": 10.0, "t4": 30.0}, {"tPB2": 2.0, "t2": 20.0, "t3": 30.0, "t4": 32.0}], 100.0)
    at = {phase: told["dwell_h"][PHASES.index(phase)] for phase in ("t2", "t3", "t4")}
    assert at == {"t2": (20 + 10) / 2, "t3": 2.0, "t4": 1000.0}
    passed = {phase: told["passed_over"][PHASES.index(phase)] for phase in ("t2", "t3", "t4", "tPNa")}
    assert passed == {"t2": 0.0, "t3": 0.5, "t4": 0.0, "tPNa": 1.0}


# -- figures -----------------------------------------------------------------------------------------------------------


def test_segment_scores_of_known_sequences() -> None:
    truth = np.repeat([3, 5, 9], 10)
    assert scores.edit_score(truth, truth) == 100.0
    assert scores.f1([truth], [truth], 0.5) == 100.0
    flicker = truth.copy()
    flicker[4] = 7  # one frame wrong: two segments more
    assert scores.accuracy(flicker, truth) == pytest.approx(29 / 30)
    assert scores.edit_score(flicker, truth) == pytest.approx(60.0)
    assert scores.f1([flicker], [truth], 0.5) == pytest.approx(100 * 6 / 8)
    late = np.repeat([3, 5, 9], [18, 2, 10])
    assert scores.f1([late], [truth], 0.25) == pytest.approx(100 * 4 / 6)


def test_onsets_count_as_told_within_what_two_people_differ_by() -> None:
    hours_h = np.arange(30) * 1.0
    truth, said = np.repeat([2, 3, 5], 10), np.repeat([2, 3, 5], [11, 8, 11])
    true, told = scores.onsets_h(truth, hours_h), scores.onsets_h(said, hours_h)
    assert true == {"t2": 10.0, "t4": 20.0}
    errors = scores.onset_errors_h(told, true)
    assert errors == {"t2": 1.0, "t4": -1.0}
    assert scores.within_scatter([errors], [true]) == 0.5  # .91 h for t2, 1.34 for t4
    assert scores.within_scatter([{}], [true]) == 0.0  # an onset that is not told is missed


def test_an_onset_that_was_not_told_stands_beside_those_that_were_late() -> None:
    hours_h = np.arange(30) * 1.0
    truth = np.repeat([2, 3, 5], 10)
    video = Video("real", (0,), np.zeros((30, 1, 8), np.float16), hours_h, truth)
    said = Said(video, np.eye(16)[truth], np.repeat([2, 3], [12, 18]), truth, None)  # type: ignore[arg-type]
    assert onset_lines(said)[1] == "hours too late, live: t2 +2.0, t4 -"


def test_the_hour_alone_gives_the_phase_whose_median_onset_has_passed() -> None:
    assert [PHASES[i] for i in scores.by_hour(np.array([1.0, 10.0, 24.5, 50.0, 130.0]))] == [
        *("tPB2", "tPNa", "t2", "t7", "tEB"),
    ]
