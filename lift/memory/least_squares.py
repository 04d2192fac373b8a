"""Two regularised least-squares problems for many key/value heads at once, from their normal equations.

Heads have different numbers of unknowns and are padded: where `live` is False, row and column of A and the entry of the right
side are 0, and the solution is 0.

G: problems, S: unknowns, D: right sides.
"""

import torch
from torch import Tensor

from longthread.errors import RunError

SETS = 30  # of bounded unknowns that are tried; in compactions of real heads 4 to 8 were enough
STEPS = 1000  # of the projected gradient at most, each one product of a matrix and a vector for a head
BETWEEN, SETTLED = 50, 1e-3  # it ends where no unknown moves by more than this share of the largest in so many steps
POWER_STEPS = 20  # of the largest eigenvalue
MARGIN = 1.02  # above what the power iteration has found by then
WIDE = 256  # unknowns of a matrix from which on only one half of it is computed
JITTER, FACTOR, TRIES = 1.0, 10.0, 6  # times the regularisation: 1, 10, ... until every factorisation succeeds


def bounded(
    a_GSS: Tensor, b_GS: Tensor, prior_GS: Tensor, live_GS: Tensor, limits: tuple[float, float], ridge: float
) -> Tensor:
    """Return argmin over `limits` of w A w / 2 - b w + ridge / 2 sum_l A_ll (w_l - prior_l)^2, (G, S).

    Solved exactly for the set of unknowns at a bound, which follows from the solution before (a primal-dual active set,
    Hintermueller, Ito and Kunisch 2002); where no set stays as it is, by a projected gradient.
    """
    diagonal_GS = a_GSS.diagonal(dim1=1, dim2=2)
    scale_GS = torch.where(live_GS & (diagonal_GS > 0), diagonal_GS, 1.0).sqrt()
    a = a_GSS / scale_GS[:, :, None]
    a /= scale_GS[:, None]
    a.diagonal(dim1=1, dim2=2).add_(ridge * live_GS)
    low, high = limits[0] * scale_GS, limits[1] * scale_GS
    prior = prior_GS * scale_GS
    b = b_GS / scale_GS + ridge * prior
    now, settled_G = _active_set(a, b, low, high, live_GS)
    if not settled_G.all():
        now = _projected_gradient(a, b, low, high, torch.where(settled_G[:, None], now, prior.clamp(low, high)))
    if not now.isfinite().all():
        raise RunError("the biases of the compact memory are not finite: read the document in float32")
    return (now / scale_GS).masked_fill(~live_GS, 0.0)


def _active_set(a_GSS: Tensor, b_GS: Tensor, low: Tensor, high: Tensor, live_GS: Tensor) -> tuple[Tensor, Tensor]:
    """Return argmin of x A x / 2 - b x within the limits for problems whose set settles, and which do, (G,)."""
    at_low = at_high = torch.zeros_like(live_GS)
    x, settled_G = b_GS, live_GS.new_zeros(len(live_GS))
    for _ in range(SETS):
        free = live_GS & ~at_low & ~at_high
        bound = torch.where(at_low, low, torch.where(at_high, high, 0.0))
        right = (b_GS - (a_GSS @ bound[..., None])[..., 0]) * free
        of_free = a_GSS * free[:, :, None]
        of_free *= free[:, None]
        of_free.diagonal(dim1=1, dim2=2).add_((~free).to(a_GSS))
        lower, info_G = torch.linalg.cholesky_ex(of_free)
        x = bound + torch.cholesky_solve(right[..., None], lower)[..., 0]
        gradient = (a_GSS @ x[..., None])[..., 0] - b_GS
        to_low = live_GS & torch.where(at_low, gradient > 0, x < low)
        to_high = live_GS & torch.where(at_high, gradient < 0, x > high)
        settled_G = ((to_low == at_low) & (to_high == at_high)).all(-1) & (info_G == 0)
        at_low, at_high = to_low, to_high
        if settled_G.all():
            break
    return x.clamp(low, high), settled_G


def _projected_gradient(a_GSS: Tensor, b_GS: Tensor, low: Tensor, high: Tensor, start_GS: Tensor) -> Tensor:
    """Return argmin of x A x / 2 - b x within the limits, nearly.

    Accelerated (FISTA, Beck and Teboulle 2009); a problem whose step goes uphill starts its momentum anew (O'Donoghue and
    Candes 2015).
    """
    step = 1 / (MARGIN * _largest_eigenvalue(a_GSS)).clamp(min=1e-12)[:, None]
    now = ahead = before = start_GS
    momentum_G1 = torch.ones_like(step)
    for number in range(1, STEPS + 1):
        gradient = (a_GSS @ ahead[..., None])[..., 0] - b_GS
        after = (ahead - step * gradient).clamp(low, high)
        uphill_G1 = ((ahead - after) * (after - now)).sum(-1, keepdim=True) > 0
        momentum_G1 = momentum_G1.masked_fill(uphill_G1, 1.0)
        grown_G1 = (1 + (1 + 4 * momentum_G1.square()).sqrt()) / 2
        ahead = after + (momentum_G1 - 1) / grown_G1 * (after - now)
        now, momentum_G1 = after, grown_G1
        if number % BETWEEN == 0:
            if bool(((now - before).abs().amax(-1) <= SETTLED * now.abs().amax(-1)).all()):
                break
            before = now
    return now


def _largest_eigenvalue(a_GSS: Tensor) -> Tensor:
    """Return the largest eigenvalue of each matrix, (G,), by power iteration from the row sums."""
    x_GS = a_GSS.abs().sum(-1)
    for _ in range(POWER_STEPS):
        x_GS = (a_GSS @ x_GS[..., None])[..., 0]
        x_GS = x_GS / x_GS.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return (x_GS * (a_GSS @ x_GS[..., None])[..., 0]).sum(-1)


def ridge(a_GSS: Tensor, b_GSD: Tensor, prior_GSD: Tensor, live_GS: Tensor, strength: float) -> Tensor:
    """Return the solution of (A + e I) v = b + e prior, with e = `strength` times the mean diagonal of A, (G, S, D).

    By Cholesky in fp32. A problem whose matrix is not positive definite, or whose solution is not finite, is tried again
    with e ten times as large; `RunError` if that does not help.
    """
    count_G = live_GS.sum(-1).clamp(min=1)
    mean_G = (a_GSS.diagonal(dim1=1, dim2=2).sum(-1) / count_G).clamp(min=1e-20)
    dead_GSS = torch.diag_embed((~live_GS).to(a_GSS))
    extra_G = strength * JITTER * mean_G
    for _ in range(TRIES):
        e_G11 = extra_G[:, None, None]
        lower, info_G = torch.linalg.cholesky_ex(a_GSS + e_G11 * torch.diag_embed(live_GS.to(a_GSS)) + dead_GSS * e_G11)
        v_GSD = torch.cholesky_solve(b_GSD + e_G11 * prior_GSD, lower)
        solved_G = (info_G == 0) & v_GSD.isfinite().all(-1).all(-1)
        if solved_G.all():
            return v_GSD.masked_fill(~live_GS[..., None], 0.0)
        extra_G = torch.where(solved_G, extra_G, FACTOR * extra_G)
    raise RunError(
        f"the values of the compact memory cannot be solved for, even with {FACTOR ** (TRIES - 1):,.0f} times the "
        "regularisation: read the document in float32"
    )


def add_gram(a_GSS: Tensor, rows_GNS: Tensor) -> None:
    """Add R^T R to the upper half of A, by blocks of which those below the diagonal are left out; see `mirror`."""
    half = a_GSS.shape[-1] // 2
    if half < WIDE // 2:
        a_GSS.baddbmm_(rows_GNS.transpose(1, 2), rows_GNS)
        return
    left, right = rows_GNS[..., :half], rows_GNS[..., half:]
    a_GSS[:, :half, half:].baddbmm_(left.transpose(1, 2), right)
    add_gram(a_GSS[:, :half, :half], left)
    add_gram(a_GSS[:, half:, half:], right)


def mirror(a_GSS: Tensor) -> Tensor:
    """Write the upper half of a symmetric matrix into its lower half too, and return it."""
    a_GSS.triu_()
    a_GSS += a_GSS.triu(1).transpose(1, 2)
    return a_GSS
