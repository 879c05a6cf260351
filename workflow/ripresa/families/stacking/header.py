"""FITS headers: the cards of one header-data unit, and where its data lie.

Read here and not with astropy, whose import takes longer than ten frames.
"""

import math
import os
import re
from collections.abc import Iterator

BLOCK = 2880
CARD = 80
_AT_ONCE = 4 * BLOCK  # what most headers fit into
_LONGEST = 4000 * BLOCK

_STRING = re.compile(r"\s*'((?:[^']|'')*)'?")

Value = str | int | float | bool | None


class Unusable(Exception):
    """Why a file is no frame, in a few words."""


class Header:
    """The cards of a header, and their values by keyword; of repeated keywords the first counts."""

    def __init__(self, cards: list[str]) -> None:
        self.cards = cards
        self._texts: dict[str, str] = {}
        for card in cards:
            if card[8:10] == "= ":
                self._texts.setdefault(card[:8].rstrip(), card[10:])

    def get(self, *keywords: str) -> Value:
        """The value of the first of the keywords that has one, None if none has."""
        for keyword in keywords:
            text = self._texts.get(keyword)
            if text is not None and (value := _value(text)) is not None:
                return value
        return None

    def text(self, *keywords: str) -> str | None:
        """The same for strings; empty ones count as missing, other values are given as written."""
        for keyword in keywords:
            value = self.get(keyword)
            if value is not None and (text := str(value).strip()):
                return text
        return None

    def number(self, *keywords: str) -> float | None:
        """The same for finite numbers, those written as strings too."""
        for keyword in keywords:
            value = self.get(keyword)
            if isinstance(value, bool) or value is None:
                continue
            try:
                number = float(value)
            except ValueError:
                continue
            if math.isfinite(number):
                return number
        return None

    def integer(self, keyword: str, default: int | None = None) -> int:
        """An integer of the structure of the file. Raises Unusable if it is missing or something else."""
        value = self.get(keyword)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise Unusable(f"its header has no valid {keyword}")
        return value

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, slowest first."""
        axes = self.integer("NAXIS")
        if not 0 <= axes <= 999:
            raise Unusable(f"its header says NAXIS {axes}")
        lengths = tuple(self.integer(f"NAXIS{axis}") for axis in range(axes, 0, -1))
        if min(lengths, default=0) < 0:
            raise Unusable("its header has a negative size")
        return lengths

    @property
    def data_bytes(self) -> int:
        """Size of the data without padding (FITS Standard 4.0, section 4.4.1)."""
        if not self.shape:
            return 0
        before, groups = self.integer("PCOUNT", 0), self.integer("GCOUNT", 1)
        if before < 0 or groups < 0:
            raise Unusable("its header has a negative size")
        return abs(self.integer("BITPIX")) // 8 * groups * (before + math.prod(self.shape))


def units(fd: int, size: int) -> Iterator[tuple[Header, int]]:
    """The header-data units of an open FITS file of ``size`` bytes: each header with the offset of its data.

    Raises Unusable for what is no FITS file or ends within a header.
    """
    if size == 0:
        raise Unusable("it is empty")
    offset = 0
    while offset < size:
        start = os.pread(fd, 9, offset)
        if offset == 0 and start[:6] != b"SIMPLE":
            is_gzip = start[:2] == b"\x1f\x8b"
            raise Unusable("it is compressed: unpack it (gunzip)" if is_gzip else "it is no FITS file")
        if offset and start[:8] != b"XTENSION":
            return  # special records or padding after the last unit, which the standard allows
        header, offset = _read(fd, offset)
        yield header, offset
        offset += -(-header.data_bytes // BLOCK) * BLOCK


def _read(fd: int, offset: int) -> tuple[Header, int]:
    cards: list[str] = []
    position = offset
    while position - offset < _LONGEST:
        text = os.pread(fd, _AT_ONCE, position).decode("ascii", "replace")
        for at in range(0, len(text) // BLOCK * BLOCK, CARD):
            card = text[at : at + CARD]
            if card[:8] == "END     ":
                return Header(cards), position + (at // BLOCK + 1) * BLOCK
            cards.append(card)
        if len(text) < _AT_ONCE:
            raise Unusable("it is truncated: its header has no end")
        position += _AT_ONCE
    raise Unusable("its header has no end")


def _value(text: str) -> Value:
    """The value of a card from the tenth character on, lenient where cameras write what the standard
    forbids.
    """
    if quoted := _STRING.match(text):
        return quoted[1].replace("''", "'").rstrip()
    word = text.split("/", 1)[0].strip()
    if word in {"T", "F"}:
        return word == "T"
    for kind in (int, float):
        try:
            return kind(word.replace("D", "E").replace("d", "e"))
        except ValueError:
            continue
    return word or None
