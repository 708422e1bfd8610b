"""The cadence policy: every frame is a peek, a segment's first fit frame its representative, committed when a later
segment opens. What the stream says of representatives is what the clip of them says, step for step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.contract import Array, EngineError, StateMismatchError, Step, TensorSpec
from engines.manifest import Preprocess, Segments, Stability
from engines.packing import pack, unpack
from engines.preprocess import to_tensor
from engines.scripted_engine import ScriptedEngine, scripted_spec
from engines.segments import SegmentAnswer, SegmentMemory, SegmentPolicy

SIZE_PX = 8
HOW = Preprocess(
    planes_um=(-45, -30, -15, 0, 15, 30, 45),
    height_px=SIZE_PX,
    width_px=SIZE_PX,
    mean=0.5,
    std=0.25,
    allowed_plane_counts=(7,),
)
SEGMENT_S = 6 * 3600
thorough = settings(max_examples=50, deadline=None)  # a shared box may pause in any example
BROKEN_GRAY = 255  # a stack of this gray gives no finite number


def stack(gray: int) -> np.ndarray:
    return np.full((7, SIZE_PX, SIZE_PX), gray, np.uint8)


def broken_by_white(state: Array, inputs: dict[str, Array]) -> float:
    """The running mean of the brightness, NaN on a white picture."""
    bright = float(inputs["x"].mean())
    return float("nan") if bright > 1.99 else (float(state[1]) + bright) / (float(state[0]) + 1)


class Watched(ScriptedEngine):
    """A scripted engine that counts the rows it stepped for good and the rows it only peeked at."""

    def __init__(self, faults: dict[int, str] | None = None, name: str = "scripted") -> None:
        super().__init__(scripted_spec(name=name), broken_by_white, faults)
        self.stepped = self.peeked = 0

    def step(self, states, inputs):
        result = super().step(states, inputs)
        self.stepped += len(states)
        return result

    def peek(self, states, inputs):
        before = self.stepped
        result = super().peek(states, inputs)
        self.stepped, self.peeked = before, self.peeked + len(states)
        return result


def policy(engine: ScriptedEngine | None = None) -> SegmentPolicy:
    return SegmentPolicy(engine or Watched(), Segments(segment_h=6, count=28), HOW)


def one(
    judge: SegmentPolicy, memory: SegmentMemory, hours: float, gray: int = 100
) -> tuple[SegmentMemory, SegmentAnswer]:
    after, answers = judge.advance([memory], [stack(gray)], [hours])
    return after[0], answers[0]


def watch(
    judge: SegmentPolicy, frames: list[tuple[float, int]], memory: SegmentMemory | None = None
) -> tuple[SegmentMemory, list[SegmentAnswer]]:
    memory, answers = memory or judge.start(), []
    for hours, gray in frames:
        memory, answer = one(judge, memory, hours, gray)
        answers.append(answer)
    return memory, answers


def said(answer: SegmentAnswer) -> float:
    return float(answer.outputs["y_blastocyst"][0])


def clip_of(grays: list[int]) -> list[float]:
    """What the engine says when it steps over these frames, one after the other."""
    engine = Watched()
    state, values = engine.initial_state(), []
    for gray in grays:
        step = engine.step([state], {"x": to_tensor(stack(gray)[None], HOW)})
        state = step.states[0]
        values.append(float(step.outputs["y_blastocyst"][0, 0]))
    return values


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[float, int]]:
    """Frames of one embryo at any cadence, with gaps of up to a day, in whole seconds: (hours, gray)."""
    cadence_s = draw(st.sampled_from([300, 600, 720, 900, 1127, 3600, SEGMENT_S // 2]))
    gaps_s = st.one_of(st.just(cadence_s), st.just(cadence_s), st.integers(1, 4 * SEGMENT_S))
    steps_s = draw(st.lists(gaps_s, max_size=60))
    seconds = np.cumsum([draw(st.sampled_from([0, 0, 3 * SEGMENT_S + 60])), *steps_s])
    grays = draw(st.lists(st.integers(0, 250), min_size=len(seconds), max_size=len(seconds)))
    return [(float(at) / 3600, gray) for at, gray in zip(seconds, grays, strict=True)]


def representatives(frames: list[tuple[float, int]]) -> dict[int, int]:
    """The place in the stream of each segment's first frame."""
    first: dict[int, int] = {}
    for index, (hours, _) in enumerate(frames):
        first.setdefault(round(hours * 3600) // SEGMENT_S, index)
    return first


@thorough
@given(streams())
def test_the_streams_answers_on_representatives_are_those_of_their_clip(frames: list[tuple[float, int]]):
    _, answers = watch(policy(), frames)
    chosen = list(representatives(frames).values())
    assert [said(answers[index]) for index in chosen] == clip_of([frames[index][1] for index in chosen])


@thorough
@given(streams())
def test_every_frame_is_judged_as_the_last_step_of_a_clip_of_earlier_representatives(frames: list[tuple[float, int]]):
    _, answers = watch(policy(), frames)
    chosen = representatives(frames)
    for index, (hours, gray) in enumerate(frames):
        segment = round(hours * 3600) // SEGMENT_S
        earlier = [frames[at][1] for other, at in chosen.items() if other < segment]
        assert said(answers[index]) == clip_of([*earlier, gray])[-1]


def test_a_week_of_10_minute_frames_says_what_its_clip_of_28_says():
    rng = np.random.default_rng(0)
    frames = [(minutes / 60, int(rng.integers(0, 250))) for minutes in range(0, 168 * 60, 10)]
    engine = Watched()
    _, answers = watch(policy(engine), frames)
    assert [said(answer) for answer in answers[::36]] == clip_of([gray for _, gray in frames[::36]])
    assert (engine.peeked, engine.stepped) == (1008, 27)


@thorough
@given(streams())
def test_a_segment_that_opens_costs_one_step_more_and_nothing_else_does(frames: list[tuple[float, int]]):
    engine = Watched()
    watch(policy(engine), frames)
    assert engine.peeked == len(frames)
    assert engine.stepped == len(representatives(frames)) - 1


@thorough
@given(streams())
def test_missed_segments_and_the_age_of_the_memory_are_told_with_every_answer(frames: list[tuple[float, int]]):
    _, answers = watch(policy(), frames)
    chosen = representatives(frames)
    for (hours, _), answer in zip(frames, answers, strict=True):
        segment = round(hours * 3600) // SEGMENT_S
        assert answer.segments_missed == sum(other not in chosen for other in range(segment))
        earlier = [frames[index][0] for other, index in chosen.items() if other < segment]
        assert answer.state_age_h == (hours - earlier[-1] if earlier else None)


def test_a_frame_within_a_segment_leaves_the_very_same_memory():
    judge = policy()
    opened, _ = one(judge, judge.start(), 0.0, 10)
    before = judge.save(opened)
    for hours in (0.2, 3.0, 5.99):
        after, _ = one(judge, opened, hours, 200)
        assert after is opened
    assert judge.save(opened) == before


def test_the_representative_is_the_first_frame_of_its_segment():
    judge = policy()
    memory, _ = watch(judge, [(0.0, 10), (1.0, 20), (7.0, 30), (8.0, 40)])
    assert memory.representative is not None
    assert np.array_equal(memory.representative, stack(30))
    assert (memory.representative_h, memory.committed_h, memory.segment, memory.seen) == (7.0, 0.0, 1, 2)


def test_before_the_first_commit_the_memory_has_no_age():
    judge = policy()
    _, answers = watch(judge, [(0.0, 10), (5.0, 10), (6.5, 10)])
    assert [answer.state_age_h for answer in answers] == [None, None, 6.5]


def test_a_gap_is_told_and_the_memory_ages():
    _, answers = watch(policy(), [(0.0, 10), (7.0, 10), (31.0, 10), (33.0, 10)])
    assert [answer.segments_missed for answer in answers] == [0, 0, 3, 3]
    assert [answer.state_age_h for answer in answers] == [None, 7.0, 24.0, 26.0]


def test_a_late_first_frame_counts_the_segments_before_it_as_missed():
    memory, answer = one(policy(), policy().start(), 13.0)
    assert (answer.segments_missed, answer.state_age_h, memory.seen) == (2, None, 1)


@pytest.mark.parametrize("segment", range(1, 34))
def test_a_frame_at_exactly_6_hours_belongs_to_the_next_segment(segment: int):
    judge = policy()
    at_s = segment * SEGMENT_S
    assert judge.segment_of(at_s / 3600) == segment
    assert judge.segment_of((at_s - 1) / 3600) == segment - 1
    assert judge.segment_of((at_s + 1) / 3600) == segment


@thorough
@given(st.integers(0, 200 * 3600))
def test_rounding_of_the_hours_never_moves_a_frame_of_a_whole_second(at_s: int):
    judge = policy()
    for hours in (at_s / 3600, at_s * (1 / 3600), at_s / 60 / 60, float(np.float32(at_s / 3600))):
        assert judge.segment_of(hours) == at_s // SEGMENT_S


def test_tenths_of_an_hour_added_up_reach_the_next_segment():
    added_up = 0.0
    for _ in range(60):  # not `sum`, which compensates from Python 3.12 on
        added_up += 0.1
    assert added_up < 6
    assert policy().segment_of(added_up) == 1


def test_a_frame_of_an_earlier_segment_is_refused_and_nothing_has_changed():
    engine = Watched()
    judge = policy(engine)
    memory, _ = watch(judge, [(0.0, 10), (13.0, 20)])
    before, calls = judge.save(memory), engine.calls
    with pytest.raises(EngineError, match="segment 1 came after segment 2"):
        judge.advance([judge.start(), memory], [stack(1), stack(1)], [0.0, 11.0])
    assert judge.save(memory) == before
    assert engine.calls == calls


@pytest.mark.parametrize("hours", [-0.5, -7.0, float("nan"), float("inf"), float("-inf")])
def test_hours_before_the_first_frame_or_that_are_no_hours_are_refused(hours: float):
    judge = policy()
    with pytest.raises(EngineError, match="hours since the first frame"):
        one(judge, judge.start(), hours)


@thorough
@given(streams(), st.data())
def test_save_and_restore_in_mid_run_equal_no_break(frames: list[tuple[float, int]], data: st.DataObject):
    break_at = data.draw(st.integers(0, len(frames)))
    whole, answers = watch(policy(), frames)
    judge = policy()
    memory, before = watch(judge, frames[:break_at])
    after_restart = policy()
    memory, after = watch(after_restart, frames[break_at:], after_restart.restore(judge.save(memory)))
    assert [said(answer) for answer in before + after] == [said(answer) for answer in answers]
    assert [answer.state_age_h for answer in before + after] == [answer.state_age_h for answer in answers]
    assert [answer.segments_missed for answer in before + after] == [answer.segments_missed for answer in answers]
    assert after_restart.save(memory) == policy().save(whole)


@thorough
@given(streams())
def test_saving_a_restored_memory_gives_the_same_bytes(frames: list[tuple[float, int]]):
    judge = policy()
    blob = judge.save(watch(judge, frames)[0])
    assert judge.save(judge.restore(blob)) == blob


def test_whole_hours_and_their_floats_give_equal_bytes():
    judge = policy()
    whole, _ = watch(judge, [(0, 10), (7, 20), (13, 30)])
    floats, _ = watch(judge, [(0.0, 10), (7.0, 20), (13.0, 30)])
    assert judge.save(whole) == judge.save(floats)


@thorough
@given(st.lists(streams(), min_size=2, max_size=4))
def test_a_batch_of_embryos_of_any_age_equals_each_alone(embryos: list[list[tuple[float, int]]]):
    judge = policy()
    memories = [judge.start() for _ in embryos]
    answers: list[list[SegmentAnswer]] = [[] for _ in embryos]
    for turn in range(max(map(len, embryos))):
        there = [i for i, frames in enumerate(embryos) if turn < len(frames)]
        after, given_now = judge.advance(
            [memories[i] for i in there],
            [stack(embryos[i][turn][1]) for i in there],
            [embryos[i][turn][0] for i in there],
        )
        for row, i in enumerate(there):
            memories[i] = after[row]
            answers[i].append(given_now[row])
    for frames, memory, in_batch in zip(embryos, memories, answers, strict=True):
        alone, singly = watch(policy(), frames)
        assert judge.save(memory) == policy().save(alone)
        assert [said(answer) for answer in in_batch] == [said(answer) for answer in singly]


def test_no_embryo_at_all_is_no_work():
    assert policy().advance([], [], []) == ([], [])


def test_a_failed_frame_is_no_representative_and_the_next_fit_one_is():
    judge = policy()
    memory, answers = watch(judge, [(0.0, 10), (6.5, BROKEN_GRAY), (7.0, 20), (12.5, 30)])
    assert [answer.failed for answer in answers] == [False, True, False, False]
    assert [said(answers[index]) for index in (0, 2, 3)] == clip_of([10, 20, 30])
    assert [answer.segments_missed for answer in answers] == [0, 0, 0, 0]
    assert memory.committed_h == 7.0


def test_a_failed_frame_that_opens_a_segment_leaves_the_very_same_memory():
    judge = policy()
    memory, _ = one(judge, judge.start(), 0.0, 10)
    before = judge.save(memory)
    after, answer = one(judge, memory, 6.5, BROKEN_GRAY)
    assert answer.failed
    assert np.isnan(said(answer))
    assert after is memory
    assert judge.save(memory) == before


def test_a_first_frame_that_failed_leaves_the_start():
    judge = policy()
    memory, answer = one(judge, judge.start(), 0.0, BROKEN_GRAY)
    assert answer.failed
    assert (memory.segment, memory.seen, memory.representative, answer.segments_missed) == (-1, 0, None, 0)
    _, second = one(judge, memory, 1.0, 10)
    assert said(second) == clip_of([10])[0]


def test_a_segment_of_which_every_frame_failed_is_missed():
    _, answers = watch(policy(), [(0.0, 10), (7.0, BROKEN_GRAY), (8.0, BROKEN_GRAY), (13.0, 20)])
    assert [answer.segments_missed for answer in answers] == [0, 0, 0, 1]
    assert said(answers[-1]) == clip_of([10, 20])[-1]


def test_a_failed_frame_of_one_embryo_does_not_touch_the_others():
    judge = policy()
    memories, _ = judge.advance([judge.start()] * 3, [stack(10), stack(20), stack(30)], [0.0, 0.0, 0.0])
    after, answers = judge.advance(memories, [stack(40), stack(BROKEN_GRAY), stack(60)], [7.0, 7.0, 7.0])
    assert [answer.failed for answer in answers] == [False, True, False]
    assert [said(answers[0]), said(answers[2])] == [clip_of([10, 40])[-1], clip_of([30, 60])[-1]]
    assert [memory.seen for memory in after] == [2, 1, 2]


@pytest.mark.parametrize("call", [1, 2])  # of the second advance: 1 is the commit, 2 the peek after it
def test_when_the_engine_fails_no_memory_has_changed_and_the_frame_may_come_again(call: int):
    judge = policy(Watched(faults={call: "out of memory"}))
    memory, _ = one(judge, judge.start(), 0.0, 10)
    before = judge.save(memory)
    with pytest.raises(EngineError, match="out of memory"):
        one(judge, memory, 7.0, 20)
    assert judge.save(memory) == before
    _, answer = one(judge, memory, 7.0, 20)
    assert said(answer) == clip_of([10, 20])[-1]


def test_what_the_caller_does_with_a_picture_afterwards_does_not_reach_the_memory():
    judge = policy()
    pictures = np.stack([stack(10), stack(20)])
    (first, _), _ = judge.advance([judge.start(), judge.start()], pictures, [0.0, 0.0])
    pictures[:] = 200
    _, answer = one(judge, first, 7.0, 30)
    assert said(answer) == clip_of([10, 30])[-1]


def test_a_restored_memory_does_not_hold_on_to_the_bytes_it_came_from():
    judge = policy()
    restored = judge.restore(judge.save(one(judge, judge.start(), 0.0)[0]))
    assert restored.representative is not None
    assert restored.representative.base is None


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(np.zeros((7, SIZE_PX, SIZE_PX + 1), np.uint8), id="another size"),
        pytest.param(np.zeros((6, SIZE_PX, SIZE_PX), np.uint8), id="a plane short"),
        pytest.param(np.zeros((7, SIZE_PX, SIZE_PX), np.float32), id="floats"),
    ],
)
def test_a_stack_the_model_does_not_take_is_refused_by_its_shape(picture: np.ndarray):
    judge = policy()
    with pytest.raises(EngineError, match=r"uint8 \(7, 8, 8\)"):
        judge.advance([judge.start(), judge.start()], [stack(1), picture], [0.0, 0.0])


def test_the_memory_of_another_model_is_refused_by_name():
    theirs = policy(Watched(name="other"))
    blob = theirs.save(one(theirs, theirs.start(), 0.0)[0])
    with pytest.raises(StateMismatchError, match=f"^scripted: .*{b'other'.hex()}.*{b'script'.hex()}"):
        policy().restore(blob)


def test_a_memory_held_for_another_model_is_refused_by_name():
    theirs = policy(Watched(name="other")).start()
    with pytest.raises(StateMismatchError, match=b"other".hex()):
        one(policy(), theirs, 0.0)


def test_a_torn_memory_is_refused():
    judge = policy()
    blob = judge.save(one(judge, judge.start(), 0.0)[0])
    for kept in (0, 10, len(blob) // 2, len(blob) - 1):
        with pytest.raises(EngineError):
            judge.restore(blob[:kept])


@pytest.mark.parametrize("lost", ["segment", "seen", "representative_h", "committed_h"])
def test_a_memory_that_lacks_a_key_is_refused(lost: str):
    judge = policy()
    header, arrays = unpack(judge.save(judge.start()))
    with pytest.raises(EngineError, match=lost):
        judge.restore(pack({key: value for key, value in header.items() if key != lost}, arrays))


def test_a_memory_without_its_state_is_refused():
    judge = policy()
    header, _ = unpack(judge.save(judge.start()))
    with pytest.raises(EngineError, match="state"):
        judge.restore(pack(header, {}))


def test_a_memory_whose_picture_is_of_another_size_is_refused():
    judge = policy()
    opened, _ = one(judge, judge.start(), 0.0)
    blob = judge.save(replace(opened, representative=np.zeros((7, 9, 9), np.uint8)))
    with pytest.raises(EngineError, match=r"uint8 \(7, 8, 8\)"):
        judge.restore(blob)


class _FailsToCommit(ScriptedEngine):
    """Peeks well; its next step gives numbers that are not finite."""

    def step(self, states, inputs):
        good = super().step(states, inputs)
        return Step(tuple(states), good.outputs, tuple(range(len(states))))

    def peek(self, states, inputs):
        good = ScriptedEngine.step(self, states, inputs)
        return Step(tuple(states), good.outputs, good.failed)


def test_a_representative_that_can_no_longer_be_stepped_is_a_missed_segment_and_the_embryo_goes_on() -> None:
    engine = _FailsToCommit()
    policy = SegmentPolicy(engine, Segments(segment_h=6, count=28), HOW)
    memory, told = policy.start(), []
    for hours in (0.0, 7.0, 8.0):
        (memory,), (answer,) = policy.advance([memory], [stack(100)], [hours])
        told.append((answer.failed, answer.segments_missed, answer.state_age_h))
    assert told == [(False, 0, None), (False, 1, None), (False, 1, None)]


def test_a_memory_made_with_other_preprocessing_is_refused() -> None:
    engine, how = ScriptedEngine(), HOW
    policy = SegmentPolicy(engine, Segments(segment_h=6, count=28), how)
    blob = policy.save(policy.start())
    other = SegmentPolicy(engine, Segments(segment_h=6, count=28), how.model_copy(update={"mean": 0.25}))
    with pytest.raises(StateMismatchError, match="other preprocessing"):
        other.restore(blob)


def test_a_memory_made_with_another_crop_is_refused() -> None:
    engine = ScriptedEngine()
    whole = SegmentPolicy(engine, Segments(segment_h=6, count=28), HOW)
    around = SegmentPolicy(engine, Segments(segment_h=6, count=28), HOW.model_copy(update={"crop": "embryo"}))
    with pytest.raises(StateMismatchError, match="other preprocessing"):
        around.restore(whole.save(whole.start()))


class AsksHours(ScriptedEngine):
    """Writes down the hours it is given, and whether it was a peek or a step."""

    def __init__(self) -> None:
        spec = scripted_spec(size_px=SIZE_PX)
        super().__init__(replace(spec, inputs=(*spec.inputs, TensorSpec("hours", (2,)))))
        self.told: list[tuple[str, list[float]]] = []

    def step(self, states, inputs):
        self.told.append(("step", inputs["hours"].ravel().tolist()))
        return super().step(states, inputs)

    def peek(self, states, inputs):
        peeked = super().peek(states, inputs)
        self.told[-1] = ("peek", self.told[-1][1])
        return peeked


def test_a_representative_is_committed_with_the_hour_it_was_taken_at_also_after_a_restart() -> None:
    """The hour belongs to the frame: what is known when the cache is committed is another frame's."""
    engine = AsksHours()
    judge = policy(engine)
    (memory,), _ = judge.advance([judge.start()], [stack(100)], [0.0], [20.5])
    memory = judge.restore(judge.save(memory))
    judge.advance([memory], [stack(120)], [6.5], [27.0])
    assert engine.told == [("peek", [20.5, 1.0]), ("step", [20.5, 1.0]), ("peek", [27.0, 1.0])]


def test_an_hour_that_nobody_knows_is_told_as_unknown() -> None:
    engine = AsksHours()
    judge = policy(engine)
    judge.advance([judge.start()], [stack(100)], [0.0], [None])
    judge.advance([judge.start()], [stack(100)], [0.0])
    assert [told for _, told in engine.told] == [[0.0, 0.0], [0.0, 0.0]]


STABILITY = Stability(plane_subsets_um=((-45, 0, 45), (-15, 15)), most_spread=0.05, least_segments=2)


def brightness_of_the_lowest(state: Array, inputs: dict[str, Array]) -> float:
    return float(inputs["x"][0].mean()) / 4 + 0.5


def uneven(step_gray: int) -> np.ndarray:
    return np.stack([np.full((SIZE_PX, SIZE_PX), 100 + k * step_gray, np.uint8) for k in range(7)])


def unsteady(count: int = 28) -> SegmentPolicy:
    engine = ScriptedEngine(scripted_spec(size_px=SIZE_PX), brightness_of_the_lowest)
    return SegmentPolicy(engine, Segments(segment_h=6, count=count), HOW, STABILITY)


def test_the_spread_is_the_range_of_answers_with_planes_taken_away_and_holds_for_the_segment() -> None:
    """Lowest plane shown: -45 um in one subset, -15 um in the other: 2 planes x 10 gray / 255 / .25 / 4 apart."""
    judge = unsteady()
    (memory,), (first,) = judge.advance([judge.start()], [uneven(10)], [0.0])
    memory = judge.restore(judge.save(memory))
    (memory,), (second,) = judge.advance([memory], [uneven(1)], [3.0])
    assert first.spread == pytest.approx(20 / 255, abs=1e-5) == second.spread
    (_,), (third,) = judge.advance([memory], [uneven(1)], [6.0])
    assert third.spread == pytest.approx(2 / 255, abs=1e-5)


def test_too_few_segments_or_too_wide_a_spread_is_not_enough_data() -> None:
    judge = unsteady()
    (memory,), (young,) = judge.advance([judge.start()], [uneven(1)], [0.0])
    (memory,), (old,) = judge.advance([memory], [uneven(1)], [6.0])
    (memory,), (wide,) = judge.advance([memory], [uneven(10)], [12.0])
    (_,), (within,) = judge.advance([memory], [uneven(1)], [13.0])  # the segment's representative was unsteady
    assert [one.not_enough_data for one in (young, old, wide, within)] == [True, False, True, True]


def test_a_single_plane_has_no_spread_and_is_not_held_against_the_embryo() -> None:
    judge = unsteady()
    (memory,), (first,) = judge.advance([judge.start()], [stack(90)], [0.0])
    (_,), (second,) = judge.advance([memory], [stack(90)], [6.0])
    assert first.spread is None and second.spread is None and not second.not_enough_data


def test_a_memory_of_an_earlier_version_is_read() -> None:
    """It knows no hour of its representative and no spread; nothing is lost for that."""
    judge = policy()
    header, arrays = unpack(judge.save(one(judge, judge.start(), 0.0)[0]))
    old = {key: value for key, value in header.items() if key not in ("representative_hpi", "spread")}
    restored = judge.restore(pack(old, arrays))
    assert restored.representative is not None and restored.representative_hpi is None and restored.spread is None
