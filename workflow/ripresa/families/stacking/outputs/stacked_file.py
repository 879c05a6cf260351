"""The stack as one FITS file: image, maps, table of frames, and a header that says how it was made."""

import datetime
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import fits
from ripresa.families.stacking.final import FinalImage
from ripresa.families.stacking.header import Header
from ripresa.families.stacking.outputs import frame_table
from ripresa.families.stacking.outputs.evidence import Evidence, Frame

_WCS = re.compile(
    r"(WCSAXES|WCSNAME|CTYPE\d|CUNIT\d|CRVAL\d|CRPIX\d|CDELT\d|CROTA\d|CD\d_\d|PC\d_\d|P[VS]\d_\d+|LONPOLE"
    r"|LATPOLE|RADESYS|EQUINOX)[A-Z]?|RADECSYS|EPOCH|WCSDIM|WAT\d_\d{3}|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)"
)
"""Keywords of world coordinates and their distortions (SIP, TPV, IRAF's), true for the reference's grid."""


def write(
    path: str, final: FinalImage, evidence: Evidence, settings: dict[str, Any], measured: dict[str, Any]
) -> None:
    """Write the image as float32 [y, x], or [C, y, x] of colour frames, and the maps and the table behind it.

    The same input gives the same bytes: nothing says when or where it was written.
    """

    def shaped(data: NDArray[Any]) -> NDArray[Any]:
        return data[0] if len(data) == 1 else data

    counts = np.int16 if len(evidence.stacked) < 2**15 else np.int32
    with open(path, "wb") as file:
        fits.image(file, shaped(final.image), header(evidence, settings, measured))
        fits.image(file, shaped(final.weight), _about("sum of the weights of the frames"), "WEIGHT")
        fits.image(
            file, shaped(final.coverage).astype(counts), _about("frames that cover the pixel"), "COVERAGE"
        )
        fits.image(file, shaped(final.rejected).astype(counts), _about("frames rejected there"), "REJECTED")
        fits.image(file, shaped(final.n_eff), _about("effective number of frames"), "NEFF")
        flagged = shaped(final.flagged).astype(np.uint8)
        fits.image(file, flagged, _about("1: no frame has weight, plain mean"), "FLAGGED")
        if evidence.mode == "full":
            fits.image(file, shaped(final.clipped), _about("clusters of frames clipped there"), "CLIPPED")
        fits.table(file, frame_table.fits_columns(evidence.frames, evidence.channels), "FRAMES")


def _about(text: str) -> list[str]:
    return [fits.card("OBJECT", text)]


def header(evidence: Evidence, settings: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """The cards of the primary header after the mandatory ones."""
    own = [*_exposure(evidence.stacked), *_method(evidence, settings, measured)]
    cards = [*_carried(evidence, {_keyword(one) for one in own}), *own, *_wcs(evidence.reference)]
    for line in story(evidence, settings):
        cards += fits.history(line)
    return cards


def top_down(evidence: Evidence) -> bool:
    """Whether the first row of the frames is the top one, as their ``ROWORDER`` says."""
    return any(
        _keyword(one) == "ROWORDER" and "TOP-DOWN" in one for one in evidence.reference.get("cards", ())
    )


def span(frames: Sequence[Frame]) -> tuple[str | None, str | None]:
    """Begin of the first and end of the last exposure (ISO 8601, UTC); None where the frames do not say."""
    starts = [(start, frame) for frame in frames if (start := instant(frame.date_obs))]
    if not starts:
        return None, None
    last = max(start + datetime.timedelta(seconds=frame.exposure_s or 0) for start, frame in starts)
    return _iso(min(start for start, _ in starts)), _iso(last)


def story(evidence: Evidence, settings: dict[str, Any]) -> Iterator[str]:
    """How the stack was made, in lines for people."""
    stacked, excluded = evidence.stacked, evidence.excluded
    reference = evidence.reference["name"]
    yield f"{len(stacked)} of {len(evidence.frames)} frames stacked on the grid of {reference}"
    yield "flux (by star photometry) and background of every frame brought to those of this one"
    yield weighting(settings, evidence.sharpness)
    rejection = settings["rejection"]
    if rejection["method"] == "none":
        yield "rejection: none"
    else:
        limits = f"{rejection['low']:g} sigma below, {rejection['high']:g} sigma above"
        yield f"rejection: {rejection['method']}, {limits}"
    if evidence.mode == "full":
        sigma = settings["clusters"]["sigma"]
        yield f"mode: full, {evidence.clusters} clusters of frames, clipped at {sigma:g} sigma"
    else:
        yield f"mode: {evidence.mode}"
    for frame in excluded:
        yield f"excluded: {frame.name}: {frame.reason}"


def weighting(settings: dict[str, Any], sharpness: dict[str, float] | None) -> str:
    """The formula of the weights in words; ``sharpness`` is what LOCAL_METRICS has chosen, if it had to."""
    formula = {"quality": "exp(global quality) exp(local quality)", "none": "all frames alike"}
    if settings["weighting"] == "physical":
        exponent = settings["psf_exponent"]
        formula["physical"] = (
            f"max(h/<h> - {sharpness['mu']:g}, 0) scale^2 / noise^2, h = 1 / r50^2"
            if sharpness
            else f"scale^2 / (noise^2 r50^{exponent:g})"
        )
    return f"weighting: {settings['weighting']}, {formula[settings['weighting']]}"


def _carried(evidence: Evidence, own: set[str]) -> list[str]:
    """Cards of the observation that have the same value in all stacked frames, and no other in the stack."""
    headers = [Header(list(frame.cards)) for frame in evidence.stacked]
    common = Header(evidence.reference.get("cards", []))
    kept, seen = [], set(own)
    for one in common.cards:
        keyword = _keyword(one)
        if keyword in seen or one[8:10] != "= " or _WCS.fullmatch(keyword):
            continue
        seen.add(keyword)
        if all(header.get(keyword) == common.get(keyword) for header in headers):
            kept.append(one[:80].ljust(80))
    return kept


def _wcs(reference: dict[str, Any]) -> list[str]:
    return [
        one[: fits.CARD].ljust(fits.CARD)
        for one in reference.get("cards", ())
        if _WCS.fullmatch(_keyword(one))
    ]


def _exposure(frames: Sequence[Frame]) -> Iterator[str]:
    known = [frame.exposure_s for frame in frames if frame.exposure_s is not None]
    if known:
        total = sum(known)
        yield fits.card("EXPTIME", total, "s, of all frames together")
        yield fits.card("LIVETIME", total, "s, the same")
    begin, end = span(frames)
    if begin and end:
        yield fits.card("TIMESYS", "UTC")
        yield fits.card("DATE-OBS", begin, "begin of the first exposure")
        yield fits.card("DATE-BEG", begin, "the same")
        yield fits.card("DATE-END", end, "end of the last exposure")


def _method(evidence: Evidence, settings: dict[str, Any], measured: dict[str, Any]) -> Iterator[str]:
    yield fits.card("BUNIT", "adu", "of the reference frame")
    yield fits.card("IMAGETYP", "Master Light")
    yield fits.card("CREATOR", f"ripresa {_version()}".strip())
    yield fits.card("NCOMBINE", len(evidence.stacked), "frames in the stack")
    yield fits.card("STACKCNT", len(evidence.stacked), "the same")
    yield fits.card("NINPUT", len(evidence.frames), "frames given")
    yield fits.card("CHANNELS", "".join(evidence.channels), "in the order of the third axis")
    yield fits.card("REFFRAME", evidence.reference["name"], "whose grid and flux this is")
    yield fits.card("STACKMOD", evidence.mode)
    yield fits.card("WEIGHTNG", settings["weighting"])
    if evidence.sharpness:
        yield fits.card("SHARPMU", evidence.sharpness["mu"], "sharpness of the weights, see HISTORY")
    yield fits.card("REJECTN", settings["rejection"]["method"])
    figures = (
        ("NEFF", "n_eff", "effective number of frames (median)"),
        ("FWHM", "fwhm_px", "px, of the stars (median)"),
        ("ELONGAT", "elongation", "major by minor axis of the stars (median)"),
    )
    for keyword, name, comment in figures:
        if measured.get(name) is not None:
            yield fits.card(keyword, float(f"{measured[name]:.5g}"), comment)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("ripresa")
    except metadata.PackageNotFoundError:
        return ""


def _keyword(one: str) -> str:
    return one[:8].rstrip()


def instant(text: str | None) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _iso(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
