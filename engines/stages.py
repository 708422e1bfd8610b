"""The stage model over any number of embryos: encoder, one causal step of the head, decoding; and its memory as bytes.

Every frame that is fit is one step (unlike a clip model's segments). A frame's vector and hours are all that the rest
of the way depends on: whoever kept them can take the same steps again, and comes to the same memory, bit for bit on a
CPU. It knows hours and pixels; no embryo, no clock, no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.contract import Array, EngineError, State, StateMismatchError
from engines.decoding import Decoded, Decoder, DecodingRules, Track
from engines.load import Loaded
from engines.manifest import Preprocess
from engines.packing import pack, unpack
from engines.preprocess import to_tensor

Gray = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StageFrame:
    """What the head is told of a frame: `feature` (D,) float32, hours post insemination and since the first frame,
    each None where not known."""

    feature: Vector
    hpi: float | None
    elapsed_h: float | None


@dataclass(frozen=True, eq=False)
class StageMemory:
    """One embryo's memory: the head's registers, the decoder's track, frames taken, hour of the last of them."""

    state: State
    track: Track
    frames: int = 0
    last_h: float = 0.0


@dataclass(frozen=True, eq=False)
class StageAnswer:
    """What a frame was told: the raw posterior (K,) and what is decoded from all so far; `frame` is to be kept.

    `failed`: the numbers were not finite; nothing was remembered, and the other fields are None.
    """

    probabilities: Array | None = None
    decoded: Decoded | None = None
    frame: StageFrame | None = None

    @property
    def failed(self) -> bool:
        return self.decoded is None


class StagePolicy:
    """Encode, step, decode. Raises EngineError when `loaded` is no stage model.

    A manifest may say that its head is not to be told the hour post insemination, known or not (`hours_told` false):
    whoever knows the hour leans on it, and the slow or fast embryo looks like any other.
    """

    def __init__(self, loaded: Loaded) -> None:
        manifest, encoder = loaded.manifest, loaded.encoder
        if encoder is None or manifest.task != "stage":
            raise EngineError(f"{manifest.name}: no stage model (task {manifest.task!r})")
        self._encoder, self._head = encoder, loaded.engine
        self.preprocess: Preprocess = manifest.preprocess
        told = {} if manifest.decoding is None else manifest.decoding.model_dump()
        self.classes = next(output.classes for output in manifest.outputs)
        self._decoder = Decoder(DecodingRules(self.classes, **told))
        self._output = manifest.outputs[0].name
        self._hours_told = manifest.hours_told

    @property
    def state_id(self) -> str:
        return self._head.spec.state_id

    def start(self) -> StageMemory:
        return StageMemory(self._head.initial_state(), self._decoder.start())

    def encode(self, stacks: Sequence[Gray], present_um: Sequence[tuple[int, ...]]) -> list[Vector | None]:
        """Fitted stacks (P, H, W) uint8 and which planes are really there -> a vector each; None: not finite."""
        planes_um = self.preprocess.planes_um
        present = np.array([[float(um in own) for um in planes_um] for own in present_um], np.float32)
        # a plane recorded between two of the model's has none of its own: its picture stands in the nearest
        present[present.sum(1) == 0] = 1.0
        inputs = {"x": to_tensor(np.stack(list(stacks)), self.preprocess), "present": present}
        step = self._encoder.step([self._encoder.initial_state()] * len(stacks), inputs)
        vectors = step.outputs[self._encoder.spec.outputs[0].name]
        return [None if row in step.failed else vectors[row] for row in range(len(stacks))]

    def take(
        self, memories: Sequence[StageMemory], frames: Sequence[StageFrame | None]
    ) -> tuple[list[StageMemory], list[StageAnswer]]:
        """One frame of each embryo (None: its vector was not finite). A memory that comes back as the same object has
        not changed. Raises EngineError when the engine fails; then no memory has changed."""
        after, answers = list(memories), [StageAnswer()] * len(memories)
        rows = [(index, frame) for index, frame in enumerate(frames) if frame is not None]
        if not rows:
            return after, answers
        own = [memories[index] for index, _ in rows]
        told = [_told(memory, frame, self._hours_told) for memory, (_, frame) in zip(own, rows, strict=True)]
        inputs = {name: np.stack([one[name] for one in told]) for name in told[0]}
        step = self._head.step([memory.state for memory in own], inputs)
        for row, (index, frame) in enumerate(rows):
            if row not in step.failed:
                p = step.outputs[self._output][row]
                after[index], answers[index] = self._remembered(memories[index], step.states[row], frame, p)
        return after, answers

    def _remembered(
        self, memory: StageMemory, state: State, frame: StageFrame, p: Array
    ) -> tuple[StageMemory, StageAnswer]:
        # a touched or copied file may be dated back: the track's clock stands still, it never goes back
        hour_h = None if frame.elapsed_h is None else max(frame.elapsed_h, memory.last_h)
        track, decoded = self._decoder.advance(memory.track, p, hour_h)
        last_h = memory.last_h if hour_h is None else hour_h
        return replace(memory, state=state, track=track, frames=memory.frames + 1, last_h=last_h), StageAnswer(
            p, decoded, frame
        )

    def save(self, memory: StageMemory) -> bytes:
        """The memory as bytes; equal memories give equal bytes."""
        header = {"state_id": self.state_id, "frames": memory.frames, "last_h": memory.last_h}
        state = np.frombuffer(self._head.save(memory.state), np.uint8)
        track = {f"track_{name}": array for name, array in memory.track.arrays().items()}
        return pack(header, {"state": state, **track})

    def restore(self, blob: bytes) -> StageMemory:
        """The inverse of `save`. Raises EngineError (torn), StateMismatchError (another model's)."""
        header, arrays = unpack(blob)
        if header.get("state_id") != self.state_id:
            raise StateMismatchError(
                f"{self._head.spec.name}: the saved memory is of {str(header.get('state_id'))[:12]}, "
                f"this model is {self.state_id[:12]}"
            )
        try:
            return self._memory_of(header, arrays)
        except (KeyError, TypeError, ValueError) as fault:
            raise EngineError(f"{self._head.spec.name}: the saved memory does not read ({fault!r})") from fault

    def _memory_of(self, header: dict[str, Any], arrays: dict[str, Array]) -> StageMemory:
        track = {name.removeprefix("track_"): array for name, array in arrays.items() if name.startswith("track_")}
        return StageMemory(
            state=self._head.restore(arrays["state"].tobytes()),
            track=self._decoder.restore(track),
            frames=int(header["frames"]),
            last_h=float(header["last_h"]),
        )


def _told(memory: StageMemory, frame: StageFrame, hours_told: bool) -> dict[str, Array]:
    """The head's inputs of one row."""
    since_h = 0.0
    if memory.frames and frame.elapsed_h is not None:
        since_h = max(frame.elapsed_h - memory.last_h, 0.0)
    hpi = frame.hpi if hours_told else None
    scalars = {
        "hours": 0.0 if hpi is None else hpi,
        "hours_known": float(hpi is not None),
        "elapsed": since_h,
    }
    return {"feature": frame.feature, **{name: np.array([value], np.float32) for name, value in scalars.items()}}
