"""Experiments seen from the workflow: what a study asks for, its tables, and another manager's results."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.text
import pytest
import scipy.stats
import yaml

from ripresa.cli import importing, results
from ripresa.configuration.settings import _checker
from ripresa.families.experiments import ExperimentError, migration, parameters, plots, summary, table
from ripresa.families.experiments.plan import phases, plan, union
from ripresa.journal import attempts, controller, foreign, leases
from ripresa.journal.paths import Run

ROOT = Path(__file__).parents[1]
SEEDS = [7, 8]
QUICK = {"rounds": 3, "width_factor": 2, "clients": 4, "batch_size": 64}


def section(**given):
    """A section with its defaults filled in, as the configuration does."""
    errors = [error.message for error in _checker("experiments").errors(given)]
    assert errors == []
    return _checker("experiments").filled(given)


def sweeps(**products):
    return {name: {"sweep": {"product": product}} for name, product in products.items()}


STUDY = section(
    defaults=QUICK,
    seeds=SEEDS,
    phases=sweeps(
        attack={"poison_ratio": [0, 0.5], "poison_type": ["label_flip", "random_noise"]},
        defence={"poison_ratio": [0, 0.5], "aggregator": ["fedavg", "median"]},
    ),
)


# --- the plan -----------------------------------------------------------------------------------------------


def test_what_phases_share_is_one_experiment():
    found = plan(STUDY)
    attack, defence = (phase["digests"] for phase in found["phases"])
    assert (len(attack), len(defence), len(found["experiments"])) == (8, 8, 12)
    assert set(attack) & set(defence) == {
        name
        for name, one in found["experiments"].items()
        if one["parameters"]["poison_type"] == "label_flip" and one["parameters"]["aggregator"] == "fedavg"
    }
    first = found["experiments"][attack[0]]
    assert first["parameters"] == parameters.canonical({**QUICK, "seed": 7})
    assert first["cost"].startswith("model=MLP complexity=")
    assert [phase["plots"] for phase in found["phases"]] == [["accuracy"], ["accuracy", "defences"]]


def test_a_phase_follows_from_its_definition_alone():
    for phase in plan(STUDY)["phases"]:
        (alone,) = phases(json.loads(phase["definition"]))
        assert (alone.name, list(alone.experiments)) == (phase["name"], phase["digests"])


def test_where_a_value_is_written_does_not_matter():
    base = {"sweep": {"base": {"width_factor": 4.0}}}
    preset = {"sweep": {"preset": "wide"}, "seeds": [0]}
    ways = [
        section(defaults={"width_factor": 4}, phases={"a": {"sweep": {"base": {}}}}),
        section(presets={"wide": {"width_factor": 4}}, seeds=[3], phases={"a": preset}),
    ]
    assert len({name for way in ways for name in union(phases(way))}) == 1
    with pytest.raises(ExperimentError, match=r"phases\.a: .*width_factor: 4\.0 is not allowed"):
        phases(section(phases={"a": base}))


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"sweep": {"product": {"widht": [1]}}}, "widht: unknown"),
        (
            {"sweep": {"product": {"width_factor": []}}},
            "experiments.phases.a.sweep.product.width_factor: the list",
        ),
        ({"sweep": {"product": {"seed": [1]}}}, "seed is given by seeds"),
        ({"sweep": {"preset": "none"}}, "no preset 'none'"),
        (
            {"sweep": {"base": {"model_type": "CNN", "depth": 0}}},
            "depth: 0 is not allowed for model_type CNN",
        ),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_place(phase, message):
    with pytest.raises(ExperimentError) as error:
        phases(section(phases={"a": phase, "b": {"sweep": {"base": {"clients": 0}}}}))
    first, second = str(error.value).splitlines()
    assert first.startswith("experiments.phases.a") and message in first
    assert second.startswith("experiments.phases.b") and "clients: 0" in second


def test_errors_reach_the_terminal_with_the_name_of_the_file():
    asked = json.dumps(section(phases={"a": {"sweep": {"base": {"rounds": 0}}}}))
    command = [sys.executable, ROOT / "workflow/scripts/experiment_plan.py", asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("config/experiments.yaml: experiments.phases.a: ")
    assert done.stderr.count("\n") == 1


def test_the_schema_has_the_defaults_of_the_family():
    defaults = section(phases={"a": {"sweep": {}}})["defaults"]
    assert defaults == {name: value for name, value in parameters.DEFAULTS.items() if name != "seed"}


def test_what_is_delivered_and_documented_can_be_meant():
    page = (ROOT / "docs" / "experiments.md").read_text().split("```yaml\n")[1].split("```")[0]
    delivered = yaml.safe_load((ROOT / "config" / "experiments.yaml").read_text())
    study = yaml.safe_load((ROOT / "config" / "examples" / "poisoning_study.yaml").read_text())
    counts = []
    for text in (yaml.safe_load(page), delivered, study["experiments"]):
        found = phases(section(**text))
        counts.append((*(len(phase.experiments) for phase in found), len(union(found))))
    assert counts == [(15, 18, 30), (12, 16, 25), (1024, 80, 60, 60, 60, 1179)]


# --- tables -------------------------------------------------------------------------------------------------


def result(one, accuracy, **changes):
    """A result with these parameters; without an accuracy it diverged."""
    from ripresa.dsl import digest

    figures = {name: {"mean": accuracy, "std": 0.125, "values": None} for name in table.METRICS}
    if accuracy is None:
        figures = {name: dict.fromkeys(("mean", "std", "values")) for name in table.METRICS}
    return {
        "digest": digest(one),
        "parameters": one,
        "status": "diverged" if accuracy is None else "ok",
        "reason": "training diverged in round 2" if accuracy is None else None,
        "per_client": figures,
        "num_parameters": 310,
        "best_epoch": 3,
        **changes,
    }


def rows_of(phase, accuracy):
    return [table.row(phase.name, result(one, accuracy(one))) for one in phase.experiments.values()]


def falling(one):
    gain = 0.3 if one["aggregator"] == "median" else 0.0
    return round(0.9 - (0.8 - gain) * one["poison_ratio"] + 0.01 * (one["seed"] - 7), 6)


def test_the_table_has_these_columns_and_tells_equal_values_equally(tmp_path):
    attack = phases(STUDY)[0]
    rows = rows_of(attack, lambda one: None if one["seed"] == 8 else 0.1 + 0.2)
    table.write_csv(tmp_path / "results.csv", rows)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0] == (
        "phase,signature,dataset,model_type,width_factor,depth,poison_ratio,poison_type,alpha,data_ordering,"
        "aggregator,batch_size,mean_test_accuracy,std_test_accuracy,mean_test_loss,std_test_loss,"
        "mean_val_accuracy,std_val_accuracy,mean_val_loss,std_val_loss,num_parameters,best_epoch,seed"
    )
    assert len(table.COLUMNS) == 23
    digests = list(attack.experiments)
    figure = ",".join(["0.30000000000000004,0.125"] * 4)
    assert lines[1] == (
        f"attack,{digests[0]},digits,MLP,2,1,0,label_flip,,shuffle,fedavg,64,{figure},310,3,7"
    )
    assert lines[2] == f"attack,{digests[1]},digits,MLP,2,1,0,label_flip,,shuffle,fedavg,64,,,,,,,,,310,3,8"
    assert [line.split(",")[1] for line in lines[1:]] == digests


def test_parquet_gives_back_what_the_table_has_and_more(tmp_path):
    rows = rows_of(phases(STUDY)[1], lambda one: None if one["poison_ratio"] else 0.5)
    table.write_parquet(tmp_path / "results.parquet", rows)
    again = table.read_parquet(tmp_path / "results.parquet")
    assert again == rows
    assert again[0]["rounds"] == 3 and {row["status"] for row in again} == {"ok", "diverged"}


def test_the_summary_is_over_the_seeds_and_counts_those_that_diverged():
    config = {**STUDY, "seeds": [1, 2, 3, 4]}
    values = {1: 0.5, 2: 0.6, 3: 0.7, 4: None}
    rows = rows_of(phases(config)[0], lambda one: values[one["seed"]])
    found = summary.summarise(rows)
    assert len(found) == 4 and tuple(found[0]) == summary.COLUMNS
    first = found[0]
    assert (first["seeds"], first["diverged"]) == (4, 1)
    sample = [0.5, 0.6, 0.7]
    low, high = scipy.stats.t.interval(0.95, 2, 0.6, scipy.stats.sem(sample))
    told = [first[f"test_accuracy_{name}"] for name in summary.STATISTICS]
    assert told == pytest.approx([0.6, 0.1, low, high])


def test_intervals_end_where_accuracies_do_and_one_seed_has_none():
    assert summary.interval([0.9, 1.0], "test_accuracy")[1] == 1.0
    assert summary.interval([0.0, 0.1], "test_loss")[0] == 0.0
    assert summary.interval([0.5], "test_loss") == (None, None)


def test_parameters_without_a_column_of_their_own_are_other_configurations():
    config = section(phases=sweeps(a={"rounds": [2, 3]}))
    found = summary.summarise(rows_of(phases(config)[0], falling))
    assert [(one["rounds"], one["seeds"]) for one in found] == [(2, 1), (3, 1)]
    assert "rounds" in summary.COLUMNS


def test_results_tell_in_which_parameter_they_differ():
    config = section(phases=sweeps(a={"rounds": [2, 3]}))
    (shown,) = results._table(rows_of(phases(config)[0], falling))
    assert shown.heading[0] == "ROUNDS" and [row[0] for row in shown.rows] == ["2", "3"]


def test_pictures_are_drawn_of_what_varies(tmp_path):
    product = {
        "width_factor": [1, 4],
        "depth": [1, 2],
        "poison_ratio": [0, 0.5],
        "aggregator": ["fedavg", "median"],
    }
    (phase,) = phases(section(seeds=SEEDS, phases=sweeps(all=product)))
    names = plots.possible(phase.experiments.values())
    assert names == ["accuracy", "heatmap", "defences"]
    rows = rows_of(
        phase, lambda one: None if one["width_factor"] == 4 and one["depth"] == 2 else falling(one)
    )
    import matplotlib.image

    for name in names:
        plots.draw(name, rows, tmp_path / f"{name}.png")
        picture = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert picture.std() > 0.05 and min(picture.shape[:2]) > 200

    assert plots.possible(phases(section(phases=sweeps(a={"rounds": [1, 2]})))[0].experiments.values()) == []


@pytest.mark.parametrize("plot", ["accuracy", "defences"])
def test_a_picture_mixes_no_results_that_differ_in_a_parameter_without_a_column(plot, tmp_path, monkeypatch):
    """Only seeds are repetitions: figures of other local epochs have a panel of their own."""
    product = {"poison_ratio": [0, 0.5], "aggregator": ["fedavg", "median"], "local_epochs": [1, 4]}
    (phase,) = phases(section(seeds=SEEDS, phases=sweeps(all=product)))
    drawn = []
    monkeypatch.setattr("matplotlib.pyplot.close", drawn.append)
    plots.draw(plot, rows_of(phase, falling), tmp_path / "plot.png")
    words = {text.get_text() for text in drawn[0].findobj(matplotlib.text.Text)}
    assert any("local epochs" in word and "4" in word for word in words), words


# --- another manager's results ------------------------------------------------------------------------------

FOREIGN = {
    "phase": "exp3_attack_types",
    "signature": "abc",
    "dataset": "Digits",
    "model_type": "LR",
    "width_factor": "2",
    "depth": "1.0",
    "poison_ratio": "0.0",
    "poison_type": "label-flip",
    "alpha": "None",
    "data_ordering": "shuffle",
    "aggregator": "FedAvg",
    "batch_size": "64",
    **{f"mean_{name}": "0.75" for name in table.METRICS},
    **{f"std_{name}": "0.0625" for name in table.METRICS},
    "num_parameters": "610",
    "best_epoch": "3",
    "seed": "7",
}


def foreign_table(path, *changes):
    """A table of another manager: a row for each set of changes."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, table.COLUMNS[::-1])
        writer.writeheader()
        writer.writerows(FOREIGN | change for change in changes)
    return str(path)


def taken(tmp_path, *changes, config=STUDY, state=None):
    return migration.read(phases(config), [foreign_table(tmp_path / "results.csv", *changes)], state)


def kinds(found):
    return [(finding.kind, finding.where) for finding in found.findings]


def test_a_row_becomes_the_result_of_the_experiment_that_it_is_of(tmp_path):
    found = taken(tmp_path, {}, {"seed": "8", "alpha": ""})
    assert found.findings == [] and found.rows == 2
    first, second = found.results.values()
    assert first["parameters"] == parameters.canonical({**QUICK, "seed": 7})
    assert second["parameters"]["seed"] == 8
    assert first["provenance"]["source"] == "imported"
    assert (first["provenance"]["table"], first["provenance"]["row"]) == ("results.csv", 2)
    row = table.row("attack", first)
    assert (row["mean_val_loss"], row["std_test_accuracy"], row["best_epoch"]) == (0.75, 0.0625, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_test_accuracy": "75"}, "mean_test_accuracy is 75, must be between 0 and 1"),
        ({"mean_val_loss": "-0.1"}, "mean_val_loss is -0.1, must be at least 0"),
        ({"mean_val_loss": "nan"}, "must be finite"),
        ({"std_val_loss": ""}, "must be a number"),
        ({"aggregator": "krum"}, "must be fedavg or median"),
        ({"width_factor": "2.5"}, "must be a whole number"),
        ({"poison_ratio": "1.5"}, "must be between 0 and 1"),
    ],
)
def test_rows_with_impossible_values_are_reported(tmp_path, change, message):
    found = taken(tmp_path, {}, {"seed": "8", **change})
    assert kinds(found) == [("invalid", "results.csv:3")]
    assert message in found.findings[0].message
    assert len(found.results) == 1


def test_nothing_is_taken_that_is_not_sure(tmp_path):
    found = taken(
        tmp_path,
        {"seed": "9"},
        {},
        {"phase": "another", "signature": "z"},
        {"seed": "8"},
        {"seed": "8", "mean_test_loss": "0.8"},
        {"aggregator": "median", "num_parameters": "700"},
    )
    assert sorted(kinds(found)) == [
        ("contradictory", "results.csv:5"),
        ("duplicate", "results.csv:4"),
        ("other model", "results.csv:7"),
        ("unknown", "results.csv:2"),
    ]
    assert [one["provenance"]["row"] for one in found.results.values()] == [3, 7]


def test_what_no_column_tells_may_leave_two_experiments_to_choose_from(tmp_path):
    config = section(defaults=QUICK, seeds=[7], phases=sweeps(a={"rounds": [3, 4]}))
    found = taken(tmp_path, {}, config=config)
    assert kinds(found) == [("ambiguous", "results.csv:2")] and not found.results


def foreign_state(path):
    """A state as that manager writes it: what it computes with is in the configuration of a task, too."""
    own = {"project_name": "x", "global_rounds": 3000, "lr": 0.02, "phase_name": FOREIGN["phase"]}
    own |= {"width_factor": 2, "depth": 1, "poison_ratio": 0.0, "alpha": None, "batch_size": 64}
    own |= {name: FOREIGN[name] for name in ("dataset", "model_type", "poison_type", "data_ordering")}
    last = {"assigned_to": None, "assigned_at": None, "retry_count": 0, "last_error": None}
    tasks = {}
    for number, (status, changed) in enumerate(
        [
            ("complete", {}),
            ("complete", {"seed": 8, "aggregator": "median"}),
            ("assigned", {"seed": 9}),
            ("failed", {"poison_ratio": 0.5}),
            ("pending", {"poison_ratio": 0.875}),
            ("pending", {"aggregator": "krum"}),
        ]
    ):
        config = own | {"aggregator": "fedavg"} | changed
        seed = config.pop("seed", 7)
        name = f"{FOREIGN['phase']}_{number}_{seed}"
        tasks[name] = {"task_id": name, "config": config, "seed": seed, "status": status, **last}
        if status == "assigned":
            tasks[name] |= {"assigned_to": "gpu2", "assigned_at": "2025-12-19T23:10:15.123456"}
        elif status == "failed":
            tasks[name] |= {"retry_count": 4, "last_error": "out of memory:\n  2 GiB " + 200 * "x"}
    assigned = {name: task for name, task in tasks.items() if task["status"] == "assigned"}
    path.write_text(json.dumps({"tasks": tasks, "assigned_tasks": assigned}, indent=2))
    return str(path)


def test_the_state_of_the_manager_is_compared_with_its_table(tmp_path):
    found = taken(tmp_path, {}, state=foreign_state(tmp_path / "manager_state.json"))
    names = [f"exp3_attack_types_{name}" for name in ("0_7", "1_8", "2_9", "3_7")]
    assert kinds(found) == list(zip(("no row", "assigned", "failed"), names[1:], strict=True))
    _, assigned, failed = (finding.message for finding in found.findings)
    computed = "it has no row, so it is computed here"
    unknown = "it has no row, and it is not configured here"
    assert assigned == f"was assigned to gpu2 since 2025-12-19 23:10; {unknown}"
    assert failed.startswith("was given up (out of memory: 2 GiB xxx") and failed.endswith(f"x); {computed}")
    assert len(failed) < 200
    (result,) = found.results.values()
    assert result["provenance"]["state"] == {
        "task_id": names[0],
        "status": "complete",
        "assigned_to": None,
        "assigned_at": None,
    }


BY_PHASE = section(
    defaults=QUICK,
    seeds=[7],
    phases={
        "short": {"sweep": {"product": {"poison_ratio": [0, 0.5]}}},
        "long": {"sweep": {"base": {"local_epochs": 5}, "product": {"poison_ratio": [0, 0.25]}}},
    },
)
"""Phases that differ in what no column of a table tells."""


def test_a_row_is_matched_with_the_parameters_of_its_own_phase(tmp_path):
    rows = [{"phase": "short"}, {"phase": "long", "mean_test_loss": "0.5"}]
    found = taken(tmp_path, *rows, config=BY_PHASE)
    assert found.findings == []
    told = {one["parameters"]["local_epochs"]: one["metrics"]["test_loss"] for one in found.results.values()}
    assert told == {1: 0.75, 5: 0.5}


def test_a_row_whose_phase_has_no_such_experiment_is_not_taken_for_another_phase(tmp_path):
    rows = [{"phase": "long", "poison_ratio": "0.5"}, {"phase": "short", "poison_ratio": "0.25"}]
    found = taken(tmp_path, *rows, config=BY_PHASE)
    assert not found.results
    assert kinds(found) == [("other phase", "results.csv:2"), ("other phase", "results.csv:3")]
    first, second = (finding.message for finding in found.findings)
    assert first.startswith("its phase long has no experiment with dataset digits, ")
    assert first.endswith("; short has") and second.endswith("; long has")


def test_a_row_of_a_phase_that_is_not_configured_is_not_taken_where_phases_differ(tmp_path):
    found = taken(tmp_path, {"phase": "removed", "poison_ratio": "0.5"}, config=BY_PHASE)
    assert kinds(found) == [("ambiguous", "results.csv:2")] and not found.results
    message = found.findings[0].message
    assert "its phase 'removed' is not configured" in message and "local_epochs" in message


@pytest.mark.parametrize(("told", "taken_as"), [("1", [1]), ("5", [5]), ("2", []), ("", [])])
def test_a_column_of_a_parameter_is_taken_at_its_word(tmp_path, told, taken_as):
    path = Path(foreign_table(tmp_path / "results.csv", {"phase": "elsewhere"}))
    header, row = path.read_text().splitlines()
    path.write_text(f"{header},local_epochs\n{row},{told}\n")
    found = migration.read(phases(BY_PHASE), [str(path)])
    assert [one["parameters"]["local_epochs"] for one in found.results.values()] == taken_as


def test_rows_of_phases_that_share_an_experiment_are_compared(tmp_path):
    rows = [{"phase": "attack"}, {"phase": "defence"}]
    assert kinds(taken(tmp_path, *rows)) == [("duplicate", "results.csv:3")]
    found = taken(tmp_path, rows[0], rows[1] | {"mean_test_loss": "0.5"})
    assert kinds(found) == [("contradictory", "results.csv:2")] and not found.results


def task_of(phase, status="complete", **changed):
    config = {name: FOREIGN[name] for name in table.PARAMETERS} | {"seed": 7} | changed
    return {"phase": phase, "config": config, "status": status}


def test_a_task_is_of_its_phase_too(tmp_path):
    state = tmp_path / "manager_state.json"
    tasks = {"a": task_of("short"), "b": task_of("long"), "c": task_of("long", "failed", poison_ratio=0.25)}
    tasks["d"] = task_of("long", "assigned", poison_ratio=0.75)
    state.write_text(json.dumps({"tasks": tasks}))
    found = taken(tmp_path, {"phase": "short"}, config=BY_PHASE, state=str(state))
    assert kinds(found) == [("no row", "b"), ("failed", "c"), ("assigned", "d")]
    assert "so it is computed here" in found.findings[1].message
    assert "not configured here" in found.findings[2].message
    assert [one["provenance"]["state"]["task_id"] for one in found.results.values()] == ["a"]


def test_what_the_state_tells_of_a_row_counts(tmp_path):
    """The task of the row was computed with other local epochs than its phase has here."""
    state = tmp_path / "manager_state.json"
    state.write_text(json.dumps({"tasks": {"a": task_of("short", local_epochs=2)}}))
    found = taken(tmp_path, {"phase": "short"}, config=BY_PHASE, state=str(state))
    assert kinds(found) == [("unknown", "results.csv:2")] and not found.results
    assert "local_epochs 2" in found.findings[0].message


def test_a_table_with_a_column_twice_is_refused(tmp_path):
    path = Path(foreign_table(tmp_path / "results.csv", {}))
    header, row = path.read_text().splitlines()
    path.write_text(f"{header},mean_test_acc\n{row},0.25\n")
    with pytest.raises(ExperimentError, match="has the column mean_test_accuracy twice"):
        migration.read(phases(STUDY), [str(path)])


def test_the_short_names_of_accuracies_are_understood(tmp_path):
    path = foreign_table(tmp_path / "results.csv", {"model_type": "lr", "signature": "digits|lr|2|1|0.0"})
    text = Path(path).read_text().replace("_accuracy", "_acc").replace("\r\n", "\n")
    Path(path).write_text(text)
    found = migration.read(phases(STUDY), [path])
    (result,) = found.results.values()
    assert (result["metrics"]["test_accuracy"], found.findings) == (0.75, [])


def test_findings_of_one_kind_do_not_hide_those_of_another():
    findings = [{"kind": "other model", "where": f"t.csv:{n}", "message": "m"} for n in range(9)]
    findings.append({"kind": "assigned", "where": "task", "message": "m"})
    document = {"run_id": "a", "rows": 9, "imported": [], "present": [], "to_compute": 1}
    *_, shown, more = importing._text(document | {"findings": findings}, None)
    assert [row[0] for row in shown.rows] == ["other model"] * 5 + ["assigned"]
    assert more == "... and 4 more: other model; --json lists all"


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "lacks the columns phase"), ("", "lacks the columns"), (None, "cannot be")],
)
def test_what_is_no_table_is_refused(tmp_path, text, message):
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ExperimentError, match=message):
        migration.read([], [str(path)])


# --- a campaign ---------------------------------------------------------------------------------------------


class Checkout:
    """A directory with the rules of this checkout and a study of its own."""

    def __init__(self, directory):
        self.directory = directory
        self.run = Run(directory / "runs" / "study")
        for name in ("Snakefile", "rules", "workflow", "profiles"):
            (directory / name).symlink_to(ROOT / name)
        (directory / "config").mkdir()
        (directory / "config/config.yaml").write_text("run_id: study\nfamilies: [experiments]\n")
        self.configure(STUDY)

    def configure(self, config):
        (self.directory / "config/experiments.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def call(self, *words, code=0, first=""):
        """Call snakemake or ripresa, modules of a folder first; returns its standard output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        paths = [first, os.environ.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        program = shutil.which(words[0], path=Path(sys.executable).parent)
        done = subprocess.run(
            [program, *words[1:]],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        self.said = done.stderr
        return done.stdout

    def ask(self, *words, code=0):
        return json.loads(self.call("ripresa", *words, "--json", code=code))


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    ("name", "product", "message"),
    [
        (
            "a",
            {"widht_factor": [1]},
            "a: invalid parameters: widht_factor: unknown (did you mean 'width_factor'?",
        ),
        ("a", {"depth": 4}, "a.sweep.product.depth: a list is needed, not 4"),
        ("experiments", {"depth": [1]}, "experiments: EXPERIMENTS is the target of all phases; take another"),
    ],
)
def test_a_plan_of_what_cannot_be_meant_says_where_in_the_configuration(checkout, name, product, message):
    checkout.configure({"phases": sweeps(**{name: product})})
    checkout.call("ripresa", "plan", code=1)
    problem = "ripresa: snakemake cannot plan: config/experiments.yaml: experiments.phases."
    assert checkout.said.startswith(f"{problem}{message}") and checkout.said.count("\n") == 1


def test_a_study_moves_over_and_is_completed(checkout):
    there = foreign_table(checkout.directory / "old.csv", {}, {"seed": "8"}, {"seed": "11"})
    digests = list(union(phases(STUDY)))
    targets = [f"experiments/{digest}.json" for digest in digests]

    controller.hold(checkout.run, "other")
    assert checkout.ask("import", "--table", there, code=1)["error"]["code"] == "RUN_HELD"
    controller.release(checkout.run)
    assert not os.path.exists(checkout.run.path("experiments"))

    state = foreign_state(checkout.directory / "manager_state.json")
    answer = checkout.ask("import", "--table", there, "--state", state, code=1)
    assert answer["imported"] == targets[:2]
    # One row is of no experiment; what of the state has no row is computed here.
    assert answer["counts"] == {"unknown": 1, "no row": 1, "assigned": 1, "failed": 1}
    told = [json.loads(Path(checkout.run.path(target)).read_text())["provenance"] for target in targets[:2]]
    assert told[0]["state"]["task_id"] == "exp3_attack_types_0_7" and told[1]["state"] is None
    assert answer["to_compute"] == 10
    record = attempts.last(checkout.run, targets[0])
    assert (record["outcome"], record["attempt"], record["started"]) == ("published", 1, None)
    before = Path(checkout.run.path(targets[0])).read_bytes()
    answer = checkout.ask("import", "--table", there, code=1)
    assert (answer["imported"], answer["present"]) == ([], targets[:2])
    other = foreign_table(checkout.directory / "other.csv", {"mean_test_loss": "0.5"})
    assert checkout.ask("import", "--table", other, code=1)["counts"] == {"different": 1}
    assert len(attempts.read(checkout.run, targets[0])) == 1

    planned = checkout.ask("plan")
    assert planned["parts"] == [
        {"part": "attack", "units": 8, "shared": 4, "done": 2},
        {"part": "defence", "units": 8, "shared": 4, "done": 2},
        {"part": None, "units": 12, "shared": 4, "done": 2},
    ]
    assert {rule["rule"]: rule["units"] for rule in planned["rules"]}["experiment"] == 10

    checkout.call("snakemake", "--rerun-incomplete", "--cores", "2", "DEFENCE")
    assert Path(checkout.run.path(targets[0])).read_bytes() == before
    folder = Path(checkout.run.path("experiments"))
    made = sorted(path.name for path in (folder / "defence").iterdir())
    assert made == ["accuracy.png", "defences.png", "results.csv", "results.parquet", "summary.csv"]
    counts = checkout.ask("status")["counts"]
    assert counts["COMPLETED"] == 8 + 3
    assert checkout.ask("verify")["ok"]
    assert "Attempt 1 counts: imported from old.csv:2" in checkout.call("ripresa", "why", targets[0])

    # What there is so far is shown and written as the final table has it.
    answer = checkout.ask("results", "defence", "--csv", "so_far.csv")
    assert (checkout.directory / "so_far.csv").read_bytes() == (folder / "defence/results.csv").read_bytes()
    (phase,) = answer["phases"]
    assert (phase["units"], phase["published"], phase["diverged"]) == (8, 8, 0)
    assert "attack: 4 of 8 results" in checkout.call("ripresa", "results")
    assert checkout.ask("results", "defense", code=2)["error"]["code"] == "PHASE_INVALID"

    # Neither how it is computed nor another phase makes anything of this one be computed again.
    more = section(
        **{**STUDY, "backend": "numpy", "phases": {**STUDY["phases"], **sweeps(more={"depth": [0, 2]})}}
    )
    checkout.configure(more)
    planned = checkout.ask("plan")
    assert {rule["rule"]: rule["units"] for rule in planned["rules"]}["experiment"] == 4 + 4
    assert not [unit for unit in planned["units"] if "defence" in unit["target"]]


def test_nothing_is_published_over_what_somebody_works_on(tmp_path):
    run = Run(tmp_path / "runs" / "x")

    def write(path):
        Path(path).write_text("{}")

    def publish(name, how=write):
        return foreign.publish_foreign(run, name, "experiment", "imported from t.csv:2", how)

    assert publish("a.json", lambda path: "would be invalid") == "would be invalid"
    assert not os.path.exists(run.path("a.json")) and attempts.read(run, "a.json") == []
    assert publish("a.json") is None
    assert publish("a.json") == "is there already"
    lease = leases.acquire(run, "b.json")
    lease.write({"pid": os.getpid(), "attempt": 1})
    assert publish("b.json") == "is being executed right now"
    os.close(lease.fd)
    assert "was interrupted" in publish("b.json")
    assert os.listdir(run.leases) == ["b.json.lock"] and attempts.read(run, "b.json") == []


HUNGRY = """
import os, sys
words = sys.orig_argv
trains = any(word.endswith("experiment_run.py") for word in words)
if trains and int(words[words.index("--micro-batch") + 1]) > 20:
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", flush=True)
    os._exit(1)
"""


@pytest.mark.slow
def test_want_of_gpu_memory_makes_the_parts_of_a_batch_smaller_and_not_the_batch(checkout):
    """A `sitecustomize` fails as PyTorch does while more than 20 samples are computed at a time."""
    (checkout.directory / "hungry").mkdir()
    (checkout.directory / "hungry" / "sitecustomize.py").write_text(HUNGRY)
    batches = section(
        defaults={**QUICK, "rounds": 2}, seeds=[7], phases=sweeps(batches={"batch_size": [64, 48]})
    )
    checkout.configure(batches)
    table_file = "runs/study/experiments/batches/results.csv"
    checkout.call(
        "snakemake",
        "--rerun-incomplete",
        "--cores",
        "1",
        table_file,
        first=str(checkout.directory / "hungry"),
    )
    for digest, one in union(phases(batches)).items():
        result = table.load(table.result_path(checkout.run.dir, digest))
        history = attempts.read(checkout.run, f"experiments/{digest}.json")
        amounts = [int(record["resources"]["batch_size"]) for record in history]
        size = one["batch_size"]
        assert amounts == {64: [64, 32, 16], 48: [48, 24, 12]}[size]
        assert [record["failure_class"] for record in history] == ["gpu_memory", "gpu_memory", None]
        assert (result["micro_batch"], result["parameters"]["batch_size"]) == (amounts[-1], size)
