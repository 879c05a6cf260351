"""A campaign that never was: the tables that phases 0 to 2 would have written, from a known truth."""

import numpy as np

from ripresa.families.stacking import tables

CELL = 16


class Campaign:
    """Frames of known scale, background, noise, star sizes and transforms: change what is to be tested, then
    `write`. Shapes: F frames, S stars, C channels, ny x nx cells."""

    def __init__(self, directory, frames=30, stars=100, width=640, height=480, channels=("L",), seed=0):
        self.directory = directory
        self.random = random = np.random.default_rng(seed)
        self.names = [f"light_{i:04d}.fits" for i in range(frames)]
        self.width, self.height, self.channels = width, height, list(channels)
        colours = len(channels)
        self.star_x = random.uniform(5, width - 6, stars)
        self.star_y = random.uniform(5, height - 6, stars)
        colour = random.uniform(0.5, 1.5, (stars, colours))
        self.star_flux = 3000 * (random.pareto(1.2, (stars, 1)) + 1) * colour
        self.transparency = np.exp(random.normal(-0.1, 0.15, (frames, 1)))
        self.transparency = self.transparency * random.uniform(0.97, 1.03, (frames, colours))
        self.transparency[0] = 1
        self.noise = 10 * np.exp(random.normal(0, 0.2, frames))
        self.size = 2 * np.exp(random.normal(0, 0.2, frames))
        self.size_field = np.zeros((frames, 6))  # of the logarithm of r50, terms as in `robust.quadratic`
        self.common_field = np.zeros(6)
        self.background = np.zeros((frames, colours, 6))
        self.background[..., 0] = 500 * np.exp(random.normal(0, 0.2, (frames, 1)))
        self.background[..., 1:] = random.normal(0, 20, (frames, colours, 5))
        self.exposure = np.full(frames, 60.0)
        self.left, self.right = np.zeros(frames, int), np.full(frames, width)  # columns of the footprint
        self.seen = np.ones((frames, stars), bool)
        self.elongation = np.full(frames, 1.1)
        self.energy = np.full(frames, 1000.0)
        self.change_cells = lambda maps, part: None
        angle, shift = random.normal(0, 0.02, frames), random.normal(0, 15, (frames, 2, 1))
        cosine, sine = np.cos(angle), np.sin(angle)
        linear = np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1)
        self.to_frame = np.concatenate([linear, shift], axis=2)
        self.to_frame[0] = [[1, 0, 0], [0, 1, 0]]

    def quadratic(self, x, y):
        """The terms of a quadratic at pixels, written out again: [..., 6]."""
        u, v = 2 * x / (self.width - 1) - 1, 2 * y / (self.height - 1) - 1
        return np.stack([np.ones_like(u), u, v, u**2, u * v, v**2], axis=-1)

    def r50(self, x, y):
        """Half-light radii [F, n] at pixels."""
        return self.size[:, None] * np.exp((self.size_field + self.common_field) @ self.quadratic(x, y).T)

    def cells(self):
        """Centres of cells: x [ny, nx], y [ny, nx]."""
        centres = []
        for length in (self.width, self.height):
            first = np.arange(0, length, CELL)
            centres.append((first + np.minimum(first + CELL, length) - 1) / 2)
        return np.meshgrid(*centres)

    def write(self, chunks=2):
        """Write the tables; returns what `normalize` takes: stars, registrations, cells, reference."""
        parts = [list(range(i, len(self.names), chunks)) for i in range(chunks)]
        columns, maps = self._stars(), self._maps()
        made = [self._chunk(i, part, columns, maps) for i, part in enumerate(parts) if part]
        paths = [list(group) for group in zip(*made, strict=True)]
        stars = {"x": list(self.star_x), "y": list(self.star_y)}
        document = {"name": self.names[0], "width": self.width, "height": self.height, "stars": stars}
        document |= {"channels": self.channels, "fwhm_px": 4.0}
        reference = str(self.directory / "reference.json")
        tables.write_json(reference, document)
        return [*paths, reference]

    def _chunk(self, number, part, columns, maps):
        stars, registration, cells = (
            str(self.directory / name.format(number))
            for name in ("stars-{}.npz", "where-{}.json", "cells-{}.npz")
        )
        frames = [{"name": self.names[f], "exposure_s": self.exposure[f]} for f in part]
        index = np.concatenate([np.full(len(columns[f]["x"]), i, np.int32) for i, f in enumerate(part)])
        rows = {key: np.concatenate([columns[f][key] for f in part]) for key in columns[0]}
        tables.save(stars, {"frames": frames}, star_frame=index, **rows)
        placed = [(self.names[f], self.to_frame[f].tolist()) for f in part]
        frames = [{"name": name, "status": "registered", "to_frame": matrix} for name, matrix in placed]
        tables.write_json(registration, {"frames": frames})
        about = {"cell": CELL, "width": self.width, "height": self.height, "channels": self.channels}
        about["frames"] = [{"name": self.names[f]} for f in part]
        tables.save(cells, about, **{key: values[part].astype(np.float32) for key, values in maps.items()})
        return stars, registration, cells

    def _stars(self):
        """The star table of each frame."""
        return [self._measured(f) for f in range(len(self.names))]

    def _measured(self, f):
        random = self.random
        flux = self.star_flux * self.transparency[f]
        r50 = self.r50(self.star_x, self.star_y)[f]
        sigma = self.noise[f] * r50 * 3
        snr = flux.mean(axis=1) / sigma
        size = r50 * np.exp(random.normal(0, 0.02 + np.minimum(1 / snr, 1)))
        place = np.stack([self.star_x, self.star_y, np.ones_like(self.star_x)])
        x, y = self.to_frame[f] @ place + random.normal(0, np.minimum(1 / snr, 0.5), (2, len(snr)))
        rows = {
            "x": x,
            "y": y,
            "flux": flux + random.normal(0, sigma[:, None], flux.shape),
            "snr": snr,
            "fwhm": 2 * size,
            "r50": size,
            "elongation": np.full(len(x), self.elongation[f]),
            "peak": flux.mean(axis=1) / r50**2,
        }
        keep = (snr > 5) & self.seen[f]
        return {key: values[keep] for key, values in rows.items()}

    def _maps(self):
        """The cells of all frames [F, C, ny, nx]."""
        x, y = self.cells()
        shape = (len(self.names), len(self.channels), *x.shape)
        left, right = (edge[:, None, None, None] for edge in (self.left, self.right))
        inside = np.clip((np.minimum(right, x + CELL / 2) - np.maximum(left, x - CELL / 2)) / CELL, 0, 1)
        noise = self.noise[:, None, None, None]
        background = np.einsum("fck,yxk->fcyx", self.background, self.quadratic(x, y))
        maps = {
            "background": background + self.random.normal(0, 1, shape) * noise / CELL,
            "noise": noise * np.exp(self.random.normal(0, 0.05, shape)),
            "energy": self.energy[:, None, None, None] * np.ones(shape),
            "coverage": np.broadcast_to(inside, shape),
        }
        self.change_cells(maps, self)
        return {
            key: np.where(inside > 0, values, 0 if key == "coverage" else np.nan)
            for key, values in maps.items()
        }
