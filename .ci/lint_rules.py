"""`snakemake --lint`, without the advice that does not hold for this workflow."""

import re
import subprocess
import sys

NOT_FOR_US = {
    # What the rules run is installed by `make` from a lock file with hashes, the same for every rule.
    "Specify a conda environment or container for each rule.",
    # The guard is told the name of the rule whose command it runs; it is no input of the command.
    "Shell command directly uses variable rule from outside of the rule",
    # The input functions of a family stand beside its rules: rules/common.smk only loads and validates.
    "Mixed rules and functions in same snakefile.",
}


def main() -> int:
    """Print the other advice, or why there is no report; 1 if there is anything to print, else 0."""
    # Without the profile, whose logger has its own way with messages. (The JSON report does not work.)
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "none", "--lint"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    places = re.split(r"^Lints for (.+):$", done.stderr, flags=re.MULTILINE)[1:]
    if done.returncode and not places:
        print(done.stderr, file=sys.stderr)
        return 1
    code = 0
    for place, advice in zip(places[::2], places[1::2], strict=True):
        for title in re.findall(r"^    \* (.+):$", advice, re.MULTILINE):
            if title not in NOT_FOR_US:
                print(f"{place}: {title}", file=sys.stderr)
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
