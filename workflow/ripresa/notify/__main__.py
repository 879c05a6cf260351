"""The process that notifies; `ripresa.notify.start` writes what it needs to its standard input."""

import json
import sys

from ripresa.journal.paths import Run
from ripresa.notify.sending import Sender

told = json.load(sys.stdin)
Sender(Run(told["run"]), told).work()
