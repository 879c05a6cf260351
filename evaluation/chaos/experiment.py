"""The experiments: Ripresa on everything, plain Snakemake and ``--retries 3`` on the same, ablations."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos import catalogue, controllers
from chaos.campaign import OURS, Campaign
from chaos.injection import Injector
from chaos.judge import Watch, stories
from chaos.ledger import Ledger
from chaos.oracle import Oracle
from chaos.report import Outcome
from ripresa.recovery import policy

NEVER = 10**9
ABLATIONS: dict[str, dict[str, Any]] = {
    "everything in place": {},
    "no classifier": {
        "rules": {
            "classes": {
                name: rule if name == "cancelled" else policy.default()["classes"]["unknown"]
                for name, rule in policy.default()["classes"].items()
            }
        }
    },
    "no backoff": {
        "rules": {
            "classes": {
                name: {**rule, "delays_min": []} for name, rule in policy.default()["classes"].items()
            }
        }
    },
    "no breaker": {"rules": {"breaker": {**policy.default()["breaker"], "failures": NEVER}}},
    "no heartbeat": {"heartbeat": False},
}
"""What `Campaign` is given to do without one part: every class treated as unknown, no delays, breakers that
never open, no stall limits. A ``Retry-After`` still counts without backoff."""

PATIENCE_S = {True: 30.0, False: 4.0}
"""How long the oracle looks at a command that hangs before it ends it: long where a guard should do that."""


class Bench:
    """Runs experiments, each in a directory of its own below ``root``."""

    def __init__(self, root: Path, *, seed: int, time_scale: float, keep: bool) -> None:
        self.root, self.seed, self.time_scale, self.keep = root, seed, time_scale, keep

    @contextmanager
    def _place(self, name: str) -> Iterator[Path]:
        """A directory for one campaign; what it took is told in the end."""
        directory = self.root / name
        directory.mkdir(parents=True)
        began = time.monotonic()
        try:
            yield directory
        except controllers.Refused:
            print(f"  {name}: the last words of snakemake:", file=sys.stderr)
            log = directory / "campaign" / "output.log"
            print(log.read_text()[-3000:] if log.exists() else "none", file=sys.stderr)
            raise
        print(f"  {name}: {time.monotonic() - began:.0f} s", flush=True)
        if not self.keep:
            shutil.rmtree(directory)

    def mixed(
        self, name: str, *, share: float, mode: str = OURS, heartbeat: bool = True, only_plain: bool = False,
        rules: Mapping[str, Any] | None = None,
    ) -> Outcome:  # fmt: skip
        """All kinds of units in one campaign."""
        units = catalogue.units(self.seed, self.time_scale, share, only_plain=only_plain)
        with self._place(name.replace(" ", "-")) as directory:
            began = time.monotonic()
            campaign = Campaign(
                directory, units, mode=mode, time_scale=self.time_scale, rules=rules, heartbeat=heartbeat
            )
            injector, watch = Injector(campaign), Watch(campaign)
            oracle = Oracle(campaign, patience_s=PATIENCE_S[mode == OURS and heartbeat])
            injector.start()
            watch.start()
            oracle.finish()
            injector.end()
            watch.end()
            return self._outcome(name, campaign, oracle, injector.struck, watch, {}, began)

    def controllers(self, name: str, *, rounds: int, mode: str = OURS) -> Outcome:
        """Campaigns whose controller is killed; every round kills it in three ways."""
        with self._place(name.replace(" ", "-")) as directory:
            began = time.monotonic()
            campaign, struck, oracle = controllers.kill_controllers(
                directory, mode=mode, seed=self.seed, time_scale=self.time_scale, rounds=rounds
            )
            return self._outcome(name, campaign, oracle, struck.at, None, struck.kinds, began)

    def disk(self, name: str, *, number: int) -> Outcome | None:
        """A campaign on a small disk that is full for a while; None where none can be mounted."""
        with (
            self._place(name) as directory,
            controllers.small_disk(directory / "campaign" / "runs") as mounted,
        ):
            if not mounted:
                return None
            began = time.monotonic()
            campaign, struck, oracle = controllers.fill_disk(
                directory, seed=self.seed, time_scale=self.time_scale, number=number
            )
            return self._outcome(name, campaign, oracle, struck.at, None, struck.kinds, began)

    def _outcome(
        self, name: str, campaign: Campaign, oracle: Oracle, struck: dict[str, float], watch: Watch | None,
        kinds: dict[str, catalogue.Kind], began: float,
    ) -> Outcome:  # fmt: skip
        told = stories(campaign, struck=struck, helped=oracle.helped, repaired=oracle.repaired, kinds=kinds)
        wrong = oracle.false_success | (watch.wrong if watch and campaign.mode == OURS else set())
        lost = sum(not story.right for story in told)
        ledger = Ledger(campaign.judge / "ledger")
        said = Counter(entry.what for entry in ledger.read())
        seconds = time.monotonic() - began
        return Outcome(name, told, oracle.actions, len(wrong), lost, said["overlap"], said["shared"], seconds)
