"""The models of day 5 together: where the blastocyst lies, its parts, and what each grader says of it.

Axes: P, H, W. It knows the pixels of one frame. It refuses to know hours, embryos, and what a grade is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engines.blastocyst import Found, NotFound, find_in_still, find_in_well
from engines.contract import Array, EngineError
from engines.day5 import EXPANSIONS, Labels, Part
from engines.load import Device, Loaded, find_manifests, load_engine
from engines.manifest import read_manifest
from engines.preprocess import Gray, fit_stack, nearest_plane_um, to_tensor
from engines.square import Square

NO_BLASTOCYST = "none"  # the graders' class beside expansion 1 to 6
OUTPUTS = ("y_expansion", "y_icm", "y_te")


@dataclass(frozen=True)
class Said:
    """One grader's probabilities by class, as its manifest names them: expansion "1" to "6" and perhaps "none"."""

    grader: str
    expansion: Mapping[str, float]
    icm: Mapping[str, float]
    te: Mapping[str, float]


class Day5Models:
    """A segmenter and the graders beside it. Raises EngineError where a model is no such model.

    `time_step` gives what times a call of the model it names.
    """

    def __init__(
        self,
        segmenter: Loaded,
        graders: Sequence[Loaded],
        time_step: Callable[[str], AbstractContextManager[object]] = lambda name: nullcontext(),
    ) -> None:
        self._segmenter, self._graders = segmenter, {loaded.manifest.name: loaded for loaded in graders}
        self._time_step = time_step
        _check_outputs(segmenter, {"y_parts": tuple(part.name for part in Part)})
        letters = ("A", "B", "C")
        for loaded in graders:
            _check_outputs(loaded, {"y_expansion": None, "y_icm": letters, "y_te": letters})
        self.digests = {one.manifest.name: one.manifest.graph.sha256 for one in (segmenter, *graders)}

    @property
    def segmenter(self) -> str:
        return self._segmenter.manifest.name

    @property
    def graders(self) -> tuple[str, ...]:
        return tuple(self._graders)

    def find(self, planes: Mapping[int, Gray], still: bool) -> Found | NotFound:
        """The blastocyst in the middle plane; `still`: it may be a picture that shows no well. Raises EngineError."""
        middle = planes[nearest_plane_um(0, tuple(sorted(planes)))]
        found = find_in_well(middle)
        return find_in_still(middle) if still and isinstance(found, NotFound) else found

    def segment(self, planes: Mapping[int, Gray], found: Found) -> tuple[Labels, Square]:
        """Labels (side, side) of `Part`, and the square that they lie on. Raises EngineError."""
        parts = self._run(self._segmenter, planes, found)["y_parts"]
        labels = np.asarray(parts.argmax(0), dtype=np.uint8)
        return labels, replace(found.square, side_px=labels.shape[1])

    def grade(self, name: str, planes: Mapping[int, Gray], found: Found) -> Said:
        """What the grader `name` says. Raises EngineError."""
        loaded = self._graders[name]
        outputs, classes = self._run(loaded, planes, found), {o.name: o.classes for o in loaded.manifest.outputs}
        expansion, icm, te = (dict(zip(classes[one], map(float, outputs[one]), strict=True)) for one in OUTPUTS)
        return Said(name, expansion, icm, te)

    def _run(self, loaded: Loaded, planes: Mapping[int, Gray], found: Found) -> dict[str, Array]:
        """One row of each output. Raises EngineError, also where a number is not finite."""
        how, engine = loaded.manifest.preprocess, loaded.engine
        x = to_tensor(fit_stack(planes, how, found.square), how)[None]
        with self._time_step(loaded.manifest.name):
            step = engine.step([engine.initial_state()], {"x": x})
        if step.failed:
            raise EngineError(f"{loaded.manifest.name}: its answer is not finite")
        return {name: rows[0] for name, rows in step.outputs.items()}


def load_day5(folder: Path, device: Device = "auto", threads: int = 0) -> Day5Models:
    """The one segmenter and all graders of a folder. Raises EngineError where there are none, or two segmenters."""
    tasks: dict[str, list[Path]] = {"segmentation": [], "grade": []}
    for path in find_manifests(folder):
        tasks.get(read_manifest(path).task, []).append(path)
    if len(tasks["segmentation"]) != 1 or not tasks["grade"]:
        found = ", ".join(f"{task}: {[path.stem for path in paths]}" for task, paths in tasks.items())
        raise EngineError(f"{folder}: day 5 needs one segmenter and a grader or more, there are {found}")
    segmenter, *graders = (
        load_engine(path, device, threads) for path in (*tasks["segmentation"], *sorted(tasks["grade"]))
    )
    return Day5Models(segmenter, graders)


def _check_outputs(loaded: Loaded, wanted: Mapping[str, tuple[str, ...] | None]) -> None:
    """Classes by output; None: expansion's, of which a model may know some."""
    told = {output.name: output.classes for output in loaded.manifest.outputs}
    name = loaded.manifest.name
    if set(told) != set(wanted):
        raise EngineError(f"{name}: outputs are {sorted(told)}, on day 5 they must be {sorted(wanted)}")
    for output, classes in wanted.items():
        known = classes or tuple(one for one in told[output] if one in (NO_BLASTOCYST, *map(str, EXPANSIONS)))
        if told[output] != known or not known:
            raise EngineError(f"{name}: {output} has the classes {told[output]}, which day 5 does not read")
