"""The JSON beside each model: tensors, preprocessing, digests, provenance, tolerance. An unknown key is an error.

It knows files and digests; it loads no runtime.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.contract import EngineError, EngineSpec, TensorSpec


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

    `crop` "embryo": the square of `width_in_well_radii` around the embryo; absent: the whole middle of the picture.
    """

    planes_um: tuple[int, ...] = Field(min_length=1)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    mean: float
    std: float = Field(gt=0)
    allowed_plane_counts: tuple[int, ...] = Field(min_length=1)
    crop: Literal["embryo"] | None = None
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


class Tolerance(_Strict):
    """How far a runtime's outputs may lie from the reference's."""

    absolute: float = Field(gt=0)


class Manifest(_Strict):
    """One model as its exporter describes it."""

    schema_: Literal["pellucid.manifest/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    version: str
    task: Literal["blastocyst"]
    graph: Graph
    state_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: PackedState
    preprocess: Preprocess
    segments: Segments | None = None
    calibration: dict[str, Any] = {}
    stability: Stability | None = None
    tolerance: Tolerance
    provenance: dict[str, Any]
    intended_use: str

    @model_validator(mode="after")
    def _pictures_fit_x(self) -> Manifest:
        made = (len(self.preprocess.planes_um), self.preprocess.height_px, self.preprocess.width_px)
        for tensor in self.inputs:
            if tensor.name == "x" and tensor.shape != made:
                raise ValueError(f"the preprocess makes {made}, the input x takes {tensor.shape}")
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


def graph_path(manifest_path: Path, manifest: Manifest) -> Path:
    """The ONNX file beside its manifest, its digest checked. Raises EngineError."""
    path = manifest_path.parent / manifest.graph.file
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as fault:
        raise EngineError(f"{manifest.name}: graph {path}: {fault.strerror}") from fault
    if digest != manifest.graph.sha256:
        raise EngineError(
            f"{manifest.name}: {path} is not the file its manifest describes "
            f"(sha256 {digest[:12]}, manifest {manifest.graph.sha256[:12]}): restore it or export it again"
        )
    return path
