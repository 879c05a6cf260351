"""A training from its checkpoint to its end: rounds, early stopping, divergence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ripresa.families.experiments import Diverged
from ripresa.families.experiments.checkpoint import Checkpoint, State
from ripresa.families.experiments.federated import Federation, Judged
from ripresa.families.experiments.weights import Vector, initial


class Outcome(NamedTuple):
    """How a training ended: what its best weights do, or the reason why there are none."""

    state: State
    validation: Judged | None
    test: Judged | None
    reason: str | None = None


def train(
    parameters: Mapping[str, Any],
    federation: Federation[Any],
    checkpoint: Checkpoint,
    means: Mapping[str, Any],
    progress: Callable[[int, int], None],
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train until no round is left or the validation loss has not fallen for ``patience`` rounds.

    ``means`` is what the state will say of how the rounds were computed that are computed now. ``progress``
    is told the number of rounds done, and of all.
    """
    rounds, patience = parameters["rounds"], parameters["patience"]
    state = checkpoint.load(say)
    if state is None:
        start = initial(parameters)
        state = State(start, start)
    else:
        say(f"resuming after round {state.round}")
    segment = {"first_round": state.round + 1, **means}
    progress(state.round, rounds)
    while state.round < rounds and state.round - state.best_round < patience:
        began = time.perf_counter()
        if segment not in state.segments:
            state.segments.append(segment)
        try:
            weights, entry = _round(federation, state, say)
        except Diverged as error:
            return Outcome(state, None, None, str(error))
        state.weights = weights
        state.round += 1
        state.history.append(entry)
        if entry["val_loss"] < state.best_loss:
            state.best_weights, state.best_round, state.best_loss = weights, state.round, entry["val_loss"]
        state.elapsed_s += time.perf_counter() - began
        checkpoint.save(state)
        progress(state.round, rounds)
    return Outcome(state, *federation.judge(state.best_weights))


def _round(
    federation: Federation[Any], state: State, say: Callable[[str], None]
) -> tuple[Vector, dict[str, Any]]:
    """The next round; if it diverges, once more from what was before it.

    Nothing in a round is left to chance. So it diverges again, which is the result of the experiment, unless
    it was not the training but the machine that failed.
    """
    try:
        return federation.round(state.round + 1, state.weights)
    except Diverged as error:
        say(f"{error}; computing it once more")
    found = federation.round(state.round + 1, state.weights)
    say("it did not diverge again, so this machine was at fault; going on")
    return found
