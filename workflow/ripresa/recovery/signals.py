"""The standard module `signal` without its enumerations, whose import would take a fifth of a guard's time."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import *  # noqa: F403
else:
    try:
        from _signal import *  # noqa: F403
    except ImportError:
        from signal import *  # noqa: F403
