"""Takes the script's embryos the whole way once: drawn, observed, judged, read; what is kept are the readings.

`python -m monitor.rehearsal.record --embryos 300 --out DIR` goes on where it was stopped, incubator by incubator. With
`--frames DIR` what is drawn is kept there (.35 MB a frame), and other models are asked about it in a third of the time.
It decides nothing: alerts are scored on the record (`monitor.rehearsal.score`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry

from engines.load import Loaded
from monitor.arguments import not_negative, positive
from monitor.assemble import Assembled
from monitor.clock import SystemClock
from monitor.config import Engines, Incubator
from monitor.metrics import Metrics
from monitor.node import Source, build_node, load_models
from monitor.rehearsal.cases import Scene, TroubleKind, Well, script
from monitor.simulator import PLANES_UM, VirtualEmbryo
from monitor.vocabulary import FileSeen, FocalStack, Moment, Place, PlaneFile, PlaneImage

SITE, NODE, DISH = "rehearsal", "virtual", "D1"
SIZE_PX = 224
INSEMINATED = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)
BLUR_PX_RATIO = 0.03  # of a picture's side
Stack = npt.NDArray[np.uint8]


def record(scene: Scene, loaded: Loaded, path: Path, kept: Path | None = None) -> int:
    """One incubator's readings, a line each, whole or not at all; how many. `kept`: where drawn frames are."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        incubator = Incubator(name=scene.name, path=Path(folder), insemination=INSEMINATED, cadence_min=scene.every_min)
        metrics = Metrics(CollectorRegistry(), clock.now)
        store = Path(folder) / "store"
        node = build_node(SITE, NODE, [Source(incubator)], loaded, store, None, clock, metrics)
        try:
            for frames in _moments(scene, kept):
                node.pipeline.advance(frames)
            bodies = list(node.journal.bodies())
        finally:
            node.journal.close()
    draft = path.with_suffix(".part")
    draft.write_text("".join(body + "\n" for body in bodies), encoding="utf-8")
    draft.replace(path)
    return len(bodies)


def _moments(scene: Scene, kept: Path | None) -> Iterator[list[Assembled]]:
    """The frames of all wells, moment by moment; none where the incubator writes nothing."""
    embryos = {well: VirtualEmbryo(well.seed) for well in scene.wells}
    for hpi_h in scene.hours():
        frames = [_frame(scene, well, embryos[well], hpi_h, kept) for well in scene.wells]
        if due := [frame for frame in frames if frame is not None]:
            yield due


def _frame(scene: Scene, well: Well, embryo: VirtualEmbryo, hpi_h: float, kept: Path | None) -> Assembled | None:
    troubles = scene.trouble_at(well, hpi_h)
    if "gap" in troubles:
        return None
    lacking = "lacking" in troubles
    planes_um = PLANES_UM[:2] if lacking else PLANES_UM[2:5] if "missing_planes" in troubles else PLANES_UM
    at = INSEMINATED + timedelta(seconds=round(hpi_h * 3600))
    place, moment = Place(scene.name, DISH, str(well.number)), Moment(captured_at=at)
    written_ns = round(at.timestamp() * 1e9)
    images = tuple(
        PlaneImage(
            PlaneFile(place, moment, um, FileSeen(f"{DISH}/{well.number}/{moment.key}_F{um}.jpg", 1, written_ns)),
            gray,
            "",
        )
        for um, gray in zip(PLANES_UM, _kept(embryo, hpi_h, troubles, kept), strict=True)
        if um in planes_um
    )
    missing = tuple(um for um in PLANES_UM if um not in planes_um)
    return Assembled(FocalStack(place, moment, images, missing, lacking=lacking), ())


def _kept(embryo: VirtualEmbryo, hpi_h: float, troubles: tuple[TroubleKind, ...], kept: Path | None) -> Stack:
    """As `seen`, drawn once only."""
    if kept is None:
        return seen(embryo, hpi_h, troubles)
    path = kept / "_".join((str(embryo.seed), f"{hpi_h:.4f}", *troubles, ".npy"))
    if not path.exists():
        draft = path.with_suffix(".part")
        with draft.open("wb") as file:
            np.save(file, seen(embryo, hpi_h, troubles))
        draft.replace(path)
    return np.asarray(np.load(path), np.uint8)


def seen(embryo: VirtualEmbryo, hpi_h: float, troubles: tuple[TroubleKind, ...]) -> Stack:
    """(P, H, W) what the camera sees."""
    if "blank" in troubles:
        rng = np.random.default_rng((embryo.seed, round(hpi_h * 3600)))
        gray = rng.normal(96, 2, (len(PLANES_UM), SIZE_PX, SIZE_PX))
        return np.asarray(np.round(gray), np.uint8)
    stack = embryo.empty(hpi_h, SIZE_PX) if "empty" in troubles else embryo.stack(hpi_h, SIZE_PX)
    if "blurred" in troubles:
        soft = [cv2.GaussianBlur(plane, (0, 0), BLUR_PX_RATIO * SIZE_PX) for plane in stack]
        stack = np.asarray(soft, np.uint8)
    return np.asarray(stack * 0.02, np.uint8) if "dark" in troubles else stack


def main() -> None:
    """Record what is not recorded yet."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--embryos", type=positive, default=300, help="with a frame each hour")
    command.add_argument("--ten-min", type=not_negative, default=20, help="more of them, a frame each ten minutes")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--frames", type=Path, help="keep what is drawn here, for other models")
    command.add_argument("--models", default="bundled", help="a folder with other models")
    command.add_argument("--stage", default="embryodiff-small")
    command.add_argument("--threads", type=positive, default=1)
    asked = command.parse_args()
    for folder in (asked.out, asked.frames):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(asked.threads)
    loaded = load_models(Engines(models=asked.models, stage=asked.stage, threads=asked.threads))
    engines = {one.manifest.name: one.manifest.graph.sha256 for one in loaded.serving}
    facts = {"embryos": asked.embryos, "ten_min": asked.ten_min, "engines": engines}
    (asked.out / "record.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for scene in script(asked.embryos, asked.ten_min):
        path = asked.out / f"{scene.name}.{len(scene.wells)}.jsonl"
        if not path.exists():
            began_s = time.process_time()
            lines = record(scene, loaded, path, asked.frames)
            print(f"{scene.name}: {lines} readings, {time.process_time() - began_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
