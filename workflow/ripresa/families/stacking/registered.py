"""Registered frames on disk: a FITS sequence per chunk, written and read as plain bytes.

A file holds an empty primary HDU and then one image extension per frame and channel, frame by frame.
Pixels are 16-bit integers where their step is small against the noise, else 32-bit floats; outside the
footprint they are BLANK or NaN. Every HDU carries CHECKSUM and DATASUM.

Where the pixels of a frame are, and a 32-bit checksum for each of its rows, is kept in the table of cells
that goes with the file (`planes` of each frame, `bytes` of the file, array `row_sum`). So readers need no
header, and whatever part of a frame they read is verified. The checksum of a row is the ones'-complement sum
of FITS (standard 4.0, appendix J), counted from the row's own first byte; the DATASUM of an image is made of
those of its rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import Damaged, StackingError, fits, tables
from ripresa.families.stacking.kernels import kernel

Image = NDArray[np.float32]

BLANK = -32768
# 16-bit integers are used where their step is at most this fraction of the noise: rounding then adds
# (1/6)^2/12 = 0.2 % to its variance.
STEPS_PER_NOISE = 6
_LARGEST = 32767
# Rows are encoded in bands of about this many bytes, which stay in the cache.
_BAND = 1 << 18


class Plane(TypedDict):
    """Where one channel of a frame is: ``offset`` of its first pixel in the file, ``format`` "int16" or
    "float32" (big-endian), physical value = bzero + bscale * stored."""

    offset: int
    format: str
    bscale: float
    bzero: float


class DamagedFrame(Damaged):
    """Pixels that are not those that were written."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path, f"frame {name}")
        self.name = name


@kernel(inline="always")
def _swap(value: Any) -> Any:
    return np.uint16(np.uint16(value >> np.uint16(8)) | np.uint16(value << np.uint16(8)))


@kernel
def _fold(total: Any) -> Any:
    """End-around carry of a sum of 32-bit words."""
    total = (total & np.uint64(0xFFFFFFFF)) + (total >> np.uint64(32))
    return np.uint32((total & np.uint64(0xFFFFFFFF)) + (total >> np.uint64(32)))


@kernel
def _sum_pairs(row: Any) -> Any:
    """Sums of the first and of the second words of all pairs, of at most 65536 pairs."""
    first = np.uint32(0)
    second = np.uint32(0)
    for k in range(row.size // 2):
        first += np.uint32(_swap(row[2 * k]))
        second += np.uint32(_swap(row[2 * k + 1]))
    return np.uint64(first), np.uint64(second)


@kernel
def _sum_row16(row: Any) -> Any:
    """Ones'-complement sum of a row of big-endian 16-bit words, two to a 32-bit word."""
    total = np.uint64(0)
    for start in range(0, row.size, 131072):
        first, second = _sum_pairs(row[start : start + 131072])
        total += (first << np.uint64(16)) + second
    if row.size & 1:
        total += np.uint64(_swap(row[row.size - 1])) << np.uint64(16)
    return _fold(total)


@kernel
def _encode16(image: Any, inverse: Any, zero: Any, raw: Any, sums: Any) -> None:
    """Round (image - zero) * inverse into big-endian ``raw`` (uint16 [rows, W]), with its row ``sums``."""
    rows, width = image.shape
    for r in range(rows):
        source = image[r]
        row = raw[r]
        for k in range(width):
            value = source[k]
            scaled = np.rint((value - zero) * inverse)
            limited = max(min(scaled, np.float32(32767)), np.float32(-32767))
            row[k] = _swap(np.uint16(np.int16(np.float32(-32768) if np.isnan(value) else limited)))
        sums[r] = _sum_row16(row)


@kernel
def _decode16(raw: Any, scale: Any, zero: Any, sums: Any, out: Any) -> int:
    """The inverse into ``out`` (float32 [rows, W]); the first row whose checksum is wrong, or -1."""
    rows, width = raw.shape
    blank = np.float32(np.nan)
    for r in range(rows):
        row = raw[r]
        if _sum_row16(row) != sums[r]:
            return r
        target = out[r]
        for k in range(width):
            stored = np.int16(_swap(row[k]))
            target[k] = blank if stored == np.int16(-32768) else zero + scale * np.float32(stored)
    return -1


@kernel
def _swap32(source: Any, target: Any, decode: Any, sums: Any) -> None:
    """Reverse the bytes of 32-bit words; ``sums`` [rows] of the side in the machine's order, which is the
    target if ``decode``."""
    rows, width = source.shape
    mask = np.uint32(0x00FF00FF)
    for r in range(rows):
        row = source[r]
        result = target[r]
        for k in range(width):
            word = row[k]
            halves = np.uint32(
                np.uint32((word & mask) << np.uint32(8)) | np.uint32(np.uint32(word >> np.uint32(8)) & mask)
            )
            result[k] = np.uint32(np.uint32(halves << np.uint32(16)) | np.uint32(halves >> np.uint32(16)))
        total = np.uint64(0)
        words = result if decode else row
        for k in range(width):
            total += np.uint64(words[k])
        sums[r] = _fold(total)


def _data_sum(sums: NDArray[np.uint32], row_bytes: int) -> int:
    """DATASUM of an image from those of its rows.

    A row that begins in the middle of a 32-bit word contributes its sum with the halves exchanged: shifting
    bytes rotates a ones'-complement sum.
    """
    total = sums.astype(np.uint64)
    if row_bytes % 4:
        total[1::2] = (total[1::2] >> np.uint64(16)) | ((total[1::2] & np.uint64(0xFFFF)) << np.uint64(16))
    return fits.fold(int(total.sum()))


def _printable(name: str) -> str:
    """``name`` in the characters that FITS headers may hold; others as Python writes them in a string."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in name)


@dataclass(frozen=True)
class Scale:
    """How pixels are stored: value = zero + step * integer, or as floats if ``step`` is 0."""

    step: float
    zero: float

    @classmethod
    def choose(cls, low: float, high: float, noise: float) -> Scale:
        """The scale for pixels from ``low`` to ``high`` with the given noise.

        The step is a power of two if one is small enough against the noise, so that integers which were only
        moved by whole pixels come back exactly.
        """
        largest = noise / STEPS_PER_NOISE
        if not (math.isfinite(low) and math.isfinite(high) and high >= low and largest > 0):
            return cls(0.0, 0.0)
        # One step is left at either end for the zero to be rounded.
        finest = max((high - low) / (2 * _LARGEST - 2), abs(high) * 2**-22, abs(low) * 2**-22, 2.0**-100)
        step = 2.0 ** math.ceil(math.log2(finest))
        if step > largest:
            step = float(np.float32(finest * (1 + 1e-6)))
        if step > largest:
            return cls(0.0, 0.0)
        zero = float(np.float32(math.floor((low + high) / 2 / step) * step))
        return cls(step, zero)


class Writer:
    """Writes one file; frames are added one after the other, all channels of each.

    Raises OSError if the file cannot be written. Memory is a band of rows.
    """

    def __init__(self, path: str, channels: Sequence[str], width: int, height: int) -> None:
        self.channels = list(channels)
        self.width = width
        self.height = height
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._end = fits.BLOCK
        self._frames = 0
        self._rows = max(1, min(height, _BAND // (4 * width)))
        self._buffer = np.empty(self._rows * width, np.uint32)

    def add(
        self, name: str, image: Image, scales: Sequence[Scale], to_frame: NDArray[np.float64]
    ) -> tuple[list[Plane], NDArray[np.uint32]]:
        """Append a frame [C, H, W]; gives back what readers need: its planes and row sums [C, H]."""
        planes = []
        sums = np.zeros((len(self.channels), self.height), np.uint32)
        for c, scale in enumerate(scales):
            planes.append(self._add(name, c, image[c], scale, to_frame, sums[c]))
        self._frames += 1
        return planes, sums

    def _add(
        self,
        name: str,
        c: int,
        image: Image,
        scale: Scale,
        to_frame: NDArray[np.float64],
        sums: NDArray[np.uint32],
    ) -> Plane:
        size = 2 if scale.step else 4
        header = fits.header(self._cards(name, c, scale, to_frame), 0)
        offset = self._end + len(header)
        at = offset
        for y in range(0, self.height, self._rows):
            rows = image[y : y + self._rows]
            pixels = self._buffer.view(np.uint16) if size == 2 else self._buffer
            raw = pixels[: rows.size].reshape(rows.shape)
            if scale.step:
                inverse, zero = np.float32(1 / scale.step), np.float32(scale.zero)
                _encode16(rows, inverse, zero, raw, sums[y : y + self._rows])
            else:
                _swap32(rows.view(np.uint32), raw, False, sums[y : y + self._rows])
            at += _write(self._fd, raw.data, at)
        padding = -at % fits.BLOCK
        _write(self._fd, bytes(padding), at)
        header = fits.header(self._cards(name, c, scale, to_frame), _data_sum(sums, size * self.width))
        _write(self._fd, header, self._end)
        self._end = at + padding
        return Plane(
            offset=offset,
            format="int16" if scale.step else "float32",
            bscale=scale.step or 1.0,
            bzero=scale.zero,
        )

    def _cards(self, name: str, c: int, scale: Scale, to_frame: NDArray[np.float64]) -> list[str]:
        cards = [
            fits.card("XTENSION", "IMAGE", "a registered frame"),
            fits.card("BITPIX", 16 if scale.step else -32),
            fits.card("NAXIS", 2),
            fits.card("NAXIS1", self.width),
            fits.card("NAXIS2", self.height),
            fits.card("PCOUNT", 0),
            fits.card("GCOUNT", 1),
        ]
        if scale.step:
            cards += [fits.card("BSCALE", scale.step), fits.card("BZERO", scale.zero)]
            cards += [fits.card("BLANK", BLANK, "outside the footprint")]
        cards += fits.long_string("EXTNAME", _printable(name), "the frame")
        cards += [fits.card("EXTVER", c + 1), fits.card("CHANNEL", self.channels[c])]
        for row in range(2):
            for column, axis in enumerate(("x", "y", "1")):
                comment = f"{'xy'[row]} in the frame, coefficient of {axis}"
                cards.append(fits.card(f"TR{row + 1}_{column + 1}", float(to_frame[row, column]), comment))
        return cards

    def close(self) -> None:
        """Write the primary header. The file is no FITS file before."""
        cards = [
            fits.card("SIMPLE", True, "registered frames of one chunk"),
            fits.card("BITPIX", 8),
            fits.card("NAXIS", 0),
            fits.card("EXTEND", True),
            fits.card("NFRAMES", self._frames, "frames, one extension for each channel"),
            fits.card("CHANNELS", "".join(self.channels)),
        ]
        _write(self._fd, fits.header(cards, 0), 0)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._fd >= 0:
            os.close(self._fd)


def _write(fd: int, data: bytes | memoryview, offset: int) -> int:
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
    return done


class Reader:
    """The registered frames of several files, sorted by name.

    ``cells`` are the tables that go with the files, in their order; by default those beside them (`.npz`).
    Raises StackingError if a file and its table do not belong together or the files are not of one grid.
    """

    frames: list[str]
    channels: list[str]
    width: int
    height: int

    def __init__(self, registered: Sequence[str], cells: Sequence[str] | None = None) -> None:
        if cells is None:
            cells = [os.path.splitext(path)[0] + ".npz" for path in registered]
        self._fds: list[int] = []
        grids: dict[tuple[Any, ...], str] = {}
        entries: list[tuple[str, int, list[Plane], NDArray[np.uint32]]] = []
        self._paths = list(registered)
        try:
            for number, (path, table) in enumerate(zip(registered, cells, strict=True)):
                about, arrays = tables.load(table, "row_sum")
                self._fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                if os.fstat(self._fds[-1]).st_size != about["bytes"]:
                    raise Damaged(path, f"{about['bytes']} bytes were written")
                grids.setdefault((about["width"], about["height"], tuple(about["channels"])), path)
                for frame, sums in zip(about["frames"], arrays["row_sum"], strict=True):
                    entries.append((frame["name"], number, frame["planes"], sums))
        except BaseException:
            self.close()
            raise
        if len(grids) != 1:
            self.close()
            raise StackingError(
                f"{' and '.join(list(grids.values())[:2]) or 'no file'}: registered frames of one grid are "
                "needed; run again from CHANNEL_SPLIT"
            )
        width, height, channels = next(iter(grids))
        self.width, self.height, self.channels = width, height, list(channels)
        entries.sort(key=lambda entry: entry[0])
        self.frames = [entry[0] for entry in entries]
        self._entries = entries
        self._buffer = np.empty(0, np.uint32)

    def rows(self, i: int, channel: int, y0: int, y1: int, out: Image) -> None:
        """Rows ``y0`` to ``y1`` (exclusive) of frame ``i`` into ``out`` (float32 [y1-y0, W], contiguous), NaN
        outside its footprint. Raises DamagedFrame if they are not as written."""
        name, number, planes, sums = self._entries[i]
        plane = planes[channel]
        size = 2 if plane["format"] == "int16" else 4
        raw = self._scratch(out.size, size)
        if _read(self._fds[number], raw.data, plane["offset"] + y0 * self.width * size) != raw.nbytes:
            raise DamagedFrame(self._paths[number], name)
        raw = raw.reshape(y1 - y0, self.width)
        expected = sums[channel, y0:y1]
        if size == 2:
            scale, zero = np.float32(plane["bscale"]), np.float32(plane["bzero"])
            sound = _decode16(raw, scale, zero, expected, out) < 0
        else:
            found = np.empty(y1 - y0, np.uint32)
            _swap32(raw, out.view(np.uint32), True, found)
            sound = bool(np.array_equal(found, expected))
        if not sound:
            raise DamagedFrame(self._paths[number], name)

    def block(self, y0: int, y1: int, channel: int, out: Image) -> None:
        """The same rows of every frame, in order: ``out`` is float32 [F, y1-y0, W], contiguous."""
        for i in range(len(self._entries)):
            self.rows(i, channel, y0, y1, out[i])

    def _scratch(self, pixels: int, size: int) -> NDArray[Any]:
        words = -(-pixels * size // 4)
        if self._buffer.size < words:
            self._buffer = np.empty(words, np.uint32)
        return self._buffer.view(np.uint16 if size == 2 else np.uint32)[:pixels]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(fd: int, data: memoryview, offset: int) -> int:
    """Fill ``data`` from ``offset`` on; how many bytes there were."""
    view = data.cast("B")
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
