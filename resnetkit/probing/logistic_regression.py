"""Multinomial logistic regression with L2, solved by L-BFGS in coordinates where few iterations are enough."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import nullcontext
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import minimize

from resnetkit.probing.blas import use_one_blas_thread

#: `each` divides every feature by its own deviation; `all` divides all by one number, their root mean square deviation.
#: Both make a strength independent of the features' unit.
Scaling = Literal["all", "each"]

#: Rows are kept in the solver's coordinates up to this many values (256 MiB); beyond, every pass reads them again.
_MAX_KEPT_VALUES = 1 << 26
#: A block of rows with its logits: 64 MiB of float32, and less than a second's multiplications on one core.
_MAX_BLOCK_VALUES, _MAX_BLOCK_PRODUCTS = 1 << 24, 1 << 32
#: Directions whose share of the variance is below this are rounding errors.
_MIN_VARIANCE_SHARE = 1e-10
#: A deviation below this share of the mean is what float32 makes of a constant.
_MIN_DEVIATION_SHARE = 1e-6
#: Of the largest gradient of a head that knows nothing: with tolerances of a hundredth, a tenth of it may be left.
_IGNORANT_SHARE = 10
#: Of features that are all alike, whose gradients are rounding errors.
_MIN_GRADIENT = 1e-6
#: Between two looks at whether to go on.
_STEP_SECONDS = 0.1
#: Multiplications of a pass over the rows that are worth BLAS's threads: some 50 milliseconds on one core.
_MIN_SHARED_PRODUCTS = 1 << 30
#: Confident heads have next to no curvature; the steps stay bounded.
_MIN_CURVATURE = 1e-4


class Targets(NamedTuple):
    """What rows should be answered with.

    Attributes:
        labels: (N,) integers from 0 to `num_classes` - 1, each class at least once.
        factors: (N,) of the rows' cross entropies.
        num_classes: K.
        smoothing: Share of each target that is spread evenly over all classes.
    """

    labels: np.ndarray
    factors: np.ndarray
    num_classes: int
    smoothing: float = 0.0

    def take(self, rows: np.ndarray | slice) -> Targets:
        """Return the targets of some rows."""
        return self._replace(labels=self.labels[rows], factors=self.factors[rows])


def slice_rows(num_rows: int, feature_size: int, num_classes: int = 1) -> Iterator[slice]:
    """Yield slices that bound memory, and the time between two of them, when rows meet a (K, D) matrix."""
    by_memory = _MAX_BLOCK_VALUES // (feature_size + 4 * num_classes)
    by_time = _MAX_BLOCK_PRODUCTS // (feature_size * num_classes)
    step = max(1, min(by_memory, by_time))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


class Coordinates:
    """The coordinates of the solver: features centred, scaled, and rotated to their principal directions.

    The penalty does not change under rotation, and a free bias absorbs the centre: the optimum stays what it is. But
    the curvature becomes nearly diagonal, and with that known L-BFGS needs a fifth of the iterations, since features of
    a network are highly correlated. With fewer rows than features, there are fewer coordinates as well.
    """

    def __init__(self, features: np.ndarray, scaling: Scaling, on_step: Callable[[], None]) -> None:
        self._features, self._on_step = features, on_step
        self._mean, deviation = self._measure()
        is_constant = deviation <= _MIN_DEVIATION_SHARE * np.abs(self._mean)
        if scaling == "all":
            deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
        # Dividing by infinity leaves constant features out.
        self._scale = np.where(is_constant, np.inf, deviation)
        self._basis, self.variances = self._find_principal_directions()
        self._rotated = self._rotate() if features.size <= _MAX_KEPT_VALUES else None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 rows that go with the weights of `prepare`."""
        return self._standardize(self._features[rows]) if self._rotated is None else self._rotated[rows]

    def prepare(self, weight: np.ndarray) -> np.ndarray:
        """Turn (K, r) weights in these coordinates into float32 ones that multiply what `read` returns."""
        return (weight if self._rotated is not None else weight @ self._basis).astype(np.float32)

    def restore(self, gradient: np.ndarray) -> np.ndarray:
        """Turn a gradient by what `prepare` returns into one in these coordinates, (K, r)."""
        return gradient if self._rotated is not None else gradient @ self._basis.T

    def unfold(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (K, D) and bias (K,) for features as they came, float32."""
        plain = weight @ self._basis / self._scale
        return plain.astype(np.float32), (bias - plain @ self._mean).astype(np.float32)

    def slice_rows(self, num_rows: int, num_classes: int) -> list[slice]:
        """Return the blocks in which rows are read."""
        return list(slice_rows(num_rows, self._features.shape[1], num_classes))

    def _standardize(self, block: np.ndarray) -> np.ndarray:
        centred = block - self._mean.astype(np.float32)
        centred /= self._scale.astype(np.float32)
        return centred

    def _measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of each feature, (D,), in two passes that lose no digits."""
        num_rows, size = self._features.shape
        mean, variance = np.zeros(size), np.zeros(size)
        for block in slice_rows(num_rows, size):
            self._on_step()
            mean += self._features[block].sum(axis=0, dtype=np.float64) / num_rows
        for block in slice_rows(num_rows, size):
            self._on_step()
            centred = self._features[block] - mean.astype(np.float32)
            variance += np.square(centred).sum(axis=0, dtype=np.float64) / num_rows
        return mean, np.sqrt(variance)

    def _find_principal_directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (r, D) orthonormal float32 directions and the (r,) variances of the rows along them."""
        num_rows, size = self._features.shape
        if num_rows < size:
            rows = self._standardize(self._features[:]).astype(np.float64)
            values, vectors = _find_eigenvectors(rows @ rows.T, self._on_step)
            has_variance = values > _MIN_VARIANCE_SHARE * max(values.sum(), np.finfo(np.float32).tiny)
            values, vectors = values[has_variance], vectors[:, has_variance]
            return ((vectors / np.sqrt(values)).T @ rows).astype(np.float32), values / num_rows
        covariance = np.zeros((size, size))
        for block in slice_rows(num_rows, size, size):
            self._on_step()
            rows = self._standardize(self._features[block])
            covariance += rows.T @ rows
        values, vectors = _find_eigenvectors(covariance, self._on_step)
        return np.ascontiguousarray(vectors.T, np.float32), np.maximum(values, 0) / num_rows

    def _rotate(self) -> np.ndarray:
        rotated = np.empty((len(self._features), len(self._basis)), np.float32)
        for block in self.slice_rows(len(rotated), max(1, len(self._basis))):
            self._on_step()
            rotated[block] = self._standardize(self._features[block]) @ self._basis.T
        return rotated


def _find_eigenvectors(matrix: np.ndarray, on_step: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
    """Return what `numpy.linalg.eigh` does; `on_step` is called meanwhile, since LAPACK takes seconds at 2,048 rows.

    When that raises, the thread comes to its end alone, and its result is dropped.
    """
    found: Future[tuple[np.ndarray, np.ndarray]] = Future()

    def solve() -> None:
        try:
            found.set_result(np.linalg.eigh(matrix))
        except BaseException as error:  # it belongs to whoever waits
            found.set_exception(error)

    threading.Thread(target=solve, name="eigenvectors", daemon=True).start()
    while not wait([found], _STEP_SECONDS).done:
        on_step()
    return found.result()


class _Value(NamedTuple):
    """Mean cross entropy, its gradients by weight and bias, and the mean curvature by a logit."""

    loss: float
    weight: np.ndarray
    bias: np.ndarray
    curvature: float


class LogisticRegression:
    """One head on some rows. It is solved for one strength after the other, each from where the last one ended.

    The strength is scikit-learn's C: C x (sum of cross entropies) + ||weight||^2 / 2 is minimised over the features in
    their coordinates; the bias is free.
    """

    def __init__(
        self, coordinates: Coordinates, rows: np.ndarray, targets: Targets, on_step: Callable[[], None]
    ) -> None:
        self._coordinates, self._rows, self._on_step = coordinates, rows, on_step
        self._targets = targets.take(rows)
        self._total = self._targets.factors.sum()
        self._blocks = coordinates.slice_rows(len(rows), targets.num_classes)
        self._kept = coordinates.read(rows) if len(self._blocks) == 1 else None
        counts = np.bincount(self._targets.labels, self._targets.factors, targets.num_classes)
        self._weight = np.zeros((len(counts), len(coordinates.variances)))
        # Without features, the frequencies; a common shift changes nothing, and its gradient is 0, so it would stay.
        self._bias = np.log(counts / self._total)
        self._bias -= self._bias.mean()
        # (r,): by the weights, the largest over the classes, of a head that knows the frequencies alone.
        self._ignorant_gradient: np.ndarray | None = None

    def solve(self, strength: float, tolerance: float, max_iterations: int) -> tuple[float, int]:
        """Move weight and bias to the optimum.

        Args:
            strength: scikit-learn's C.
            tolerance: Largest entry of the gradient, in units where the curvature is near 1, as a share of the cross
                entropy at the start: gradients of separable data shrink with it. With many classes all gradients are
                small: it is at most a share ten times as large of the largest one of a head that knows nothing.
            max_iterations: Bound.

        Returns:
            The mean cross entropy there, and the number of iterations.
        """
        penalty = 1 / (strength * self._total)
        here = self._evaluate(self._weight, self._bias)
        if self._ignorant_gradient is None:
            self._ignorant_gradient = np.abs(here.weight).max(axis=0, initial=0)
        curvature = max(here.curvature, _MIN_CURVATURE)
        # (r + 1,): a unit step in each direction has curvature near 1; the last one is the bias', which is free.
        penalties = np.append(np.full(len(self._coordinates.variances), penalty), 0)
        steps = 1 / np.sqrt(penalties + curvature * np.append(self._coordinates.variances, 1))

        def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = self._split(point, steps)
            value = self._evaluate(weight, bias)
            gradient = np.column_stack([value.weight + penalty * weight, value.bias]) * steps
            return value.loss + penalty / 2 * float(np.sum(weight**2)), gradient.ravel()

        start = np.column_stack([self._weight, self._bias]) / steps
        nothing = _IGNORANT_SHARE * float(np.max(self._ignorant_gradient * steps[:-1], initial=_MIN_GRADIENT))
        limits = {"gtol": tolerance * min(1, here.loss, nothing), "ftol": 0, "maxiter": max_iterations}
        is_large = len(self._rows) * self._weight.size >= _MIN_SHARED_PRODUCTS
        with nullcontext() if is_large else use_one_blas_thread():
            result = minimize(evaluate, start.ravel(), jac=True, method="L-BFGS-B", options=limits)
        self._weight, self._bias = self._split(result.x, steps)
        return float(result.fun - penalty / 2 * np.sum(self._weight**2)), int(result.nit)

    def unfold(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (K, D) and bias (K,), float32, for features as they came."""
        return self._coordinates.unfold(self._weight, self._bias)

    def _split(self, point: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parameters = point.reshape(-1, len(steps)) * steps
        return parameters[:, :-1], parameters[:, -1]

    def _evaluate(self, weight: np.ndarray, bias: np.ndarray) -> _Value:
        """Pass once over the rows."""
        prepared = self._coordinates.prepare(weight)
        loss = curvature = 0.0
        by_weight, by_bias = np.zeros(prepared.shape), np.zeros(len(bias))
        for block in self._blocks:
            self._on_step()
            rows = self._coordinates.read(self._rows[block]) if self._kept is None else self._kept
            # Products in float32, sums in float64: the line search compares losses that differ in the last digits.
            logits = (rows @ prepared.T) + bias
            losses, errors, curvatures = _compare(logits, self._targets.take(block), self._total)
            loss += losses
            curvature += curvatures
            by_weight += errors.astype(np.float32).T @ rows
            by_bias += errors.sum(axis=0)
        return _Value(loss, self._coordinates.restore(by_weight), by_bias, curvature)


def _compare(logits: np.ndarray, targets: Targets, total: float) -> tuple[float, np.ndarray, float]:
    """Return a block's share of the mean cross entropy, of its gradient by the logits, and of the curvature.

    Args:
        logits: (N, K) float64, overwritten with the gradient.
        targets: Of these rows.
        total: Sum of the factors of all rows.
    """
    rows, smoothing, factors = np.arange(len(logits)), targets.smoothing, targets.factors / total
    logits -= logits.max(axis=1, keepdims=True)
    at_target = (1 - smoothing) * logits[rows, targets.labels] + smoothing * logits.mean(axis=1)
    probabilities = np.exp(logits, out=logits)
    sums = probabilities.sum(axis=1)
    probabilities /= sums[:, None]
    loss = factors @ (np.log(sums) - at_target)
    # The mean of p (1 - p), the diagonal of the Hessian by the logits.
    curvature = factors @ (1 - np.einsum("ij,ij->i", probabilities, probabilities)) / targets.num_classes
    probabilities[rows, targets.labels] -= 1 - smoothing
    probabilities -= smoothing / targets.num_classes
    probabilities *= factors[:, None]
    return float(loss), probabilities, float(curvature)
