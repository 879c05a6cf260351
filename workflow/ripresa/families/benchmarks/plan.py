"""The units that a configuration asks for: what the rule file needs to know when it is parsed."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ripresa.families.benchmarks import fingerprint, registry
from ripresa.families.benchmarks.adaptive import Repetitions

Unit = dict[str, Any]


def host_name(host: str) -> str:
    """The name of a host in targets and tables: for `localhost` the short name of this machine."""
    return socket.gethostname().split(".")[0] if host == "localhost" else host


class Plan:
    """The `benchmarks` section of the configuration (valid under its schema), read as units.

    BenchmarkError for what the schema cannot see.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.hosts = [host_name(host) for host in config["hosts"]]
        self.workloads = list(config["workloads"])
        self.scratch: str | None = config.get("scratch")
        self._repetitions: dict[str, Repetitions] = {}
        self._warmup: dict[str, bool] = {}
        self._settings: dict[str, Unit] = {}
        for name, given in config["workloads"].items():
            own = given or {}
            preset = own.get("preset", config.get("preset", "low"))
            parameters = registry.parameters(name, preset, own.get("parameters"))
            self._settings[name] = {"preset": preset, "parameters": parameters, "scratch": self.scratch}
            self._repetitions[name] = Repetitions.of(own.get("repetitions", config.get("repetitions", 3)))
            self._warmup[name] = own.get("warmup", config.get("warmup", True))

    def repetitions(self, workload: str) -> Repetitions:
        return self._repetitions[workload]

    def warms_up(self, workload: str) -> bool:
        return self._warmup[workload]

    def pairs(self) -> list[Unit]:
        """Every (host, workload)."""
        return [{"host": host, "workload": name} for host in self.hosts for name in self.workloads]

    def units(self) -> list[Unit]:
        """Every repetition that may be needed, with all that determines its result."""
        return [
            {**pair, "repetition": n, **self._settings[pair["workload"]]}
            for pair in self.pairs()
            for n in range(1, self.repetitions(pair["workload"]).maximum + 1)
        ]

    def warmups(self) -> list[Unit]:
        """The warm-up runs; their repetition is null."""
        return [
            {**pair, "repetition": None, **self._settings[pair["workload"]]}
            for pair in self.pairs()
            if self.warms_up(pair["workload"])
        ]

    def skip(self, unit: Mapping[str, Any]) -> str | None:
        """Why a unit is no target from the start: its program is missing, or it may not be needed at all."""
        if reason := registry.unavailable(unit["workload"]):
            return reason
        wanted = self.repetitions(unit["workload"])
        if (unit.get("repetition") or 0) > wanted.minimum:
            return f"runs only while the coefficient of variation is above {wanted.cv:g}"
        return None

    def digest(self, folder: str) -> str:
        """Digest of this machine's fingerprint with the disk under test; a few milliseconds."""
        return fingerprint.digest(fingerprint.collect(self.scratch or folder))
