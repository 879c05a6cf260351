"""FITS files written card by card: the import of a library takes longer than writing the whole stack.

Checksums follow the FITS standard, section 4.4.2.7 and its appendix J.
"""

import re
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.header import BLOCK, CARD

Value = bool | int | float | str
Column = tuple[str, str, str, NDArray[np.generic]]
"""Name, FITS format (such as ``J`` or ``6D``), unit ("" for none) and values, one row for each record."""

_BITPIX = {"u1": 8, "i2": 16, "i4": 32, "f4": -32, "f8": -64}
_NUMPY = {"J": ">i4", "E": ">f4", "D": ">f8", "A": "S"}
_NO_CHECKSUM = "0" * 16
_PUNCTUATION = b":;<=>?@[\\]^_`"


def card(keyword: str, value: Value, comment: str = "") -> str:
    """One 80-character card in fixed format. Text that is too long is cut, other alphabets are replaced."""
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int):
        text = f"{value:>20}"
    elif isinstance(value, float):
        text = f"{_decimal(value):>20}"
    else:
        quoted = _ascii(value).replace("'", "''")[: CARD - 12]
        if (len(quoted) - len(quoted.rstrip("'"))) % 2:  # half of a doubled quote is left
            quoted = quoted[:-1]
        text = f"{chr(39) + quoted.ljust(8) + chr(39):<20}"
    line = f"{keyword:<8}= {text}"
    if comment:
        line += f" / {_ascii(comment)}"
    return line[:CARD].ljust(CARD)


def long_string(keyword: str, value: str, comment: str = "") -> list[str]:
    """A string of any length as the cards it takes (CONTINUE, section 4.2.1.2 of the standard).

    The comment is left out where it does not fit.
    """
    parts = [""]
    for letter in _ascii(value):
        quoted = letter.replace("'", "''")  # a pair of quotes is never torn
        if len(parts[-1]) + len(quoted) > CARD - 13:
            parts.append("")
        parts[-1] += quoted
    starts = [f"{keyword:<8}= '", *["CONTINUE  '"] * (len(parts) - 1)]
    lines = [f"{start}{part}&'" for start, part in zip(starts, parts, strict=True)]
    lines[-1] = f"{starts[-1]}{parts[-1]:8}'"
    if comment and len(lines[-1]) + 3 + len(comment) <= CARD:
        # Aligned as astropy does: the checksum that it verifies is that of its own rendering.
        lines[-1] = f"{lines[-1]:30} / {comment}"
    return [line.ljust(CARD) for line in lines]


def history(text: str) -> list[str]:
    """A line of history as the cards it takes."""
    words, width = _ascii(text), CARD - 8
    lines = [""]
    for word in re.findall(rf"\S{{1,{width}}}", words):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return [f"HISTORY {line}".ljust(CARD) for line in lines]


def image(
    file: BinaryIO, data: NDArray[np.generic], cards: Iterable[str] = (), name: str | None = None
) -> None:
    """Append ``data`` as an image; without a name it is the primary one, which comes first."""
    kind = data.dtype.newbyteorder("=").str[1:]
    mandatory = [
        card("SIMPLE", True, "a FITS file") if name is None else card("XTENSION", "IMAGE", "an image"),
        card("BITPIX", _BITPIX[kind]),
        card("NAXIS", data.ndim),
        *(card(f"NAXIS{n}", size) for n, size in enumerate(reversed(data.shape), 1)),
    ]
    if name is None:
        mandatory.append(card("EXTEND", True, "maps and the table of frames follow"))
    else:
        mandatory += [card("PCOUNT", 0), card("GCOUNT", 1), card("EXTNAME", name)]
    native = np.ascontiguousarray(data, data.dtype.newbyteorder("="))
    file.write(header([*mandatory, *cards], datasum(native)))
    file.write(native.astype(native.dtype.newbyteorder(">"), copy=False).data if native.size else b"")
    file.write(bytes(-native.nbytes % BLOCK))


def table(file: BinaryIO, columns: Sequence[Column], name: str, cards: Iterable[str] = ()) -> None:
    """Append a binary table. In columns of integers, -1 means that there is no value."""
    kinds = []
    for _, form, _, _ in columns:
        count, letter = int(form[:-1] or 1), form[-1]
        kind = f"S{count}" if letter == "A" else _NUMPY[letter]
        kinds.append((kind, (count,)) if letter != "A" and count > 1 else (kind,))
    rows = len(columns[0][3])
    records = np.zeros(rows, np.dtype([(f"c{n}", *kind) for n, kind in enumerate(kinds)]))
    for n, (_, _, _, values) in enumerate(columns):
        records[f"c{n}"] = values
    mandatory = [
        card("XTENSION", "BINTABLE", "a table"),
        card("BITPIX", 8),
        card("NAXIS", 2),
        card("NAXIS1", records.dtype.itemsize),
        card("NAXIS2", rows),
        card("PCOUNT", 0),
        card("GCOUNT", 1),
        card("TFIELDS", len(columns)),
        card("EXTNAME", name),
    ]
    for n, (title, form, unit, _) in enumerate(columns, 1):
        mandatory += [card(f"TTYPE{n}", title), card(f"TFORM{n}", form)]
        if unit:
            mandatory.append(card(f"TUNIT{n}", unit))
        if form[-1] == "J":
            mandatory.append(card(f"TNULL{n}", -1, "no value"))
    data = records.tobytes()
    file.write(header([*mandatory, *cards], datasum(np.frombuffer(data, np.uint8))))
    file.write(data + bytes(-len(data) % BLOCK))


def datasum(data: NDArray[np.generic]) -> int:
    """Ones' complement sum of the 32-bit big-endian words that native-endian ``data`` is written as."""
    flat = data.reshape(-1)
    size = flat.dtype.itemsize
    if size == 8:
        flat, size = flat.byteswap().view(np.uint8), 1
    lanes = 4 // size
    words = flat.view(f"u{size}")
    total = 0
    for lane in range(lanes):
        total += int(words[lane::lanes].sum(dtype=np.uint64)) << (8 * size * (lanes - 1 - lane))
    return fold(total)


def header(cards: Iterable[str], data_sum: int) -> bytes:
    """The blocks of a header with these cards, of a unit whose data have this `datasum`."""
    lines = [
        *cards,
        card("CHECKSUM", _NO_CHECKSUM, "of this unit"),
        card("DATASUM", str(data_sum), "of its data"),
    ]
    text = "".join([*lines, "END".ljust(CARD)]).encode("ascii")
    text += b" " * (-len(text) % BLOCK)
    total = fold(datasum(np.frombuffer(text, np.uint8)) + data_sum)
    start = (len(lines) - 2) * CARD + len("CHECKSUM= '")
    return text[:start] + _encoded(0xFFFFFFFF - total) + text[start + 16 :]


def fold(total: int) -> int:
    """A sum of 32-bit words with its carries added again, as ones' complement has it."""
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _encoded(value: int) -> bytes:
    """The 16 letters and digits whose words sum up to ``value`` (appendix J of the standard)."""
    letters = bytearray(16)
    for place in range(4):
        byte = value >> (24 - 8 * place) & 0xFF
        four = [byte // 4 + 48 + byte % 4, byte // 4 + 48, byte // 4 + 48, byte // 4 + 48]
        for first in (0, 2):
            while four[first] in _PUNCTUATION or four[first + 1] in _PUNCTUATION:
                four[first] += 1
                four[first + 1] -= 1
        letters[place::4] = bytes(four)
    return bytes(letters[-1:] + letters[:-1])


def _decimal(value: float) -> str:
    text = repr(value).upper()
    if "E" in text:
        mantissa, _, exponent = text.partition("E")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{int(exponent)}"
    return text


def _ascii(text: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)
