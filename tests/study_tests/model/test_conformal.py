"""Conformal sets of labels: coverage over many draws of calibration and new items, and the definitions."""

import numpy as np
import pytest

from study.errors import ModelError
from study.model.conformal import ConformalLimits

N_DRAWS, N_CLASSES, N_NEW = 400, 5, 200


def draw(rng: np.random.Generator, n: int, classes: int = N_CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a mediocre classifier, some of whose classes are harder, and the classes."""
    target = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) * (1 + target[:, None])
    logits[np.arange(n), target] += 2
    return logits.astype(np.float32), target


@pytest.mark.parametrize("n_calibration", [9, 40, 300])
@pytest.mark.parametrize("error_rate", [0.05, 0.1, 0.3])
def test_coverage_and_rates_over_draws(n_calibration: int, error_rate: float) -> None:
    rng = np.random.default_rng(n_calibration)
    covered, empty, outlying = np.empty((3, N_DRAWS))
    for index in range(N_DRAWS):
        calibration = ConformalLimits.of(*draw(rng, n_calibration))
        logits, target = draw(rng, N_NEW)
        sets = calibration.sets(logits, error_rate)
        covered[index] = sets[np.arange(N_NEW), target].mean()
        empty[index] = (~sets.any(1)).mean()
        outlying[index] = (calibration.p_known(logits) <= error_rate).mean()
    # The draws' coverages are Beta distributed with a deviation below (e (1 - e) / n)^0.5, and binomial on top.
    error = 4 * (error_rate * (1 - error_rate) * (1 / n_calibration + 1 / N_NEW) / N_DRAWS) ** 0.5
    exact = np.floor((n_calibration + 1) * error_rate + 1e-9) / (n_calibration + 1)
    assert covered.mean() == pytest.approx(1 - exact, abs=error)
    assert covered.mean() >= 1 - error_rate - error
    assert empty.mean() <= error_rate + error
    assert outlying.mean() == pytest.approx(exact, abs=error)


def test_ties_only_add_classes() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(N_DRAWS):
        logits, target = draw(rng, 60)
        new, own = draw(rng, 60)
        sets = ConformalLimits.of(logits.round(), target).sets(new.round(), 0.2)
        covered.append(sets[np.arange(60), own].mean())
    assert np.mean(covered) >= 0.8


def test_the_limit_by_its_definition() -> None:
    logits = np.array([[0.1, 9], [0.2, 9], [0.3, 9], [0.4, 9], [9, 9]], np.float32)
    calibration = ConformalLimits.of(logits, np.array([0, 0, 0, 0, -1]))
    assert calibration.limit(0.2) == np.float32(0.1), "floor(5 * 0.2) = 1: the smallest of four"
    assert calibration.limit(0.6) == np.float32(0.3)
    assert calibration.limit(0.19) == -np.inf, "four items allow no error rate below a fifth"
    assert calibration.sets(logits, 0.19).all()
    assert calibration.sets(logits, 0.6)[:, 0].tolist() == [False, False, True, True, True]
    assert calibration.p_known(np.array([[8.0, 0], [9, 0]], np.float32)).tolist() == [0.2, 1.0]


def test_what_cannot_be_calibrated_is_refused() -> None:
    logits, target = draw(np.random.default_rng(0), 20)
    for rate in (0.0, 1.0, -0.1, 1.5):
        with pytest.raises(ModelError, match="error rate must be above 0 and below 1"):
            ConformalLimits.of(logits, target).sets(logits, rate)
    with pytest.raises(ModelError, match="Calibration needs an item of a known class"):
        ConformalLimits.of(logits, np.full(20, -1))
