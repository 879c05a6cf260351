"""Several origins of one configuration, the stronger ones winning, with the origin of every value kept."""

from collections.abc import Mapping
from typing import Any

from ripresa.configuration.problems import Path

Config = dict[str, Any]

_NOTHING = object()


class Layers:
    """Configurations by the name of their origin, from the weakest to the strongest."""

    def __init__(self, *layers: tuple[str, Config]) -> None:
        self._layers = layers
        self.merged: Config = {}
        for _, layer in layers:
            self.merged = merged(self.merged, layer)

    def origin(self, where: Path, otherwise: str) -> str:
        """The weakest layer that says what holds at a path; of its parent if nothing does."""
        value = _at(self.merged, where)
        said = [(name, _at(layer, where)) for name, layer in self._layers if layer]
        said = [(name, held) for name, held in said if held is not _NOTHING]
        if not said:
            return self.origin(where[:-1], otherwise) if len(where) > 1 else otherwise
        return next((name for name, held in said if held == value), said[0][0])

    def correct(self, where: Path, value: Any) -> None:
        """Put another value in the place of one that the strongest layer has."""
        for tree in (self.merged, self._layers[-1][1]):
            _at(tree, where[:-1])[where[-1]] = value


def merged(weak: Any, strong: Any) -> Any:
    """``strong`` over ``weak``: mappings key by key, all else as a whole. Shares nothing with either."""
    if isinstance(weak, Mapping) and isinstance(strong, Mapping):
        keys = [*weak, *(key for key in strong if key not in weak)]
        return {
            key: merged(weak.get(key), strong[key]) if key in strong else plain(weak[key]) for key in keys
        }
    return plain(strong)


def plain(value: Any) -> Any:
    """A copy in which all mappings are dicts and all sequences lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _at(tree: Any, where: Path) -> Any:
    for step in where:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return _NOTHING
    return tree
