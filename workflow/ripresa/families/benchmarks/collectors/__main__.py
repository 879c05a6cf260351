"""Entry of the sampler, started by path with ``python -IS`` so that nothing else is imported: OUTPUT."""

import os
import sys

_HERE = os.path.abspath(__file__)
for _ in range(5):  # ripresa/families/benchmarks/collectors/__main__.py
    _HERE = os.path.dirname(_HERE)
sys.path.insert(0, _HERE)

from ripresa.families.benchmarks.collectors.sampler import main  # noqa: E402

sys.exit(main(sys.argv[1]))
