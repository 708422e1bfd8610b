"""Both graders: classes and targets, the joint loss, weights from local files, DINOv2, folds, graphs, the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from engines.day5 import Gardner, Grade  # noqa: E402
from engines.load import load_engine  # noqa: E402
from engines.verify import contract_faults  # noqa: E402
from training.day5 import checkpoint, export, grader, grading  # noqa: E402
from training.day5.folds import Fold  # noqa: E402
from training.day5.grading import UNKNOWN, joint_loss, targets_of  # noqa: E402
from training.day5.look import Varied  # noqa: E402
from training.day5.run import Recipe  # noqa: E402
from training.gardner import evaluate as gardner_evaluate  # noqa: E402
from training.gardner import export as gardner_export  # noqa: E402
from training.gardner import train as gardner_train  # noqa: E402
from training.gardner.model import SLIDES_EXPANSIONS, VGG16_CONVOLUTIONS, GardnerConfig, GardnerNet  # noqa: E402
from training.i2cnet import ablation as i2cnet_ablation  # noqa: E402
from training.i2cnet import evaluate as i2cnet_evaluate  # noqa: E402
from training.i2cnet import export as i2cnet_export  # noqa: E402
from training.i2cnet import train as i2cnet_train  # noqa: E402
from training.memebg import evaluate as memebg_evaluate  # noqa: E402
from training.memebg import export as memebg_export  # noqa: E402
from training.memebg import train as memebg_train  # noqa: E402
from training.memebg.dinov2 import DinoShape, DinoV2, load_dinov2  # noqa: E402
from training.memebg.model import MEmEBG, MEmEBGConfig  # noqa: E402

pytestmark = pytest.mark.train

TINY_VGG = GardnerConfig(widths=(4, 6, 8, 8, 10), input_px=32, hidden=(8, 8))
TINY_NORMS = replace(TINY_VGG, norms=True, expansions=grading.EXPANSION_CLASSES)
TINY_RESNET = MEmEBGConfig((4, 6, 8, 10), input_px=32, embedding=8, shared=8)
TINY_DINO = DinoShape(width=64, depth=2, heads=1, patch=8, grid=3)


@dataclass(frozen=True)
class Card:
    """A picture whose stripes tell its grade."""

    gardner: Gardner
    blastocyst: bool = True
    seed: int = 0

    def channels(self, rng: np.random.Generator | None) -> np.ndarray:
        noise = np.random.default_rng(self.seed if rng is None else rng).normal(0, 5, (32, 32))
        waves = self.gardner.expansion or 0
        stripes = 100 + 80 * np.sin(np.linspace(0, 2 * np.pi * (waves + 0.5), 32))[None, :]
        return np.repeat(np.clip(stripes + noise, 0, 255).astype(np.uint8)[None], 3, 0)


def cards(count: int, expansions: tuple[int, ...] = (3, 4, 5)) -> list[Card]:
    letters = list(Grade)
    return [
        Card(Gardner(expansions[i % len(expansions)], letters[i % 3], letters[i // 3 % 3]), seed=i)
        for i in range(count)
    ]


def random_norms(network: nn.Module) -> nn.Module:
    return checkpoint.with_norms_away_from_identity(network)


# --- targets, loss, figures


def test_letters_are_graded_from_expansion_three_on_and_no_blastocyst_is_a_class_of_its_own() -> None:
    full = Card(Gardner(4, Grade.A, Grade.C))
    early = Card(Gardner(2, Grade.A, Grade.C))
    none = Card(Gardner(), blastocyst=False)
    assert targets_of(full).tolist() == [4, 0, 2]
    assert targets_of(early).tolist() == [2, UNKNOWN, UNKNOWN]
    assert targets_of(none).tolist() == [0, UNKNOWN, UNKNOWN]


def test_the_slides_have_three_expansions_in_their_own_order() -> None:
    found = [targets_of(Card(Gardner(e)), SLIDES_EXPANSIONS)[0] for e in (4, 3, 2, 5)]
    assert found == [0, 1, 2, UNKNOWN]


def test_the_joint_loss_is_the_sum_over_what_is_graded() -> None:
    answers = tuple(torch.randn(3, count, generator=torch.Generator().manual_seed(count)) for count in (7, 3, 3))
    targets = torch.tensor([[4, 0, UNKNOWN], [0, UNKNOWN, UNKNOWN], [6, 2, UNKNOWN]])
    expected = functional.cross_entropy(answers[0], targets[:, 0])
    expected = expected + functional.cross_entropy(answers[1][[0, 2]], targets[[0, 2], 1])
    torch.testing.assert_close(joint_loss(answers, targets), expected)
    torch.testing.assert_close(
        joint_loss(answers, targets, ("icm",)), functional.cross_entropy(answers[1][[0, 2]], targets[[0, 2], 1])
    )


def test_a_batch_without_any_grade_teaches_nothing() -> None:
    answers = tuple(torch.ones(2, count, requires_grad=True) for count in (7, 3, 3))
    loss = joint_loss(answers, torch.full((2, 3), UNKNOWN))
    loss.backward()
    assert loss.item() == 0 and all(not logits.grad.any() for logits in answers)


def test_figures_count_only_what_is_graded_and_the_kappa_weighs_far_misses() -> None:
    pictures = [Card(Gardner(e, Grade.A, Grade.A)) for e in (1, 2, 3, 4)]
    said = [np.eye(7)[[1, 2, 3, 6]], np.eye(3)[[0, 0, 0, 1]], np.eye(3)[[0, 0, 0, 0]]]
    found = grading.figures(grading.tables(said, pictures, grading.EXPANSION_CLASSES))
    assert found["expansion_pictures"] == 4 and found["icm_pictures"] == 2
    assert found["expansion_accuracy"] == 0.75 and found["icm_accuracy"] == 0.5
    # classes 1, 2, 3 right; 4 there but never said, 6 said but never there: 3 of 5
    assert found["expansion_f1"] == pytest.approx(0.6)
    # observed 4; expected: sums over the marginals (1, 2, 3, 4) and (1, 2, 3, 6) give 80 / 4
    assert found["expansion_kappa"] == pytest.approx(1 - 4 / (80 / 4), abs=1e-4)


# --- the networks


def test_the_paper_sizes_are_vgg16_and_resnet18() -> None:
    """14,714,688 and 11,176,512 weights in the convolutional parts, as everywhere."""
    with torch.device("meta"):
        vgg, resnet = GardnerNet(GardnerConfig()), MEmEBG(MEmEBGConfig())
    assert sum(p.numel() for p in vgg.convolutions.parameters()) == 14_714_688
    assert sum(p.numel() for p in (*resnet.stem.parameters(), *resnet.layers.parameters())) == 11_176_512
    assert GardnerConfig().input_px == 320


def test_the_small_variants_fit_the_bundle() -> None:
    for made in (GardnerNet(GardnerConfig.small()), MEmEBG(MEmEBGConfig.small())):
        assert 4 * sum(p.numel() for p in made.parameters()) < 3e6
    assert GardnerConfig.read(json.loads(json.dumps(GardnerConfig.small().__dict__))) == GardnerConfig.small()
    with_dino = MEmEBGConfig.small(TINY_DINO)
    assert MEmEBGConfig.read(json.loads(json.dumps(with_dino.plain()))) == with_dino


def torchvision_vgg16(widths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A state dict in that layout: convolutions at 0, 2, 5, 7, 10, ... and dense layers nobody asks for."""
    kept, number, last = {"classifier.0.weight": torch.zeros(4, 4)}, 0, 3
    for width, count in zip(widths, VGG16_CONVOLUTIONS, strict=True):
        for _ in range(count):
            kept[f"features.{number}.weight"] = torch.randn(width, last, 3, 3)
            kept[f"features.{number}.bias"] = torch.randn(width)
            number, last = number + 2, width
        number += 1
    return kept


def test_vgg16_weights_of_a_local_file_land_in_their_order(tmp_path: Path) -> None:
    kept = torchvision_vgg16(TINY_VGG.widths)
    assert [name for name in kept if name.endswith("weight")][-1] == "features.28.weight"
    torch.save(kept, tmp_path / "vgg16.pth")
    made = GardnerNet(TINY_VGG)
    made.load_imagenet(tmp_path / "vgg16.pth")
    assert torch.equal(made.convolutions[0].conv.weight, kept["features.0.weight"])
    assert torch.equal(made.convolutions[12].conv.bias, kept["features.28.bias"])
    made.freeze_all_but(3)
    free = [layer.conv.weight.requires_grad for layer in made.convolutions]
    assert free == [False] * 10 + [True] * 3
    assert all(p.requires_grad for p in made.branches.parameters())


def test_vgg16_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    torch.save(torchvision_vgg16((4, 6, 8, 8, 12)), tmp_path / "other.pth")
    made = GardnerNet(TINY_VGG)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    with pytest.raises(ValueError, match=r"other.pth: features.24 is \(12, 8, 3, 3\)"):
        made.load_imagenet(tmp_path / "other.pth")
    torch.testing.assert_close(made.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="without norms"):
        GardnerNet(TINY_NORMS).load_imagenet(tmp_path / "other.pth")


def torchvision_resnet18(widths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A state dict in that layout."""
    kept: dict[str, torch.Tensor] = {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            kept[f"{name}.{part}"] = torch.rand(width)

    kept["conv1.weight"] = torch.randn(widths[0], 3, 7, 7)
    norm("bn1", widths[0])
    last = widths[0]
    for i, width in enumerate(widths, start=1):
        for block in range(2):
            kept[f"layer{i}.{block}.conv1.weight"] = torch.randn(width, last, 3, 3)
            norm(f"layer{i}.{block}.bn1", width)
            kept[f"layer{i}.{block}.conv2.weight"] = torch.randn(width, width, 3, 3)
            norm(f"layer{i}.{block}.bn2", width)
            if i > 1 and block == 0:
                kept[f"layer{i}.0.downsample.0.weight"] = torch.randn(width, last, 1, 1)
                norm(f"layer{i}.0.downsample.1", width)
            last = width
    return kept


def test_resnet18_weights_of_a_local_file_find_their_layers(tmp_path: Path) -> None:
    kept = torchvision_resnet18(TINY_RESNET.widths)
    torch.save(kept, tmp_path / "resnet18.pth")
    made = MEmEBG(TINY_RESNET)
    made.load_imagenet(tmp_path / "resnet18.pth")
    assert torch.equal(made.stem.conv.weight, kept["conv1.weight"])
    assert torch.equal(made.layers[2][0].shortcut.norm.running_var, kept["layer3.0.downsample.1.running_var"])
    assert torch.equal(made.layers[3][1].conv2.norm.bias, kept["layer4.1.bn2.bias"])
    del kept["layer2.1.conv1.weight"]
    torch.save(kept, tmp_path / "torn.pth")
    with pytest.raises(ValueError, match=r"torn.pth: .*layers.1.1.conv1.conv.weight"):
        made.load_imagenet(tmp_path / "torn.pth")


# --- DINOv2


def dino_weights(shape: DinoShape = TINY_DINO) -> dict[str, torch.Tensor]:
    """In the public layout, with its mask token."""
    torch.manual_seed(0)
    made = DinoV2(shape)
    kept = {name: torch.randn(value.shape) * 0.1 for name, value in made.state_dict().items()}
    return {**kept, "mask_token": torch.zeros(1, shape.width)}


def test_a_block_of_dinov2_is_a_transformer_layer_with_its_norms_first(tmp_path: Path) -> None:
    """Held against the library's own layer, for which LayerScale is 1."""
    torch.save(dino_weights(), tmp_path / "dino.pth")
    block = load_dinov2(tmp_path / "dino.pth").blocks[0]
    block.ls1.gamma.fill_(1.0)
    block.ls2.gamma.fill_(1.0)
    theirs = nn.TransformerEncoderLayer(64, 1, 256, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
    theirs.self_attn.in_proj_weight.data, theirs.self_attn.in_proj_bias.data = (
        block.attn.qkv.weight,
        block.attn.qkv.bias,
    )
    theirs.self_attn.out_proj.load_state_dict(block.attn.proj.state_dict())
    theirs.linear1.load_state_dict(block.mlp.fc1.state_dict())
    theirs.linear2.load_state_dict(block.mlp.fc2.state_dict())
    theirs.norm1.load_state_dict(block.norm1.state_dict())
    theirs.norm2.load_state_dict(block.norm2.state_dict())
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        torch.testing.assert_close(block(x), theirs(x), atol=1e-5, rtol=0)


def test_dinov2_gives_one_vector_a_picture_at_any_size_and_is_never_trained(tmp_path: Path) -> None:
    torch.save(dino_weights(), tmp_path / "dino.pth")
    dino = load_dinov2(tmp_path / "dino.pth")
    assert dino.shape == TINY_DINO
    for side in (24, 32, 35):
        assert dino(torch.rand(2, 3, side, side)).shape == (2, 64)
    config = replace(TINY_RESNET, dino=TINY_DINO)
    made = MEmEBG(config).train()
    sum(logits.sum() for logits in made(torch.rand(2, 3, 32, 32))).backward()
    assert all(p.grad is None for p in made.dino.parameters())
    assert made.embed.weight.grad is not None and made.dino_embed.weight.grad is not None


def test_weights_that_are_no_dinov2_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"never fetched"):
        load_dinov2(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: no DINOv2 weights"):
        load_dinov2(tmp_path / "other.pth")
    torch.save({**dino_weights(), "register_tokens": torch.zeros(1, 4, 64)}, tmp_path / "registers.pth")
    with pytest.raises(ValueError, match=r"without registers"):
        load_dinov2(tmp_path / "registers.pth")


# --- training, folds


def paper(steps: int, tasks: tuple[str, ...] = grading.ANSWERS) -> grader.Paper:
    recipe = Recipe("adamw", 5e-3, 0.0, "cosine", 8, steps=steps, average=0.9)
    return grader.Paper(
        "memebg", lambda: MEmEBG(TINY_RESNET), TINY_RESNET.plain(), 32, TINY_RESNET.expansions, Varied(scale=(1, 1),
        turn_deg=0, shift=0, light=False), recipe, tasks
    )  # fmt: skip


def test_a_grader_learns_what_the_stripes_tell(tmp_path: Path) -> None:
    run = grader.new_run(tmp_path / "cards.pt", paper(60), "cards", resume=False)
    network = grader.trained(run, paper(60), cards(45))
    found = grading.figures(grader.measured(network, cards(18), paper(1)))
    assert found["expansion_f1"] > 0.9 and found["expansion_kappa"] > 0.9


def test_a_single_task_leaves_the_other_heads_alone(tmp_path: Path) -> None:
    run = grader.new_run(tmp_path / "one.pt", paper(2, ("te",)), "cards", resume=False)
    before = [head.weight.clone() for head in run.network.heads]
    grader.trained(run, paper(2, ("te",)), cards(9))
    assert [torch.equal(head.weight, old) for head, old in zip(run.network.heads, before, strict=True)] == [
        True, True, False
    ]  # fmt: skip


def test_folds_are_added_up_so_that_each_picture_is_tested_once_a_turn(tmp_path: Path) -> None:
    folds = [Fold((0, 1, 2, 3), (), (4, 5)), Fold((2, 3, 4, 5), (0,), (0, 1))]
    found = grader.cross_validated(folds, cards(6), paper(1), tmp_path, "cv", "cards", resume=False)
    assert all(int(table.sum()) == 4 for table in found.values())
    assert {path.name for path in tmp_path.glob("*.pt")} == {"cv-fold1.pt", "cv-fold2.pt"}


def test_folds_are_cut_by_the_answer_with_the_rarest_class() -> None:
    some = [Card(Gardner(3 + i % 2, Grade.A if i else Grade.C, list(Grade)[i % 3])) for i in range(12)]
    assert grader.stratum(some, grading.EXPANSION_CLASSES) == [2] + [0] * 11


# --- exported graphs


def exported_graders() -> Iterator[export.Exported]:
    torch.manual_seed(0)
    for network in (GardnerNet(TINY_VGG), GardnerNet(TINY_NORMS)):
        yield gardner_export.exported(random_norms(network), {})
    yield memebg_export.exported(random_norms(MEmEBG(TINY_RESNET)), {})
    with_dino = MEmEBG(replace(TINY_RESNET, dino=TINY_DINO))
    with_dino.dino.load_state_dict({k: v for k, v in dino_weights().items() if k != "mask_token"})
    yield memebg_export.exported(random_norms(with_dino), {})


@pytest.mark.parametrize(
    ("number", "classes"), [(0, SLIDES_EXPANSIONS), (1, grading.EXPANSION_CLASSES), (3, grading.EXPANSION_CLASSES)]
)
def test_graphs_say_what_pytorch_says_and_keep_the_contract(
    tmp_path: Path, number: int, classes: tuple[str, ...]
) -> None:
    exported = list(exported_graders())[number]
    path = export.write(exported, tmp_path, "grader", "0.1.0", 1e-5)
    assert export.verify(path, exported)
    loaded = load_engine(path, "cpu", 1)
    assert contract_faults(loaded.engine) == []
    outputs = {tensor.name: tensor.classes for tensor in loaded.engine.spec.outputs}
    assert outputs == {"y_expansion": classes, "y_icm": ("A", "B", "C"), "y_te": ("A", "B", "C")}
    assert loaded.manifest.preprocess.crop == "blastocyst"


def test_the_manifest_says_whether_there_is_a_dinov2_branch() -> None:
    *_, without, with_dino = exported_graders()
    assert (without.provenance["dinov2_branch"], with_dino.provenance["dinov2_branch"]) == (False, True)


# --- the commands, on a handful of drawn embryos


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("day5")


def test_every_training_command_runs_from_drawing_to_engine(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds of training: the way is tried here, not what it leads to."""
    where = ["--cache", str(room / "cache"), "--out", str(room)]
    count = ["--count", "8", "--test-count", "6"]
    brief = [*where, *count, "--minutes", "0.0001"]
    assert i2cnet_train.main([*brief, "--batch", "1"]) == 0
    assert gardner_train.main([*brief, "--batch", "2"]) == 0
    assert memebg_train.main([*brief, "--batch", "2", "--only", "te"]) == 0
    said = capsys.readouterr().out
    assert "look `sharpest`" in said and "quadratic kappa" in said and "'none': 1" in said
    measure = ["--cache", str(room / "cache"), "--count", "6", "--json", str(room / "figures.json")]
    for evaluate, name in ((i2cnet_evaluate, "i2cnet"), (gardner_evaluate, "gardner"), (memebg_evaluate, "memebg")):
        assert evaluate.main(["--checkpoint", str(room / f"{name}-small.pt"), *measure]) == 0
        assert json.loads((room / "figures.json").read_text())
    assert "of seven planes the look" in capsys.readouterr().out
    kept = checkpoint.load(room / "gardner-small.pt", "gardner")
    assert "virtual" in kept.provenance["trained_on"] and kept.provenance["classes"]["expansion"]["none"] == 1
    assert i2cnet_ablation.main([*where, "--count", "8", "--test-count", "4", "--steps", "1", "--side-px", "32"]) == 0
    assert "| both |" in capsys.readouterr().out


def test_an_export_command_writes_an_engine_and_refuses_what_is_not_there(room: Path) -> None:
    if not (room / "memebg-small.pt").exists():
        pytest.skip("the training commands did not come this far")
    out = ["--out", str(room / "models")]
    assert memebg_export.main(["--checkpoint", str(room / "memebg-small.pt"), *out]) == 0
    assert memebg_export.main(["--checkpoint", str(room / "memebg-small.pt"), *out, "--verify-only"]) == 0
    assert gardner_export.main(["--checkpoint", str(room / "none.pt"), *out]) == 2
    assert i2cnet_export.main(["--checkpoint", str(room / "gardner-small.pt"), *out]) == 2
