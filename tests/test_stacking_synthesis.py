"""Synthetic frames in reduced mode: there are none. Their values: test_stacking_reconstruction.py."""

import subprocess
import sys

import numpy as np

from ripresa.families.stacking import tables


def test_reduced_mode_does_not_wait_for_the_compiler(tmp_path):
    paths = {name: f"{tmp_path}/{name}" for name in ("grid", "clusters", "reconstruction", "synthetic")}
    tables.write_json(paths["grid"], {"width": 140, "height": 200})
    tables.write_json(paths["clusters"], {"mode": "reduced", "k": 0, "labels": {}, "quality": []})
    about = {"y0": 100, "y1": 170, "channels": ["R", "G", "B"], "frames": []}
    tables.save(paths["reconstruction"], about, sky_x=np.zeros(1))
    code = f"""
import sys
from ripresa.families.stacking.synthesis import synthesize
synthesize([], [], "", {paths["grid"]!r}, "", {paths["clusters"]!r}, {paths["reconstruction"]!r}, (2, 2),
           {paths["synthetic"]!r})
sys.exit("numba" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert np.load(paths["synthetic"]).shape == (70, 0, 3, 2, 140)
