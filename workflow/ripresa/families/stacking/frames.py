"""One frame: what its FITS file says about it, and its pixels.

Every way in which a file can be of no use has a reason in words; none ends the scan of the others.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import Changed, StackingError, keywords
from ripresa.families.stacking.header import Header, Unusable, units

Image = NDArray[np.float32]
Facts = dict[str, Any]

SMALLEST = 32  # px; less is no picture of the sky

_AT_ONCE = 1 << 20  # bytes read, hashed and decoded while they are in the cache
_DTYPES = {8: "|u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_SENSELESS = 1e15  # what is beyond is a mark for "no value" (IRAF's is 1.6e38) and not light

_FIELDS = (
    "name", "path", "status", "reason", "sha256", "bytes", "mtime", "kind", "bayer", "width", "height",
    "exposure_s", "date_obs", "temperature_c", "gain", "filter", "object",
)  # fmt: skip


def inspect(path: str, name: str | None = None, bayer: str = "auto") -> Facts:
    """What is known of the frame in the file ``path``: see `examine`, of which this is the first half."""
    return examine(path, name, bayer)[0]


def examine(
    path: str, name: str | None = None, bayer: str = "auto", light: bool = True
) -> tuple[Facts, Image | None]:
    """Facts and pixels of a frame, from one reading of its file.

    The facts are name, path, status ("ok" or "bad"), reason (of "bad"), sha256, bytes, mtime (ns), kind
    ("mono", "cfa", "rgb"), bayer (pattern of the first two stored rows and columns), width, height (px),
    exposure_s, date_obs (ISO 8601, UTC), temperature_c, gain, filter, object; of a usable frame also
    `pixels` (where they are in the file, for `read_pixels`), `cards` (header cards that the stack takes
    over) and `imagetyp`. What is not known is None. The pixels, float32 [C, H, W], are None for a bad
    frame. ``light``: whether frames that say they are no lights are bad.

    Raises StackingError if the header contradicts the configured Bayer pattern ``bayer``.
    """
    facts: Facts = dict.fromkeys(_FIELDS)
    facts |= {"name": name or os.path.basename(path), "path": path, "status": "bad"}
    image = None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Unusable("it is no file")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            about = os.fstat(fd)
            facts |= {"bytes": about.st_size, "mtime": about.st_mtime_ns}
            digest = hashlib.sha256()
            try:
                facts |= _described(fd, about.st_size, facts["name"], bayer, light)
                image = _read(fd, facts["pixels"], about.st_size, digest)
                facts["pixels"]["sum"] = pixel_sum(image)
                _check_content(image)
            except Unusable as error:
                facts["reason"] = str(error)
            if image is None:
                for block in _blocks(fd, 0, about.st_size):
                    digest.update(block)
            facts["sha256"] = digest.hexdigest()
        finally:
            os.close(fd)
    except Unusable as error:
        facts["reason"] = str(error)
    except OSError as error:
        facts["reason"] = f"it cannot be read: {error.strerror or error}"
    if facts["reason"]:
        for key in ("pixels", "cards", "imagetyp"):
            facts.pop(key, None)
        return facts, None
    return facts | {"status": "ok"}, image


def read_pixels(facts: Facts) -> Image:
    """The pixels of a frame that was found usable before: float32 [C, H, W], NaN where the file has no value.

    Raises StackingError if the file cannot be read, Changed if it is gone or its size or content is no longer
    what it was: pixels are compared by their sum, which costs next to nothing, and the whole file by its
    checksum if its modification time is another one.
    """
    name, path = facts["name"], facts["path"]
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Changed(f"frame {name}: {path} is no longer there") from None
    except OSError as error:
        raise StackingError(f"frame {name}: {path} can no longer be read ({error.strerror})") from None
    try:
        about = os.fstat(fd)
        if about.st_size != facts["bytes"]:
            raise Changed(f"frame {name}: {path} has another size since it was scanned")
        digest = None if about.st_mtime_ns == facts["mtime"] else hashlib.sha256()
        image = _read(fd, facts["pixels"], about.st_size, digest)
        if pixel_sum(image) != facts["pixels"]["sum"] or (digest and digest.hexdigest() != facts["sha256"]):
            raise Changed(f"frame {name}: {path} has another content since it was scanned")
        return image
    except OSError as error:
        raise StackingError(f"frame {name}: {path} cannot be read ({error.strerror})") from None
    finally:
        os.close(fd)


def read_rows(facts: Facts, y0: int, y1: int) -> Image:
    """Rows y0 <= y < y1 of a frame: float32 [C, y1 - y0, W]. Raises StackingError if they cannot be read."""
    pixels = facts["pixels"]
    planes, height, width = pixels["shape"]
    row = width * np.dtype(pixels["dtype"]).itemsize
    out = np.empty((planes, y1 - y0, width), np.float32)
    try:
        fd = os.open(facts["path"], os.O_RDONLY | os.O_CLOEXEC)
        try:
            for plane in range(planes):
                offset = pixels["offset"] + (plane * height + y0) * row
                _decode_range(fd, offset, pixels, out[plane].reshape(-1))
        finally:
            os.close(fd)
    except OSError as error:
        raise StackingError(f"{facts['path']} cannot be read ({error.strerror or error})") from None
    return out


# --- structure


def _described(fd: int, size: int, name: str, bayer: str, light: bool) -> Facts:
    """What the headers say. Raises Unusable, StackingError."""
    primary, header, offset = _image_unit(fd, size)
    # In an image extension, what is said of the whole file counts too.
    whole = Header(header.cards + primary.cards) if header is not primary else header
    kind_of_frame = keywords.frame_type(whole)
    if light and kind_of_frame not in {None, "light"}:
        said = whole.text("IMAGETYP", "FRAME", "FRAMETYP")
        raise Unusable(f"it is no light: its header says IMAGETYP {said!r}")
    planes, height, width = _planes(header)
    pixels = _layout(header, offset, (planes, height, width), size)
    pattern = keywords.bayer_pattern(whole, height, bayer, name) if planes == 1 else None
    return {
        "kind": "rgb" if planes == 3 else "cfa" if pattern else "mono",
        "bayer": pattern,
        "width": width,
        "height": height,
        "exposure_s": keywords.exposure(whole),
        "date_obs": keywords.date(whole),
        "temperature_c": keywords.temperature(whole),
        "gain": whole.number("GAIN"),
        "filter": whole.text("FILTER"),
        "object": whole.text("OBJECT"),
        "pixels": pixels,
        "cards": keywords.kept_cards(whole),
        "imagetyp": kind_of_frame,
    }


def _image_unit(fd: int, size: int) -> tuple[Header, Header, int]:
    """The first header of a file, the header of its first image, and where the data of that are."""
    primary: Header | None = None
    for header, offset in units(fd, size):
        primary = primary or header
        if header.get("ZIMAGE") is True:
            raise Unusable("it is tile-compressed, which is not supported: unpack it (funpack)")
        is_image = header is primary or header.text("XTENSION") == "IMAGE"
        if is_image and len(header.shape) >= 2 and all(header.shape):
            return primary, header, offset
    raise Unusable("it has no image")


def _planes(header: Header) -> tuple[int, int, int]:
    shape = header.shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 2:
        shape = (1, *shape)
    said = " x ".join(str(length) for length in reversed(header.shape))
    if len(shape) != 3 or shape[0] not in {1, 3}:
        hint = " with the colour last" if len(shape) == 3 and shape[2] == 3 else ""
        raise Unusable(f"its image is {said}{hint}; only width x height and width x height x 3 are supported")
    if min(shape[1:]) < SMALLEST:
        raise Unusable(f"its image is {said} px, smaller than {SMALLEST} px")
    return shape[0], shape[1], shape[2]


def _layout(header: Header, offset: int, shape: tuple[int, int, int], size: int) -> Facts:
    bits = header.integer("BITPIX")
    if bits not in _DTYPES:
        raise Unusable(f"its header says BITPIX {bits}")
    needed = offset + header.data_bytes
    if needed > size:
        raise Unusable(f"it is truncated: {size} bytes of {needed}")
    scale, zero = header.number("BSCALE"), header.number("BZERO")
    if scale == 0:
        raise Unusable("its header says BSCALE 0")
    blank = header.get("BLANK") if bits > 0 else None
    return {
        "offset": offset,
        "dtype": _DTYPES[bits],
        "shape": list(shape),
        "bscale": 1.0 if scale is None else scale,
        "bzero": 0.0 if zero is None else zero,
        "blank": blank if isinstance(blank, int) else None,
    }


# --- pixels


def _blocks(fd: int, start: int, end: int) -> Iterator[memoryview]:
    """The bytes from ``start`` to ``end``, or to the end of the file if that comes first."""
    buffer = memoryview(bytearray(min(_AT_ONCE, max(end - start, 1))))
    while start < end:
        count = os.preadv(fd, [buffer[: min(len(buffer), end - start)]], start)
        if count == 0:
            return
        yield buffer[:count]
        start += count


def _read(fd: int, pixels: Facts, size: int, digest: Any = None) -> Image:
    """The pixels, and (into ``digest``) the checksum of the whole file of ``size`` bytes."""
    planes, height, width = pixels["shape"]
    out = np.empty((planes, height, width), np.float32)
    if digest:
        for block in _blocks(fd, 0, pixels["offset"]):
            digest.update(block)
    end = _decode_range(fd, pixels["offset"], pixels, out.reshape(-1), digest)
    if digest:
        for block in _blocks(fd, end, size):
            digest.update(block)
    return out


def pixel_sum(image: Image) -> int:
    """The sum of the pixels' bytes as words: other pixels have another one."""
    flat = image.reshape(-1)
    pairs = flat[: len(flat) // 2 * 2].view(np.uint64)
    return int(pairs.sum(dtype=np.uint64)) + sum(int(word) for word in flat[len(pairs) * 2 :].view(np.uint32))


def _decode_range(fd: int, offset: int, pixels: Facts, out: Image, digest: Any = None) -> int:
    """Decode ``len(out)`` pixels from ``offset`` on; gives the offset behind them."""
    dtype = np.dtype(pixels["dtype"])
    end = offset + len(out) * dtype.itemsize
    done, left = 0, b""
    for block in _blocks(fd, offset, end):
        if digest:
            digest.update(block)
        data: bytes | memoryview = left + bytes(block) if left or len(block) % dtype.itemsize else block
        count = len(data) // dtype.itemsize
        left = bytes(data[count * dtype.itemsize :])
        _decode(np.frombuffer(data, dtype, count), pixels, out[done : done + count])
        done += count
    if done < len(out):
        raise OSError(0, "it ends too early")
    return end


def _decode(raw: NDArray[Any], pixels: Facts, out: Image) -> None:
    """Physical values BZERO + BSCALE x stored ones; NaN where there is none."""
    scale, zero = pixels["bscale"], pixels["bzero"]
    if raw.dtype.itemsize <= 2 or (raw.dtype == ">f4" and scale == 1 and zero == 0):
        out[:] = raw
        if scale != 1:
            out *= np.float32(scale)
        if zero != 0:
            out += np.float32(zero)
    else:  # float32 cannot hold what is stored: scale first
        with np.errstate(over="ignore", invalid="ignore"):
            out[:] = raw.astype(np.float64) * scale + zero
    if raw.dtype.kind == "f":
        if not (out.min() > -_SENSELESS and out.max() < _SENSELESS):  # true of NaN, which both hand on
            out[~(np.abs(out) < _SENSELESS)] = np.nan
    elif pixels.get("blank") is not None:
        out[raw == pixels["blank"]] = np.nan


def _check_content(image: Image) -> None:
    """Raises Unusable for pictures of nothing, or with a colour of nothing."""
    for number, plane in enumerate(image):
        sample = plane.reshape(-1)[::101]
        if not np.isnan(sample[0]) and not (sample == sample[0]).all():
            continue
        values = plane[~np.isnan(plane)]
        which = f" of colour {number + 1}" if len(image) > 1 else ""
        if not values.size:
            raise Unusable(f"none of its pixels{which} has a value")
        if values.min() == values.max():
            raise Unusable(f"all its pixels{which} are {values[0]:g}")
