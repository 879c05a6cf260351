"""Compute one experiment: PARAMETERS (JSON) OUTPUT --checkpoints DIRECTORY"""

import argparse
import json
import sys

from ripresa.families.experiments import ExperimentError
from ripresa.families.experiments.backends import NAMES
from ripresa.families.experiments.running import run


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parameters", type=json.loads)
    parser.add_argument("output")
    parser.add_argument("--checkpoints", required=True)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--backend", choices=NAMES, default="auto")
    asked = parser.parse_args(arguments)
    try:
        found = run(asked.parameters, asked.output, asked.checkpoints, asked.micro_batch, asked.backend)
    except ExperimentError as error:
        sys.exit(f"error: {error}")
    except MemoryError as error:
        sys.exit(f"error: out of memory: {error} (a smaller --micro-batch needs less)")
    if found["reason"]:
        print(f"{found['failure_class']}: {found['reason']}")
    else:
        print(f"test accuracy {found['metrics']['test_accuracy']:.4f} after {found['rounds_run']} rounds")


if __name__ == "__main__":
    main(sys.argv[1:])
