"""AMSNet's streaming promises: stepping equals the clip, time goes one way, memory ends, the graph says the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from torch import nn  # noqa: E402

from engines.load import load_engine  # noqa: E402
from engines.manifest import graph_path, read_manifest  # noqa: E402
from training.amsnet import bench, checkpoint, export  # noqa: E402
from training.amsnet.blocks import CarriedMemory, GaussianNonLocal, ShiftedBottleneck  # noqa: E402
from training.amsnet.model import AMSNet, AMSNetConfig  # noqa: E402

pytestmark = pytest.mark.train

SMALL = AMSNetConfig("small", planes=3, input_px=32)
PAPER_SHAPED = AMSNetConfig("resnet50", planes=3, input_px=32)


def network(config: AMSNetConfig = SMALL, seed: int = 0) -> AMSNet:
    """Random weights with norms away from the identity, in evaluation mode."""
    return checkpoint.with_random_weights(config, seed).model


def clip(config: AMSNetConfig, batch: int = 2, steps: int = 5, seed: int = 1) -> torch.Tensor:
    """Standard normal frames (B, T, P, H, W)."""
    shape = (batch, steps, config.planes, config.input_px, config.input_px)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stepped(
    model: AMSNet, frames: torch.Tensor, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, T) and the last state, one step at a time."""
    state = model.initial_state(frames.shape[0]) if state is None else state
    logits = []
    with torch.inference_mode():
        for x in frames.unbind(dim=1):
            logit, state = model.step(state, x)
            logits.append(logit)
    return torch.cat(logits, dim=1), state


def whole(model: AMSNet, frames: torch.Tensor) -> torch.Tensor:
    """Logits (B, T) of one pass over the clip."""
    with torch.inference_mode():
        return model(frames)


@pytest.mark.parametrize("config", [SMALL, PAPER_SHAPED], ids=lambda config: config.backbone)
def test_stepping_k_frames_equals_one_pass_over_k_frames(config: AMSNetConfig) -> None:
    """The stream may not say anything else than the clip."""
    model, frames = network(config), clip(config)
    torch.testing.assert_close(stepped(model, frames)[0], whole(model, frames), atol=1e-5, rtol=0)


@pytest.mark.parametrize("planes", [1, 3, 5, 7])
def test_every_plane_count_of_the_paper_steps_like_its_clip(planes: int) -> None:
    """Table 1 has networks of 1, 3, 5 and 7 planes."""
    config = AMSNetConfig("small", planes=planes, input_px=32)
    model, frames = network(config), clip(config, steps=3)
    torch.testing.assert_close(stepped(model, frames)[0], whole(model, frames), atol=1e-5, rtol=0)


@pytest.mark.parametrize("switch", ["tsm", "channel_attention", "spatial_attention"])
def test_each_row_of_the_ablation_can_be_built_and_differs(switch: str) -> None:
    """Switching a part off must leave a working network that is not the full one."""
    reduced = AMSNetConfig("small", planes=3, input_px=32, **{switch: False})
    frames = clip(SMALL, steps=3)
    without, full = whole(network(reduced), frames), whole(network(), frames)
    assert torch.isfinite(without).all()
    assert not torch.allclose(without, full)


def test_without_the_shift_there_is_no_state() -> None:
    """The baseline of Table 1 has no memory, and every frame is judged alone."""
    model = network(AMSNetConfig("small", planes=3, input_px=32, tsm=False))
    frames = clip(SMALL, steps=3)
    assert model.state_size == 0
    torch.testing.assert_close(whole(model, frames)[:, 2:], whole(model, frames[:, 2:]), atol=1e-5, rtol=0)


def test_the_state_starts_at_zero_and_matters() -> None:
    """A first frame is judged with an all-zero past; another past gives another value."""
    model, frames = network(), clip(SMALL, steps=1)
    assert not model.initial_state(2).any()
    other = torch.ones(2, model.state_size)
    assert not torch.allclose(stepped(model, frames)[0], stepped(model, frames, other)[0])


def test_a_later_frame_never_changes_an_earlier_output() -> None:
    """The shift is one-directional: only the past is mixed in."""
    model, frames = network(), clip(SMALL)
    changed = frames.clone()
    changed[:, 3:] = 9.0
    before, after = whole(model, frames), whole(model, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_a_batch_of_n_equals_n_singles() -> None:
    """An embryo's value does not depend on who shares its batch."""
    model, frames = network(), clip(SMALL, batch=3)
    together, state = stepped(model, frames)
    alone = [stepped(model, frames[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(together, torch.cat([logits for logits, _ in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(state, torch.cat([kept for _, kept in alone]), atol=1e-5, rtol=0)


def test_a_nan_in_one_embryo_never_reaches_the_other() -> None:
    """Rows are independent, even for a broken picture."""
    model, frames = network(), clip(SMALL)
    frames[0] = float("nan")
    logits, state = stepped(model, frames)
    assert logits[0].isnan().all() and state[0].isnan().any()
    assert torch.isfinite(logits[1]).all() and torch.isfinite(state[1]).all()


def test_one_eighth_of_the_branch_is_shifted_and_the_identity_is_not() -> None:
    """The first C/8 channels into conv1 come from the memory; the rest and the identity path are this step's own."""
    config = AMSNetConfig("resnet50", planes=1, input_px=32)
    with torch.device("meta"):
        shapes = AMSNet(config)
    assert [block.shifted for block in shapes.res1] == [64 // 8, 256 // 8, 256 // 8]
    block = ShiftedBottleneck(channels_in=64, width=16, stride=1, shifted=8).eval()
    x, past = torch.rand(2, 64, 4, 4), torch.rand(2, 8, 4, 4)
    memory = CarriedMemory([past])
    with torch.inference_mode():
        branch = block.conv1(torch.cat([past, x[:, 8:]], dim=1)).relu()
        wanted = (block.identity(x) + block.conv3(block.conv2(branch).relu())).relu()
        torch.testing.assert_close(block(x, memory), wanted, atol=1e-6, rtol=0)
    assert torch.equal(memory.kept[0], x[:, :8]), "the cache is the channels before the shift"


def test_the_paper_size_state_is_8_2_mb() -> None:
    """7 planes of 0.9 MB for Res-1, 1.9 MB for Res-2 to Res-4, per embryo in float32."""
    with torch.device("meta"):
        model = AMSNet(AMSNetConfig("resnet50", planes=7))
    res1_bytes = 4 * sum(cache.size for cache in model.layout if cache.block.startswith("res1"))
    assert res1_bytes / 7 == pytest.approx(0.903e6, rel=1e-3)
    assert 4 * model.state_size - res1_bytes == pytest.approx(1.907e6, rel=1e-3)
    assert 4 * model.state_size == pytest.approx(8.229e6, rel=1e-3)


def test_the_layout_is_the_shape_of_what_the_blocks_really_keep() -> None:
    """State sizes are computed without a forward pass; they must be the ones a forward pass fills."""
    model = network()
    caches = model._unpack(model.initial_state(2))
    memory = CarriedMemory(caches)
    with torch.inference_mode():
        model._network(clip(SMALL, steps=1)[:, 0], memory)
    assert [kept.shape for kept in memory.kept] == [cache.shape for cache in caches]
    assert 4 * AMSNet(AMSNetConfig("small")).state_size == 286_336


def test_memory_is_finite_runs_from_different_states_meet_bit_for_bit() -> None:
    """With L shifted blocks a lost state is rebuilt by L + 1 committed frames."""
    model = network()
    frames = clip(SMALL, batch=1, steps=len(model.layout) + 1)
    strange = torch.rand(1, model.state_size, generator=torch.Generator().manual_seed(3))
    (from_zero, state_a), (from_strange, state_b) = stepped(model, frames), stepped(model, frames, strange)
    assert not torch.equal(from_zero[:, 0], from_strange[:, 0])
    assert torch.equal(from_zero[:, -1], from_strange[:, -1])
    assert torch.equal(state_a, state_b)


def test_filling_planes_after_res1_equals_filling_the_pictures() -> None:
    """Training skips Res-1 on copies of a plane; the value must be that of really copied pictures."""
    model, source = network(), [0, 0, 1]
    present = clip(SMALL)[:, :, :2]  # (B, T, U, H, W)
    with torch.inference_mode():
        short = model(present, source)
    torch.testing.assert_close(short, whole(model, present[:, :, source]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_the_affinity_is_float32_and_survives_big_activations(precision: torch.dtype) -> None:
    """x_i . x_j over 256 channels of 100 is 2.56 million: beyond fp16's 65,504, no matter for float32."""
    block = GaussianNonLocal(256, key_pool=1, scale=1.0).to(precision).eval()
    block.project.norm.weight.data.fill_(1.0)
    big = torch.full((1, 256, 4, 4), 100.0, dtype=precision)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert block.gather(big, big, big[:, :128]).dtype == torch.float32
    with torch.inference_mode():
        assert torch.isfinite(block(big)).all()


def test_a_pooled_key_block_has_a_quarter_of_the_keys() -> None:
    """The flag changes cost and value, not shape."""
    block = GaussianNonLocal(16, key_pool=2, scale=1.0).eval()
    x = torch.rand(1, 16, 8, 8)
    assert block.pool(x).shape == (1, 16, 4, 4)
    assert block(x).shape == x.shape


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, checkpoint.Checkpoint]:
    """One export of the small network at 32 px, shared by the tests that only read it."""
    source = checkpoint.with_random_weights(SMALL, 5)
    return export.export(source, tmp_path_factory.mktemp("models"), "tiny"), source


def test_the_exported_graph_agrees_with_pytorch(exported: tuple[Path, checkpoint.Checkpoint]) -> None:
    """Eight chained steps of two embryos, each runtime on its own state, within the manifest's tolerance."""
    path, source = exported
    agreement = export.compare(path, source.model, steps=8, batch=2)
    assert agreement.holds, agreement
    assert export.compare(path, source.model, steps=2, batch=3).holds, "the batch must be dynamic"
    assert export.verify(path, source)


def test_the_manifest_and_the_graph_name_the_same_tensors(exported: tuple[Path, checkpoint.Checkpoint]) -> None:
    """A runtime binds by name and shape: both sides must say the same."""
    path, source = exported
    manifest = json.loads(path.read_text())
    graph = onnx.load(path.with_suffix(".onnx")).graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    size = source.model.state_size
    assert shapes == {"x": ["B", 3, 32, 32], "state": ["B", size], "y_blastocyst": ["B", 1], "state_next": ["B", size]}
    assert manifest["state"]["shape"] == [size]
    assert manifest["preprocess"]["planes_um"] == [-15, 0, 15]
    assert manifest["state_id"] == checkpoint.state_id(source)


def test_the_engines_room_reads_the_manifest(exported: tuple[Path, checkpoint.Checkpoint]) -> None:
    """Exporter and loader have no code in common; the file between them must satisfy both."""
    path, source = exported
    manifest = read_manifest(path)
    assert manifest.spec().state_id == checkpoint.state_id(source)
    assert graph_path(path, manifest).exists()


def test_the_verifier_refuses_a_tampered_graph(exported: tuple[Path, checkpoint.Checkpoint], tmp_path: Path) -> None:
    """A changed weight fails by digest; with the digest forged too, it fails by value. Exit code 1 both times."""
    path, source = exported
    saved = tmp_path / "source.pt"
    checkpoint.save(saved, source)
    call = ["--checkpoint", str(saved), "--out", str(tmp_path), "--name", "tiny", "--verify-only"]
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    graph = onnx.load(path.with_suffix(".onnx"))
    copy.with_suffix(".onnx").write_bytes(path.with_suffix(".onnx").read_bytes())
    assert export.main(call) == 0
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("head.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    forged = graph.SerializeToString()
    copy.with_suffix(".onnx").write_bytes(forged)
    assert export.main(call) == 1
    manifest = json.loads(path.read_text())
    manifest["graph"]["sha256"] = hashlib.sha256(forged).hexdigest()
    copy.write_text(json.dumps(manifest))
    assert export.main(call) == 1


def test_the_bench_times_both_runtimes_in_turn_and_gives_their_ratio(
    exported: tuple[Path, checkpoint.Checkpoint],
) -> None:
    """On a clock that ticks once a reading both take one tick; the rows carry the model's name and no goal."""
    ticks = iter(range(1000))
    path, source = exported
    rows = bench.bench_pytorch(load_engine(path, "cpu"), source.model, 3, clock=lambda: float(next(ticks)))
    assert [(row.model, row.value, row.goal) for row in rows] == [("tiny", 1.0, None), ("tiny", 1.0, None)]
    assert next(ticks) == 3 * 2 * 2


def test_the_bench_finds_a_network_of_a_models_shape_and_knows_its_own_weights(
    exported: tuple[Path, checkpoint.Checkpoint], tmp_path: Path
) -> None:
    """Other weights are of the same speed and are not compared; the same weights must give the same answers."""
    path, _ = exported
    model = bench.network_like(other := load_engine(path, "cpu"))
    assert model is not None and model.config == SMALL
    assert bench.differs(other, model) is None
    same = load_engine(export.export(checkpoint.Checkpoint(model, 0.5, 0.25), tmp_path, "same"), "cpu")
    apart = bench.differs(same, model)
    assert apart is not None and apart <= same.manifest.tolerance.absolute
    altered = checkpoint.with_random_weights(SMALL, 0).model
    altered.fusion.spatial.scale = 0.5  # no weight: the state_id stays, the answer does not
    apart = bench.differs(same, altered)
    assert apart is not None and apart > 0


def test_other_weights_functions_or_pictures_have_another_state_id() -> None:
    """A state is never carried into a model it was not made by, were only its keys pooled or its crop cut otherwise."""

    def named(config: AMSNetConfig = SMALL, seed: int = 0, **told: float) -> str:
        model = network(SMALL, seed)
        other = AMSNet(config).eval()
        other.load_state_dict(model.state_dict())
        return checkpoint.state_id(checkpoint.Checkpoint(other, **{"mean": 0.5, "std": 0.25, **told}))

    assert named() == named()
    others = [
        named(seed=1),
        named(replace(SMALL, input_px=64)),  # same weights, another layout
        named(replace(SMALL, key_pool=1)),  # same weights and layout, another function
        named(replace(SMALL, affinity_scale=0.5)),
        named(width_in_well_radii=1.45),
        named(mean=0.4),
    ]
    assert len({named(), *others}) == 1 + len(others)


def test_folding_the_norms_keeps_the_function() -> None:
    """The graph has no batch norm left, and the original model is untouched."""
    model, frames = network(), clip(SMALL)
    folded = export.fold_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(whole(folded, frames), whole(model, frames), atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [SMALL, PAPER_SHAPED], ids=lambda config: config.backbone)
def test_folding_the_shift_into_the_kernels_keeps_value_and_state(config: AMSNetConfig) -> None:
    """The graph's way of adding the past says and remembers what the reference does, from a past that is not zero."""
    model, frames = network(config), clip(config)
    folded = export.fold_shifts(export.fold_norms(model))
    assert sum(isinstance(module, export.FoldedShift) for module in folded.modules()) == len(model.layout)
    past = torch.rand(2, model.state_size, generator=torch.Generator().manual_seed(4))
    (said, kept), (wanted, remembered) = stepped(folded, frames, past), stepped(model, frames, past)
    torch.testing.assert_close(said, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept, remembered, atol=1e-5, rtol=0)


def test_networks_the_paper_does_not_know_are_refused_by_name() -> None:
    """A typing error becomes a sentence, not another network."""
    with pytest.raises(ValueError, match="planes must be"):
        AMSNetConfig(planes=4)
    with pytest.raises(ValueError, match="unknown backbone"):
        AMSNetConfig("resnet5")


def test_pytorch_beside_a_plan_gives_rows_and_tells_which_way_does_not_go_here() -> None:
    from engines.load import BUNDLED_MODELS, find_manifest
    from training.amsnet.gpu_bench import bench_torch

    loaded = load_engine(find_manifest("amsnet-small", BUNDLED_MODELS), "cpu", 1)
    ticks = iter(range(10_000))
    rows, missed = bench_torch(loaded, (1, 2), 4, "cpu", ("eager", "CUDA graphs"), lambda: float(next(ticks)))
    assert [row.what for row in rows] == [
        *("PyTorch eager: one frame, p50", "PyTorch eager: one frame, p99", "PyTorch eager: frames a second, batch 2")
    ]
    assert [row.value for row in rows] == [1.0, 1.0, 10.0]
    assert [(line.what, line.why) for line in missed] == [
        ("amsnet-small: PyTorch CUDA graphs", "RuntimeError: there is no GPU to record a graph on")
    ]
