"""The standard module `signal` without its enumerations, which take a fifth of a guard's time to import."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import *  # noqa: F403
else:
    try:
        from _signal import *  # noqa: F403
    except ImportError:
        from signal import *  # noqa: F403
