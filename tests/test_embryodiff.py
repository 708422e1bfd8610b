"""EmbryoDiff's streaming promises: stepping equals the whole causal pass, time goes one way, planes may be missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from training.embryodiff import diffusion  # noqa: E402
from training.embryodiff.encoder import EncoderConfig, FrameEncoder, standardised, start_trunk  # noqa: E402
from training.embryodiff.model import SMALL, EmbryoDiff, HeadConfig, Sequence  # noqa: E402
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
