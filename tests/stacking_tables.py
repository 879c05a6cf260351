"""Tables of a small stack as its phases leave them, and its pixels: input for tests of what comes last."""

import numpy as np

from ripresa.families.stacking import tables
from ripresa.families.stacking.final import FinalImage
from ripresa.families.stacking.outputs.evidence import Sources
from ripresa.families.stacking.tiles import plan

SETTINGS = {
    "weighting": "physical",
    "psf_exponent": 2,
    "rejection": {"method": "winsorized", "low": 3, "high": 3},
    "clusters": {"minimum": 5, "maximum": 30, "weight_cap": 4, "sigma": 3},
}
LIMITS = {
    "frames": 1,
    "exposure_tolerance": 0.05,
    "registration_residual_px": 1,
    "elongation": 1.5,
    "fwhm_improvement": -0.1,
    "background_noise": 1.5,
    "seam": 3,
    "weight_variance": 10,
}
SKY, NOISE = 500.0, 3.0
CARDS = [
    "OBJECT  = 'M 13    '           / what it is",
    "FILTER  = 'L       '",
    "INSTRUME= 'Camera of O''Neill'",
    "GAIN    =                  100",
    "AIRMASS =                  1.1",
    "EXPTIME =                 60.0",
    "CTYPE1  = 'RA---TAN'",
    "CTYPE2  = 'DEC--TAN'",
    "CRVAL1  =   250.42345678901234",
    "CRVAL2  =             36.46132 / degrees",
    "CRPIX1  =                120.5",
    "CRPIX2  =                 80.5",
    "CD1_1   =            -2.77E-04",
    "CD1_2   =                  0.0",
    "CD2_1   =                  0.0",
    "CD2_2   =             2.77E-04",
]


def limits(**changed):
    """The checks with their default limits, all of them warnings; ``name=(limit, action)`` changes one."""
    all_of_them = {name: {"limit": limit, "action": "warn"} for name, limit in LIMITS.items()}
    return all_of_them | {
        name: {"limit": limit, "action": action} for name, (limit, action) in changed.items()
    }


def settings(**changed):
    return SETTINGS | {"validation": limits(**changed)}


def places(height=160, width=240, stars=40, seed=1):
    """Where the stars of a picture are: x and y."""
    random = np.random.default_rng(seed)
    return random.uniform(8, width - 9, stars), random.uniform(8, height - 9, stars)


def picture(channels=1, height=160, width=240, fwhm=3.0, stretch=1.0, noise=NOISE, stars=40, seed=1):
    """A field of round stars (``stretch`` times longer along x) on a plain sky."""
    random = np.random.default_rng((seed, 1))
    y, x = np.mgrid[:height, :width]
    sky = np.full((height, width), SKY)
    sigma = fwhm / 2.3548
    for at_x, at_y in zip(*places(height, width, stars, seed), strict=True):
        r2 = ((x - at_x) / (sigma * stretch)) ** 2 + ((y - at_y) / sigma) ** 2
        sky += random.uniform(20, 100) * NOISE * np.exp(-r2 / 2)
    return (sky + random.normal(0, noise, (channels, height, width))).astype(np.float32)


def final_of(image, frames=10):
    shape = image.shape
    return FinalImage(
        image=image,
        weight=np.full(shape, frames, np.float32),
        coverage=np.full(shape, frames, np.uint16),
        rejected=np.zeros(shape, np.uint16),
        flagged=np.zeros(shape, bool),
        n_eff=np.full(shape, 0.9 * frames, np.float32),
        clipped=np.zeros(shape, np.uint8),
    )


def make(directory, frames=10, channels=("L",), shape=(160, 240), mode="reduced", chunks=2, **changes):
    """Write the tables of ``frames`` stacked frames and two excluded ones, and say where they are.

    ``changes``: ``scan`` and ``registration`` are {number of the frame: {key: value}}, ``reference`` is {key:
    value}, ``weights`` has a number for each frame, ``stars`` x and y of those in common.
    """
    directory.mkdir(parents=True, exist_ok=True)
    height, width = shape
    count = len(channels)
    names = [f"light_{n:03d}.fits" for n in range(frames)]
    scans, found = [], []
    for n, name in enumerate([*names, "x_cloud.fits", "y_torn.fits"]):
        bad = name == "y_torn.fits"
        cards = [card.ljust(80) for card in CARDS]
        if n % 2:
            cards[4] = f"AIRMASS =                  {1.1 + n / 10:.1f}".ljust(80)
        scan = {"name": name, "status": "bad" if bad else "ok", "reason": "it is truncated" if bad else None}
        if not bad:
            scan |= {
                "width": width, "height": height, "kind": "mono", "exposure_s": 60.0, "n_stars": 40,
                "fwhm_px": 3.2,
                "date_obs": f"2025-01-01T00:{n % 60:02d}:00", "eccentricity": 0.3, "background": SKY,
                "noise": NOISE * np.sqrt(frames), "cards": cards,
            }  # fmt: skip
        scans.append(scan | changes.get("scan", {}).get(n, {}))
        ok = n < frames
        one = {"name": name, "status": "registered" if ok else "excluded", "method": "stars" if ok else None}
        one |= {"model": "similarity" if ok else None, "matches": 30 if ok else None}
        one |= {"residual_px": 0.1 if n else 0.0, "to_frame": [[1, 0, 0.5 * n], [0, 1, -0.25 * n]]}
        if not ok:
            reason = "it is truncated" if bad else "3 stars match, 6 are needed"
            one |= {"residual_px": None, "to_frame": None, "reason": reason}
        found.append(one | changes.get("registration", {}).get(n, {}))
    stars, registrations, reconstructions = [], [], []
    for chunk in range(chunks):
        stars.append(f"{directory}/scan{chunk}.npz")
        tables.save(stars[-1], {"frames": scans[chunk::chunks]}, star_frame=np.zeros(3, np.int32))
        registrations.append(f"{directory}/registration{chunk}.json")
        tables.write_json(registrations[-1], {"frames": found[chunk::chunks]})
        reconstructions.append(f"{directory}/reconstruction{chunk}.npz")
        weights = np.array(changes.get("weights", np.ones(frames)), float)[:, None] * np.ones(count)
        tables.save(
            reconstructions[-1],
            {"frames": [{"name": name} for name in names]},
            frame_weight=weights / weights.sum(axis=0) * (height * width / chunks),
            reject_counts=np.full((frames, count), height * width * 0.01 / chunks).astype(np.int64),
        )
    grid = plan(width, height, 3.0)
    tiles = (frames, count, len(grid["y"]), len(grid["x"]))
    about = {"frames": [{"name": name} for name in names]}
    path = {
        name: f"{directory}/{name}"
        for name in ("normalization", "global", "local", "grid", "clusters", "ref")
    }
    x, y = changes.get("stars", (np.empty(0), np.empty(0)))
    fwhm = np.full((frames, len(x)), changes.get("star_fwhm", 3.2), np.float32)
    catalogue = {"star_x": np.array(x, float), "star_y": np.array(y, float), "star_fwhm": fwhm}
    ramp = np.linspace(0.9, 1.1, frames)
    tables.save(
        path["normalization"], about, scale=ramp[:, None] * np.ones(count),
        offset=np.zeros((frames, count, 6)),
        transparency=1 / ramp, **catalogue,
    )  # fmt: skip
    tables.save(
        path["global"], about, quality=np.zeros(frames), weight=np.ones(frames), fwhm=np.full(frames, 3.2),
        r50=np.full(frames, 1.9), background=np.full(frames, SKY), noise=np.full(frames, 9.0),
    )  # fmt: skip
    tables.save(
        path["local"], about, weights=np.ones(tiles, np.float32),
        noise=np.full(tiles, NOISE * np.sqrt(frames), np.float32),
        r50=(np.full(tiles, 1.9) * ramp[:, None, None, None])[:, 0], mean_quality=np.zeros(frames),
    )  # fmt: skip
    tables.write_json(path["grid"], grid)
    k = 3 if mode == "full" else 0
    labels = {name: n % k for n, name in enumerate(names)} if k else {}
    tables.write_json(path["clusters"], {"mode": mode, "k": k, "labels": labels, "quality": [1.0] * k})
    reference = {
        "name": names[0], "width": width, "height": height, "channels": list(channels), "mode": mode,
        "cards": [card.ljust(80) for card in CARDS], "exposure_s": 60.0, "fwhm_px": 3.2,
    }  # fmt: skip
    tables.write_json(path["ref"], reference | changes.get("reference", {}))
    return Sources(
        reference=path["ref"],
        normalization=path["normalization"],
        global_metrics=path["global"],
        tile_grid=path["grid"],
        local_metrics=path["local"],
        clusters=path["clusters"],
        stars=stars,
        registrations=registrations,
        reconstructions=reconstructions,
    )
