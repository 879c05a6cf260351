"""Which scope a failure is the fault of, told by contrast with what else failed and was published.

A failure is evidence against every scope that it may be due to. A published unit clears its scopes of
all failures before it. Of the scopes that are left to blame for a failure, the one with the most failures
explains it best. Where several explain it equally well, only their meeting is to blame: this workload on
this host. So it is where all were cleared, but by different units, and then also when it happens again.

Equal failures are kept as one with a count, in the order of their last occurrence:
``{"scopes": [...], "cleared": [...], "home": "host:n1" or absent, "count": 3}``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Failure = dict[str, Any]
    Culprit = tuple[str, ...]

MOST = 256
"""Kinds of failure remembered; the one that did not occur for longest is forgotten first."""


def sound(failures: Any) -> list[Failure]:
    """What a file says about failures, without what is not as it should be."""
    return [one for one in failures if _is_sound(one)] if isinstance(failures, list) else []


def note(failures: list[Failure], scopes: Iterable[str], home: str | None = None) -> Failure:
    """Add a failure that may be due to any of ``scopes``; returns it.

    ``home`` is a scope that every unit of the campaign is in, and so the last to be blamed in doubt.
    """
    new: Failure = {"scopes": sorted(set(scopes)), "cleared": [], "count": 1}
    if home is not None:
        new["home"] = home
    _add(failures, new)
    del failures[:-MOST]
    return failures[-1]


def clear(failures: list[Failure], scopes: Iterable[str]) -> None:
    """Note a published unit: none of its scopes is to blame for what failed before."""
    well = set(scopes)
    before = failures[:]
    failures.clear()
    for failure in before:
        if not well.issuperset(failure["scopes"]):
            cleared = sorted(well.intersection(failure["scopes"]).union(failure["cleared"]))
            _add(failures, {**failure, "cleared": cleared})


def settle(failures: list[Failure], culprit: Culprit) -> None:
    """Forget the failures that these scopes together are to blame for: they are well again."""
    blamed = _blamed(failures)
    failures[:] = [failure for failure, one in zip(failures, blamed, strict=True) if one != culprit]


def verdict(failures: list[Failure], failure: Failure) -> tuple[Culprit, int]:
    """The scope to blame for one of the failures, or several that are so where they meet; and for how
    many failures in a row that is."""
    blamed = _blamed(failures)
    culprit = next(one for other, one in zip(failures, blamed, strict=True) if other is failure)
    return culprit, sum(f["count"] for f, one in zip(failures, blamed, strict=True) if one == culprit)


def concerns(failures: list[Failure], scopes: Iterable[str]) -> bool:
    """Whether the publication of a unit of these scopes would change what is known."""
    well = set(scopes)
    return any(
        well.issuperset(failure["scopes"]) or not well.isdisjoint(_left(failure)) for failure in failures
    )


def _blamed(failures: list[Failure]) -> list[Culprit]:
    """What is to blame for each failure, in the order of names."""
    meetings = [failure["scopes"] for failure in failures if not _left(failure)]
    weights: dict[str, int] = {}
    for failure in failures:
        for scope in _left(failure):
            weights[scope] = weights.get(scope, 0) + failure["count"]

    def blamed(failure: Failure) -> Culprit:
        found = set(failure["scopes"])
        if failure["scopes"] not in meetings:
            left = _left(failure)
            most = max(weights[scope] for scope in left)
            found = {scope for scope in left if weights[scope] == most}
        return tuple(sorted(found - {failure.get("home")} or found))

    return [blamed(failure) for failure in failures]


def _left(failure: Failure) -> set[str]:
    return set(failure["scopes"]).difference(failure["cleared"])


def _add(failures: list[Failure], new: Failure) -> None:
    for place, failure in enumerate(failures):
        if all(failure.get(key) == new.get(key) for key in ("scopes", "cleared", "home")):
            new = {**new, "count": failure["count"] + new["count"]}
            del failures[place]
            break
    failures.append(new)


def _is_sound(failure: Any) -> bool:
    if not isinstance(failure, dict) or not isinstance(failure.get("count"), int) or failure["count"] < 1:
        return False
    lists = failure.get("scopes"), failure.get("cleared")
    return (
        bool(lists[0])
        and all(isinstance(one, list) and all(isinstance(scope, str) for scope in one) for one in lists)
        and isinstance(failure.get("home"), str | None)
    )
