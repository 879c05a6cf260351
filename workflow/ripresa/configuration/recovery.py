"""The recovery policy of a campaign: the packaged one with what config/recovery.yaml changes."""

from collections.abc import Mapping
from typing import Any

from ripresa.configuration.layers import merged
from ripresa.recovery import policy as packaged


def load_policy(user_recovery: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole policy, as policy.toml documents it, plus ``rules``: the user's classifier rules.

    A stall limit of the user's holds as it is; beside figures of ``learn`` it is the most that is learnt.
    ``user_recovery`` is the section ``recovery`` of a resolved configuration. A class that the package never
    retries, and the user does, gets what the user leaves out from the class ``unknown``. Everything is plain
    JSON data.
    """
    default = packaged.default()
    policy: dict[str, Any] = merged({**default, "rules": []}, user_recovery or {})
    given = user_recovery or {}
    if "stall_s" in given and "learn" not in given:
        del policy["learn"]
    for name, rule in policy["classes"].items():
        if default["classes"][name]["retry"] == "no" and rule["retry"] != "no":
            policy["classes"][name] = default["classes"]["unknown"] | rule
    return policy
