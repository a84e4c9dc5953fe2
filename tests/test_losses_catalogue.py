"""The losses that no or one library ships: against their papers' formulas in numpy, MONAI and timm."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from law_cases import each
from losses_cases import IGNORE, Late
from numpy.typing import NDArray

from lossbench.losses import (
    REGISTRY,
    AsymmetricSingle,
    Blob,
    CenterlineDice,
    ConditionalOrdinal,
    DistributionBalanced,
    ExpectedCost,
    ExponentialLogarithmic,
    Focal,
    GeneralizedCrossEntropy,
    MeanAbsoluteError,
    NeighbourAwareCalibration,
    ParameterError,
    Poly,
    Poly1,
    blobs,
)

torch.set_num_threads(1)
monai, timm = Late("monai"), Late("timm")
close = torch.testing.assert_close
Array = NDArray[np.float64]
Row = Callable[[Array, int], float]
C = 4
COUNTS = [40, 10, 5, 1]
COST = [[0.0, 1.0, 2.0, 5.0], [1.0, 0.0, 1.0, 2.0], [3.0, 1.0, 0.0, 1.0], [4.0, 0.5, 1.0, 0.0]]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


def kullback(p: Array, q: Array) -> float:
    """KL(p ‖ q), 0 log 0 being 0."""
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def jensen_shannon(z: Array, y: int) -> float:
    """2105.04522: both divergences from the mixture, over all classes, divided by Z; π = 0.3."""
    t, p = np.eye(C)[y], softmax(z)
    mixed = 0.3 * t + 0.7 * p
    return (0.3 * kullback(t, mixed) + 0.7 * kullback(p, mixed)) / (-0.7 * math.log(0.7))


def normalized(z: Array, y: int) -> float:
    """2006.13554: the loss of the label over its sum for all labels."""
    each = -np.log(softmax(z))
    return float(each[y] / each.sum())


def reverse(z: Array, y: int) -> float:
    """−Σ p log t with A = −4 for log 0."""
    return float(4 * (softmax(z).sum() - softmax(z)[y]))


def huberised(z: Array, y: int) -> float:
    p = softmax(z)[y]
    return -math.log(p) if p > 1 / 3 else -3 * p + math.log(3) + 1


def huberised_general(z: Array, y: int) -> float:
    """The tangent of (1 − p^q) / q where its slope −p^(q−1) is −τ."""
    p, q, tau = softmax(z)[y], 0.6, 3.0
    border = tau ** (1 / (q - 1))
    return (1 - p**q) / q if p > border else (1 - border**q) / q - tau * (p - border)


def asymmetric(z: Array, y: int) -> float:
    p, t = softmax(z), np.eye(C)[y]
    fading = np.where(t == 1, (1 - p) ** 1.5, p**2.5)
    return -float(((0.8 * t + 0.2 / C) * fading * np.log(p)).sum())


def unhinged(z: Array, y: int) -> float:
    return float(np.mean([1 - (z[y] - z[k]) for k in range(C) if k != y]))


ROWS: list[tuple[str, Mapping[str, Any], Row]] = [
    ("jensen_shannon", {"pi": 0.3}, jensen_shannon),
    ("normalized_cross_entropy", {}, normalized),
    (
        "active_passive",
        {"alpha": 2.0, "beta": 0.5},
        lambda z, y: 2 * normalized(z, y) + 0.5 * reverse(z, y),
    ),
    (
        "active_passive",
        {"alpha": 2.0, "beta": 0.5, "passive": "mae"},
        lambda z, y: 2 * normalized(z, y) + 0.5 * float(np.abs(np.eye(C)[y] - softmax(z)).sum()),
    ),
    ("phuber_cross_entropy", {"tau": 3.0}, huberised),
    ("phuber_generalized_cross_entropy", {"tau": 3.0, "q": 0.6}, huberised_general),
    ("phuber_generalized_cross_entropy", {"tau": 3.0, "q": 0.0}, huberised),
    ("unhinged", {}, unhinged),
    (
        "poly",
        {"epsilons": [2.0, -0.5, 0.25]},
        lambda z, y: (
            -math.log(softmax(z)[y])
            + sum(e * (1 - softmax(z)[y]) ** j for j, e in ((1, 2.0), (2, -0.5), (3, 0.25)))
        ),
    ),
    (
        "asymmetric_single",
        {"gamma_positive": 1.5, "gamma_negative": 2.5, "label_smoothing": 0.2},
        asymmetric,
    ),
    ("expected_cost", {"cost": COST}, lambda z, y: float(softmax(z) @ np.array(COST[y]))),
    (
        "expected_cost",
        {"distance": "squared"},
        lambda z, y: float(softmax(z) @ (np.arange(C) - y) ** 2) / 9,
    ),
]


@pytest.mark.parametrize(
    ("name", "parameters", "row"), ROWS, ids=[f"{name}-{given}" for name, given, _ in ROWS]
)
@pytest.mark.parametrize("shape", [(9,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted-and-ignoring"])
def test_a_loss_of_positions_is_its_formula(
    name: str, parameters: Mapping[str, Any], row: Row, shape: tuple[int, ...], weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(shape[0], C, *shape[1:], generator=generator, dtype=torch.float64) * 3
    target = torch.randint(C, shape, generator=generator)
    given: dict[str, Any] = {**parameters}
    weights = np.ones(C)
    if weighted:
        target[torch.rand(shape, generator=generator) < 0.3] = IGNORE
        weights = np.array([0.5, 1.0, 2.0, 0.25])
        given |= {"ignore_index": IGNORE, "class_weights": weights.tolist()}
    rows = logits.movedim(1, -1).reshape(-1, C).numpy()
    terms = [
        (weights[y], row(z, y)) for z, y in zip(rows, target.flatten().tolist(), strict=True) if y != IGNORE
    ]
    expected = sum(w * value for w, value in terms) / sum(w for w, _ in terms)
    assert float(REGISTRY[name](**given)(logits, target)) == pytest.approx(expected, rel=2e-7, abs=1e-9)


# --- limits: what a loss becomes at the ends of its parameters ---


def single(spatial: tuple[int, ...] = (5, 6), dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, C, *spatial, generator=generator, dtype=dtype)
    return logits, torch.randint(C, (3, *spatial), generator=generator)


LIMITS = [
    ("jensen_shannon", {"pi": 1e-7}, F.cross_entropy),
    ("phuber_cross_entropy", {"tau": 1e9}, F.cross_entropy),
    ("phuber_generalized_cross_entropy", {"tau": 1e9, "q": 0.6}, GeneralizedCrossEntropy(q=0.6)),
    ("asymmetric_single", {"gamma_positive": 2.0, "label_smoothing": 0.0}, Focal(gamma=2.0)),
    ("poly", {"epsilons": [2.0], "gamma": 1.5}, Poly1(epsilon=2.0, gamma=1.5)),
    ("poly", {"epsilons": [0.0]}, F.cross_entropy),
    ("nacl", {"alpha": 0.0}, F.cross_entropy),
    ("expected_cost", {}, lambda z, y: MeanAbsoluteError()(z, y) / 2),
]


@pytest.mark.parametrize(
    ("name", "parameters", "limit"), LIMITS, ids=[f"{name}-{given}" for name, given, _ in LIMITS]
)
def test_a_loss_becomes_another_at_the_end_of_its_range(
    name: str, parameters: Mapping[str, Any], limit: Callable[..., torch.Tensor]
) -> None:
    logits, target = single()
    expected: torch.Tensor = limit(logits, target)
    close(REGISTRY[name](**parameters)(logits, target), expected, rtol=1e-5, atol=1e-7)


def test_jensen_shannon_nears_half_the_absolute_error_as_slowly_as_a_logarithm_grows() -> None:
    logits, target = single()
    limit = MeanAbsoluteError()(logits, target) / 2
    apart = [float(REGISTRY["jensen_shannon"](pi=1 - 10.0**-k)(logits, target) / limit) - 1 for k in (3, 12)]
    assert 0 < apart[1] < apart[0] / 3 < 0.05


@each("epsilons", [[-1.1], [0.0, -0.6], [float("nan")], [True], "1", [], 1.0])
def test_coefficients_that_would_reward_mistakes_are_refused(epsilons: Any) -> None:
    with pytest.raises(ParameterError, match="the j-th ≥ −1 / j"):
        Poly(epsilons=epsilons)


@pytest.mark.parametrize(
    "cost", [[[0.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]], [[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], "x"]
)
def test_a_matrix_of_costs_that_makes_no_sense_is_refused(cost: Any) -> None:
    with pytest.raises(ParameterError, match="C rows of C finite numbers"):
        ExpectedCost(cost=cost)


def test_a_matrix_of_costs_for_other_classes_is_refused() -> None:
    with pytest.raises(ParameterError, match="4 numbers, one per class"):
        ExpectedCost(cost=[[0.0, 1.0], [1.0, 0.0]])(torch.zeros(1, 4), torch.tensor([0]))


# --- ordinal ---


def corn(conditional: Array, y: NDArray[np.int64]) -> float:
    """2111.08851: task k asks those with y ≥ k whether y > k; all tasks' losses over all tasks' sizes."""
    total, asked = 0.0, 0
    for k in range(conditional.shape[1]):
        subset = y >= k
        f, more = 1 / (1 + np.exp(-conditional[subset, k])), y[subset] > k
        total -= np.log(np.where(more, f, 1 - f)).sum()
        asked += int(subset.sum())
    return total / asked


def test_corn_is_its_formula_of_the_differences_of_logits() -> None:
    logits, target = single(())
    logits, target = logits.repeat(5, 1) + torch.arange(15).view(-1, 1) / 7, torch.arange(15) % C
    assert float(ConditionalOrdinal()(logits, target)) == pytest.approx(
        corn(np.diff(logits.numpy(), axis=1), target.numpy()), rel=1e-9
    )


def test_of_rising_and_then_falling_logits_argmax_is_corns_decision() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 1.0, 2.0, 1.5], [0.0, 1.0, 2.0, 3.0]])
    ranks = (logits.diff(dim=1).sigmoid() > 0.5).int().cumprod(1).sum(1)
    assert ranks.tolist() == logits.argmax(1).tolist()


# --- shape: skeletons, blobs, neighbours ---


def skeleton(values: Array, iterations: int) -> Array:
    """2003.07311, alg. 1, on one map: soft erosion by the cross, dilation by the box."""
    cross = scipy.ndimage.generate_binary_structure(values.ndim, 1)

    def eroded(x: Array) -> Array:
        return scipy.ndimage.grey_erosion(x, footprint=cross, mode="constant", cval=np.inf)

    def opened(x: Array) -> Array:
        return scipy.ndimage.grey_dilation(eroded(x), size=(3,) * x.ndim, mode="constant", cval=-np.inf)

    found = np.maximum(values - opened(values), 0)
    for _ in range(iterations):
        values = eroded(values)
        ridge = np.maximum(values - opened(values), 0)
        found = found + np.maximum(ridge - found * ridge, 0)
    return found


@each("spatial", [(15,), (12, 11), (7, 8, 6)])
@each("iterations", [0, 3])
@each("labels", [False, True])
def test_cl_dice_is_its_formula(spatial: tuple[int, ...], iterations: int, labels: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *spatial, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (2, *spatial), generator=generator)
    hot = F.one_hot(target, 3).movedim(-1, 1)
    probs, each = logits.sigmoid() if labels else logits.softmax(1), []
    for n, k in np.ndindex(2, 3):
        p, g = probs[n, k].numpy(), hot[n, k].double().numpy()
        of_p, of_g = skeleton(p, iterations), skeleton(g, iterations)
        precision = ((of_p * g).sum() + 1) / (of_p.sum() + 1)
        sensitivity = ((of_g * p).sum() + 1) / (of_g.sum() + 1)
        each.append(1 - 2 * precision * sensitivity / (precision + sensitivity))
    found = CenterlineDice(iterations=iterations, over="image")(logits, hot if labels else target)
    assert float(found) == pytest.approx(np.mean(each), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [(12, 11), (7, 8, 6)], ids=["2-D", "3-D"])
def test_cl_dice_of_one_channel_is_monais(spatial: tuple[int, ...]) -> None:
    """MONAI pools the channels and adds 1e-4 to the harmonic mean's denominator."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, *spatial, generator=generator, dtype=torch.float64)
    target = (torch.rand(logits.shape, generator=generator) < 0.5).double()
    theirs = monai.losses.SoftclDiceLoss(sigmoid=True, smooth=1e-12)(logits, target)
    close(CenterlineDice(over="image")(logits, target), theirs)


def test_a_gap_in_a_line_costs_more_than_its_thickness() -> None:
    line = torch.zeros(1, 1, 15, 15)
    line[..., 7, :] = 1
    thick, broken = line.clone(), line.clone()
    thick[..., 6:9, :] = 1
    broken[..., 7, 4:11] = 0
    costs = [float(CenterlineDice()(one * 40 - 20, line)) for one in (line, thick, broken)]
    assert costs[0] < 1e-3
    assert costs[1] < costs[2] / 2


def test_blobs_are_numbered_through_in_each_class_of_each_image() -> None:
    target = torch.tensor([[[1, 0, 2], [0, 1, 0], [1, 0, 0]]])
    expected = [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    found = blobs(target, 3)
    assert found[0, 2].tolist() == expected
    assert found[0, 1].bool().equal(target[0] == 1), "corners connect"
    assert float(found[0, 1].max()) == 1
    assert torch.equal(found, blobs(F.one_hot(target, 3).movedim(-1, 1).bool(), 3))


def test_blob_loss_is_the_mean_dice_of_each_blob_with_the_others_masked_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 9, 8, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 9, 8, generator=generator) * 5).long().clamp_max(3) % 3
    probs, images = logits.softmax(1).numpy(), []
    for n in range(2):
        classes = []
        for k in (1, 2):
            region = target[n].numpy() == k
            numbers, count = scipy.ndimage.label(region, structure=np.ones((3, 3)))
            each = []
            for b in range(1, count + 1):
                others = region & (numbers != b)
                p, g = probs[n, k][~others], (numbers == b)[~others]
                each.append(1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1))
            classes.append(np.mean(each))
        images.append(np.mean(classes))
    found = Blob()(logits, target, blobs(target, 3))
    assert float(found) == pytest.approx(np.mean(images), rel=1e-6)


@pytest.mark.parametrize("spatial", [(9, 8), (5, 6, 4)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("size", [3, 5])
def test_nacl_is_monais(spatial: tuple[int, ...], size: int) -> None:
    logits, target = single(spatial, torch.float32)
    theirs = monai.losses.NACLLoss(classes=C, dim=len(spatial), kernel_size=size, alpha=0.3)(logits, target)
    close(NeighbourAwareCalibration(alpha=0.3, size=size)(logits, target), theirs)


def test_exponential_logarithmic_is_its_formula() -> None:
    logits, target = single()
    p, g = logits.softmax(1).flatten(2).numpy(), F.one_hot(target, C).flatten(1, 2).movedim(2, 1).numpy()
    score = (2 * (p * g).sum((0, 2)) + 1) / (p.sum((0, 2)) + g.sum((0, 2)) + 1)
    rarity = np.sqrt(sum(COUNTS) / np.array(COUNTS))
    entropy = (rarity[None, :, None] * g * (-np.log(p)) ** 0.4).sum((0, 1, 2)) / g.sum()
    expected = 0.7 * ((-np.log(score)) ** 0.5).mean() + 0.3 * entropy
    loss = ExponentialLogarithmic(class_counts=COUNTS, dice_weight=0.7, gamma_dice=0.5, gamma_cross=0.4)
    assert float(loss(logits, target)) == pytest.approx(expected, rel=1e-7)


def test_asymmetric_single_is_timms() -> None:
    logits, target = single((), torch.float32)
    theirs = timm.loss.AsymmetricLossSingleLabel(gamma_pos=1, gamma_neg=4, eps=0.1)
    close(AsymmetricSingle()(logits, target), theirs(logits, target))


# --- several labels ---


def balanced_row(z: Array, t: Array, gamma: float) -> float:
    """2007.09654: the weight from label frequencies, the shift from priors, the tolerance of negatives."""
    n, total = np.array(COUNTS), 60
    instance = (t / n).sum()
    weight = 0.2 + 1 / (1 + np.exp(-8 * ((1 / n) / instance - 0.3))) if instance else np.full(C, 1.2)
    shift = 0.1 * np.log(total / n - 1)
    positive, negative = np.log1p(np.exp(-(z - shift))), np.log1p(np.exp(3 * (z - shift)))
    positive, negative = ((1 - np.exp(-one)) ** gamma * one for one in (positive, negative))
    return float((weight * (t * positive + (1 - t) * negative / 3)).mean())


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_distribution_balanced_is_its_formula(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, C, generator=generator, dtype=torch.float64) * 2
    labels = torch.rand(logits.shape, generator=generator) < 0.4
    labels[0] = False
    pairs = zip(logits.numpy(), labels.double().numpy(), strict=True)
    expected = np.mean([balanced_row(z, t, gamma) for z, t in pairs])
    loss = DistributionBalanced(
        class_counts=COUNTS, positions=60, alpha=0.2, beta=8.0, mu=0.3, kappa=0.1, lambda_=3.0, gamma=gamma
    )
    assert float(loss(logits, labels)) == pytest.approx(expected, rel=1e-6)
    soft = loss(logits, labels.double())
    close(soft, loss(logits, labels))
