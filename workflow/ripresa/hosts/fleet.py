"""Which host a unit goes to: what hosts have, what is in use there, and who waits for one to become empty."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Needs(NamedTuple):
    """What a unit takes of a host."""

    cores: int = 1
    mem_mb: float = 0.0
    exclusive: bool = False
    """Nothing else may run beside it."""
    shared: bool = False
    """It can only run where the file system is shared."""


class Room(NamedTuple):
    """What a host has in all: cores, memory in MiB, and units at a time (None: as the cores allow)."""

    cores: int
    mem_mb: float
    units: int | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any], variables: Mapping[str, Any]) -> "Room":
        """From what the host says; ``ripresa_cores``, ``ripresa_mem_mb`` and ``ripresa_units`` of the
        inventory win.

        Raises ValueError for a variable that is no number.
        """

        def number(name: str, otherwise: Any) -> Any:
            value = variables.get(name, otherwise)
            try:
                return value if value is None else float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{name} = {value!r} in the inventory is not a number") from None

        units = number("ripresa_units", None)
        return cls(
            max(1, int(number("ripresa_cores", facts["cpus"]))),
            number("ripresa_mem_mb", facts["mem_mb"]),
            None if units is None else max(1, int(units)),
        )


class Fleet:
    """What is in use on each host, by unit."""

    def __init__(self) -> None:
        self._used: dict[str, dict[str, Needs]] = {}
        self._reserved: set[str] = set()

    def used(self, host: str) -> Mapping[str, Needs]:
        """The units on a host."""
        return self._used.get(host, {})

    def put(self, host: str, target: str, needs: Needs) -> None:
        """A unit goes to a host."""
        self._used.setdefault(host, {})[target] = needs

    def remove(self, host: str, target: str) -> None:
        """A unit is there no more."""
        self._used.get(host, {}).pop(target, None)

    def remove_anywhere(self, target: str) -> None:
        """A unit is nowhere any more."""
        for units in self._used.values():
            units.pop(target, None)

    def new_round(self) -> None:
        """Forget who waited for what."""
        self._reserved.clear()

    def choose(
        self, rooms: Mapping[str, Room], needs: Needs, allowed: Callable[[str], bool] = lambda host: True
    ) -> str | None:
        """The host with most cores free that has room now, asked last whether it is ``allowed``.

        If none has room, the one that will have it first is kept free from those who ask later in this round:
        small units that keep coming must not hold off one that needs the whole host.
        """
        able = [host for host, room in rooms.items() if _could(room, needs) and host not in self._reserved]
        able.sort(key=lambda host: (-self._free(host, rooms[host]), host))
        fitting = [host for host in able if self._fits(host, rooms[host], needs)]
        for host in fitting:
            if allowed(host):
                return host
        if able and not fitting:
            self._reserved.add(able[0])
        return None

    def has_room(self, host: str, room: Room, needs: Needs) -> bool:
        """Whether a unit can go to a host now."""
        return host not in self._reserved and self._fits(host, room, needs)

    def reserve(self, *hosts: str) -> None:
        """Keep hosts free from those who ask later in this round."""
        self._reserved.update(hosts)

    def _free(self, host: str, room: Room) -> int:
        return room.cores - sum(min(one.cores, room.cores) for one in self.used(host).values())

    def _fits(self, host: str, room: Room, needs: Needs) -> bool:
        there = self.used(host).values()
        if any(one.exclusive for one in there) or (needs.exclusive and there):
            return False
        if room.units is not None and len(there) >= room.units:
            return False
        memory = room.mem_mb - sum(one.mem_mb for one in there)
        return self._free(host, room) >= min(needs.cores, room.cores) and memory >= needs.mem_mb


def impossible(rooms: Mapping[str, Room], needs: Needs) -> str | None:
    """Why a unit can run on none of these hosts, ever; None if it can on one."""
    if not rooms or any(_could(room, needs) for room in rooms.values()):
        return None
    most = max(rooms, key=lambda host: rooms[host].mem_mb)
    return (
        f"asks for {needs.mem_mb:.0f} MB; {most} has {rooms[most].mem_mb:.0f} MB, and no other host has more"
    )


def _could(room: Room, needs: Needs) -> bool:
    """Whether a unit fits into the empty host. More cores than there are it shares, as on this machine."""
    return needs.mem_mb <= room.mem_mb
