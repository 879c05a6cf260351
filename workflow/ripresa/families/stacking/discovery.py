"""Which files are stacked. Stdlib only, and no file is opened: this runs at every call."""

import glob
import os
from collections.abc import Iterator
from typing import Any

from ripresa.families.stacking import StackingError

# Compressed files are listed, so that the scan reports them by name.
SUFFIXES = (".fit", ".fits", ".fts", ".fz")


def lights(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and path of every light frame, sorted by name.

    ``settings["lights"]`` has directories, files and globs; ``settings["recursive"]`` says whether
    directories are searched at any depth. The name is the path within the directory, or within the fixed
    part of the glob. Where several entries give the same name, all names are relative to the entries'
    common directory. Raises StackingError if an entry gives no frame.
    """
    entries = settings["lights"]
    entries = [entries] if isinstance(entries, str) else entries
    found: list[tuple[str, str]] = []
    for entry in entries:
        files = list(_files(os.path.expanduser(entry), settings["recursive"]))
        if not files:
            raise StackingError(_nothing(entry, settings["recursive"]))
        found += files
    if len(entries) > 1 or glob.has_magic(entries[0]):  # entries overlap, and so do directories in a glob
        found = list({os.path.abspath(path): (root, path) for root, path in reversed(found)}.values())
    # Every path begins with its root; os.path.relpath would take ten times as long.
    named = [(path.removeprefix(root).lstrip(os.sep), path) for root, path in found]
    if len({name for name, _ in named}) < len(named):
        common = os.path.commonpath([os.path.abspath(root) for root in {root for root, _ in found}])
        named = [(os.path.relpath(path, common), path) for _, path in found]
    return sorted(named)


def frames_in(place: str) -> list[str]:
    """The FITS files of a file or directory of calibration frames, sorted. Raises StackingError if there
    are none.
    """
    files = sorted(path for _, path in _files(os.path.expanduser(place), recursive=False))
    if not files:
        raise StackingError(_nothing(place, False))
    return files


def calibration_files(settings: dict[str, Any]) -> list[str]:
    """All files that the calibration masters are made of, for ``settings["calibration"]``."""
    places = [settings["calibration"].get(kind) for kind in ("bias", "dark", "flat")]
    return sorted({path for place in places if place for path in frames_in(place)})


def _files(entry: str, recursive: bool) -> Iterator[tuple[str, str]]:
    """Each FITS file of an entry with the directory that its name is relative to."""
    if os.path.isdir(entry):
        for path in _within(entry, recursive):
            yield entry, path
    elif os.path.isfile(entry):
        yield os.path.dirname(entry), entry
    elif glob.has_magic(entry):
        root = _fixed_part(entry)
        for path in glob.iglob(entry, recursive=True):
            if os.path.isdir(path):
                for inside in _within(path, recursive):
                    yield root, inside
            elif _is_fits(os.path.basename(path)):
                yield root, path


def _within(directory: str, recursive: bool) -> Iterator[str]:
    below = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if _is_fits(entry.name) and entry.is_file():
                    yield os.path.join(directory, entry.name)
                elif recursive and entry.name[0] != "." and entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
    except OSError as error:
        raise StackingError(f"{directory} cannot be searched: {error.strerror}") from None
    for path in below:
        yield from _within(path, recursive)


def _is_fits(name: str) -> bool:
    # Names that begin with a dot are no frames: "._light.fits" is what macOS leaves beside one.
    return name.lower().endswith(SUFFIXES) and name[0] != "."


def _fixed_part(pattern: str) -> str:
    """The directory of a glob above its first wildcard."""
    fixed = []
    for part in pattern.split(os.sep)[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return os.sep.join(fixed) or (os.sep if pattern.startswith(os.sep) else "")


def _nothing(entry: str, recursive: bool) -> str:
    kinds = "FITS files (.fit, .fits, .fts)"
    if os.path.isdir(entry):
        hint = "" if recursive else "; set recursive: true if they are further down"
        return f"{entry} has no {kinds}{hint}"
    if glob.has_magic(entry):
        return f"{entry} matches no {kinds}"
    return f"{entry} does not exist"
