"""I2CNet: each equation of the paper, deep supervision, learning, resuming, the graph that is exported."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch.nn import functional  # noqa: E402

from engines.day5 import Part  # noqa: E402
from engines.load import load_engine  # noqa: E402
from engines.verify import contract_faults  # noqa: E402
from monitor.simulator import VirtualEmbryo  # noqa: E402
from monitor.simulator.truth import put_masks  # noqa: E402
from training.day5 import checkpoint, export  # noqa: E402
from training.day5.look import Varied, varied  # noqa: E402
from training.day5.run import Average, Recipe, Run, rate_at  # noqa: E402
from training.i2cnet import ablation, evaluate  # noqa: E402
from training.i2cnet import export as i2cnet_export  # noqa: E402
from training.i2cnet.model import (  # noqa: E402
    GroupedBy,
    I2CModule,
    I2CNet,
    I2CNetConfig,
    InterClass,
    IntraClass,
    group_sizes,
    loss_of,
    weight_of,
)
from training.i2cnet.pictures import StillPicture, blasts_pictures, split  # noqa: E402
from training.i2cnet.train import batch_loss, new_run, start_from  # noqa: E402

pytestmark = pytest.mark.train

TINY = I2CNetConfig((6, 8, 10), planes=3, input_px=32, relu_logits=False, clamp_sum=True)


def network(config: I2CNetConfig = TINY, seed: int = 0) -> I2CNet:
    """Random weights with norms away from the identity, in evaluation mode."""
    torch.manual_seed(seed)
    made = checkpoint.with_norms_away_from_identity(I2CNet(config), seed)
    assert isinstance(made, I2CNet)
    return made


def some(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def toy(seed: int, side: int = 32) -> StillPicture:
    """A disc in a ring, each part another gray."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0.4, 0.6, 2) * side
    rows, columns = np.mgrid[:side, :side]
    away = np.hypot(columns - x, rows - y) / side
    labels = np.select(
        [away < 0.1, away < 0.22, away < 0.29, away < 0.36], [Part.ICM, Part.BLASTOCOEL, Part.TE, Part.ZP], 0
    ).astype(np.uint8)
    gray = np.array([120, 220, 60, 180, 20])[labels] + rng.normal(0, 6, labels.shape)
    return StillPicture(np.clip(gray, 0, 255).astype(np.uint8), labels)


# --- equations


@pytest.mark.parametrize(
    ("channels", "groups", "sizes"), [(64, 5, [12, 12, 12, 12, 16]), (64, 4, [16] * 4), (5, 5, [1] * 5)]
)
def test_the_last_group_takes_the_channels_that_are_left_over(channels: int, groups: int, sizes: list[int]) -> None:
    """Equation 9."""
    assert group_sizes(channels, groups) == sizes


def test_u_is_largest_where_a_pixel_is_undecided_and_one_where_it_is_sure() -> None:
    """Equation 12 with alpha 1 and beta 2: 1 + 1 - e^-.25 at one half."""
    found = weight_of(torch.tensor([0.0, 0.5, 1.0]))
    assert found.tolist() == pytest.approx([1.0, 2 - math.exp(-0.25), 1.0])
    assert found[1].item() == pytest.approx(1.2212, abs=1e-4)
    assert weight_of(torch.tensor([0.5]), alpha=2.0).item() == pytest.approx(1 + 2 * (1 - math.exp(-0.25)))


def test_spreading_the_maps_is_cutting_multiplying_and_joining() -> None:
    features, maps = some(2, 13, 4, 4), some(2, 5, 4, 4, seed=2)
    parts = features.split(group_sizes(13, 5), dim=1)
    expected = torch.cat([part * maps[:, k : k + 1] for k, part in enumerate(parts)], dim=1)
    assert torch.equal(GroupedBy(13, 5)(features, maps), expected)


def test_iaccm_shows_each_group_through_the_map_of_one_class() -> None:
    """Equation 10: a class that is nowhere silences its own group and no other."""
    module = IntraClass(11)
    seen: list[torch.Tensor] = []
    module.mix.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    maps = torch.ones(1, 5, 3, 3)
    maps[:, 2] = 0
    features = some(1, 11, 3, 3) + 0.1
    module(features, maps)
    silent = (seen[0][0] == 0).flatten(1).all(1)
    assert silent.tolist() == [False] * 4 + [True] * 2 + [False] * 5


def test_irccm_gathers_from_inside_out_and_never_asks_the_background() -> None:
    """Equation 11: group k knows the classes up to k."""
    config = replace(TINY, clamp_sum=False)
    module = InterClass(8, config)
    seen: list[torch.Tensor] = []
    module.mix.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    maps, features = some(1, 5, 3, 3), torch.ones(1, 8, 3, 3)
    module(features, maps)
    for changed, touched in ((3, [False] * 6 + [True] * 2), (1, [False] * 2 + [True] * 6), (4, [False] * 8)):
        other = maps.clone()
        other[:, changed] += 0.3
        module(features, other)
        assert [bool((seen[-1][0, c] != seen[0][0, c]).any()) for c in range(8)] == touched
    torch.testing.assert_close(seen[0][0, 4], weight_of(maps[0, :3].sum(0)))


def test_without_u_the_sum_itself_is_the_weight_and_the_clamp_holds_it_below_one() -> None:
    maps, features = torch.full((1, 5, 2, 2), 0.4), torch.ones(1, 4, 2, 2)
    for clamp, expected in ((False, [0.4, 0.8, 1.2, 1.6]), (True, [0.4, 0.8, 1.0, 1.0])):
        module = InterClass(4, replace(TINY, weighting=False, clamp_sum=clamp))
        seen: list[torch.Tensor] = []
        module.mix.register_forward_pre_hook(lambda _, given, kept=seen: kept.append(given[0]))
        module(features, maps)
        assert seen[0][0, :, 0, 0].tolist() == pytest.approx(expected)


def test_maps_reach_the_modules_in_the_papers_order() -> None:
    """Inside out: ICM, blastocoel, TE, ZP, background; the network's own order begins with the background."""
    module = I2CModule(5, replace(TINY, inter=False))
    assert module.intra is not None
    seen: list[torch.Tensor] = []
    module.intra.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    module(torch.ones(1, 5, 1, 1), torch.arange(5.0).reshape(1, 5, 1, 1))
    assert [Part(int(value)).name for value in seen[0].flatten()] == ["ICM", "BLASTOCOEL", "TE", "ZP", "BACKGROUND"]


def test_each_level_halves_and_the_probabilities_have_the_size_of_the_square() -> None:
    made = network()
    with torch.inference_mode():
        logits = made(some(2, 3, 32, 32))
        parts = made.probabilities(some(2, 3, 32, 32))
    assert [tuple(level.shape) for level in logits] == [(2, 5, 16, 16), (2, 5, 8, 8), (2, 5, 4, 4)]
    assert parts.shape == (2, 5, 32, 32)
    torch.testing.assert_close(parts.sum(1), torch.ones(2, 32, 32))


def test_the_paper_has_five_blocks_and_makes_no_class_unlikely() -> None:
    """L ends in a ReLU: the sigmoid of what it gives never falls below one half."""
    with torch.device("meta"):
        paper = I2CNet(I2CNetConfig())
    assert len(paper.encoders) == 5 and len(paper.contexts) == 4
    as_written = network(replace(TINY, relu_logits=True))
    with torch.inference_mode():
        logits = as_written(some(1, 3, 32, 32))
    assert all(float(torch.sigmoid(level).min()) >= 0.5 for level in logits)
    with torch.inference_mode():
        assert any(float(level.min()) < 0 for level in network()(some(1, 3, 32, 32)))


def test_the_loss_is_the_mean_over_levels_of_each_cross_entropy() -> None:
    """Equation 15; labels are shrunk to the nearest pixel."""
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, 4:] = 3
    undecided = [torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 2, 2)]
    assert loss_of(undecided, labels).item() == pytest.approx(math.log(5))
    fine = functional.one_hot(torch.tensor([0, 0, 3, 3]), 5).float().T[None, :, :, None].expand(1, 5, 4, 4) * 50
    assert loss_of([fine, undecided[1]], labels).item() == pytest.approx(math.log(5) / 2, abs=1e-5)


def test_every_weight_of_every_level_learns() -> None:
    made = I2CNet(TINY).train()
    loss_of(made(some(2, 3, 32, 32)), torch.randint(0, 5, (2, 32, 32))).backward()
    still = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().any()]
    # a bias before a batch norm is taken out again by the norm
    assert [name for name in still if "second.bias" not in name] == []


def test_the_rows_of_the_ablation_are_different_networks() -> None:
    x = some(1, 3, 32, 32)
    with torch.inference_mode():
        said = {
            name: network(replace(row, widths=TINY.widths, input_px=32))(x)[0] for name, row in ablation.ROWS.items()
        }
    rows = list(said.values())
    assert all(torch.isfinite(row).all() for row in rows)
    assert not any(torch.equal(one, other) for i, one in enumerate(rows) for other in rows[:i])
    assert list(said)[:5] == ["backbone", "IACCM", "IRCCM without U", "IRCCM with U", "both"]


@pytest.mark.parametrize("wrong", [{"widths": (4, 8)}, {"widths": (8,)}, {"input_px": 36}])
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"widths|halved"):
        replace(TINY, **wrong)


def test_the_lamps_brightness_says_nothing() -> None:
    made, x = network(), some(1, 3, 32, 32) * 0.5 + 0.2
    with torch.inference_mode():
        torch.testing.assert_close(made.probabilities(x), made.probabilities(0.6 * x + 0.1), atol=1e-4, rtol=0)


def test_a_gain_of_the_logits_begins_as_the_same_network() -> None:
    made = []
    for gain in (1.0, 8.0):
        torch.manual_seed(0)
        made.append(I2CNet(replace(TINY, logit_gain=gain)).eval())
    x = some(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(made[1].probabilities(x), made[0].probabilities(x))
    assert made[1].supervised[0].norm.weight[0] == 1 / 8


# --- training


def recipe_of(steps: int) -> Recipe:
    return Recipe(lr=2e-2, batch=4, steps=steps, schedule="cosine", average=0.9)


def trained(path: Path, steps: int) -> Run:
    run = new_run(path, TINY, recipe_of(steps), "toys")
    run.go(batch_loss([toy(seed) for seed in range(6)], 4, Varied(scale=(0.9, 1.1), light=False), TINY))
    return run


def test_it_learns_to_tell_the_parts_of_a_drawn_disc(tmp_path: Path) -> None:
    run = trained(tmp_path / "toy.pt", 100)
    net = run.average.network
    unseen = [toy(seed) for seed in range(100, 104)]
    tables = evaluate.counted(lambda channels: evaluate.parts_of(net, channels), evaluate.shown_stills(unseen))
    assert evaluate.figures(tables)["pixel_accuracy"] > 0.8
    before = evaluate.counted(lambda x: evaluate.parts_of(network(), x), evaluate.shown_stills(unseen))
    assert evaluate.figures(before)["pixel_accuracy"] < 0.7


def test_with_products_in_bfloat16_it_learns_the_same_and_its_weights_stay_in_float32(tmp_path: Path) -> None:
    losses = {}
    for half in (False, True):
        run = new_run(tmp_path / f"{half}.pt", TINY, replace(recipe_of(30), half=half), "toys")
        loss = batch_loss([toy(seed) for seed in range(6)], 4, Varied(scale=(0.9, 1.1), light=False), TINY)
        run.go(loss)
        losses[half] = float(run.losses.read_text().splitlines()[-1].split(",")[2])
        assert {value.dtype for value in run.network.parameters()} == {torch.float32}
    assert losses[True] == pytest.approx(losses[False], rel=0.1) and losses[True] != losses[False]


def test_other_light_changes_the_picture_and_never_its_parts_and_stays_gray() -> None:
    """Contrast, grain and lamp go far, yet the parts lie where they lay, and every value is one of a picture."""
    one = toy(1)
    channels = one.channels(np.random.default_rng(0))
    still = Varied(scale=(1.0, 1.0), turn_deg=0.0, shift=0.0, light=False)
    seen = set()
    for seed in range(20):
        lit, parts = varied(channels, one.labels, np.random.default_rng(seed), replace(still, light=True), 32)
        plain, same = varied(channels, one.labels, np.random.default_rng(seed), still, 32)
        assert (parts == same).all()
        assert lit.dtype == np.float32 and lit.min() >= 0 and lit.max() <= 1
        seen.add(round(float(np.abs(lit - plain).mean()), 3))
    assert len(seen) > 15 and max(seen) > 0.15


class PowerCut(Exception):
    """The machine goes dark."""


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """The same weights as one that was never stopped, and each row of its losses once."""
    loss = batch_loss([toy(seed) for seed in range(6)], 4, Varied(scale=(0.9, 1.1), light=False), TINY)
    whole = new_run(tmp_path / "whole.pt", TINY, recipe_of(5), "toys")
    whole.go(loss, every_s=0.0)

    def cut_short(net: torch.nn.Module, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        if stopped.step == 3:
            raise PowerCut
        return loss(net, rng)

    stopped = new_run(tmp_path / "stopped.pt", TINY, recipe_of(5), "toys")
    with pytest.raises(PowerCut):
        stopped.go(cut_short, every_s=0.0)
    resumed = new_run(tmp_path / "stopped.pt", TINY, recipe_of(5), "toys", resume=True)
    assert resumed.step == 3
    resumed.go(loss, every_s=0.0)
    torch.testing.assert_close(
        checkpoint.load(resumed.path, "i2cnet").weights, checkpoint.load(whole.path, "i2cnet").weights, rtol=0, atol=0
    )
    assert [row.split(",")[0] for row in resumed.losses.read_text().splitlines()] == ["step", *"12345"]


def test_a_run_may_begin_with_the_weights_of_another_and_says_so(tmp_path: Path) -> None:
    first = trained(tmp_path / "first.pt", 3)
    second = new_run(tmp_path / "second.pt", TINY, recipe_of(1), "toys")
    start_from(second, first.path)
    kept = first.average.network.state_dict()
    torch.testing.assert_close(second.network.state_dict(), kept, rtol=0, atol=0)
    torch.testing.assert_close(second.average.network.state_dict(), kept, rtol=0, atol=0)
    assert second.about == "toys, after 3 steps of 4 (first)"
    other = new_run(tmp_path / "other.pt", replace(TINY, inter=False), recipe_of(1), "toys")
    with pytest.raises(ValueError, match="another size or row"):
        start_from(other, first.path)


def test_a_checkpoint_of_other_pictures_is_not_gone_on_with(tmp_path: Path) -> None:
    run = trained(tmp_path / "toy.pt", 2)
    with pytest.raises(ValueError, match="give another --name"):
        new_run(run.path, TINY, run.recipe, "other toys", resume=True)
    with pytest.raises(ValueError, match="not a checkpoint of gardner"):
        checkpoint.load(run.path, "gardner")
    with pytest.raises(ValueError, match=r"train first"):
        checkpoint.load(tmp_path / "none.pt", "i2cnet")


def test_rates_follow_their_schedules() -> None:
    poly = Recipe(lr=1.0, steps=1)
    assert [rate_at(poly, share) for share in (0, 0.5, 1)] == pytest.approx([1.0, 0.5**0.9, 0.0])
    cosine = Recipe(lr=1.0, steps=1, schedule="cosine")
    assert rate_at(cosine, 0) < rate_at(cosine, 0.03) > rate_at(cosine, 0.9)
    with pytest.raises(ValueError, match="never ends"):
        Recipe()


def test_a_plateau_lowers_the_rate_to_three_tenths_after_so_many_looks(tmp_path: Path) -> None:
    recipe = Recipe(schedule="plateau", steps=9, patience=2)
    run = Run(tmp_path / "x.pt", "i2cnet", I2CNet(TINY), {}, recipe, "")
    for loss in (3.0, 2.0, 2.5, 2.5):
        run.look(loss)
    assert run.factor == pytest.approx(0.3)
    run.look(1.0)
    assert run.factor == pytest.approx(0.3)


def test_the_averaged_network_follows_and_is_the_one_that_is_kept() -> None:
    made = I2CNet(TINY)
    average = Average(made, 0.5)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(1.0)
    average.follow(made)
    one, other = next(average.network.parameters()), next(made.parameters())
    torch.testing.assert_close(one, other - 1.0 + (1 - 2 / 11))


# --- measuring


def test_perfect_masks_measure_one_and_an_unseen_part_nothing() -> None:
    picture = toy(3)
    perfect = evaluate.counted(lambda _: picture.labels, evaluate.shown_stills([picture]))
    assert evaluate.figures(perfect)["jaccard_mean"] == 1.0
    blind = np.where(picture.labels == Part.ICM, int(Part.BLASTOCOEL), picture.labels)
    found = evaluate.figures(evaluate.counted(lambda _: blind, evaluate.shown_stills([picture])))
    assert found["jaccard_ICM"] == 0.0 and found["jaccard_TE"] == 1.0
    cavity, mass = (picture.labels == Part.BLASTOCOEL).sum(), (picture.labels == Part.ICM).sum()
    assert found["jaccard_BLASTOCOEL"] == pytest.approx(cavity / (cavity + mass), abs=1e-4)
    with pytest.raises(ValueError, match="no picture"):
        evaluate.counted(lambda _: blind, [])


def test_blasts_online_is_read_with_the_cavity_that_no_mask_holds(tmp_path: Path) -> None:
    """As the simulator writes that set: the drawn cavity comes back from the zona's outline."""
    embryo = VirtualEmbryo(4)
    put_masks(tmp_path, "Blast_PCRM_R14-0411a 1", embryo, 123.9, 160)
    (picture,) = blasts_pictures(tmp_path, 160)
    drawn = embryo.masks(123.9, 160)["blastocoel"]
    found = picture.labels == Part.BLASTOCOEL
    assert (found & drawn).sum() / (found | drawn).sum() > 0.8
    assert set(np.unique(picture.labels)) == set(Part)


def test_a_fifth_is_kept_for_testing_and_always_the_same(tmp_path: Path) -> None:
    pictures = [toy(seed) for seed in range(10)]
    train, test = split(pictures)
    assert (len(train), len(test)) == (8, 2)
    assert [id(one) for one in split(pictures)[1]] == [id(one) for one in test]


# --- the exported graph


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, export.Exported]:
    exported = i2cnet_export.exported(network(), {"trained_on": "nothing"})
    return export.write(exported, tmp_path_factory.mktemp("models"), "i2cnet-tiny", "0.1.0", 1e-5), exported


def test_onnx_runtime_says_what_pytorch_says(files: tuple[Path, export.Exported]) -> None:
    path, exported = files
    assert export.compare(path, exported) <= 1e-5
    assert export.verify(path, exported)


def test_a_graph_of_other_weights_is_refused(
    files: tuple[Path, export.Exported], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = files
    assert not export.verify(path, i2cnet_export.exported(network(seed=1), {}))
    assert "other weights" in capsys.readouterr().out


def test_the_engine_keeps_the_contract_without_a_state(files: tuple[Path, export.Exported]) -> None:
    loaded = load_engine(files[0], "cpu", 1)
    assert contract_faults(loaded.engine) == []
    assert loaded.manifest.task == "segmentation"
    assert loaded.engine.spec.state.shape == (0,)
    assert loaded.engine.spec.outputs[0].classes == tuple(part.name for part in Part)


def test_the_small_variant_fits_the_bundle() -> None:
    """Under 4 MB; the paper's size is another matter."""
    small, paper = (I2CNet(config) for config in (I2CNetConfig.small(), I2CNetConfig()))
    assert 4 * sum(p.numel() for p in small.parameters()) < 4e6
    assert sum(p.numel() for p in paper.parameters()) == pytest.approx(20.9e6, rel=0.01)
    assert I2CNetConfig.read(json.loads(json.dumps(I2CNetConfig.small().__dict__))) == I2CNetConfig.small()
