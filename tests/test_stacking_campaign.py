"""Stacks by the real `snakemake`: restarts, changed settings and frames, results independent of chunks."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from ripresa.families.stacking import kernel_store
from ripresa.families.stacking.simulation import RAW, calibrate, simulate

ROOT = Path(__file__).parents[1]
FRAMES, WIDTH, HEIGHT = 14, 360, 240
SIZE = {"frames": FRAMES, "width": WIDTH, "height": HEIGHT, "seed": 3, "stars": 60, "bayer": None}
FULL = {"mode": {"allow_few": True, "full_from": 2}, "clusters": {"minimum": 3}}


class Stack:
    """A campaign of one stack in a directory of its own."""

    def __init__(self, directory, lights, **settings):
        self.directory = directory
        self.stacking = directory / "runs" / "stack" / "stacking"
        (directory / "config").mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "rules", "workflow", "profiles"):
            if not (directory / name).exists():
                (directory / name).symlink_to(ROOT / name)
        main = {"run_id": "stack", "families": ["stacking"], "recovery": {"time_scale": 0.001}}
        (directory / "config" / "config.yaml").write_text(json.dumps(main))
        self.configure(lights, **settings)

    def configure(self, lights, **settings):
        settings = {"lights": str(lights), "mode": {"allow_few": True}, "chunks": 2} | settings
        (self.directory / "config" / "stacking.yaml").write_text(json.dumps(settings))

    def call(self, *arguments):
        """Call snakemake; returns its exit code and what it said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--rerun-incomplete", *arguments],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
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

    def roots(self, before):
        """The first parts of the paths of what was written since."""
        return {name.split("/")[0] for name in self.anew(before)}

    def image(self):
        return (self.stacking / "outputs" / "stacked.fit").read_bytes()

    def pixels(self):
        return fits.getdata(self.stacking / "outputs" / "stacked.fit")

    def outputs(self):
        """The bytes of everything in outputs/, the plots too."""
        root = self.stacking / "outputs"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def table(self):
        with open(self.stacking / "outputs" / "frames.csv", newline="") as file:
            return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory):
    """The stacks of this module find what `make setup` compiles, and no other kernel is called in them."""
    subprocess.run([sys.executable, ROOT / "workflow/scripts/stacking_compile.py"], check=True)
    script = runpy.run_path(str(ROOT / "workflow/scripts/stacking_compile.py"))
    everything = kernel_store._folder()
    place = tmp_path_factory.mktemp("kernels") / everything.name
    place.mkdir()
    for entry in script["listed"]():
        compiled = kernel_store._path(everything, script["kernel_of"](entry[0]), entry[1])
        shutil.copy(compiled, place)
    listed = set(os.listdir(place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(place.parent))
        yield
    missing = set(os.listdir(place)) - listed
    assert not missing, f"add to kernel_signatures.txt the signatures of {missing}"


@pytest.fixture(scope="module")
def lights(tmp_path_factory):
    """Simulated frames; the last ones are turned by 180 degrees."""
    directory = tmp_path_factory.mktemp("lights")
    simulate(SIZE, directory)
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
    stack = Stack(tmp_path_factory.mktemp("clustered"), lights, **FULL)
    stack.finish()
    return stack


@pytest.fixture
def copy(stacked, lights, tmp_path):
    """A copy of the stack in reduced mode."""
    shutil.copytree(stacked.directory, tmp_path / "copy", symlinks=True)
    return Stack(tmp_path / "copy", lights)


@pytest.fixture
def mine(lights, tmp_path):
    """Lights to change."""
    return shutil.copytree(lights, tmp_path / "lights")


def test_a_stack_holds_every_frame_and_its_table(stacked):
    with fits.open(stacked.stacking / "outputs" / "stacked.fit", checksum=True) as hdus:
        assert hdus[0].data.shape == (HEIGHT, WIDTH) and hdus[0].data.dtype == ">f4"
        assert hdus[0].header["NCOMBINE"] == FRAMES
        assert {"WEIGHT", "COVERAGE", "REJECTED", "FRAMES"} <= {hdu.name for hdu in hdus}
    assert len(stacked.table()) == FRAMES
    assert all(row["status"] == "stacked" for row in stacked.table().values())
    turned = [row for row in stacked.table().values() if float(row["to_frame_xx"]) < 0]
    assert 0 < len(turned) < FRAMES


# --- what runs again


def test_restarting_from_the_last_phase_runs_it_alone(copy):
    before, image = copy.times(), copy.image()
    copy.finish("--forcerun", "STACKING")
    assert copy.roots(before) == {"outputs"}
    assert copy.image() == image


def test_a_changed_limit_of_validation_repeats_the_last_phase_only(copy, lights):
    before, image = copy.times(), copy.image()
    copy.configure(lights, validation={"frames": {"limit": FRAMES + 1, "action": "fail"}})
    code, said = copy.call()
    assert code != 0 and str(FRAMES + 1) in said
    assert copy.roots(before) <= {"outputs", "rejected"}
    copy.configure(lights, validation={"frames": {"limit": FRAMES, "action": "fail"}})
    copy.finish()
    assert copy.roots(before) <= {"outputs", "rejected"}
    assert copy.image() == image


def test_changed_rejection_repeats_what_comes_after_it(copy, lights):
    before, image = copy.times(), copy.image()
    copy.configure(lights, rejection={"method": "mad"})
    copy.finish()
    assert copy.roots(before) == {"reconstruction", "clusters.json", "synthetic", "outputs"}
    assert copy.image() != image


@pytest.mark.slow
def test_restarting_in_the_middle_leaves_what_came_before(clustered):
    before, image = clustered.times(), clustered.image()
    clustered.finish("--forcerun", "TILE_RECONSTRUCTION")
    assert clustered.roots(before) == {"reconstruction", "clusters.json", "synthetic", "outputs"}
    assert clustered.image() == image


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), [("stacked", {}), ("clustered", FULL)])
def test_the_result_does_not_depend_on_chunks(kind, settings, request, lights, tmp_path):
    other = Stack(tmp_path, lights, **settings)
    other.finish("--set-scatter", "stacking=5")
    assert len(list((other.stacking / "registered").glob("*.fits"))) == 5
    assert other.outputs() == request.getfixturevalue(kind).outputs()


@pytest.mark.slow
def test_a_new_frame_costs_its_chunk_only_and_a_removed_one_too(lights, mine, tmp_path):
    extra, kept = mine / f"light_{FRAMES:04d}.fits", tmp_path / "kept.fits"
    shutil.move(extra, kept)
    stack = Stack(tmp_path / "stack", mine)
    stack.finish()
    before, image = stack.times(), stack.image()
    shutil.move(kept, extra)
    stack.finish()
    touched = {name.split(".")[0] for name in stack.anew(before) if name.startswith("registered/")}
    assert len(touched) == 1
    assert "reference" not in stack.roots(before)
    assert len(stack.table()) == FRAMES
    extra.unlink()
    before = stack.times()
    stack.finish()
    assert {name.split(".")[0] for name in stack.anew(before) if name.startswith("registered/")} == touched
    assert stack.image() == image


@pytest.mark.slow
def test_other_lights_under_the_same_name_give_another_stack(copy, tmp_path):
    """As if there had never been others."""
    simulate(SIZE | {"seed": 4}, tmp_path / "others")
    copy.configure(tmp_path / "others")
    copy.finish()
    fresh = Stack(tmp_path / "fresh", tmp_path / "others")
    fresh.finish()
    assert copy.outputs() == fresh.outputs()


# --- damage


@pytest.mark.slow
def test_a_file_that_was_quietly_damaged_is_named_and_made_again(copy):
    image = copy.image()
    victim = copy.stacking / "registered" / "1-of-2.fits"
    before = victim.stat()
    with victim.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"damage" * 20)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, said = copy.call("--forcerun", "TILE_RECONSTRUCTION")
    assert code != 0 and "1-of-2.fits is damaged" in said
    copy.finish()
    assert copy.image() == image


# --- frames that cannot be used


def test_frames_of_no_use_are_left_out_by_name(mine, tmp_path):
    (mine / "light_0002.fits").write_bytes(b"not a FITS file")
    victim = mine / "light_0005.fits"
    victim.write_bytes(victim.read_bytes()[:10000])
    simulate(SIZE | {"frames": 1, "width": 300}, tmp_path / "small")
    shutil.move(tmp_path / "small" / "light_0001.fits", mine / "small.fits")
    fits.setval(mine / "light_0007.fits", "IMAGETYP", value="Dark Frame")
    stack = Stack(tmp_path / "stack", mine)
    stack.finish()
    left_out = {name: row["reason"] for name, row in stack.table().items() if row["status"] == "excluded"}
    reasons = {"light_0002": "FITS", "light_0005": "truncated", "light_0007": "no light", "small": "300x240"}
    assert left_out.keys() == {f"{name}.fits" for name in reasons}
    for name, words in reasons.items():
        assert words in left_out[f"{name}.fits"]
    assert len(stack.table()) == FRAMES + 1


def test_a_bad_frame_stops_the_stack_where_that_is_wanted(mine, tmp_path):
    (mine / "light_0005.fits").write_bytes(b"not a FITS file")
    code, said = Stack(tmp_path / "stack", mine, on_bad_frame="fail").call()
    assert code != 0 and "light_0005.fits" in said


def test_too_few_frames_are_refused_before_anything_runs(lights, tmp_path):
    stack = Stack(tmp_path, lights, mode={})
    code, said = stack.call()
    assert code != 0 and f"only {FRAMES} light frames" in said and "allow_few" in said
    assert not stack.stacking.exists()


# --- kinds of frames


@pytest.mark.slow
def test_a_colour_mosaic_and_colour_cubes_give_colour_stacks(tmp_path):
    simulate(SIZE | {"bayer": "GRBG"}, tmp_path / "mosaics")
    stack = Stack(tmp_path / "mosaic", tmp_path / "mosaics")
    stack.finish()
    assert stack.pixels().shape == (3, HEIGHT, WIDTH)
    assert {row["status"] for row in stack.table().values()} == {"stacked"}
    (tmp_path / "cubes").mkdir()
    for path in sorted((tmp_path / "mosaics").glob("*.fits")):
        # Colours of half the size, by the pattern.
        mosaic, header = fits.getdata(path, header=True)
        green = ((mosaic[::2, ::2].astype(np.uint32) + mosaic[1::2, 1::2]) // 2).astype(np.uint16)
        for card in ("BAYERPAT", "XBAYROFF", "YBAYROFF"):
            header.remove(card)
        cube = np.stack([mosaic[::2, 1::2], green, mosaic[1::2, ::2]])
        fits.writeto(tmp_path / "cubes" / path.name, cube, header)
    cubes = Stack(tmp_path / "cube", tmp_path / "cubes")
    cubes.finish()
    assert cubes.pixels().shape == (3, HEIGHT // 2, WIDTH // 2)
    assert {row["status"] for row in cubes.table().values()} == {"stacked"}
    colours = [np.median(plane) for plane in stack.pixels()]
    np.testing.assert_allclose([np.median(plane) for plane in cubes.pixels()], colours, rtol=0.05)


@pytest.mark.slow
def test_calibration_takes_the_camera_out_of_the_stack(tmp_path):
    camera = replace(RAW, gradient=0.0, nebula=0.0)
    simulate(SIZE, tmp_path / "raw", conditions=camera)
    folders = calibrate(SIZE, tmp_path / "calibration", count=8, conditions=camera)
    without = Stack(tmp_path / "without", tmp_path / "raw")
    without.finish()
    stack = Stack(tmp_path / "with", tmp_path / "raw")
    stack.configure(tmp_path / "raw", calibration={kind: str(path) for kind, path in folders.items()})
    stack.finish()
    assert (stack.stacking / "masters.npz").exists()

    def unevenness(image):
        tiles = [np.median(part) for row in np.array_split(image, 4) for part in np.array_split(row, 6, 1)]
        return np.std(tiles) / np.median(tiles)

    assert unevenness(stack.pixels()) < 0.5 * unevenness(without.pixels())
