"""What the header keywords of cameras and capture programs mean, the odd ones too."""

import re
from datetime import UTC, datetime, timedelta

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.header import Header, Unusable

PATTERNS = ("RGGB", "BGGR", "GBRG", "GRBG")
_NO_PATTERN = {"NONE", "MONO", "MONOCHROME", "GREY", "GRAY", "RGB"}
_KELVIN_FROM = 150.0
_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)

# What the stack takes over from the header of its reference: coordinates on the sky (with the distortions
# that are in use: SIP, TPV, IRAF's), and who observed what, with what, from where.
_KEPT = re.compile(
    r"WCSAXES|WCSNAME|CTYPE[12]|CUNIT[12]|CRPIX[12]|CRVAL[12]|CDELT[12]|CROTA[12]|CD[12]_[12]|PC[12]_[12]"
    r"|P[VS][12]_\d+|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH|[AB]P?_ORDER|[AB]P?_\d_\d|[AB]_DMAX"
    r"|WCSDIM|WAT\d_\d{3}"
    r"|OBJECT|OBSERVER|TELESCOP|INSTRUME|OBSERVAT|FILTER|RA|DEC|OBJCTRA|OBJCTDEC|SITELAT|SITELONG|SITEELEV"
    r"|LATITUDE|LONGITUD|LAT-OBS|LONG-OBS|ALT-OBS|FOCALLEN|APTDIA|APERTURE|XPIXSZ|YPIXSZ|PIXSIZE[12]"
    r"|XBINNING|YBINNING|GAIN|EGAIN|OFFSET|ROWORDER"
)


def frame_type(header: Header) -> str | None:
    """What a frame says it is: light, dark, flat or bias, "master" and one of these, or "master"; or None."""
    said = (header.text("IMAGETYP", "FRAME", "FRAMETYP") or "").lower()
    master = "master " if "master" in said or "integration" in said else ""
    # "Dark flats" are darks.
    other = {"zero": "bias", "offset": "bias"}
    for word in ("dark", "flat", "bias", *other, "light"):
        if word in said:
            return master + other.get(word, word)
    return master.strip() or None


def bayer_pattern(header: Header, height: int, configured: str, name: str) -> str | None:
    """The Bayer pattern of the first two stored rows: the header's, else the configured one, else None.

    XBAYROFF and YBAYROFF move the header's pattern; with ROWORDER BOTTOM-UP it is that of the picture as
    seen, whose top row is the last one stored.
    """
    said = {text.upper() for keyword in ("BAYERPAT", "COLORTYP") if (text := header.text(keyword))}
    said -= _NO_PATTERN
    if not said:
        return None if configured == "auto" else configured
    if not said <= set(PATTERNS):
        unknown = ", ".join(sorted(said - set(PATTERNS)))
        raise Unusable(f"its colour filter {unknown} is not supported; only {', '.join(PATTERNS)} are")
    if len(said) > 1:
        raise Unusable(f"its header names two Bayer patterns: {' and '.join(sorted(said))}")
    nominal = said.pop()
    right = int(header.number("XBAYROFF") or 0) % 2
    down = int(header.number("YBAYROFF") or 0) % 2
    if (header.text("ROWORDER") or "").upper().startswith("BOTTOM") and height % 2 == 0:
        down = 1 - down
    rows = [nominal[:2], nominal[2:]]
    if right:
        rows = [row[::-1] for row in rows]
    if down:
        rows.reverse()
    pattern = "".join(rows)
    if configured not in {"auto", nominal, pattern}:
        raise StackingError(
            f"frame {name}: its header says Bayer pattern {pattern}, the configuration says bayer: "
            f"{configured}; correct the configuration (bayer: auto takes the header's)"
        )
    return pattern


def exposure(header: Header) -> float | None:
    exposure = header.number("EXPTIME", "EXPOSURE", "EXP_TIME", "XPOSURE")
    return exposure if exposure is not None and exposure >= 0 else None


def temperature(header: Header) -> float | None:
    """Temperature of the sensor in C; one above 150 is in kelvin."""
    for keyword in ("CCD-TEMP", "CCDTEMP", "CCD_TEMP", "DET-TEMP", "TEMPERAT", "CAMTEMP", "SET-TEMP"):
        value = header.number(keyword)
        if value is None or (
            keyword == "CAMTEMP" and value == -1
        ):  # by which MicroObservatory says "unknown"
            continue
        celsius = value - 273.15 if value > _KELVIN_FROM else value
        if -150 < celsius < 100:
            return round(celsius, 4)
    return None


def date(header: Header) -> str | None:
    """Start of the exposure, ISO 8601 in UTC to a millisecond; offsets from UTC in the header are applied."""
    for keyword in ("DATE-OBS", "DATE-BEG", "UT-OBS"):
        text = header.text(keyword)
        if not text:
            continue
        if "/" in text:  # DD/MM/YY, as up to 1999
            parts = text.split("/")
            text = f"19{parts[2]:0>2}-{parts[1]:0>2}-{parts[0]:0>2}" if len(parts) == 3 else text
        if len(text) == 10 and (time := header.text("TIME-OBS", "UT", "UTC", "TIME-BEG")):
            text = f"{text}T{time}"
        try:
            return _iso(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            continue
    days = header.number("MJD-OBS", "MJD-BEG")
    try:
        return None if days is None else _iso(_MJD_ZERO + timedelta(days=days))
    except OverflowError:
        return None


def _iso(moment: datetime) -> str:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")


def kept_cards(header: Header) -> list[str]:
    seen: set[str] = set()
    kept = []
    for card in header.cards:
        keyword = card[:8].rstrip()
        if keyword not in seen and _KEPT.fullmatch(keyword) and card[8:10] == "= " and _printable(card):
            seen.add(keyword)
            kept.append(card)
    return kept


def _printable(card: str) -> bool:
    return card.isascii() and card.isprintable()
