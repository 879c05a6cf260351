"""The direction of imports: rules and plugins -> the core; scripts -> families; the core knows neither."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflow"

CORE = (
    "ripresa.dsl",
    "ripresa.journal",
    "ripresa.recovery",
    "ripresa.placement",
    "ripresa.configuration",
    "ripresa.hosts",
    "ripresa.notify",
    "ripresa.hosts",
    "ripresa.slurm",
    "ripresa.template",
)
FAMILIES, CLI = ("ripresa.families",), ("ripresa.cli",)
SNAKEMAKE, PLUGINS = ("snakemake",), tuple(path.name for path in (WORKFLOW / "plugins").glob("snakemake_*"))
INTERFACES = tuple(
    f"snakemake_interface_{kind}_plugins" for kind in ("common", "executor", "logger", "scheduler")
)
RECORDS = ("ripresa.journal", "ripresa.recovery")

FORBIDDEN = {
    "core": (*FAMILIES, *CLI, *SNAKEMAKE, *INTERFACES, *PLUGINS),
    "families": (*RECORDS, *CLI, *SNAKEMAKE, *INTERFACES, *PLUGINS),
    "cli": (*SNAKEMAKE, *INTERFACES, *PLUGINS),
    "plugins": (*FAMILIES, *CLI),
    "scripts": (*CLI, *SNAKEMAKE, *INTERFACES, *PLUGINS),
    "rules": (*FAMILIES, *CLI, *PLUGINS, *(module for module in CORE if module != "ripresa.dsl")),
    "entry": (*FAMILIES, *CLI, *PLUGINS),  # the Snakefile and common.smk, which load and validate
}


def layer(path: Path) -> str | None:
    """The layer that a file belongs to, if it has one."""
    top, *rest = path.relative_to(ROOT).parts
    if path.name in {"Snakefile", "common.smk"}:
        return "entry"
    if top != "workflow":
        return top if top == "rules" else None
    if rest[0] == "ripresa":
        below = f"ripresa.{rest[1].removesuffix('.py')}"
        return "core" if below in CORE else rest[1] if below in (*FAMILIES, *CLI) else None
    return rest[0] if rest[0] in FORBIDDEN else None


def imported(path: Path, source: str) -> Iterator[str]:
    """Every module that a source imports anywhere, in functions and by name too, relative ones in full."""
    if path.suffix != ".py":  # Snakemake's language around Python: its import lines are Python's
        source = "\n".join(statements(source))
    package = path.relative_to(WORKFLOW).parent.parts if path.is_relative_to(WORKFLOW) else ()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def statements(source: str) -> Iterator[str]:
    """The import statements of a rule file."""
    found = re.finditer(
        r"^[ \t]*((?:from[ \t]+\S+[ \t]+)?import[ \t]+(?:\([^)]*\)|[^\n]+))", source, re.MULTILINE
    )
    yield from (match.group(1) for match in found)


def breaches(path: Path, source: str) -> list[str]:
    """What a file imports although its layer must not."""
    forbidden = FORBIDDEN.get(layer(path) or "", ())
    return [
        module
        for module in imported(path, source)
        if any(module == banned or module.startswith(f"{banned}.") for banned in forbidden)
    ]


def sources() -> list[Path]:
    rules = [ROOT / "Snakefile", *ROOT.glob("rules/**/*.smk")]
    return [*rules, *WORKFLOW.glob("**/*.py")]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    assert breaches(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "breach"),
    [
        ("workflow/ripresa/journal/x.py", "import snakemake.logging", "snakemake.logging"),
        ("workflow/ripresa/dsl/x.py", "def f():\n    from ripresa import families", "ripresa.families"),
        ("workflow/ripresa/dsl/x.py", "from ..families import benchmarks", "ripresa.families.benchmarks"),
        ("workflow/ripresa/dsl/x.py", "import importlib as i\ni.import_module('ripresa.cli')", "ripresa.cli"),
        (
            "workflow/ripresa/families/benchmarks/x.py",
            "from ...journal import paths",
            "ripresa.journal.paths",
        ),
        ("workflow/ripresa/families/x.py", "from ripresa.recovery import guard", "ripresa.recovery.guard"),
        (
            "workflow/plugins/snakemake_x/__init__.py",
            "from ripresa.families import jobs",
            "ripresa.families.jobs",
        ),
        ("workflow/scripts/x.py", "from snakemake.script import snakemake", "snakemake.script.snakemake"),
        ("rules/x.smk", "rule a:\n    run:\n        import ripresa.journal.state", "ripresa.journal.state"),
        ("rules/x.smk", "from ripresa.families import (\n    benchmarks,\n)", "ripresa.families.benchmarks"),
        ("Snakefile", "include: 'x'\nfrom ripresa.cli import main", "ripresa.cli.main"),
    ],
)
def test_a_breach_would_be_found(path, source, breach):
    assert breaches(ROOT / path, source) == [breach]


def test_what_is_imported_is_declared():
    """No import rests on what some other package happens to bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        "workflow": {
            re.split(r"[^\w.-]", name)[0].lower()
            for name in (*project["dependencies"], *project["optional-dependencies"]["torch"])
        },
        "tests": {re.split(r"[^\w.-]", name)[0].lower() for name in project["optional-dependencies"]["dev"]},
    }
    declared["tests"] |= declared["workflow"]
    providers = packages_distributions()
    missing = set()
    for folder, names in declared.items():
        for path in (ROOT / folder).rglob("*.py"):
            tops = {module.partition(".")[0] for module in imported(path, path.read_text())}
            for top in tops - sys.stdlib_module_names:
                origins = {name.lower() for name in providers.get(top, [])} - {"ripresa"}
                if origins and not origins & names:
                    missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert missing == set()


def test_the_guard_starts_without_anything_heavy():
    """It runs once for every unit: the standard library and its own few modules are all it may import."""
    guard = WORKFLOW / "ripresa" / "recovery" / "__main__.py"
    command = [sys.executable, "-IS", "-X", "importtime", str(guard), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "ripresa.recovery.guard" in modules, done.stderr
    tops = {module.partition(".")[0] for module in modules}
    assert tops & packages_distributions().keys() <= {"ripresa"}
    assert not {"asyncio", "http", "inspect", "logging", "multiprocessing", "subprocess", "tomllib"} & tops
