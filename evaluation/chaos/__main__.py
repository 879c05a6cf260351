"""Fault injection: faults of every kind against real units, run by real snakemake calls, judged by the truth.

    python evaluation/chaos [--short] [--seed 1] [--report FILE]

A seeded catalogue mixes hundreds of units that fail in some forty ways with healthy ones and such that can
never succeed. Only the judge knows which is which: their plans lie outside of the run. *Recovered* means that
the target exists, validates and equals the reference, and that nobody had to do anything for the unit. The
schedule of the policy runs in full, its waits shrunk by `time_scale`; times are told at scale 1. In the long
form plain Snakemake and `--retries 3` meet the same faults, with an oracle as operator whose actions are
counted, and each part of the recovery is taken out in turn. See docs/recovery.md.
Exits 1 if a figure is missed.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

# This directory is on the path as the script's own; its modules are those of the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from chaos import report  # noqa: E402
from chaos.campaign import PLAIN, RETRIES  # noqa: E402
from chaos.experiment import ABLATIONS, Bench  # noqa: E402

TIME_SCALE = 0.01
SHORT_SHARE, ABLATION_SHARE = 0.1, 0.2
ROUNDS = 2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--short", action="store_true", help="a tenth of the units, no comparisons, no ablations"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the catalogue")
    parser.add_argument("--report", metavar="FILE", help="write the tables there, as Markdown")
    parser.add_argument("--keep", metavar="DIRECTORY", help="keep the campaigns there")
    arguments = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory(prefix="chaos-") as temporary:
        root = Path(arguments.keep or temporary).resolve()
        bench = Bench(root, seed=arguments.seed, time_scale=TIME_SCALE, keep=bool(arguments.keep))
        return experiments(bench, arguments, began)


def experiments(bench: Bench, arguments: argparse.Namespace, began: float) -> int:
    """Run what the form asks for, print each table as soon as it is known, then the verdict."""
    short = arguments.short
    tables: list[str] = []

    def show(text: str) -> None:
        print(f"\n{text}", flush=True)
        tables.append(text)
        if arguments.report:
            Path(arguments.report).write_text("\n".join(tables))

    # The short form tells no figures of time but rough ones, so its campaigns may share the machine.
    with ThreadPoolExecutor(2 if short else 1) as pool:
        campaigns = [
            pool.submit(bench.mixed, "mixed", share=SHORT_SHARE if short else 1.0),
            pool.submit(bench.controllers, "controllers", rounds=1 if short else ROUNDS),
        ]
        full = pool.submit(bench.disk, "disk", number=20 if short else 40)
        parts, disk = [campaign.result() for campaign in campaigns], full.result()
    ours = report.joined("Ripresa", [*parts, *([disk] if disk else [])])
    show(report.kinds_table(ours))
    show(report.others_table(ours))
    if disk is None:
        show("NOT SHOWN: a full disk, for no small file system can be mounted here (that needs root).\n")
    print(report.misjudged(ours), flush=True)
    compared = []
    if not short:
        compared = [report.joined("Ripresa", parts), *(_compared(bench, *way) for way in WAYS)]
        show(report.actions_table(compared))
        variants = [bench.mixed(name, share=ABLATION_SHARE, **given) for name, given in ABLATIONS.items()]
        show(report.ablations_table(variants))
    verdict = report.judge(ours, compared, long=not short)
    if not short:
        verdict.most("minutes that all this took", (time.monotonic() - began) / 60, 40, ".1f")
    return verdict.end()


WAYS = (("plain Snakemake", PLAIN), ("--retries 3", RETRIES))


def _compared(bench: Bench, name: str, mode: str) -> report.Outcome:
    """The same faults without Ripresa, as far as they exist without its guard and journal."""
    parts = [
        bench.mixed(f"mixed {mode}", share=1.0, mode=mode, only_plain=True),
        bench.controllers(f"controllers {mode}", rounds=ROUNDS, mode=mode),
    ]
    return report.joined(name, parts)


if __name__ == "__main__":
    sys.exit(main())
