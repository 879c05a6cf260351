"""Entry of the guard, started by path with ``python -IS`` so that nothing but the guard is imported."""

import _signal

# First of all: a stop or a warning that comes while the guard is still being imported waits until it is
# understood.
_signal.pthread_sigmask(
    _signal.SIG_BLOCK, {_signal.SIGINT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2}
)

import os  # noqa: E402
import sys  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from ripresa.recovery.guard import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
