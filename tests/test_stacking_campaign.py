"""Stacks by the real `snakemake`: restarts, new and damaged frames, results independent of chunks."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMES, WIDTH, HEIGHT = 14, 360, 240


class Stack:
    """A campaign of one stack in a directory of its own."""

    def __init__(self, directory, lights, **settings):
        self.directory = directory
        self.stacking = directory / "runs" / "stack" / "stacking"
        (directory / "config").mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "rules", "workflow", "profiles"):
            if not (directory / name).exists():
                (directory / name).symlink_to(ROOT / name)
        settings = {"lights": str(lights), "mode": {"allow_few": True}, "chunks": 2} | settings
        main = {"run_id": "stack", "families": ["stacking"], "recovery": {"time_scale": 0.001}}
        (directory / "config" / "config.yaml").write_text(json.dumps(main))
        (directory / "config" / "stacking.yaml").write_text(json.dumps(settings))

    def call(self, *arguments):
        """Call snakemake; returns its exit code and what it said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--rerun-incomplete", *arguments],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        return done.returncode, said

    def finish(self, *arguments):
        code, said = self.call(*arguments)
        assert code == 0, said
        return said

    def times(self):
        """When each file was written, by its path under stacking/."""
        files = (path for path in self.stacking.rglob("*") if path.is_file())
        return {str(path.relative_to(self.stacking)): path.stat().st_mtime_ns for path in files}

    def anew(self, before):
        """The files that were written since, without the plots."""
        return {
            name for name, time in self.times().items() if before.get(name) != time and "plots" not in name
        }

    def image(self):
        return (self.stacking / "outputs" / "stacked.fit").read_bytes()

    def table(self):
        with open(self.stacking / "outputs" / "frames.csv", newline="") as file:
            return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def lights(tmp_path_factory):
    """Simulated frames."""
    from ripresa.families.stacking.simulation import simulate

    directory = tmp_path_factory.mktemp("lights")
    size = {"width": WIDTH, "height": HEIGHT, "stars": 60, "bayer": None}
    simulate({"frames": FRAMES, "seed": 3, **size}, str(directory))
    return directory


@pytest.fixture(scope="module")
def stacked(lights, tmp_path_factory):
    """A finished stack in reduced mode; tests work on copies."""
    stack = Stack(tmp_path_factory.mktemp("stacked"), lights)
    stack.finish()
    return stack


@pytest.fixture(scope="module")
def clustered(lights, tmp_path_factory):
    """A finished stack in full mode."""
    mode = {"allow_few": True, "full_from": 2}
    stack = Stack(tmp_path_factory.mktemp("clustered"), lights, mode=mode, clusters={"minimum": 3})
    stack.finish()
    return stack


@pytest.fixture
def copy(stacked, lights, tmp_path):
    """A copy of the stack in reduced mode, with lights of its own."""
    shutil.copytree(stacked.directory, tmp_path / "copy", symlinks=True)
    shutil.copytree(lights, tmp_path / "lights")
    return Stack(tmp_path / "copy", lights)


def test_a_stack_holds_every_frame_and_its_table(stacked):
    from astropy.io import fits

    with fits.open(stacked.stacking / "outputs" / "stacked.fit", checksum=True) as hdus:
        assert hdus[0].data.shape == (HEIGHT, WIDTH) and hdus[0].data.dtype == ">f4"
        assert hdus[0].header["NCOMBINE"] == FRAMES
        assert {"WEIGHT", "COVERAGE", "REJECTED", "FRAMES"} <= {hdu.name for hdu in hdus}
    assert len(stacked.table()) == FRAMES
    assert all(row["status"] == "stacked" for row in stacked.table().values())


@pytest.mark.parametrize("kind", ["stacked", "clustered"])
def test_restarting_from_the_last_phase_runs_it_alone(kind, request):
    stack = request.getfixturevalue(kind)
    before, image = stack.times(), stack.image()
    stack.finish("--forcerun", "STACKING")
    assert all(name.startswith("outputs/") for name in stack.anew(before)) and stack.anew(before)
    assert stack.image() == image


def test_restarting_in_the_middle_leaves_what_came_before(clustered):
    before, image = clustered.times(), clustered.image()
    clustered.finish("--forcerun", "TILE_RECONSTRUCTION")
    roots = {name.split("/")[0] for name in clustered.anew(before)}
    assert roots == {"reconstruction", "clusters.json", "synthetic", "outputs"}
    assert clustered.image() == image


def test_skipped_phases_say_so(clustered):
    clustered.finish("--forcerun", "SYNTHETIC_FRAMES")
    with open(clustered.directory / "runs" / "stack" / "logs" / "run_events.jsonl") as file:
        events = [json.loads(line) for line in file]
    last = max(n for n, event in enumerate(events) if event["type"] == "run_resume")
    ends = {event["phase"]: event for event in events[last:] if event["type"] == "phase_end"}
    assert set(ends) == set(range(11))
    assert {ends[n]["status"] for n in range(9)} == {"skipped"}
    assert {ends[n]["reason"] for n in range(9)} == {"resume_from_phase"}
    assert {ends[n]["resume_from"] for n in range(9)} == {9}
    assert {ends[n]["status"] for n in (9, 10)} == {"ok"}


def test_the_result_does_not_depend_on_chunks(stacked, clustered, lights, tmp_path):
    for source, settings in (
        (stacked, {}),
        (clustered, {"mode": {"allow_few": True, "full_from": 2}, "clusters": {"minimum": 3}}),
    ):
        other = Stack(tmp_path / source.directory.name, lights, chunks=5, **settings)
        other.finish("--cores", "2")
        assert other.image() == source.image()
        assert other.table() == source.table()


def test_a_new_frame_costs_its_chunk_only(stacked, lights, tmp_path):
    mine = tmp_path / "lights"
    shutil.copytree(lights, mine)
    extra = mine / f"light_{FRAMES:04d}.fits"
    kept = tmp_path / "kept.fits"
    shutil.move(extra, kept)
    stack = Stack(tmp_path / "stack", mine)
    stack.finish()
    before = stack.times()
    shutil.move(kept, extra)
    stack.finish()
    touched = stack.anew(before)
    assert {name for name in touched if name.startswith("registered/")} == {
        f"registered/1-of-2{suffix}" for suffix in (".fits", ".npz")
    } or {name for name in touched if name.startswith("registered/")} == {
        f"registered/2-of-2{suffix}" for suffix in (".fits", ".npz")
    }
    assert not {name for name in touched if name.startswith("reference/")}
    assert len(stack.table()) == FRAMES


def test_a_damaged_file_between_phases_is_made_again(stacked, lights, tmp_path):
    stack = Stack(tmp_path / "stack", lights)
    stack.finish("--until", "CHANNEL_SPLIT")
    victim = stack.stacking / "registered" / "1-of-2.fits"
    with victim.open("r+b") as file:
        file.seek(victim.stat().st_size // 2)
        file.write(b"damage" * 20)
    code, said = stack.call()
    assert code != 0 and "1-of-2.fits is damaged" in said
    stack.finish()
    assert stack.image() == stacked.image()


def test_a_frame_that_cannot_be_read_is_left_out_by_name(lights, tmp_path):
    mine = tmp_path / "lights"
    shutil.copytree(lights, mine)
    victim = mine / "light_0005.fits"
    victim.write_bytes(victim.read_bytes()[:10000])
    stack = Stack(tmp_path / "stack", mine)
    stack.finish()
    row = stack.table()["light_0005.fits"]
    assert row["status"] != "stacked" and "truncated" in row["reason"]
    assert sum(row["status"] == "stacked" for row in stack.table().values()) == FRAMES - 1


def test_a_bad_frame_stops_the_stack_where_that_is_wanted(lights, tmp_path):
    mine = tmp_path / "lights"
    shutil.copytree(lights, mine)
    (mine / "light_0005.fits").write_bytes(b"not a FITS file")
    code, said = Stack(tmp_path / "stack", mine, on_bad_frame="fail").call()
    assert code != 0 and "light_0005.fits" in said


def test_too_few_frames_are_refused_before_anything_runs(lights, tmp_path):
    stack = Stack(tmp_path, lights, mode={})
    code, said = stack.call()
    assert code != 0 and f"only {FRAMES} light frames" in said and "allow_few" in said
    assert not stack.stacking.exists()
