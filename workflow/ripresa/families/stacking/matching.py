"""Which transform takes the stars of the reference to those of a frame.

Triangles of the brightest stars are compared by shape, size (frames of one telescope have one scale to a few
per cent) and sense of rotation. Every agreeing pair of triangles proposes a transform; proposals that agree
form a hypothesis; hypotheses are refined with all stars, and the one that chance explains least is taken.
Nothing is drawn at random, so the same stars always give the same transform.
"""

import functools
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import transforms

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]
Pairs = tuple[Vector, Vector, Vector, Vector]  # x, y of the reference's stars and of the frame's

BRIGHTEST = (22, 40, 60)  # stars of which triangles are made, tried in turn
SCALE_RANGE = 0.06  # how far the scale may be from one
RATIO_TOLERANCE = 1.0  # px, error of a triangle's side: centroids of both frames, differential distortion
CAPTURE = 8.0  # px, how far off a hypothesis may predict a star at first
CHANCE = -8.0  # log10 of the probability of a chance match that is still believed
STILL = 0.25  # px, what agrees this well with no motion at all may be the detector's own pattern
CLIP = 3.5  # residuals beyond so many of their sigma are left out
MAXIMUM_SHEAR = 0.03
# Refraction by the air stretches by about this much from frame to frame. The affine transform leaves it only
# as far as the stars insist: better than to choose between two models (measured on 200 simulated frames: at
# the worst frame 0.20 px off against 0.27).
EXPECTED_SHEAR = 1e-4
AFFINE_MATCHES = 15
FLOOR = 0.02  # px, no centroid is better
CHI2_MEDIAN = 1.386  # of chi-squared with two degrees of freedom
WEAK = 0.25  # px, uncertainty from which on a rotation has to prove itself


@dataclass(frozen=True)
class Points:
    """Stars, brightest first: positions in px and the standard deviation of each coordinate."""

    x: Vector
    y: Vector
    error: Vector

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: Indices | NDArray[np.bool_]) -> "Points":
        """Some of them."""
        return Points(self.x[which], self.y[which], self.error[which])


@dataclass(frozen=True)
class Match:
    """A transform from the reference to a frame, and what speaks for it.

    ``reference`` and ``frame`` are the indices of the matched stars, ``residual`` the RMS distance in px
    between them, ``chance`` log10 of the expected number of hypotheses that would agree so well by chance.
    """

    to_frame: Matrix
    model: str
    reference: Indices
    frame: Indices
    residual: float
    chance: float
    uncertainty: float

    @property
    def matches(self) -> int:
        """How many stars agree."""
        return len(self.reference)


def position_errors(fwhm: Vector, snr: Vector) -> Vector:
    """Standard deviation in px of a star's coordinates: sqrt(2) sigma of the PSF over the signal-to-noise
    ratio, the Cramer-Rao bound of a Gaussian PSF on a bright sky."""
    return np.clip(math.sqrt(2.0) * fwhm / 2.3548 / np.maximum(snr, 1.0), 1e-3, 2.0)


def match(
    reference: Points, frame: Points, width: int, height: int, minimum: int = 6, model: str = "auto"
) -> Match | None:
    """The transform from the reference's to the frame's stars, or None if no believable one is found.

    ``width`` and ``height`` are those of both frames. ``minimum`` is the number of stars that must agree,
    ``model`` one of auto, similarity, affine.
    """
    best = _search(reference, frame, width, height, minimum, model)
    if best is None or not _still(best, width, height):
        return best
    # All stands still: a well guided telescope, or hot pixels; then what does not stand still is the sky.
    ours, theirs = np.flatnonzero(~_fixed(reference, frame)), np.flatnonzero(~_fixed(frame, reference))
    moving = _search(reference.take(ours), frame.take(theirs), width, height, minimum, model)
    if moving is None or transforms.largest_difference(moving.to_frame, best.to_frame, width, height) < 3.0:
        return best
    return replace(moving, reference=ours[moving.reference], frame=theirs[moving.frame])


def is_mirrored(reference: Points, frame: Points, width: int, height: int, minimum: int = 6) -> bool:
    """Whether the frame matches as a mirror image: worth a word to whoever wonders why it does not match."""
    flipped = Points(width - 1.0 - frame.x, frame.y, frame.error)
    return _search(reference, flipped, width, height, minimum, "similarity") is not None


def refine(
    reference: Points,
    frame: Points,
    to_frame: Matrix,
    width: int,
    height: int,
    minimum: int = 6,
    model: str = "auto",
    capture: float = CAPTURE,
) -> Match | None:
    """Improve an approximate transform (right within ``capture`` px) with all stars; None if too few
    agree."""
    ours, theirs = _near(reference, frame, to_frame, capture)
    error = np.hypot(reference.error[ours], frame.error[theirs])
    minimum = max(minimum, 3)
    # Until the end by the similarity: it needs two stars only, and does not shear to reach for strangers.
    matrix, radius = to_frame, capture
    chosen = np.empty(0, np.intp)
    sigma = error
    for turn in range(12):
        distance = _distances(matrix, _paired(reference, frame, ours, theirs))
        pairs = _mutual(ours, theirs, distance, radius)
        if len(pairs) < minimum:
            return None
        sigma = _sigmas(distance[pairs], error[pairs])
        near = distance[pairs] < CLIP * sigma
        good, sigma = pairs[near], sigma[near]
        if len(good) < minimum:
            return None
        try:
            new = transforms.fit_similarity(*_paired(reference, frame, ours[good], theirs[good]), sigma**-2.0)
        except ZeroDivisionError:
            return None
        moved = transforms.largest_difference(new, matrix, width, height)
        same = np.array_equal(good, chosen) and moved < 1e-4
        matrix, chosen = new, good
        radius = float(np.clip(5.0 * np.median(distance[good]) + 0.2, 1.0, radius))
        if same and turn > 1:
            break
    stars = _paired(reference, frame, ours[chosen], theirs[chosen])
    kind = "similarity"
    uncertainty = _uncertainty(stars[0], stars[1], sigma, width, height)
    if model == "affine" or (model == "auto" and _well_spread(stars[0], stars[1], width, height)):
        expected = math.inf if model == "affine" else EXPECTED_SHEAR
        affine = _affine(reference, frame, (ours, theirs, error), (matrix, chosen, sigma), radius, expected)
        if affine is not None:
            matrix, chosen, kind = affine[0], affine[1], "affine"
    elif uncertainty > WEAK and (shift := _shift(matrix, stars, sigma)) is not None:
        matrix, kind = shift, "shift"
        uncertainty = math.sqrt(2.0 / float((sigma**-2.0).sum()))
    distance = _distances(matrix, _paired(reference, frame, ours[chosen], theirs[chosen]))
    scale, _, shear, mirrored = transforms.geometry(matrix)
    if mirrored or abs(scale - 1.0) > SCALE_RANGE or shear > MAXIMUM_SHEAR:
        return None
    chance = _chance(reference, frame, matrix, len(chosen), max(1.0, float(distance.max())), width, height)
    residual = float(np.sqrt((distance * distance).mean()))
    return Match(matrix, kind, ours[chosen], theirs[chosen], residual, chance, uncertainty)


# Hypotheses


def _search(
    reference: Points, frame: Points, width: int, height: int, minimum: int, model: str
) -> Match | None:
    tried = (0, 0)
    for brightest in BRIGHTEST:
        sizes = (min(brightest, len(reference)), min(brightest, len(frame)))
        if sizes == tried or min(sizes) < 3:
            break
        tried = sizes
        best: Match | None = None
        for hypothesis in _hypotheses(reference, frame, brightest, width, height):
            found = refine(reference, frame, hypothesis, width, height, minimum, model)
            if found is not None and (best is None or found.chance < best.chance):
                best = found
            if best is not None and best.chance < 3 * CHANCE:
                break
        if best is not None and best.chance < CHANCE:
            return best
    return None


def _hypotheses(reference: Points, frame: Points, brightest: int, width: int, height: int) -> list[Matrix]:
    """The transforms that most pairs of triangles agree on, the most supported first."""
    ours = _triangles(reference.x[:brightest], reference.y[:brightest])
    theirs = _triangles(frame.x[:brightest], frame.y[:brightest])
    first, second = _similar(ours, theirs)
    if not len(first):
        return []
    x, y = reference.x[ours.vertices[first]], reference.y[ours.vertices[first]]
    u, v = frame.x[theirs.vertices[second]], frame.y[theirs.vertices[second]]
    # The best similarity of each pair of triangles, all at once (see transforms.fit_similarity).
    mx, my, mu, mv = (q.mean(axis=1) for q in (x, y, u, v))
    x, y, u, v = x - mx[:, None], y - my[:, None], u - mu[:, None], v - mv[:, None]
    size = (x * x + y * y).sum(axis=1)
    c = (x * u + y * v).sum(axis=1) / size
    s = (x * v - y * u).sum(axis=1) / size
    off = np.hypot(u - (c[:, None] * x - s[:, None] * y), v - (s[:, None] * x + c[:, None] * y)).max(axis=1)
    keep = (off < 2.0 * RATIO_TOLERANCE) & (np.abs(np.hypot(c, s) - 1.0) < SCALE_RANGE)
    c, s, mx, my, mu, mv = (q[keep] for q in (c, s, mx, my, mu, mv))
    # Where each takes the middle of the frame, and the point right of it: proposals that agree are near each
    # other.
    cx, cy, arm = (width - 1) / 2.0, (height - 1) / 2.0, max(width, height) / 2.0
    px, py = c * (cx - mx) - s * (cy - my) + mu, s * (cx - mx) + c * (cy - my) + mv
    order = _crowded(np.stack([px, py, px + arm * c, py + arm * s], axis=1), 0.02 * arm)
    matrices = []
    for members in order:
        a, b = float(np.median(c[members])), float(np.median(s[members]))
        x0, y0 = float(np.median(px[members])), float(np.median(py[members]))
        matrices.append(np.array([[a, -b, x0 - a * cx + b * cy], [b, a, y0 - b * cx - a * cy]]))
    return matrices


@dataclass(frozen=True)
class _Triangles:
    """Triangles with vertices [n, 3] in the order of the sides opposite to them, longest first."""

    vertices: Indices
    longest: Vector
    middle: Vector  # middle side over the longest
    shortest: Vector
    clockwise: NDArray[np.bool_]


@functools.lru_cache(maxsize=8)
def _triples(n: int) -> Indices:
    return np.array(list(itertools.combinations(range(n), 3)), np.intp).reshape(-1, 3)


def _triangles(x: Vector, y: Vector) -> _Triangles:
    """All triangles of some stars but the slender ones, which fit anywhere."""
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    triples = _triples(len(x))
    i, j, k = triples.T
    sides = np.stack([apart[j, k], apart[i, k], apart[i, j]], axis=1)  # opposite to i, j, k
    order = np.argsort(-sides, axis=1, kind="stable")
    sides = np.take_along_axis(sides, order, axis=1)
    vertices = np.take_along_axis(triples, order, axis=1)
    longest = sides[:, 0]
    usable = (sides[:, 2] > 12.0) & (sides[:, 2] > 0.1 * longest)
    vertices, sides, longest = vertices[usable], sides[usable], longest[usable]
    a, b, c = vertices.T
    area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
    thick = np.abs(area) > 0.05 * longest * longest
    sides = sides[thick]
    return _Triangles(
        vertices[thick], sides[:, 0], sides[:, 1] / sides[:, 0], sides[:, 2] / sides[:, 0], area[thick] > 0
    )


def _similar(ours: _Triangles, theirs: _Triangles) -> tuple[Indices, Indices]:
    """Index pairs of triangles of the same shape, size and sense of rotation."""
    if not len(ours.longest) or not len(theirs.longest):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    # Bins of size and sense, each a range of one sorted key; within a bin sorted by the middle side.
    step = math.log1p(SCALE_RANGE)
    our_bin = np.floor(np.log(ours.longest) / step) * 2 + ours.clockwise
    their_bin = np.floor(np.log(theirs.longest) / step) * 2 + theirs.clockwise
    key = their_bin * 4.0 + theirs.middle
    order = np.argsort(key, kind="stable")
    key = key[order]
    tolerance = RATIO_TOLERANCE / ours.longest
    first, second = [], []
    for neighbour in (-2.0, 0.0, 2.0):
        centre = (our_bin + neighbour) * 4.0 + ours.middle
        start = np.searchsorted(key, centre - tolerance)
        count = np.searchsorted(key, centre + tolerance, side="right") - start
        mine, place = _runs(start, count)
        other = order[place]
        good = np.abs(ours.shortest[mine] - theirs.shortest[other]) < tolerance[mine]
        good &= np.abs(ours.longest[mine] / theirs.longest[other] - 1.0) < SCALE_RANGE
        first.append(mine[good])
        second.append(other[good])
    return np.concatenate(first), np.concatenate(second)


def _runs(start: Indices, count: Indices) -> tuple[Indices, Indices]:
    """All pairs (i, place) with start[i] <= place < start[i] + count[i], in order."""
    owner = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return owner, start[owner] + within


def _crowded(proposals: Vector, size: float, most: int = 6) -> list[Indices]:
    """Groups of proposals [n, k] that lie in one cell, the largest groups first.

    Cells are laid twice, the second time shifted by half, so that no group is cut by both.
    """
    groups: list[Indices] = []
    for shift in (0.0, 0.5):
        cells = np.floor(proposals / size + shift)
        # A fixed hash; what collides is told apart by the refinement.
        _, member, count = np.unique(
            cells @ np.array([1.0, 4099.0, 4099.0**2, 4099.0**3]), return_inverse=True, return_counts=True
        )
        largest = np.argsort(-count, kind="stable")[:most]
        groups += [np.flatnonzero(member == cell) for cell in largest]
    groups.sort(key=len, reverse=True)
    return [group for group in groups if len(group) >= min(2, len(groups[0]))][:most]


# Refinement


def _near(reference: Points, frame: Points, to_frame: Matrix, radius: float) -> tuple[Indices, Indices]:
    """All pairs (reference star, frame star) nearer than ``radius`` px in the frame."""
    x, y = transforms.apply(to_frame, reference.x, reference.y)
    order = np.argsort(frame.x, kind="stable")
    sorted_x = frame.x[order]
    start = np.searchsorted(sorted_x, x - radius)
    count = np.searchsorted(sorted_x, x + radius, side="right") - start
    ours, place = _runs(start, count)
    theirs = order[place]
    close = np.hypot(frame.x[theirs] - x[ours], frame.y[theirs] - y[ours]) < radius
    return ours[close], theirs[close]


def _paired(reference: Points, frame: Points, ours: Indices, theirs: Indices) -> Pairs:
    return reference.x[ours], reference.y[ours], frame.x[theirs], frame.y[theirs]


def _mutual(ours: Indices, theirs: Indices, distance: Vector, radius: float) -> Indices:
    """Of some pairs those nearer than ``radius`` that are each other's nearest."""
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] < radius]
    # In order of distance, the first entry of a star is its nearest.
    _, mine = np.unique(ours[order], return_index=True)
    _, other = np.unique(theirs[order], return_index=True)
    return order[np.intersect1d(mine, other, assume_unique=True)]


def _sigmas(distance: Vector, error: Vector) -> Vector:
    """What the distances of matched pairs say of their errors: sigma of a coordinate, for each pair, px.

    Two things widen the errors that the photons give: a floor (seeing, distortion, undersampling), seen in
    the bright stars, and a factor (blends, correlated noise), seen in the faint. Each is set so that the
    median of distance^2 / sigma^2 in its half of the stars is that of chi-squared with two degrees of
    freedom.
    """
    bright = error <= np.median(error)
    faint = ~bright if np.count_nonzero(~bright) >= 6 else np.ones_like(bright)
    variance, photons = distance * distance / CHI2_MEDIAN, error * error
    factor, floor = 1.0, FLOOR
    for _ in range(3):
        beyond = float(np.median(variance[bright] - factor * factor * photons[bright]))
        floor = math.sqrt(max(beyond, FLOOR * FLOOR))
        ratio = float(np.median((variance[faint] - floor * floor) / photons[faint]))
        factor = min(math.sqrt(max(ratio, 1.0)), 4.0)
    return np.sqrt((factor * error) ** 2 + floor * floor)


def _well_spread(x: Vector, y: Vector, width: int, height: int) -> bool:
    """Whether stars are enough, and everywhere enough, for a transform with two more parameters."""
    return len(x) >= AFFINE_MATCHES and x.std() > 0.15 * width and y.std() > 0.15 * height


def _affine(
    reference: Points,
    frame: Points,
    pairs: tuple[Indices, Indices, Vector],
    similarity: tuple[Matrix, Indices, Vector],
    radius: float,
    shear: float,
) -> tuple[Matrix, Indices] | None:
    """The affine transform and the pairs it is fitted to, from those of the similarity (matrix, indices of
    pairs, sigma); None if they do not bear it."""
    ours, theirs, error = pairs
    matrix, chosen, sigma = similarity
    try:
        for _ in range(4):
            stars = _paired(reference, frame, ours[chosen], theirs[chosen])
            matrix = transforms.fit_affine(*stars, sigma**-2.0, shear)
            distance = _distances(matrix, _paired(reference, frame, ours, theirs))
            near = _mutual(ours, theirs, distance, radius)
            if len(near) < max(len(similarity[1]) // 2, 4):
                return None
            sigma = _sigmas(distance[near], error[near])
            good = distance[near] < CLIP * sigma
            same = np.array_equal(near[good], chosen)
            chosen, sigma = near[good], sigma[good]
            if same:
                break
    except np.linalg.LinAlgError:
        return None
    return matrix, chosen


def _shift(matrix: Matrix, stars: Pairs, sigma: Vector) -> Matrix | None:
    """The mere shift (after half a turn, or none) in place of a similarity, if that is not worse for the
    stars."""
    scale, rotation, _, _ = transforms.geometry(matrix)
    turn = round(rotation / 180.0) * 180.0
    if abs(scale - 1.0) > 0.03 or abs(rotation - turn) > 2.0:
        return None
    weight = sigma**-2.0
    sign = 1.0 if turn == 0 else -1.0
    dx, dy = transforms.fit_shift(sign * stars[0], sign * stars[1], stars[2], stars[3], weight)
    shift = np.array([[sign, 0.0, dx], [0.0, sign, dy]])
    gain = _gain(_misfit(shift, stars, weight), _misfit(matrix, stars, weight), len(sigma), 2)
    return shift if gain < 0 else None


def _gain(less: float, more: float, stars: int, parameters: int) -> float:
    """By how much the Bayesian information criterion prefers a model of more parameters (Schwarz 1978), from
    the sums of squares of both for as many stars."""
    data = 2 * stars
    return data * math.log(max(less, 1e-12) / max(more, 1e-12)) - parameters * math.log(data)


def _uncertainty(x: Vector, y: Vector, sigma: Vector, width: int, height: int) -> float:
    """Standard deviation, px, of a fitted similarity at the corner where it is largest: that of the shift,
    and that of rotation and scale times the distance from the stars' weighted middle."""
    weight = sigma**-2.0
    total = float(weight.sum())
    mx, my = float((weight * x).sum()) / total, float((weight * y).sum()) / total
    inertia = float((weight * ((x - mx) ** 2 + (y - my) ** 2)).sum())
    far = max(mx, width - 1 - mx) ** 2 + max(my, height - 1 - my) ** 2
    return math.sqrt(2.0 * (1.0 / total + far / max(inertia, 1e-12)))


def _distances(matrix: Matrix, stars: Pairs) -> Vector:
    x, y = transforms.apply(matrix, stars[0], stars[1])
    return np.hypot(stars[2] - x, stars[3] - y)


def _misfit(matrix: Matrix, stars: Pairs, weight: Vector) -> float:
    return float((weight * _distances(matrix, stars) ** 2).sum())


def _chance(
    reference: Points, frame: Points, matrix: Matrix, matches: int, radius: float, width: int, height: int
) -> float:
    """log10 of the number of hypotheses expected to have so many matches if the frames had nothing in common.

    Stars scattered at random: each reference star on the frame has one within ``radius`` with the probability
    of the density times the disc; the two stars that define the transform are given. Poisson tail, times the
    number of pairs of pairs of stars that can be tried.
    """
    x, y = transforms.apply(matrix, reference.x, reference.y)
    on_frame = np.count_nonzero((x > 0) & (x < width) & (y > 0) & (y < height))
    expected = float(on_frame) * len(frame) * math.pi * radius * radius / (width * height)
    trials = 2.0 * (math.log10(max(len(reference), 2)) + math.log10(max(len(frame), 2)))
    k = matches - 2
    if k <= expected:
        return 0.0
    # ln of the first term of the tail; the rest is a geometric series at most.
    first = k * math.log(max(expected, 1e-300)) - expected - math.lgamma(k + 1)
    tail = first - math.log1p(-min(expected / (k + 1), 0.999))
    return trials + tail / math.log(10.0)


def _still(found: Match, width: int, height: int) -> bool:
    return transforms.largest_difference(found.to_frame, transforms.identity(), width, height) < STILL


def _fixed(points: Points, others: Points) -> NDArray[np.bool_]:
    """Which points have a counterpart at the very same place of the detector."""
    ours, _ = _near(points, others, transforms.identity(), 2.0 * STILL)
    fixed = np.zeros(len(points), np.bool_)
    fixed[ours] = True
    return fixed
