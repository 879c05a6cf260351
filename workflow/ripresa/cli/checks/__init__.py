"""What `ripresa doctor` looks at; each module yields what it finds as a `Check`."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"


class Check(NamedTuple):
    """One finding. ``fix`` says what to do about it and is empty for an ``ok``."""

    name: str
    level: str
    found: str
    fix: str = ""
