"""The finished pixels: both modes, the clipping of clusters against each other, damaged files."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import Damaged, StackingError, bands, tables
from ripresa.families.stacking.final import combine
from ripresa.families.stacking.mixture import caps
from ripresa.families.stacking.synthesis import checksums

WIDTH = 150
SKY = 1000.0
LIMITS = {"clusters": {"weight_cap": 4, "sigma": 3}}


class Stack:
    """The files of a stack whose clusters have the images and weights [K, C, H, W], in bands."""

    def __init__(self, directory, value, weight, count=1, quality=None, frames_of_cluster=10):
        self.directory = directory
        k, channels, height, _ = value.shape
        value = np.where(weight > 0, value, np.nan).astype(np.float32)
        weight = weight.astype(np.float32)
        total = weight.sum(axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            image = np.where(weight > 0, value * weight.astype(np.float64), 0).sum(axis=0) / total
        self.image = image.astype(np.float32)
        maps = {
            "image": self.image,
            "weight": total.astype(np.float32),
            "weight2": ((weight.astype(np.float64) ** 2).sum(axis=0) / frames_of_cluster).astype(np.float32),
            "coverage": ((weight > 0).sum(axis=0) * frames_of_cluster).astype(np.uint16),
            "rejected": np.zeros(total.shape, np.uint16),
            "flagged": np.zeros(total.shape, bool),
        }
        self.tables, self.synthetics = [], []
        for i in range(1, count + 1):
            y0, y1 = bands.rows_of(height, (i, count))
            self.tables.append(str(directory / f"r{i}.npz"))
            self.synthetics.append(str(directory / f"s{i}.npy"))
            about = {"y0": y0, "y1": y1, "channels": list("RGB"[:channels]), "frames": []}
            sky = {"sky": np.full((channels, 1, 1), SKY), "sky_x": np.zeros(1), "sky_y": np.zeros(1)}
            tables.save(self.tables[-1], about, **{n: m[:, y0:y1] for n, m in maps.items()}, **sky)
            both = np.stack([value, weight], axis=-1)[:, :, y0:y1]
            rows = np.ascontiguousarray(np.transpose(both, (2, 0, 1, 4, 3)))
            with open(self.synthetics[-1], "wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": rows.shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.write(rows.tobytes())
                file.write(checksums(rows).tobytes())
        self.clusters = str(directory / "clusters.json")
        tables.write_json(
            self.clusters, {"mode": "full", "k": k, "labels": {}, "quality": quality or [1.0] * k}
        )

    def combine(self, **limits):
        return combine(
            self.tables, self.synthetics, self.clusters, {"clusters": {**LIMITS["clusters"], **limits}}
        )


def clusters(seed, k=20, channels=1, height=96, spread=10.0):
    """Noise of ``spread`` / sqrt(weight) on the sky."""
    rng = np.random.default_rng(seed)
    weight = np.broadcast_to(rng.uniform(2, 20, (k, channels, 1, 1)), (k, channels, height, WIDTH)).copy()
    return SKY + rng.normal(0, 1, weight.shape) * spread / np.sqrt(weight), weight


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 3))
def test_with_nothing_clipped_it_is_the_reconstruction(tmp_path_factory, seed, k, channels):
    value, weight = clusters(seed, k, channels, height=40)
    weight[:, :, :5, :20] = 0
    stack = Stack(tmp_path_factory.mktemp("stack"), value, weight)
    out = stack.combine(sigma=1000)
    np.testing.assert_array_equal(out.image, stack.image)
    assert not out.clipped.any()
    # The same by the long way: every pixel is averaged anew when some cap is active, here by next to nothing.
    quality = [1.0] * k
    quality[-1] = 1.0 + 1e-5 if k > 1 else 1.0
    again = Stack(tmp_path_factory.mktemp("stack"), value, weight, quality=quality).combine(
        sigma=1000, weight_cap=1
    )
    np.testing.assert_allclose(again.image, stack.image, atol=3e-4, rtol=0)


def test_what_only_one_cluster_has_is_clipped(tmp_path):
    value, weight = clusters(1)
    clean = Stack(tmp_path, value, weight).image
    value[3, 0, 40:43] += 150.0
    stack = Stack(tmp_path, value, weight)
    out = stack.combine()
    assert (out.clipped[0, 40:43] >= 1).all()
    assert np.abs(stack.image - clean)[0, 40:43].mean() > 3
    assert np.abs(out.image - clean)[0, 40:43].max() < 3.5  # 5 sigma of the mean of what is left
    share = weight[3, 0, 40, 0] / weight[:, 0, 40, 0].sum()
    alone = out.clipped[0, 41] == 1
    np.testing.assert_allclose(
        out.weight[0, 41][alone] / stack_weight(stack)[0, 41][alone], 1 - share, rtol=1e-5
    )


def stack_weight(stack):
    return np.concatenate([tables.load(path, "weight")[1]["weight"] for path in stack.tables], axis=1)


@pytest.mark.parametrize("k", [5, 10, 30])
def test_the_sky_loses_next_to_no_weight(tmp_path, k):
    value, weight = clusters(2, k)
    weight[0] *= 30  # one cluster weighs more than all others
    value[0] = SKY + np.random.default_rng(0).normal(0, 1, value[0].shape) * 10 / np.sqrt(weight[0])
    stack = Stack(tmp_path, value, weight)
    out = stack.combine()
    assert 1 - out.weight.sum() / stack_weight(stack).sum() < 0.005


def test_stars_of_different_seeing_are_not_clipped(tmp_path):
    value, weight = clusters(3, k=12)
    y, x = np.mgrid[-48:48, -75:75]
    for j, fwhm in enumerate(np.linspace(2.4, 4.2, 12)):
        value[j, 0] += 2e5 / fwhm**2 * np.exp(-4 * np.log(2) * (x * x + y * y) / fwhm**2)
    stack = Stack(tmp_path, value, weight)
    out = stack.combine()
    star = x * x + y * y < 9
    assert not out.clipped[0][star].any()
    value[5, 0, 48, 75] += 2e5
    assert Stack(tmp_path, value, weight).combine().clipped[0, 48, 75] == 1


def test_the_cap_is_on_the_weight_of_a_frame():
    np.testing.assert_allclose(caps([1.0, 2.0, 3.0], 1.2), [1, 1, 0.8])
    np.testing.assert_array_equal(caps([1.0, 2.0, 3.0], 4), [1, 1, 1])
    np.testing.assert_array_equal(caps([0.0, 0.0], 4), [1, 1])


def test_capped_clusters_weigh_less_everywhere(tmp_path):
    value, weight = clusters(4, k=6)
    quality = [20.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    out = Stack(tmp_path, value, weight, quality=quality).combine(sigma=1000, weight_cap=2)
    w = weight * caps(quality, 2)[:, None, None, None]
    np.testing.assert_allclose(out.image, (w * value).sum(axis=0) / w.sum(axis=0), atol=3e-4, rtol=0)
    np.testing.assert_allclose(out.weight, w.sum(axis=0), rtol=1e-5)


def test_bands_cannot_be_seen(tmp_path):
    value, weight = clusters(5, channels=3)
    value[2, :, 30:33] += 80
    whole = Stack(tmp_path, value, weight, count=1).combine()
    for count in (2, 7):
        parts = Stack(tmp_path, value, weight, count=count)
        for name, one in vars(whole).items():
            np.testing.assert_array_equal(getattr(parts.combine(), name), one)
    parts.tables.reverse()
    parts.synthetics.reverse()
    np.testing.assert_array_equal(parts.combine().image, whole.image)


def test_the_effective_number_of_frames(tmp_path):
    value, weight = clusters(6, k=8)
    weight[:] = 5
    weight[:, :, :10] = 0
    value[:] = SKY
    out = Stack(tmp_path, value, weight).combine()
    np.testing.assert_allclose(out.n_eff[:, 10:], 80, rtol=1e-5)
    assert not out.n_eff[:, :10].any()
    assert out.median_n_eff == pytest.approx(80)
    assert np.isnan(out.image[:, :10]).all()


def reduced(directory):
    stack = Stack(directory, *clusters(7), count=3)
    tables.write_json(stack.clusters, {"mode": "reduced", "k": 0, "labels": {}, "quality": []})
    return stack


def test_in_reduced_mode_it_is_the_reconstruction(tmp_path):
    stack = reduced(tmp_path)
    np.testing.assert_array_equal(stack.combine().image, stack.image)


def test_reduced_mode_does_not_wait_for_the_compiler(tmp_path):
    stack = reduced(tmp_path)
    code = f"""
import sys
from ripresa.families.stacking.final import combine
combine({stack.tables}, {stack.synthetics}, {stack.clusters!r}, {LIMITS})
sys.exit("numba" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("offset", [200, 5000, -7])
def test_a_changed_byte_is_noticed(tmp_path, offset):
    stack = Stack(tmp_path, *clusters(8, height=20), count=2)
    with open(stack.synthetics[1], "r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 16]))
    with pytest.raises(Damaged, match=r"s2\.npy") as error:
        stack.combine()
    assert error.value.path == stack.synthetics[1]


@pytest.mark.parametrize("size", [0, 50, 10000, -4])
def test_a_file_that_is_cut_off_is_noticed(tmp_path, size):
    stack = Stack(tmp_path, *clusters(9, height=20))
    with open(stack.synthetics[0], "r+b") as file:
        file.truncate(size if size >= 0 else file.seek(0, 2) + size)
    with pytest.raises(Damaged, match=r"s1\.npy"):
        stack.combine()


def test_other_bands_or_clusters_are_an_error(tmp_path):
    stack = Stack(tmp_path, *clusters(10, height=30), count=3)
    with pytest.raises(StackingError, match="begin at row 10"):
        combine(stack.tables[::2], stack.synthetics[::2], stack.clusters, LIMITS)
    with pytest.raises(StackingError, match="3 bands"):
        combine(stack.tables, stack.synthetics[:2], stack.clusters, LIMITS)
    tables.write_json(stack.clusters, {"mode": "full", "k": 5, "labels": {}, "quality": [1.0] * 5})
    with pytest.raises(Damaged, match="its shape is"):
        stack.combine()
