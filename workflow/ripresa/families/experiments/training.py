"""A training from its checkpoint to its end: rounds, early stopping, divergence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ripresa.families.experiments import Diverged
from ripresa.families.experiments.checkpoint import Checkpoint, State
from ripresa.families.experiments.federated import Federation, Judged
from ripresa.families.experiments.progress import Progress
from ripresa.families.experiments.weights import Vector, initial

SAVED_EVERY_S = 10.0
"""How often the state is saved within a round, after a client; to write a large one takes up to 1 s."""


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
    progress: Progress,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train until no round is left or the validation loss has not fallen for ``patience`` rounds.

    ``means`` is what the state will say of how the rounds were computed that are computed now.
    """
    rounds, patience = parameters["rounds"], parameters["patience"]
    state = checkpoint.load(say)
    if state is None:
        start = initial(parameters)
        state = State(start, start)
    else:
        within = f" and {len(state.sent)} clients of the next one" if state.sent else ""
        say(f"resuming after round {state.round}{within}")
    segment = {"first_round": state.round + 1, **means}
    progress.rounds(state.round)
    progress.count(federation.trained(len(state.sent)))
    saved = time.perf_counter()

    def save(every_s: float) -> None:
        nonlocal saved
        now = time.perf_counter()
        if now - saved >= every_s:
            state.elapsed_s += now - saved
            checkpoint.save(state)
            saved = time.perf_counter()

    while state.round < rounds and state.round - state.best_round < patience:
        if segment not in state.segments:
            state.segments.append(segment)
        try:
            weights, entry = _round(federation, state, progress, save, say)
        except Diverged as error:
            return Outcome(state, None, None, str(error))
        state.weights = weights
        state.round += 1
        state.sent, state.losses = [], []
        state.history.append(entry)
        if entry["val_loss"] < state.best_loss:
            state.best_weights, state.best_round, state.best_loss = weights, state.round, entry["val_loss"]
        save(0)
        progress.rounds(state.round)
    return Outcome(state, *federation.judge(state.best_weights))


def _round(
    federation: Federation[Any],
    state: State,
    progress: Progress,
    save: Callable[[float], None],
    say: Callable[[str], None],
) -> tuple[Vector, dict[str, Any]]:
    """The next round, or what is left of it; if it diverges, once more from what was before it.

    Nothing in a round is left to chance. So it diverges again, which is the result of the experiment, unless
    it was not the training but the machine that failed.
    """
    try:
        return _computed(federation, state, save)
    except Diverged as error:
        say(f"{error}; computing it once more")
    state.sent, state.losses = [], []
    progress.rounds(state.round)
    found = _computed(federation, state, save)
    say("it did not diverge again, so this machine was at fault; going on")
    return found


def _computed(
    federation: Federation[Any], state: State, save: Callable[[float], None]
) -> tuple[Vector, dict[str, Any]]:
    number = state.round + 1
    for client in range(len(state.sent), federation.clients):
        sent, loss = federation.train(number, client, state.weights)
        state.sent.append(sent)
        state.losses.append(loss)
        save(SAVED_EVERY_S)
    return federation.merge(number, state.sent, state.losses)
