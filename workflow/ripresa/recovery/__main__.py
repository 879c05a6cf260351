"""Entry of the guard, started by path with ``python -IS`` so that nothing but the guard is imported."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from ripresa.recovery.guard import main

sys.exit(main(sys.argv[1:]))
