"""The fast solver in plain torch, for any device: sweeps on a kernel, with Chebyshev's momentum."""

import math

import numpy as np
import torch
from torch import Tensor

from otreg.transport.problem import LOG_TINY, Problem, Solution
from otreg.transport.ragged import ragged_sizes

_SWEEPS_PER_LOOK = 5  # sweeps between two looks at convergence, momentum and drift
_FIRST_RATE = 0.9  # too much momentum at first costs less than too little
_MAX_RATE, _FAR, _MAX_RATE_FAR = 0.999, 0.1, 0.98  # the last while the marginal error is above _FAR
_MAX_DRIFT = 15.0  # how far log u and log v may have run at a look before they are absorbed
_CLAMP = 35.0  # and how far they can get between two looks
_GROUPS = 4  # into which a ragged batch is divided,
_MIN_CELLS = 2**20  # if it has at least so many: fewer take less time than more calls of torch


def solve_accelerated(problem: Problem) -> Solution:
    """Solve to the fixed point of the sweeps that `otreg.transport.sinkhorn` states.

    K = a b' exp((f + g - C)/epsilon) is made of the potentials. One sweep is then

        log v <- log v + alpha (tau_b T(f) - g) + beta change,   s = K v,   u = a / s,   c = K' u

    (u is relaxed where tau_a < 1). The rows of the plan u K v are exact after each sweep, and the
    error |v c - b| needs no further product. Where u or v has become large, both are absorbed: they
    move into the potentials, and K is made anew. alpha and beta are those of Chebyshev's
    semi-iteration for the rate of convergence that each problem shows. A problem that has converged
    leaves the batch.

    Autograd can look through all of it. A sweep keeps vectors only, for K stays the same from one
    absorption to the next.

    Source: Chebyshev's semi-iteration: Golub and Varga 1961; absorption: Schmitzer 2019 (arXiv
        1610.06519).
    """
    groups = _groups(problem.a, problem.b)
    if len(groups) == 1:
        return _solve_group(problem)
    solution = Solution.empty(problem)
    for index, n, m in groups:
        solution.put(index, _solve_group(problem.part(index, n, m)))
    return solution


def _groups(a: Tensor, b: Tensor) -> list[tuple[Tensor, int, int]]:
    """Problems of like size, each group with the number of rows and columns that it needs."""
    sizes = ragged_sizes(a, b) if a.numel() * b.shape[1] >= _MIN_CELLS else None
    if sizes is None:
        return [(torch.arange(len(a), device=a.device), a.shape[1], b.shape[1])]
    rows, columns = sizes
    groups = []
    for index in torch.argsort(rows * columns).chunk(_GROUPS):
        groups.append((index, int(rows[index].max()), int(columns[index].max())))
    return groups


class _Momentum:
    """Chebyshev's semi-iteration, for each problem at the rate that it shows; on the host."""

    def __init__(self, batch: int) -> None:
        self.rate = np.full(batch, _FIRST_RATE)
        self.omega = np.ones(batch)
        self.sweeps = np.zeros(batch, dtype=np.int64)
        self.error: np.ndarray | None = None

    def keep(self, mask: np.ndarray) -> None:
        self.rate, self.omega, self.sweeps = self.rate[mask], self.omega[mask], self.sweeps[mask]
        if self.error is not None:
            self.error = self.error[mask]

    def steps(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(count, batch) alpha and beta of the next sweeps: x += alpha step + beta last change."""
        rho_square = (self.rate / (2 - self.rate)) ** 2
        omegas = []
        for _ in range(count):
            divisor = np.where(self.sweeps == 1, 2.0, 4.0)
            self.omega = np.where(
                self.sweeps == 0, 1.0, 1 / (1 - rho_square * self.omega / divisor)
            )
            self.sweeps += 1
            omegas.append(self.omega)
        omega = np.stack(omegas)
        return omega * 2 / (2 - self.rate), omega - 1

    def look(self, error: np.ndarray) -> np.ndarray:
        """Read each rate off the error's decay q per sweep; say where momentum starts afresh.

        Once omega has settled, a mode with eigenvalue l obeys z^2 - (1 + beta - alpha (1 - l)) z +
        beta = 0, so a decay z = q slower than sqrt(beta) reveals l. Otherwise the momentum is
        enough or too much, and is eased; where the error grew, it starts afresh.
        """
        last, self.error = self.error, error
        if last is None:
            return np.zeros(len(error), dtype=bool)
        alpha, beta = self.omega * 2 / (2 - self.rate), np.maximum(self.omega - 1, 1e-12)
        ratio = np.nan_to_num(error / np.maximum(last, 1e-300), nan=1e6)
        q = np.clip(ratio, 1e-6, 1e6) ** (1 / _SWEEPS_PER_LOOK)
        seen = 1 - (1 + beta - q - beta / q) / alpha
        grew = q >= 1
        eased = np.where(grew, 1 - 2 * (1 - self.rate), 1 - 1.5 * (1 - self.rate))
        rate = np.where((q > np.sqrt(beta)) & ~grew, np.maximum(self.rate, seen), eased)
        self.rate = np.clip(rate, 0.0, np.where(error > _FAR, _MAX_RATE_FAR, _MAX_RATE))
        self.sweeps[grew] = 0
        return grew


class _Group:
    """Problems that are solved together; all tensors are (k, …). Potentials are in units of epsilon."""

    def __init__(
        self, cost: Tensor, a: Tensor, b: Tensor, g: Tensor, tau_a: float, tau_b: float
    ) -> None:
        self.tau_a, self.tau_b = tau_a, tau_b
        self.log_tiny = LOG_TINY[a.dtype]
        self.tiny = math.exp(self.log_tiny)
        self.index = torch.arange(len(a), device=a.device)
        self.cost, self.a, self.b, self.g = cost, a, b, g
        self.real_a, self.real_b = (a > 0).to(a.dtype), (b > 0).to(a.dtype)
        self.log_a = torch.where(a > 0, a, 1.0).log()
        self.log_b = torch.where(b > 0, b, 1.0).log()
        best = ((g + self.log_b).unsqueeze(1) - cost).amax(2)
        is_real = (a > 0) & (b > 0).any(1, keepdim=True)
        self.f = torch.where(
            is_real, -tau_a * best, 0.0
        )  # NaN from here on if all cost is infinite
        self.change = torch.zeros_like(b)
        self.log_v = torch.zeros_like(b)
        self.build()

    def keep(self, mask: Tensor) -> None:
        """Go on with these problems only."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[mask])

    def build(self) -> None:
        """Make K of the potentials, then u and K'u.

        K is kept twice, for a row times a matrix is the fast product.
        """
        exponent = (self.f + self.log_a).unsqueeze(2) + (self.g + self.log_b).unsqueeze(1)
        exponent = exponent.sub_(self.cost)
        self.kernel = exponent.clamp_(min=self.log_tiny).exp_()  # at padding, u or v is 0
        self.transposed = self.kernel.transpose(1, 2).contiguous()
        self.base_a = self.tau_a * (self.f + self.log_a) - self.f
        self.base_b = self.tau_b * (self.g + self.log_b) - self.g
        self.update_rows()

    def absorb(self, drifted: Tensor) -> None:
        """Move u and v of some problems into their potentials."""
        here = drifted.unsqueeze(1)
        self.f = torch.where(here, self.f + self.log_u(), self.f)
        self.g = torch.where(here, self.g + self.log_v, self.g)
        self.log_v = torch.where(here, 0.0, self.log_v)
        self.build()

    def update_rows(self) -> None:
        """f <- tau_a T'(g), as u, and K'u."""
        self.v = self.log_v.exp() * self.real_b
        row_sum = torch.bmm(self.v.unsqueeze(1), self.transposed).squeeze(1).clamp(min=self.tiny)
        if self.tau_a == 1:
            self.u = self.a / row_sum
        else:
            log_u = (self.base_a - self.tau_a * row_sum.log()).clamp(-_CLAMP, _CLAMP)
            self.u = log_u.exp() * self.real_a
        self.column_sum = torch.bmm(self.u.unsqueeze(1), self.kernel).squeeze(1)

    def sweep(self, alpha: Tensor, beta: Tensor) -> None:
        """g <- g + alpha (tau_b T(f) - g) + beta change, then the rows."""
        self.change = (alpha * self.column_step()).addcmul_(beta, self.change)
        self.log_v = (self.log_v + self.change).clamp(-_CLAMP, _CLAMP)
        self.update_rows()

    def column_step(self) -> Tensor:
        """tau_b T(f) - g."""
        log_sum = self.column_sum.clamp(min=self.tiny).log()
        if self.tau_b != 1:
            log_sum = self.tau_b * log_sum
        return self.base_b - log_sum - self.log_v

    @torch.no_grad()
    def error(self) -> Tensor:
        """(k,) L1 distance of the columns from b, or from their next update if they are relaxed."""
        columns = self.v * self.column_sum
        if self.tau_b == 1:
            return (columns - self.b).abs().sum(1)
        return (columns * torch.expm1(self.column_step().clamp(max=_CLAMP))).abs().sum(1)

    def log_u(self) -> Tensor:
        return torch.where(self.a > 0, self.u.clamp(min=self.tiny).log(), 0.0)

    @torch.no_grad()
    def drift(self) -> Tensor:
        """(k,) how far u and v have run."""
        log_v = torch.where(self.b > 0, self.log_v, 0.0)
        return torch.maximum(self.log_u().abs().amax(1), log_v.abs().amax(1))


def _solve_group(problem: Problem) -> Solution:
    cost, a, b, epsilon = problem.cost, problem.a, problem.b, problem.epsilon
    mass = a.sum(1).clamp(min=math.exp(LOG_TINY[a.dtype]))
    scaled = torch.where(problem.real(), cost / epsilon, math.inf)
    group = _Group(scaled, a, b, problem.g / epsilon, problem.tau_a, problem.tau_b)
    momentum = _Momentum(len(cost))
    f, g, plan = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(scaled)
    num_iters = torch.zeros(len(cost), dtype=torch.long, device=cost.device)
    final_error = torch.zeros_like(mass)
    left = np.ones(len(cost), dtype=bool)  # of the group's problems: not yet recorded
    sweeps = 0
    while True:
        error = group.error() / mass[group.index]
        on_host = error.double().cpu().numpy()
        done = left & ((on_host <= problem.tol) | (sweeps >= problem.max_iter))
        if done.any():
            some = torch.from_numpy(done).to(cost.device)
            index = group.index[some]
            f[index] = (group.f + group.log_u())[some]
            g[index] = (group.g + group.log_v)[some]
            # Not made anew from f and g, whose rounding counts where epsilon is tiny.
            plan[index] = group.u[some].unsqueeze(2) * group.kernel[some]
            plan[index] *= group.v[some].unsqueeze(1)
            final_error[index], num_iters[index] = error[some], sweeps
            left &= ~done
        if not left.any():
            break
        if sweeps > 0:
            afresh = momentum.look(on_host)
            if afresh.any():
                group.change[torch.from_numpy(afresh).to(cost.device)] = 0.0
        if 2 * left.sum() <= len(left):  # those that are done cost nothing from here on
            group.keep(torch.from_numpy(left).to(cost.device))
            momentum.keep(left)
            left = left[left]
        drifted = group.drift() > _MAX_DRIFT
        if bool(drifted.any()):
            group.absorb(drifted)
        count = min(_SWEEPS_PER_LOOK, problem.max_iter - sweeps)
        alphas, betas = (torch.from_numpy(x).to(a).unsqueeze(2) for x in momentum.steps(count))
        for alpha, beta in zip(alphas, betas, strict=True):
            group.sweep(alpha, beta)
        sweeps += count
    f, g = torch.where(a > 0, epsilon * f, 0.0), torch.where(b > 0, epsilon * g, 0.0)
    return Solution.of_plan(f, g, plan, num_iters, final_error)
