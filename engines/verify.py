"""The contract's promises, each tried on a real engine. The tests and `pellucid engines verify` run the same list.

Every check takes an engine and gives a sentence for each promise it finds broken. Inputs are made here from a fixed
seed; the check knows no picture and no embryo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from engines.contract import Array, Engine, EngineError, HostState, State, StateMismatchError, Step
from engines.packing import pack

FRAMES = 6


def contract_faults(engine: Engine, tolerance: float = 0.0) -> list[str]:
    """Every broken promise, in words; empty when the engine keeps the contract.

    `tolerance`: largest absolute difference allowed where a promise says "equal" (0 on a CPU, the manifest's on a GPU).
    """
    return [fault for check in _CHECKS for fault in check(engine, tolerance)]


def sample_inputs(engine: Engine, rows: int, seed: int) -> dict[str, Array]:
    """Random inputs of the engine's spec, (rows, ...) in 0..1."""
    rng = np.random.default_rng(seed)
    return {
        tensor.name: rng.random((rows, *tensor.shape), np.float32).astype(tensor.dtype) for tensor in engine.spec.inputs
    }


def _run(engine: Engine, seeds: range, start: State | None = None) -> tuple[State, list[dict[str, Array]]]:
    state, outputs = start or engine.initial_state(), []
    for seed in seeds:
        step = engine.step([state], sample_inputs(engine, 1, seed))
        state = step.states[0]
        outputs.append(step.outputs)
    return state, outputs


def _apart(ours: dict[str, Array], theirs: dict[str, Array]) -> float:
    """The largest absolute difference; endless where either is not a number, for NaN is larger than nothing."""
    apart = [float(np.abs(ours[name] - theirs[name]).max()) for name in ours]
    return max(math.inf if math.isnan(one) else one for one in apart)


def _row(step: Step, index: int) -> dict[str, Array]:
    return _one_row(step.outputs, index)


def _one_row(arrays: dict[str, Array], index: int) -> dict[str, Array]:
    return {name: array[index : index + 1] for name, array in arrays.items()}


def _repeatable(engine: Engine, tolerance: float) -> Iterator[str]:
    _, first = _run(engine, range(FRAMES))
    _, again = _run(engine, range(FRAMES))
    worst = max(map(_apart, first, again))
    if worst > tolerance:
        yield f"the same frames gave other outputs the second time (up to {worst:.2e})"


def _remembers(engine: Engine, tolerance: float) -> Iterator[str]:
    if math.prod(engine.spec.state.shape) == 0:
        return
    _, straight = _run(engine, range(FRAMES))
    _, fresh = _run(engine, range(FRAMES - 1, FRAMES))
    if _apart(straight[-1], fresh[-1]) <= tolerance:
        yield "the outputs do not depend on the state at all"


def _saved_goes_on(engine: Engine, tolerance: float) -> Iterator[str]:
    half = FRAMES // 2
    _, straight = _run(engine, range(FRAMES))
    middle, _ = _run(engine, range(half))
    blob = engine.save(middle)
    _, resumed = _run(engine, range(half, FRAMES), engine.restore(blob))
    worst = max(map(_apart, straight[half:], resumed))
    if worst > tolerance:
        yield f"a saved and restored state goes on differently (up to {worst:.2e})"
    if engine.save(engine.restore(blob)) != blob:
        yield "saving a restored state gives other bytes"


def _steps_again(engine: Engine, tolerance: float) -> Iterator[str]:
    state, _ = _run(engine, range(2))
    before, inputs = engine.save(state), sample_inputs(engine, 1, 5)
    first = engine.step([state], inputs)
    try:
        again = engine.step([state], inputs)
    except EngineError as fault:
        yield f"a state that was stepped cannot be stepped again ({fault})"
        return
    if _apart(first.outputs, again.outputs) > tolerance or engine.save(state) != before:
        yield "a state that was stepped cannot be stepped again: it has changed"


def _rows_are_alone(engine: Engine, tolerance: float) -> Iterator[str]:
    inputs, later = sample_inputs(engine, 3, 7), sample_inputs(engine, 3, 8)
    starts = [_run(engine, range(k))[0] for k in (0, 1, 2)]
    batch = engine.step(starts, inputs)
    for index, state in enumerate(starts):
        alone = engine.step([state], _one_row(inputs, index))
        if (worst := _apart(_row(batch, index), alone.outputs)) > tolerance:
            yield f"row {index} of a batch of 3 differs from the same row alone (by {worst:.2e})"
        after_batch = engine.peek([batch.states[index]], _one_row(later, index))
        after_alone = engine.peek([alone.states[0]], _one_row(later, index))
        if (worst := _apart(after_batch.outputs, after_alone.outputs)) > tolerance:
            yield f"row {index} of a batch of 3 goes on differently from the same row alone (by {worst:.2e})"


def _nan_stays_in_its_row(engine: Engine, tolerance: float) -> Iterator[str]:
    inputs = sample_inputs(engine, 3, 11)
    states = [_run(engine, range(k))[0] for k in (0, 1, 2)]
    before = engine.save(states[1])
    clean = engine.peek(states, inputs)
    spoilt = {name: array.copy() for name, array in inputs.items()}
    for array in spoilt.values():
        if np.issubdtype(array.dtype, np.floating):
            array[1].fill(np.nan)
    step = engine.step(states, spoilt)
    if any(_apart(_row(step, index), _row(clean, index)) > tolerance for index in (0, 2)):
        yield "a NaN in one row reached another"
    if step.failed != (1,):
        yield f"the row that was NaN is not named as failed (failed = {step.failed})"
    if engine.save(step.states[1]) != before:
        yield "the row that was NaN did not keep the state it came with"
    if not all(np.isnan(output[1]).all() for output in step.outputs.values()):
        yield "the row that was NaN was given a number"


def _peek_takes_nothing(engine: Engine, tolerance: float) -> Iterator[str]:
    state, _ = _run(engine, range(2))
    before = engine.save(state)
    inputs = sample_inputs(engine, 1, 5)
    peeked = engine.peek([state], inputs)
    if engine.save(state) != before:
        yield "a peek changed the state"
    if engine.save(peeked.states[0]) != before:
        yield "a peek gave another state back"
    stepped = engine.step([state], inputs)
    if _apart(peeked.outputs, stepped.outputs) > tolerance:
        yield "a peek and a step of the same frame disagree"


def _refuses(engine: Engine, _tolerance: float) -> Iterator[str]:
    state, _ = _run(engine, range(1))
    before = engine.save(state)
    good = sample_inputs(engine, 1, 3)
    other = HostState("0" * 64, np.zeros(engine.spec.state.shape, np.float32))
    cases: list[tuple[str, State, dict[str, Array], type[EngineError]]] = [
        ("a wrong shape", state, {name: array[..., :-1] for name, array in good.items()}, EngineError),
        ("a wrong number of rows", state, sample_inputs(engine, 2, 3), EngineError),
        ("a wrong dtype", state, {name: array.astype(np.complex64) for name, array in good.items()}, EngineError),
        ("a missing input", state, {}, EngineError),
        ("an input too many", state, {**good, "no such input": next(iter(good.values()))}, EngineError),
        ("another model's state", other, good, StateMismatchError),
    ]
    for what, offered, inputs, refusal in cases:
        if not _raises(refusal, partial(engine.step, [offered], inputs)):
            yield f"{what} was not refused by {refusal.__name__}"
    theirs = pack({"state_id": "0" * 64}, {"state": other.row})
    blobs = [
        ("torn bytes", before[:-1], EngineError),
        ("foreign bytes", b"x" * len(before), EngineError),
        ("another model's bytes", theirs, StateMismatchError),
    ]
    for what, blob, refusal in blobs:
        if not _raises(refusal, partial(engine.restore, blob)):
            yield f"{what} were restored as a state, not refused by {refusal.__name__}"
    if engine.save(state) != before:
        yield "a refused step changed the state"


def _raises(refusal: type[EngineError], work: Callable[[], object]) -> bool:
    try:
        work()
    except EngineError as fault:
        return isinstance(fault, refusal)
    return False


_CHECKS = (
    _repeatable,
    _steps_again,
    _remembers,
    _saved_goes_on,
    _rows_are_alone,
    _nan_stays_in_its_row,
    _peek_takes_nothing,
    _refuses,
)
