"""Validators of staged outputs. A target is published only if its validator accepts it.

A validator is written ``kind`` or ``kind:rest``:

- (none): the file exists and is not empty; a directory exists and holds a file.
- ``empty-ok``: the file exists.
- ``json`` / ``json:SCHEMA``: JSON, valid under the JSON Schema in that file.
- ``csv:columns=a,b rows=N``: has these columns (others may be there) and at least N rows (1 by default).
- ``fits`` / ``fits:shape=HEIGHTxWIDTH finite=FRACTION``: opens, matches its checksums where it has
  them, has this shape and at least this fraction of finite pixels (0 < finite by default).
- ``command:TEXT``: exits 0; ``{}`` stands for the file.

`check` runs the light ones in place. For the others `command` says what the guard is to run, under the
same watch as the unit's own command; those that need libraries are
``python -m ripresa.recovery.validators KIND FILE``, so that the guard stays quick to start.
"""

from __future__ import annotations

import os
import sys

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")


def check(validator: str, path: str) -> str | None:
    """Validate one staged output as far as that is quick; None or one line that says what is wrong."""
    problem = _present(path, empty_ok=validator == "empty-ok")
    return _json(path) if problem is None and validator == "json" else problem


def command(validator: str, path: str, *, python: str) -> str | None:
    """The shell command that does the rest of a validation by exiting with 0; None if nothing is left."""
    if validator in ("", "empty-ok", "json"):
        return None
    kind, _, rest = validator.partition(":")
    if kind == "command":
        return rest.replace("{}", quote(path))
    # -P: a file of the checkout must not stand in for a module of the same name.
    return " ".join(map(quote, [python, "-P", "-m", "ripresa.recovery.validators", validator, path]))


def rejection(validator: str, path: str, said: str) -> str:
    """What is wrong with an output whose validation failed; ``said`` is the last line of its output."""
    kind, _, rest = validator.partition(":")
    if kind == "command":
        return f"{rest} rejected {os.path.basename(path)}: {said}" if said else f"{rest} rejected {path}"
    return said or f"the validation of {os.path.basename(path)} as {validator} failed"


def last_line(log: str, offset: int) -> str:
    """The last line that was written to a log after a position, at most 2000 characters of it."""
    with open(log, "rb") as file:
        file.seek(max(offset, os.fstat(file.fileno()).st_size - 8192))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:2000] if lines else ""


def quote(text: str) -> str:
    """`shlex.quote` without what it imports."""
    return text if text and set(text) <= _SAFE else "'" + text.replace("'", "'\"'\"'") + "'"


def _present(path: str, *, empty_ok: bool) -> str | None:
    name = os.path.basename(path)
    if os.path.isdir(path):
        return None if empty_ok or any(os.scandir(path)) else f"output {name} is an empty directory"
    try:
        size = os.stat(path).st_size
    except OSError:
        return f"output {name} was not written"
    return None if size or empty_ok else f"output {name} is empty"


def _json(path: str) -> str | None:
    import json

    try:
        with open(path, "rb") as file:
            json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        return f"output {os.path.basename(path)} is not valid JSON: {error}"
    return None


def _options(rest: str) -> dict[str, str]:
    return dict(item.split("=", 1) for item in rest.split() if "=" in item)


def _json_schema(rest: str, path: str) -> str | None:
    import json

    import jsonschema

    problem = _json(path)
    if problem:
        return problem
    with open(rest, "rb") as file:
        schema = json.loads(file.read())
    with open(path, "rb") as file:
        document = json.loads(file.read())
    cls = jsonschema.validators.validator_for(schema)
    error = jsonschema.exceptions.best_match(cls(schema).iter_errors(document))
    if error is None:
        return None
    return f"output {os.path.basename(path)} is invalid at {error.json_path}: {error.message}"


def _csv(rest: str, path: str) -> str | None:
    import csv

    options = _options(rest)
    name = os.path.basename(path)
    wanted = [column for column in options.get("columns", "").split(",") if column]
    at_least = int(options.get("rows", "1"))
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            missing = [column for column in wanted if column not in header]
            if missing:
                return f"output {name} lacks the columns {', '.join(missing)}"
            rows = 0
            for row in reader:
                rows += 1
                if len(row) != len(header):
                    return f"output {name} line {reader.line_num} has {len(row)} of {len(header)} columns"
        except csv.Error as error:
            return f"output {name} is not valid CSV: {error}"
    return None if rows >= at_least else f"output {name} has {rows} rows, at least {at_least} are needed"


def _fits(rest: str, path: str) -> str | None:
    import warnings

    import numpy as np
    from astropy.io import fits
    from astropy.io.fits.verify import VerifyWarning
    from astropy.utils.exceptions import AstropyUserWarning

    options = _options(rest)
    name = os.path.basename(path)
    shape = tuple(int(n) for n in options["shape"].split("x")) if "shape" in options else None
    try:
        with warnings.catch_warnings():
            # A checksum that differs and a file that is too short are warnings to astropy.
            warnings.simplefilter("error", AstropyUserWarning)
            warnings.simplefilter("ignore", VerifyWarning)
            with fits.open(path, checksum=True, memmap=False) as hdus:
                images = [hdu.data for hdu in hdus if hdu.is_image and hdu.data is not None]
    except (OSError, ValueError, TypeError, KeyError, AstropyUserWarning) as error:
        return f"output {name} is not valid FITS: {str(error).splitlines()[0] if str(error) else error!r}"
    if not images:
        return f"output {name} holds no image"
    if shape is not None and images[0].shape != shape:
        return f"output {name} has shape {images[0].shape}, not {shape}"
    finite = float(np.isfinite(images[0]).mean())
    least = float(options.get("finite", "0"))
    if finite == 0 or finite < least:
        return f"output {name} has only {finite:.1%} finite pixels"
    return None


def wrong(validator: str, path: str) -> str | None:
    """What a validator that needs libraries finds wrong with a file, in one line; None if nothing."""
    kind, _, rest = validator.partition(":")
    validate = {"json": _json_schema, "csv": _csv, "fits": _fits}.get(kind)
    if validate is None:
        return f"unknown validator '{validator}'; use json, csv, fits, command or empty-ok"
    try:
        return validate(rest, path)
    except Exception as error:  # of whatever kind a library raises for a file or schema it cannot take
        return f"cannot validate {os.path.basename(path)} as {validator}: {error!r}"


def main(arguments: list[str]) -> int:
    """Run one library validator on one file; prints what is wrong and returns 1."""
    problem = wrong(arguments[0], arguments[1])
    if problem:
        print(problem)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
