"""Entry of a call, started by path with ``python -IS`` so that nothing but the agent is imported."""

import os
import sys

sys.path.insert(
    0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
)

from ripresa.hosts.agent.call import main

sys.exit(main(sys.argv[1:]))
