"""Units on devices: what is chosen fits, higher priorities come first, and each goes where it ends first."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.placement.assignment import CPU, GPU, WHOLE, Option, Slot, Wish, assign

ON_GPU, ON_CPU = Option(GPU, seconds=10), Option(CPU, seconds=100)


def options():
    seconds = st.sampled_from([0.0, 1.0, 60.0, 3600.0])
    memory = st.sampled_from([0, 4000, 9000])
    parts = st.builds(
        Option, st.just(GPU), st.just(1), st.sampled_from([25, 50, WHOLE]), memory, seconds
    ) | st.builds(Option, st.just(GPU), st.sampled_from([1, 2]), st.just(WHOLE), memory, seconds)
    slots = st.builds(Option, st.just(CPU), st.sampled_from([0, 1]), seconds=seconds)
    return st.tuples(parts) | st.tuples(slots) | st.tuples(parts, slots)


WISHES = st.lists(
    st.builds(
        Wish,
        st.integers(1, 40),
        options(),
        priority=st.sampled_from([0, 0, 5]),
        demand=st.sampled_from([(), (("_cores", 1),), (("_cores", 2), ("mem_mb", 500))]),
        avoid=st.sampled_from([frozenset(), frozenset({"d0"}), frozenset({"d1", "d2"})]),
    ),
    max_size=8,
)


@st.composite
def machines(draw):
    kinds = draw(st.lists(st.sampled_from([GPU, GPU, CPU]), max_size=6))
    return [
        Slot(
            f"d{number}",
            kind,
            draw(st.sampled_from([0, 50, WHOLE])) if kind == GPU else draw(st.sampled_from([0, WHOLE])),
            draw(st.sampled_from([0, 8000, 16000])) if kind == GPU else 0,
            draw(st.sampled_from([0.0, 30.0])),
            draw(st.sampled_from([0, 1, 1 << 30])),
        )
        for number, kind in enumerate(kinds)
    ]


CAPACITY = st.fixed_dictionaries({"_cores": st.integers(0, 12), "mem_mb": st.sampled_from([0, 1200, 64000])})


@settings(max_examples=150, deadline=None)
@given(WISHES, machines(), CAPACITY)
def test_what_starts_fits(wishes, slots, capacity):
    starts = assign(wishes, slots, capacity)
    there = {slot.name: slot for slot in slots}
    used, promised, number = Counter(), Counter(), Counter()
    for start in starts:
        wish = wishes[start.wish]
        (option,) = (one for one in wish.options if one.kind == start.kind)
        assert len(set(start.devices)) == len(start.devices) == option.devices
        assert not wish.avoid & set(start.devices)
        for name in start.devices:
            assert there[name].kind == option.kind
            used[name] += option.share
            number[name] += 1
            if there[name].memory_mb:
                promised[name] += option.memory_mb
    for name, slot in there.items():
        assert used[name] <= slot.free and number[name] <= slot.starts
        assert not slot.memory_mb or promised[name] <= slot.memory_mb
    for resource, amount in capacity.items():
        assert sum(dict(wishes[start.wish].demand).get(resource, 0) for start in starts) <= amount
    begun = Counter(start.wish for start in starts)
    assert all(begun[index] <= wish.units for index, wish in enumerate(wishes))


@given(WISHES, machines(), CAPACITY)
@settings(max_examples=50, deadline=None)
def test_lower_priorities_take_nothing_from_higher_ones(wishes, slots, capacity):
    def urgent(starts, among):
        return sorted(
            (among[start.wish], start.kind, start.devices)
            for start in starts
            if among[start.wish].priority > 0
        )

    high = [wish for wish in wishes if wish.priority > 0]
    assert urgent(assign(wishes, slots, capacity), wishes) == urgent(assign(high, slots, capacity), high)


def test_the_longest_goes_where_it_ends_first_and_the_rest_to_what_is_left():
    slots = [Slot("g", GPU), Slot("c", CPU)]
    short, long = (
        Wish(1, tuple(one._replace(seconds=k * one.seconds) for one in (ON_GPU, ON_CPU))) for k in (1, 5)
    )
    (start,) = assign([short, long], slots, {})
    assert (start.wish, start.devices) == (1, ("g",)), "short units end sooner after it than on the CPU"
    even = Wish(2, (ON_GPU, ON_CPU._replace(seconds=12)))
    assert Counter(start.devices for start in assign([even], slots, {})) == {("g",): 1, ("c",): 1}
