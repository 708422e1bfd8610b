"""Plane images of one embryo at one moment -> one FocalStack, or a named lack after a deadline.

A frame is ready when all declared planes are there and decode. At the deadline it goes on with what there is. Frames
of one embryo leave in their order: a newer frame waits for an older one that still waits for its planes. It knows no
engine; whether few planes may be judged is told by `allowed_counts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from monitor.errors import FrameError
from monitor.pictures import read_pages, read_plane
from monitor.vocabulary import FileSeen, FocalStack, Gray, Moment, Place, PlaneFile, PlaneImage

ReadPlane = Callable[[Path], tuple[Gray, str]]
ReadPages = Callable[[Path, int], tuple[Sequence[Gray | FrameError], str]]
FrameName = tuple[Place, str]

RETRY_S = 5.0
UNREAD = ("vanished", "unreadable")  # the share's fault as likely as the file's: tried again, never put aside


@dataclass
class Waiting:
    """A frame on its way: its planes' files, and which planes were tried and do not decode (with the reason)."""

    place: Place
    moment: Moment
    since: float  # monotonic seconds: when its first file was handed in
    files: dict[int, PlaneFile] = field(default_factory=dict)
    broken: dict[PlaneFile, FrameError] = field(default_factory=dict)
    rivals: list[PlaneFile] = field(default_factory=list)  # a second file for a plane that is already there
    retry_at: float = 0.0  # when planes that could not be read are due to be tried again
    excused_s: float = 0.0  # of the time since: its share was away, and no plane could come

    told: bool = False  # the journal has it already: a late plane makes nobody wait

    @property
    def name(self) -> FrameName:
        return self.place, _key(self.moment)

    @property
    def dated(self) -> Moment:
        """Its moment; where only files tell the time, that of the first of them that was written."""
        if self.moment.file_at is None:
            return self.moment
        first = min(file.file.mtime_ns for file in self.files.values())
        return replace(self.moment, file_at=FileSeen("", 0, first).mtime.replace(microsecond=0))


def _key(moment: Moment) -> str:
    """Names a frame among those that wait in a well: two slides may use the same numbers."""
    return moment.key if moment.slide is None else f"{moment.slide} {moment.key}"


@dataclass(frozen=True, eq=False)
class Assembled:
    """A frame that goes on: the stack, and the planes quarantined on the way with their reason.

    `unread`: planes that could not be read at all. The frame goes on without them, but they are not put aside: when
    they can be read again they are late planes.
    """

    stack: FocalStack
    quarantined: tuple[tuple[PlaneFile, FrameError], ...]
    unread: tuple[tuple[PlaneFile, FrameError], ...] = ()

    @property
    def name(self) -> FrameName:
        return self.stack.place, _key(self.stack.moment)

    @property
    def files_aside(self) -> list[tuple[FileSeen, FrameError]]:
        """The files among them, each once for each reason, however many of its pages it spoils."""
        aside = {(plane.file, fault.reason): fault for plane, fault in reversed(self.quarantined)}
        return [(file, fault) for (file, _), fault in reversed(aside.items())]


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
        read_pages: ReadPages = read_pages,
    ) -> None:
        self._root = root
        self._planes_um = frozenset(planes_um)
        self._allowed = frozenset(allowed_counts)
        self._deadline_s = deadline_s
        self._earlier = earlier
        self._read, self._read_pages = read, read_pages
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
        frame = self._waiting.get(file.place, {}).get(_key(file.moment)) or self._begin(file, now)
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
        self._waiting.setdefault(file.place, {})[_key(file.moment)] = frame
        first = self._first.get(file.place)
        if not frame.told and (first is None or frame.moment.rank < first.moment.rank):
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
        in_turn = sorted(ready.values(), key=lambda frame: (frame.since, frame.moment.rank, frame.place))
        return [frame.name for frame in in_turn]

    def assemble(self, name: FrameName, now: float) -> Assembled | None:
        """Decode a due frame. None when a plane does not decode before the deadline: it may be rewritten."""
        place, key = name
        frame = self._waiting[place][key]
        images = self._decode(frame)
        current = set(frame.files.values())
        faults = {file: fault for file, fault in frame.broken.items() if file in current}
        if faults and not self._late(frame, now):
            frame.retry_at = now + RETRY_S
            return None
        broken = {file: fault for file, fault in faults.items() if fault.reason not in UNREAD}
        unread = tuple((file, fault) for file, fault in faults.items() if fault.reason in UNREAD)
        here = {image.source.plane_um for image in images}
        stack = FocalStack(
            frame.place,
            frame.dated,
            tuple(images),
            tuple(sorted(self._planes_um - here)),
            broken=tuple(sorted({plane.file.path for plane in broken})),
            lacking=len(images) not in self._allowed,
        )
        rivals = [
            (rival, FrameError("duplicate", f"{rival.file.path}: a second file for plane {rival.plane_um}"))
            for rival in frame.rivals
        ]
        return Assembled(stack, (*broken.items(), *rivals), unread)

    def _decode(self, frame: Waiting) -> list[PlaneImage]:
        """The planes that decode, ascending, and all of the size most of them have. The others are noted broken."""
        images: list[PlaneImage] = []
        opened: dict[FileSeen, tuple[Sequence[Gray | FrameError], str] | FrameError] = {}
        for _, plane in sorted(frame.files.items()):
            if (before := frame.broken.get(plane)) is not None and before.reason not in UNREAD:
                continue
            frame.broken.pop(plane, None)
            if plane.file not in opened:
                opened[plane.file] = self._open(plane)
            found = opened[plane.file]
            if isinstance(found, FrameError):
                frame.broken[plane] = found
                continue
            pages, digest = found
            gray = pages[plane.page or 0]
            if isinstance(gray, FrameError):
                frame.broken[plane] = gray
            else:
                images.append(PlaneImage(plane, gray, digest))
        sizes = Counter(image.gray.shape for image in images)
        usual = sizes.most_common(1)[0][0] if sizes else None
        for image in images:
            if image.gray.shape != usual:
                odd, path = image.source, image.source.file.path
                frame.broken[odd] = FrameError("size", f"{path}: {image.gray.shape} px, the others {usual} px")
        return [image for image in images if image.gray.shape == usual]

    def _open(self, plane: PlaneFile) -> tuple[Sequence[Gray | FrameError], str] | FrameError:
        """What the plane's file holds, read once however many planes are in it; or why nothing of it can be used."""
        path = self._root / plane.file.path
        try:
            if plane.page is not None:
                return self._read_pages(path, len(self._planes_um))
            gray, digest = self._read(path)
        except FrameError as fault:
            return fault
        return [gray], digest

    def done(self, name: FrameName) -> None:
        """The frame is in the journal: let it go."""
        place, key = name
        frames = self._waiting[place]
        del frames[key]
        self._told.pop(name, None)
        self._first.pop(place, None)
        untold = [frame for frame in frames.values() if not frame.told]
        if untold:
            self._first[place] = min(untold, key=lambda frame: frame.moment.rank)
        if not frames:
            del self._waiting[place]

    def _full(self, frame: Waiting, now: float) -> bool:
        faults = {plane_um: frame.broken.get(file) for plane_um, file in frame.files.items()}
        retry = UNREAD if now >= frame.retry_at else ()
        whole = {plane_um for plane_um, fault in faults.items() if fault is None or fault.reason in retry}
        return whole >= self._planes_um

    def _late(self, frame: Waiting, now: float) -> bool:
        return now - frame.since - frame.excused_s >= self._deadline_s
