"""The JSON beside each model: tensors, preprocessing, digests, provenance, tolerance. An unknown key is an error.

It knows files and digests; it loads no runtime.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.contract import EngineError, EngineSpec, TensorSpec

# pooling, linear layers, norms and what takes exponents: a small share of the time, and where fp16 loses most
FP32_OPERATIONS = (
    *("ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool", "AveragePool", "Gemm", "MatMul", "Softmax"),
    *(
        "LogSoftmax",
        "LayerNormalization",
        "InstanceNormalization",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Exp",
        "Log",
        "Sin",
        "Cos",
    ),
    *("Pow", "Sqrt", "Div", "Clip", "Resize"),
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Graph(_Strict):
    """The ONNX file and its SHA-256."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    opset: int


class Tensor(_Strict):
    """A named array without its batch axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    classes: tuple[str, ...] = ()

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.shape, self.dtype, self.classes)


class PackedState(_Strict):
    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"


class Preprocess(_Strict):
    """How plane images become the input `x`: see `engines.preprocess`.

    `crop` "embryo": the square of `width_in_well_radii` around the embryo; "blastocyst": the square that
    `engines.blastocyst` finds on day 5; absent: the whole middle of the picture.
    """

    planes_um: tuple[int, ...] = Field(min_length=1)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    mean: float
    std: float = Field(gt=0)
    allowed_plane_counts: tuple[int, ...] = Field(min_length=1)
    crop: Literal["embryo", "blastocyst"] | None = None
    width_in_well_radii: float = Field(default=1.45, gt=0)

    @model_validator(mode="after")
    def _planes_ascend(self) -> Preprocess:
        if list(self.planes_um) != sorted(set(self.planes_um)):
            raise ValueError(f"planes_um must ascend without repeats, got {self.planes_um}")
        return self

    @model_validator(mode="after")
    def _embryo_is_cut_square(self) -> Preprocess:
        if self.crop is not None and self.height_px != self.width_px:
            raise ValueError(f"a crop around the embryo is square, got {self.height_px} x {self.width_px}")
        return self


class Segments(_Strict):
    """The stride a clip model was trained at: one frame in `segment_h` hours, `count` of them (AMSNet: 28 x 6 h)."""

    segment_h: float = Field(gt=0)
    count: int = Field(gt=0)


class Stability(_Strict):
    """When an answer rests on too little: set by the exporter on validation embryos.

    `plane_subsets_um`: a segment's representative frame is judged again with only these planes; the answers' range is
    its spread. Beyond `most_spread`, or with fewer than `least_segments` segments seen, there is not enough data.
    """

    plane_subsets_um: tuple[tuple[int, ...], ...] = Field(min_length=2)
    most_spread: float = Field(ge=0, le=1)
    least_segments: int = Field(ge=0)
    set_on: str = ""
    accuracy_within: float | None = None
    accuracy_beyond: float | None = None


class Precision(_Strict):
    """How a graph runs on an accelerator. With "fp16", `fp32_operations` (ONNX's names) stay in fp32.

    `absolute`: how far an output may lie from the CPU's with fp16 (with fp32: `engines.golden.allowed`).
    """

    compute: Literal["fp16", "fp32"] = "fp16"
    fp32_operations: tuple[str, ...] = FP32_OPERATIONS
    absolute: float = Field(default=0.01, gt=0)


class FrameEncoder(_Strict):
    """The graph that runs before a temporal head: a stack, and which of its planes are really there, to one vector."""

    graph: Graph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] = Field(min_length=1, max_length=1)
    precision: Precision = Precision()


class Decoding(_Strict):
    """How posteriors become labels: see `engines.decoding.DecodingRules`."""

    evidence: float = Field(default=0.3, gt=0, le=1)
    advance: float = Field(default=-3.0, le=0)
    skip: float = Field(default=-1.0, le=0)
    dwell_h: tuple[Annotated[float, Field(gt=0)], ...] = ()
    passed_over: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    margin: float = Field(default=0.2, ge=0, le=1)
    hold: int = Field(default=3, ge=1)
    counts: tuple[int, int] = (3, 10)
    fallen: float = Field(default=0.7, gt=0, le=1)
    fallen_frames: int = Field(default=4, ge=1)
    settled_frames: int = Field(default=4, ge=1)


class Tolerance(_Strict):
    """How far a runtime's outputs may lie from the reference's."""

    absolute: float = Field(gt=0)


class Manifest(_Strict):
    """One model as its exporter describes it."""

    schema_: Literal["pellucid.manifest/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    version: str
    task: Literal["blastocyst", "stage", "segmentation", "grade"]
    graph: Graph
    state_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: PackedState
    preprocess: Preprocess
    segments: Segments | None = None
    encoder: FrameEncoder | None = None
    decoding: Decoding | None = None
    hours_told: bool = True
    calibration: dict[str, Any] = {}
    stability: Stability | None = None
    tolerance: Tolerance
    precision: Precision | None = None
    provenance: dict[str, Any]
    intended_use: str

    @model_validator(mode="after")
    def _pictures_fit_x(self) -> Manifest:
        made = (len(self.preprocess.planes_um), self.preprocess.height_px, self.preprocess.width_px)
        for tensor in (*self.inputs, *(self.encoder.inputs if self.encoder else ())):
            if tensor.name == "x" and tensor.shape != made:
                raise ValueError(f"the preprocess makes {made}, the input x takes {tensor.shape}")
        return self

    @model_validator(mode="after")
    def _a_stage_model_has_two_graphs(self) -> Manifest:
        if (self.task == "stage") != (self.encoder is not None):
            raise ValueError("a stage model, and no other, has an `encoder` before its head")
        features = [tensor.shape for tensor in self.inputs if tensor.name == "feature"]
        if self.encoder is not None and features != [self.encoder.outputs[0].shape]:
            raise ValueError(f"the encoder gives {self.encoder.outputs[0].shape}, the head takes features {features}")
        return self

    @model_validator(mode="after")
    def _decoding_knows_every_phase(self) -> Manifest:
        if self.decoding is not None:
            told, phases = (len(self.decoding.dwell_h), len(self.decoding.passed_over)), len(self.outputs[0].classes)
            if told not in ((0, 0), (phases, phases)):
                raise ValueError(f"decoding: dwell_h and passed_over have {told} values, for {phases} phases")
        return self

    @model_validator(mode="after")
    def _subsets_are_planes(self) -> Manifest:
        subsets = () if self.stability is None else self.stability.plane_subsets_um
        for subset in subsets:
            if not subset or not set(subset) <= set(self.preprocess.planes_um):
                raise ValueError(f"stability: {subset} are not planes of {self.preprocess.planes_um}")
        return self

    def spec(self) -> EngineSpec:
        return EngineSpec(
            name=self.name,
            task=self.task,
            state_id=self.state_id,
            inputs=tuple(tensor.spec() for tensor in self.inputs),
            outputs=tuple(tensor.spec() for tensor in self.outputs),
            state=TensorSpec("state", self.state.shape),
        )

    def encoder_spec(self) -> EngineSpec:
        """Of the encoder, a model without memory. Raises EngineError where there is none."""
        if self.encoder is None:
            raise EngineError(f"{self.name}: it has no encoder")
        return EngineSpec(
            name=f"{self.name} encoder",
            task=self.task,
            state_id=self.state_id,
            inputs=tuple(tensor.spec() for tensor in self.encoder.inputs),
            outputs=tuple(tensor.spec() for tensor in self.encoder.outputs),
            state=TensorSpec("state", (0,)),
        )

    def parts(self) -> tuple[Part, ...]:
        """Its graphs in the order they run. A stage model's head stays in fp32 unless its manifest says otherwise: it
        is small, and what it rounds in one frame it carries into all later ones."""
        default = Precision(compute="fp32") if self.encoder is not None else Precision()
        own = Part(self.graph, self.spec(), self.precision or default)
        if self.encoder is None:
            return (own,)
        return (Part(self.encoder.graph, self.encoder_spec(), self.encoder.precision), own)


@dataclass(frozen=True)
class Part:
    """One graph of a model: what an engine is made of."""

    graph: Graph
    spec: EngineSpec
    precision: Precision


def read_manifest(path: Path) -> Manifest:
    """Read and validate one manifest. Raises EngineError naming the file and the key."""
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as fault:
        raise EngineError(f"manifest {path}: {fault.strerror}") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise EngineError(f"manifest {path}: {key}: {first['msg']}") from fault
    if manifest.name != path.stem:
        raise EngineError(f"manifest {path}: name: it is {manifest.name!r}, the file must be {manifest.name}.json")
    return manifest


def graph_path(manifest_path: Path, manifest: Manifest, graph: Graph | None = None) -> Path:
    """The ONNX file beside its manifest (its own, or the encoder's `graph`), its digest checked. Raises EngineError."""
    graph = graph or manifest.graph
    path = manifest_path.parent / graph.file
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as fault:
        raise EngineError(f"{manifest.name}: graph {path}: {fault.strerror}") from fault
    if digest != graph.sha256:
        raise EngineError(
            f"{manifest.name}: {path} is not the file its manifest describes "
            f"(sha256 {digest[:12]}, manifest {graph.sha256[:12]}): restore it or export it again"
        )
    return path
