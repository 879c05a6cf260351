"""Whether a stack is good enough: figures measured on it, each with its limit, and what happens beyond it.

A check that cannot be made counts as one beyond its limit: a limit that nobody can check protects nobody.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ripresa.families.stacking import StackingError

if TYPE_CHECKING:
    from ripresa.families.stacking.outputs.evidence import Evidence


class ValidationFailed(StackingError):
    """A stack that was made, but is beyond a limit whose action is ``fail``."""

    def __init__(self, checks: Sequence[dict[str, Any]], kept: str | None = None) -> None:
        failed = "; ".join(one["message"] for one in checks if one["verdict"] == "fail")
        where = f"; the stack and its report are in {kept}" if kept else ""
        super().__init__(f"the stack is not accepted: {failed}{where}")


class _Finding(NamedTuple):
    value: float | None
    text: str
    """what was found, with ``{value}`` for the value; without a value, why there is none"""


class _Check(NamedTuple):
    find: "Callable[[Evidence, dict[str, Any]], _Finding]"
    at_least: bool = False
    """whether the limit is the smallest value allowed, not the largest"""


def report(
    evidence: "Evidence", measured: dict[str, Any], limits: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The document validation.json: the worst verdict, each check with its limit and verdict, and a
    summary."""
    checks = []
    for name, check in _CHECKS.items():
        limit, action = limits[name]["limit"], limits[name]["action"]
        value, text = check.find(evidence, measured)
        if value is None:
            beyond, message = True, f"{name} cannot be checked: {text}"
        else:
            beyond = not (value >= limit if check.at_least else value <= limit)
            found = text.format(value=f"{value:.4g}")
            relation = "below" if check.at_least else "above"
            message = f"{name}: {found}, {f'{relation} the' if beyond else 'within the'} limit of {limit:g}"
        verdict = "off" if action == "off" else action if beyond else "pass"
        checks.append(
            {
                "name": name,
                "value": value,
                "limit": limit,
                "action": action,
                "verdict": verdict,
                "message": message,
            }
        )
    verdicts = {one["verdict"] for one in checks}
    worst = next((verdict for verdict in ("fail", "warn") if verdict in verdicts), "pass")
    return {"verdict": worst, "checks": checks, "summary": summary(evidence, measured)}


def summary(evidence: "Evidence", measured: dict[str, Any]) -> dict[str, Any]:
    """The stack in a few figures, as `ripresa stack` prints them."""
    from ripresa.families.stacking.outputs.stacked_file import span

    stacked = evidence.stacked
    begin, end = span(stacked)
    exposures = [frame.exposure_s for frame in stacked if frame.exposure_s is not None]
    rejected = [frame.rejected_fraction for frame in stacked if frame.rejected_fraction is not None]
    return {
        "mode": evidence.mode,
        "clusters": evidence.clusters,
        "frames": len(evidence.frames),
        "registered": len(stacked),
        "excluded": [{"frame": frame.name, "reason": frame.reason} for frame in evidence.excluded],
        "reference": evidence.reference["name"],
        "channels": evidence.channels,
        "exposure_s": sum(exposures) if exposures else None,
        "begin": begin,
        "end": end,
        "rejected_fraction": float(np.mean(rejected)) if rejected else None,
        "sharpness": evidence.sharpness,
        **measured,
    }


# --- the checks -------------------------------------------------------------------------------------------


def _frames(evidence: "Evidence", _: dict[str, Any]) -> _Finding:
    return _Finding(len(evidence.stacked), f"{{value}} of {len(evidence.frames)} frames are registered")


def _exposures(evidence: "Evidence", _: dict[str, Any]) -> _Finding:
    known = [(frame.exposure_s, frame.name) for frame in evidence.stacked if frame.exposure_s is not None]
    middle = float(np.median([time for time, _ in known])) if known else 0.0
    if middle <= 0:
        return _Finding(None, "no frame says how long it was exposed (EXPTIME)")
    value, name, time = max((abs(time - middle) / middle, name, time) for time, name in known)
    return _Finding(
        value, f"{_plain(name)} with {time:g} s differs by {{value}} from the median of {middle:g} s"
    )


def _residuals(evidence: "Evidence", _: dict[str, Any]) -> _Finding:
    known = [(frame.residual_px, frame.name) for frame in evidence.stacked if frame.residual_px is not None]
    if not known:
        return _Finding(None, "no frame has a residual")
    value, name = max(known)
    return _Finding(value, f"the residual of {_plain(name)} is {{value}} px")


def _elongation(_: "Evidence", measured: dict[str, Any]) -> _Finding:
    if measured["elongation"] is None:
        return _Finding(None, _too_few(measured))
    return _Finding(measured["elongation"], "the stars' major axis is {value} times the minor one")


def _fwhm(_: "Evidence", measured: dict[str, Any]) -> _Finding:
    before, after = measured["frame_fwhm_px"], measured["fwhm_px"]
    if after is None:
        return _Finding(None, _too_few(measured))
    if not before:
        return _Finding(None, "no FWHM is known of the frames")
    return _Finding(
        1 - after / before,
        f"FWHM {after:.2f} px after {before:.2f} px in the median frame, a gain of {{value}}",
    )


def _noise(_: "Evidence", measured: dict[str, Any]) -> _Finding:
    if measured["noise_ratio"] is None:
        return _Finding(None, "the noise of the frames or of the stack is not known")
    return _Finding(measured["noise_ratio"], "the noise is {value} times what the frames promise")


def _seam(_: "Evidence", measured: dict[str, Any]) -> _Finding:
    if measured["seam"] is None:
        return _Finding(None, "no border of tiles lies on enough plain sky")
    return _Finding(measured["seam"], "a step of {value} sigma along a border of tiles")


def _weights(evidence: "Evidence", _: dict[str, Any]) -> _Finding:
    share = evidence.share.max(axis=1) * len(evidence.share) if evidence.share.size else np.empty(0)
    if not share.size or not np.isfinite(share).all():
        return _Finding(None, "the weights of the frames are not known")
    most = int(np.argmax(share))
    name = _plain(evidence.stacked[most].name)
    return _Finding(float(share[most]), f"{name} weighs {{value}} times the mean frame")


_CHECKS: dict[str, _Check] = {
    "frames": _Check(_frames, at_least=True),
    "exposure_tolerance": _Check(_exposures),
    "registration_residual_px": _Check(_residuals),
    "elongation": _Check(_elongation),
    "fwhm_improvement": _Check(_fwhm, at_least=True),
    "background_noise": _Check(_noise),
    "seam": _Check(_seam),
    "weight_variance": _Check(_weights),
}


def _too_few(measured: dict[str, Any]) -> str:
    return f"only {measured['stars']} stars are found in the stack"


def _plain(name: str) -> str:
    """A frame's name that can stand in a format string."""
    return name.replace("{", "{{").replace("}", "}}")
