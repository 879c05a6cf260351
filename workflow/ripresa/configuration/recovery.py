"""The recovery policy of a campaign: the packaged defaults with what config/recovery.yaml changes."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ripresa.configuration.layers import merged

POLICY = Path(__file__).parents[1] / "recovery" / "policy.toml"


def load_policy(user_recovery: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole policy, as policy.toml documents it, plus ``rules``: the user's classifier rules.

    ``user_recovery`` is the section ``recovery`` of a resolved configuration. Everything is plain JSON data.
    """
    with open(POLICY, "rb") as file:
        packaged = tomllib.load(file)
    policy: dict[str, Any] = merged({**packaged, "rules": []}, user_recovery or {})
    return policy
