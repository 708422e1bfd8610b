"""Plane images of one embryo at one moment -> one FocalStack, or a named lack after a deadline.

A frame is ready when all declared planes are there and decode. At the deadline it goes on with what there is. Frames
of one embryo leave in their order: a newer frame waits for an older one that still waits for its planes. It knows no
engine; whether few planes may be judged is told by `allowed_counts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from monitor.errors import FrameError
from monitor.pictures import read_plane
from monitor.vocabulary import FileSeen, FocalStack, Gray, Moment, Place, PlaneFile, PlaneImage

ReadPlane = Callable[[Path], tuple[Gray, str]]
FrameName = tuple[Place, str]

RETRY_S = 5.0
UNREAD = ("vanished", "unreadable")  # the share's fault as likely as the file's: tried again, never put aside


@dataclass
class Waiting:
    """A frame on its way: its plane files, and which of them were tried and do not decode (with the reason)."""

    place: Place
    moment: Moment
    since: float  # monotonic seconds: when its first file was handed in
    files: dict[int, PlaneFile] = field(default_factory=dict)
    broken: dict[FileSeen, FrameError] = field(default_factory=dict)
    rivals: list[PlaneFile] = field(default_factory=list)  # a second file for a plane that is already there
    retry_at: float = 0.0  # when planes that could not be read are due to be tried again
    excused_s: float = 0.0  # of the time since: its share was away, and no plane could come

    told: bool = False  # the journal has it already: a late plane makes nobody wait

    @property
    def name(self) -> FrameName:
        return self.place, self.moment.key


@dataclass(frozen=True, eq=False)
class Assembled:
    """A frame that goes on: the stack, and the files quarantined on the way with their reason.

    `unread`: files that could not be read at all. The frame goes on without them, but they are not put aside: when they
    can be read again they are late planes.
    """

    stack: FocalStack
    quarantined: tuple[tuple[FileSeen, FrameError], ...]
    unread: tuple[tuple[FileSeen, FrameError], ...] = ()

    @property
    def name(self) -> FrameName:
        return self.stack.place, self.stack.moment.key


class Assembler:
    """The frames of one incubator that are not judged yet.

    `planes_um`: what the incubator declares. `earlier`: plane files of a frame that the journal already has, so that a
    late plane meets the rest of its stack.
    """

    def __init__(
        self,
        root: Path,
        planes_um: Iterable[int],
        allowed_counts: Iterable[int],
        deadline_s: float,
        earlier: Callable[[Place, Moment], Iterable[PlaneFile]],
        read: ReadPlane = read_plane,
    ) -> None:
        self._root = root
        self._planes_um = frozenset(planes_um)
        self._allowed = frozenset(allowed_counts)
        self._deadline_s = deadline_s
        self._earlier = earlier
        self._read = read
        self._waiting: dict[Place, dict[str, Waiting]] = {}
        self._first: dict[Place, Waiting] = {}  # kept, since an archive may hold 100,000s of frames at once
        self._told: dict[FrameName, Waiting] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def oldest_since(self) -> float | None:
        """Monotonic seconds at which the frame that has waited longest was first seen."""
        return min((frame.since for frames in self._waiting.values() for frame in frames.values()), default=None)

    def excuse(self, seconds: float) -> None:
        """For so long no plane could come: the deadlines of what waits move back."""
        for frames in self._waiting.values():
            for frame in frames.values():
                frame.excused_s += seconds

    def add(self, file: PlaneFile, now: float) -> None:
        """Take in a finished file. Raises FrameError `plane` when the incubator does not declare its plane."""
        if file.plane_um not in self._planes_um:
            raise FrameError("plane", f"{file.file.path}: plane {file.plane_um} um, declared {sorted(self._planes_um)}")
        frame = self._waiting.get(file.place, {}).get(file.moment.key) or self._begin(file, now)
        rival = frame.files.get(file.plane_um)
        if rival is not None and rival.file.path != file.file.path:
            if file not in frame.rivals:
                frame.rivals.append(file)
            return
        frame.files[file.plane_um] = file
        for other in [other for other, fault in frame.broken.items() if fault.reason == "size"]:
            del frame.broken[other]  # whose size is the odd one is seen anew

    def _begin(self, file: PlaneFile, now: float) -> Waiting:
        frame = Waiting(file.place, file.moment, now)
        for known in self._earlier(file.place, file.moment):
            frame.files[known.plane_um] = known
        frame.told = bool(frame.files)
        self._waiting.setdefault(file.place, {})[file.moment.key] = frame
        first = self._first.get(file.place)
        if not frame.told and (first is None or frame.moment.order < first.moment.order):
            self._first[file.place] = frame
        elif frame.told:
            self._told[frame.name] = frame
        return frame

    def due(self, now: float) -> list[FrameName]:
        """Names of the frames that may go on now, at most one of each embryo: the oldest, if it is full or past its
        deadline; else one that was told before and has got another plane."""
        ready: dict[Place, Waiting] = {}
        for frame in (*self._first.values(), *self._told.values()):
            if frame.place not in ready and (self._full(frame, now) or self._late(frame, now)):
                ready[frame.place] = frame
        # who has waited longest goes first, so that an archive dropped in does not keep live frames waiting
        in_turn = sorted(ready.values(), key=lambda frame: (frame.since, frame.moment.order, frame.place))
        return [frame.name for frame in in_turn]

    def assemble(self, name: FrameName, now: float) -> Assembled | None:
        """Decode a due frame. None when a plane does not decode before the deadline: it may be rewritten."""
        place, key = name
        frame = self._waiting[place][key]
        images = self._decode(frame)
        current = {file.file for file in frame.files.values()}
        faults = {file: fault for file, fault in frame.broken.items() if file in current}
        if faults and not self._late(frame, now):
            frame.retry_at = now + RETRY_S
            return None
        broken = {file: fault for file, fault in faults.items() if fault.reason not in UNREAD}
        unread = tuple((file, fault) for file, fault in faults.items() if fault.reason in UNREAD)
        here = {image.source.plane_um for image in images}
        stack = FocalStack(
            frame.place,
            frame.moment,
            tuple(images),
            tuple(sorted(self._planes_um - here)),
            broken=tuple(sorted(file.path for file in broken)),
            lacking=len(images) not in self._allowed,
        )
        rivals = [
            (rival.file, FrameError("duplicate", f"{rival.file.path}: a second file for plane {rival.plane_um}"))
            for rival in frame.rivals
        ]
        return Assembled(stack, (*broken.items(), *rivals), unread)

    def _decode(self, frame: Waiting) -> list[PlaneImage]:
        """The planes that decode, ascending, and all of the size most of them have. The others are noted broken."""
        images: list[PlaneImage] = []
        for _, file in sorted(frame.files.items()):
            if (before := frame.broken.get(file.file)) is not None and before.reason not in UNREAD:
                continue
            frame.broken.pop(file.file, None)
            try:
                images.append(PlaneImage(file, *self._read(self._root / file.file.path)))
            except FrameError as fault:
                frame.broken[file.file] = fault
        sizes = Counter(image.gray.shape for image in images)
        usual = sizes.most_common(1)[0][0] if sizes else None
        for image in images:
            if image.gray.shape != usual:
                odd = image.source.file
                frame.broken[odd] = FrameError("size", f"{odd.path}: {image.gray.shape} px, the others {usual} px")
        return [image for image in images if image.gray.shape == usual]

    def done(self, name: FrameName) -> None:
        """The frame is in the journal: let it go."""
        place, key = name
        frames = self._waiting[place]
        del frames[key]
        self._told.pop(name, None)
        self._first.pop(place, None)
        untold = [frame for frame in frames.values() if not frame.told]
        if untold:
            self._first[place] = min(untold, key=lambda frame: frame.moment.order)
        if not frames:
            del self._waiting[place]

    def _full(self, frame: Waiting, now: float) -> bool:
        faults = {plane: frame.broken.get(file.file) for plane, file in frame.files.items()}
        retry = UNREAD if now >= frame.retry_at else ()
        whole = {plane for plane, fault in faults.items() if fault is None or fault.reason in retry}
        return whole >= self._planes_um

    def _late(self, frame: Waiting, now: float) -> bool:
        return now - frame.since - frame.excused_s >= self._deadline_s
