"""Each loss against its paper's formula, written out in numpy and float64, on rows and one-hot targets."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from law_cases import each
from losses_cases import IGNORE
from numpy.typing import NDArray

from lossbench.losses import REGISTRY, HausdorffDistance, signed_distances

torch.set_num_threads(1)
Array = NDArray[np.float64]
Row = Callable[[Array, Array], float]
C = 4
COUNTS = [40, 10, 5, 1]
WEIGHTS = [0.5, 1.0, 2.0, 0.25]  # exact in float32, as the buffers are


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def true(z: Array, t: Array) -> float:
    return float(softmax(z) @ t)


def reduced(z: Array, t: Array) -> float:
    p = true(z, t)
    return -math.log(p) * (1 if p < 0.4 else ((1 - p) / 0.4) ** 1.5)


def bi_tempered(z: Array, t: Array) -> float:
    """Paper eq. 4 to 6 at t1 = 0.7, t2 = 1.4, the normaliser found by a bracketing solver."""
    t1, t2 = 0.7, 1.4

    def exp_t(x: Array) -> Array:
        return np.maximum(1 + (1 - t2) * x, 0) ** (1 / (1 - t2))

    norm = scipy.optimize.brentq(lambda a: exp_t(z - a).sum() - 1, z.max(), z.max() + 1e4, xtol=1e-13)
    p = exp_t(z - norm)
    log_t = lambda x: (x ** (1 - t1) - 1) / (1 - t1)  # noqa: E731  # as the paper writes it
    divergence = [
        (tk * (log_t(tk) - log_t(pk)) if tk else 0.0) - (tk ** (2 - t1) - pk ** (2 - t1)) / (2 - t1)
        for tk, pk in zip(t, p, strict=True)
    ]
    return float(sum(divergence))


def with_prior(tau: float) -> Row:
    prior = np.log(np.array(COUNTS) / sum(COUNTS))
    return lambda z, t: -math.log(softmax(z + tau * prior) @ t)


def ldam(z: Array, t: Array) -> float:
    margins = np.array(COUNTS) ** -0.25
    return -math.log(softmax(2.0 * (z - 0.5 * margins / margins.max() * t)) @ t)


def equalization(z: Array, t: Array) -> float:
    rare = (np.array(COUNTS) / sum(COUNTS) < 0.1).astype(float)
    p, w = sigmoid(z), 1 - rare * (1 - t)
    return float(-(w * (t * np.log(p) + (1 - t) * np.log(1 - p))).sum())


def slack(z: Array, t: Array) -> Array:
    """max(0, 1 − z_y + z_k) for k ≠ y."""
    return np.maximum(0, 1 - z @ t + z)[t == 0]


ROWS: list[tuple[str, Mapping[str, Any], Row]] = [
    ("cross_entropy", {}, lambda z, t: -math.log(true(z, t))),
    (
        "cross_entropy",
        {"label_smoothing": 0.2},
        lambda z, t: -float((0.8 * t + 0.2 / C) @ np.log(softmax(z))),
    ),
    ("focal", {"gamma": 0.0}, lambda z, t: -math.log(true(z, t))),
    (
        "focal",
        {"gamma": 1.5, "alpha": 0.25},
        lambda z, t: -0.25 * (1 - true(z, t)) ** 1.5 * math.log(true(z, t)),
    ),
    ("reduced_focal", {"gamma": 1.5, "threshold": 0.4}, reduced),
    ("poly1", {"epsilon": 2.0}, lambda z, t: -math.log(true(z, t)) + 2 * (1 - true(z, t))),
    (
        "poly1",
        {"epsilon": -0.5, "gamma": 2.0},
        lambda z, t: -((1 - true(z, t)) ** 2) * math.log(true(z, t)) - 0.5 * (1 - true(z, t)) ** 3,
    ),
    ("generalized_cross_entropy", {"q": 0.6}, lambda z, t: (1 - true(z, t) ** 0.6) / 0.6),
    ("generalized_cross_entropy", {"q": 1.0}, lambda z, t: 1 - true(z, t)),
    (
        "symmetric_cross_entropy",
        {"alpha": 0.5, "beta": 2.0, "log_zero": -3.0},
        lambda z, t: -0.5 * math.log(true(z, t)) - 2 * float(softmax(z) @ np.where(t == 1, 0, -3)),
    ),
    (
        "bootstrapped",
        {"beta": 0.7},
        lambda z, t: -float((0.7 * t + 0.3 * softmax(z)) @ np.log(softmax(z))),
    ),
    (
        "bootstrapped",
        {"beta": 0.7, "variant": "hard"},
        lambda z, t: -float((0.7 * t + 0.3 * (z == z.max())) @ np.log(softmax(z))),
    ),
    ("bi_tempered", {"t1": 0.7, "t2": 1.4}, bi_tempered),
    ("bi_tempered", {"t1": 1.0, "t2": 1.0}, lambda z, t: -math.log(true(z, t))),
    ("balanced_softmax", {"class_counts": COUNTS}, with_prior(1.0)),
    ("logit_adjusted", {"class_counts": COUNTS, "tau": 1.5}, with_prior(1.5)),
    ("ldam", {"class_counts": COUNTS, "scale": 2.0, "margin": 0.5}, ldam),
    ("equalization", {"class_counts": COUNTS, "rare": 0.1}, equalization),
    (
        "logit_normalized",
        {"temperature": 0.5},
        lambda z, t: -math.log(softmax(z / (0.5 * np.linalg.norm(z))) @ t),
    ),
    ("double_softmax_cross_entropy", {}, lambda z, t: -math.log(softmax(softmax(z)) @ t)),
    ("hinge", {}, lambda z, t: float(slack(z, t).max())),
    ("hinge", {"squared": True}, lambda z, t: float(slack(z, t).max() ** 2)),
    ("hinge", {"variant": "weston_watkins"}, lambda z, t: float(slack(z, t).sum())),
    ("hinge", {"variant": "weston_watkins", "squared": True}, lambda z, t: float((slack(z, t) ** 2).sum())),
    ("hinge", {"variant": "one_vs_all"}, lambda z, t: float(np.maximum(0, 1 - (2 * t - 1) * z).sum())),
    ("brier", {}, lambda z, t: float(((softmax(z) - t) ** 2).sum())),
    ("brier", {"classes": "mean"}, lambda z, t: float(((softmax(z) - t) ** 2).mean())),
    ("mae", {}, lambda z, t: float(np.abs(softmax(z) - t).sum())),
    (
        "squared_logits",
        {"true_weight": 5.0, "target_logit": 3.0},
        lambda z, t: float((t * 5 * (z - 3) ** 2 + (1 - t) * z**2).sum() / C),
    ),
]


@pytest.mark.parametrize(
    ("name", "parameters", "row"), ROWS, ids=[f"{name}-{given}" for name, given, _ in ROWS]
)
def test_single_label_losses_are_their_formulas(name: str, parameters: Mapping[str, Any], row: Row) -> None:
    """Plain, and weighted with positions ignored, for points, sequences, images and volumes."""
    for shape, weighted in itertools.product([(7,), (3, 5), (2, 3, 4), (2, 2, 3, 2)], [False, True]):
        is_its_formula(name, parameters, row, shape, weighted)


def is_its_formula(
    name: str, parameters: Mapping[str, Any], row: Row, shape: tuple[int, ...], weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(shape[0], C, *shape[1:], generator=generator, dtype=torch.float64) * 3
    target = torch.randint(C, shape, generator=generator)
    given = dict(parameters)
    if weighted:
        target[torch.rand(shape, generator=generator) < 0.3] = IGNORE
        given["ignore_index"] = IGNORE
        given |= {"class_weights": WEIGHTS} if "class_weights" in REGISTRY[name].declared else {}
    rows, classes = logits.movedim(1, -1).reshape(-1, C).numpy(), target.flatten().tolist()
    terms = [
        (given.get("class_weights", np.ones(C))[y], row(z, np.eye(C)[y]))
        for z, y in zip(rows, classes, strict=True)
        if y != IGNORE
    ]
    expected = sum(w * value for w, value in terms) / sum(w for w, _ in terms)
    if (
        weighted and "label_smoothing" in parameters
    ):  # torch spreads the class weights too; its oracle covers it
        given.pop("class_weights")
        expected = float(np.mean([value for _, value in terms]))
    # 1e-7: class weights and priors are kept in float32
    assert float(REGISTRY[name](**given)(logits, target)) == pytest.approx(expected, rel=2e-7, abs=1e-9)


def test_top_k_averages_the_hardest() -> None:
    logits = torch.randn(5, C, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.randint(C, (5, 7), generator=torch.Generator().manual_seed(1))
    target[0] = IGNORE
    each = torch.nn.functional.cross_entropy(logits, target, reduction="none", ignore_index=IGNORE)
    hardest = each[1:].flatten().sort(descending=True).values[: math.ceil(0.3 * 28)]
    torch.testing.assert_close(
        REGISTRY["top_k"](kept=0.3, ignore_index=IGNORE)(logits, target), hardest.mean()
    )


# --- region: counts per class with a dense one-hot, per image or of the batch ---


def counts(logits: torch.Tensor, target: torch.Tensor, over: str) -> tuple[Array, Array, Array, Array]:
    """Return p and one-hot g, (images, C, positions), and the soft counts I, P, G packed for the formulas."""
    p = logits.softmax(1).flatten(2).numpy()
    g = np.stack([(target.flatten(1) == k).numpy() for k in range(C)], 1).astype(float)
    if over == "batch":
        p, g = (np.moveaxis(x, 1, 0).reshape(1, C, -1) for x in (p, g))
    return p, g, (p * g).sum(2), p.sum(2) + g.sum(2)


def dice_pp(p: Array, g: Array) -> Array:
    both = 2 * (p * g).sum(2)
    return 1 - (both + 1) / (both + (((1 - p) * g) ** 1.5).sum(2) + ((p * (1 - g)) ** 1.5).sum(2) + 1)


def mcc(p: Array, g: Array) -> Array:
    tp, tn = (p * g).sum(2), ((1 - p) * (1 - g)).sum(2)
    fp, fn = (p * (1 - g)).sum(2), ((1 - p) * g).sum(2)
    return 1 - (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def tversky(p: Array, g: Array) -> Array:
    tp, fp, fn = (p * g).sum(2), (p * (1 - g)).sum(2), ((1 - p) * g).sum(2)
    return 1 - (tp + 1) / (tp + 0.3 * fp + 0.8 * fn + 1)


def dice(p: Array, g: Array, power: int = 1) -> Array:
    return 1 - (2 * (p * g).sum(2) + 1) / ((p**power).sum(2) + (g**power).sum(2) + 1)


REGIONS: list[tuple[str, Mapping[str, Any], Callable[[Array, Array], Array]]] = [
    ("dice", {}, dice),
    ("dice", {"power": 2}, lambda p, g: dice(p, g, 2)),
    ("jaccard", {}, lambda p, g: 1 - ((p * g).sum(2) + 1) / ((p + g - p * g).sum(2) + 1)),
    ("tversky", {"alpha": 0.3, "beta": 0.8}, tversky),
    ("focal_tversky", {"alpha": 0.3, "beta": 0.8, "gamma": 0.75}, lambda p, g: tversky(p, g) ** 0.75),
    ("log_cosh_dice", {}, lambda p, g: np.log(np.cosh(dice(p, g)))),
    ("dice_pp", {"gamma": 1.5}, dice_pp),
    ("mcc", {"smooth": 1e-12}, mcc),
]


@pytest.mark.parametrize(
    ("name", "parameters", "formula"), REGIONS, ids=[f"{name}-{given}" for name, given, _ in REGIONS]
)
def test_region_losses_are_their_formulas(
    name: str, parameters: Mapping[str, Any], formula: Callable[[Array, Array], Array]
) -> None:
    for over, spatial in itertools.product(["image", "batch"], [(9,), (4, 5), (3, 2, 4)]):
        region_is_its_formula(name, parameters, formula, spatial, over)


def region_is_its_formula(
    name: str,
    parameters: Mapping[str, Any],
    formula: Callable[[Array, Array], Array],
    spatial: tuple[int, ...],
    over: str,
) -> None:
    generator = torch.Generator().manual_seed(len(spatial))
    logits = torch.randn(3, C, *spatial, generator=generator, dtype=torch.float64)
    target = torch.randint(C, (3, *spatial), generator=generator)
    target.flatten(1)[:, :C] = torch.arange(C)  # every class in every image
    each = formula(*counts(logits, target, over)[:2])
    assert float(REGISTRY[name](over=over, **parameters)(logits, target)) == pytest.approx(
        each.mean(), rel=1e-9
    )
    weighted = (each * WEIGHTS).sum(1) / sum(WEIGHTS)
    found = REGISTRY[name](over=over, class_weights=WEIGHTS, **parameters)(logits, target)
    assert float(found) == pytest.approx(weighted.mean(), rel=1e-7)


def test_jaccard_of_soft_labels_is_least_at_the_labels_themselves() -> None:
    labels = torch.tensor([[[0.2, 0.9, 0.5]]], dtype=torch.float64)
    at_labels = REGISTRY["jaccard"](smooth=0.0)(labels.logit(), labels)
    assert float(at_labels) == pytest.approx(0.0, abs=1e-12)
    sharper = REGISTRY["jaccard"](smooth=0.0)(2 * labels.logit(), labels)
    assert float(sharper) > 0.05


def test_unified_focal_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, C, 5, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(C, (2, 5, 4), generator=generator)
    p, g, both, _ = counts(logits, target, "image")
    index = both / (both + 0.7 * ((1 - p) * g).sum(2) + 0.3 * (p * (1 - g)).sum(2))
    region = np.concatenate([1 - index[:, :1], (1 - index[:, 1:]) ** 0.6], 1).mean()
    background, foreground = -0.3 * (1 - p) ** 0.4 * np.log(p) * g, -0.7 * np.log(p) * g
    focal = (background[:, 0].sum() + foreground[:, 1:].sum()) / g.sum()
    found = REGISTRY["unified_focal"](focal_weight=0.2, delta=0.7, gamma=0.4, over="image")(logits, target)
    assert float(found) == pytest.approx(0.2 * focal + 0.8 * region, rel=1e-6)


@pytest.mark.parametrize("multilabel", [False, True])
def test_combo_is_its_formula(multilabel: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, C, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(C, (2, 5), generator=generator)
    p, g, both, total = counts(logits, target, "batch")
    labels = torch.from_numpy(np.moveaxis(g.reshape(C, 2, 5), 0, 1).copy())
    if multilabel:
        p = np.moveaxis(logits.sigmoid().numpy(), 1, 0).reshape(1, C, -1)
        both, total = (p * g).sum(2), p.sum(2) + g.sum(2)
    entropy = -(0.7 * g * np.log(p) + 0.3 * (1 - g) * np.log(1 - p)).mean()
    expected = 0.4 * entropy + 0.6 * (1 - (2 * both + 1) / (total + 1)).mean()
    found = REGISTRY["combo"](alpha=0.4, beta=0.7)(logits, labels if multilabel else target)
    assert float(found) == pytest.approx(expected, rel=1e-9)


# --- boundary ---


def brute_force_distance(region: NDArray[np.bool_]) -> Array:
    """Signed distance by comparing every pair of positions."""
    places = np.argwhere(np.ones_like(region)).astype(float)
    inside = region.ravel()
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    outward, inward = distance[:, inside].min(1), distance[:, ~inside].min(1)
    return np.where(inside, 1 - inward, outward).reshape(region.shape)


@pytest.mark.parametrize("spatial", [(9,), (6, 5), (4, 3, 3)], ids=str)
def test_distance_maps_are_signed_distances(spatial: tuple[int, ...]) -> None:
    target = torch.randint(3, (2, *spatial), generator=torch.Generator().manual_seed(0))
    maps = signed_distances(target, 3)
    for n, k in np.ndindex(2, 3):
        expected = brute_force_distance(target[n].numpy() == k)
        np.testing.assert_allclose(maps[n, k].numpy(), expected, atol=1e-5)
    assert (signed_distances(torch.zeros(1, *spatial, dtype=torch.long), 2) == 0).all(), (
        "absent or everywhere: 0"
    )
    as_labels = signed_distances(torch.nn.functional.one_hot(target, 3).movedim(-1, 1).bool(), 3)
    assert torch.equal(maps, as_labels)
    as_bytes = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).to(torch.uint8)
    as_bytes[as_bytes == 0] = 255
    assert torch.equal(maps, signed_distances(as_bytes, 3, multilabel=True)), "ignored labels are outside"


def test_boundary_and_hausdorff_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (2, 6, 5), generator=generator)
    maps = signed_distances(target, 3)
    p, g = logits.softmax(1), torch.nn.functional.one_hot(target, 3).movedim(-1, 1).double()
    torch.testing.assert_close(REGISTRY["boundary"]()(logits, target, maps), (p * maps).mean())
    unsigned = torch.where(g.bool(), 1 - maps, maps).double()
    expected = ((p - g) ** 2 * unsigned**1.5).mean()
    torch.testing.assert_close(HausdorffDistance(alpha=1.5)(logits, target, maps), expected)


def test_gradient_loss_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (2, 6, 5), generator=generator)
    p, g = logits.softmax(1).numpy(), torch.nn.functional.one_hot(target, 3).movedim(-1, 1).numpy()
    expected = (np.diff(p - g, axis=2) ** 2).mean() + (np.diff(p - g, axis=3) ** 2).mean()
    assert float(REGISTRY["gradient"]()(logits, target)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("spatial", [(7,), (6, 5), (4, 3, 5)], ids=str)
def test_gradient_loss_with_sobel_is_what_scipy_computes(spatial: tuple[int, ...]) -> None:
    from scipy import ndimage

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, *spatial, generator=generator, dtype=torch.float64)
    labels = torch.rand(1, 2, *spatial, generator=generator, dtype=torch.float64)
    difference = (logits.sigmoid() - labels).numpy()
    scale = 2.0 * 4.0 ** (len(spatial) - 1)
    expected = sum(
        np.mean([(ndimage.sobel(difference[0, k], axis, mode="nearest") / scale) ** 2 for k in range(2)])
        for axis in range(len(spatial))
    )
    assert float(REGISTRY["gradient"](operator="sobel")(logits, labels)) == pytest.approx(expected, rel=1e-10)


# --- several labels ---


def zlpr(z: Array, t: Array) -> float:
    return float(np.log(1 + ((1 - t) * np.exp(z)).sum()) + np.log(1 + (t * np.exp(-z)).sum()))


def asymmetric(z: Array, t: Array) -> float:
    p = sigmoid(z)
    shifted = np.maximum(p - 0.1, 0)
    return float(-(t * (1 - p) ** 0.5 * np.log(p) + (1 - t) * shifted**3 * np.log(1 - shifted)).mean())


LABEL_ROWS: list[tuple[str, Mapping[str, Any], Row]] = [
    ("zlpr", {}, zlpr),
    ("asymmetric", {"gamma_positive": 0.5, "gamma_negative": 3.0, "clip": 0.1}, asymmetric),
    ("brier", {}, lambda z, t: float(((sigmoid(z) - t) ** 2).mean())),
    ("mae", {}, lambda z, t: float(np.abs(sigmoid(z) - t).mean())),
    ("hinge", {}, lambda z, t: float(np.maximum(0, 1 - (2 * t - 1) * z).mean())),
    ("softmax_multilabel_cross_entropy", {}, lambda z, t: -float(t @ np.log(softmax(z)))),
    (
        "squared_logits",
        {"true_weight": 2.0, "target_logit": 3.0},
        lambda z, t: float((2 * t * (z - 3) ** 2 + (1 - t) * (z + 3) ** 2).mean()),
    ),
    (
        "generalized_cross_entropy",
        {"q": 0.6},
        lambda z, t: float(((1 - np.where(t == 1, sigmoid(z), sigmoid(-z)) ** 0.6) / 0.6).mean()),
    ),
    (
        "equalization",
        {"class_counts": COUNTS, "rare": 0.1},
        lambda z, t: equalization(z, t) / C,
    ),
]


@each(("name", "parameters", "row"), LABEL_ROWS)
@each("shape", [(7,), (3, 5), (2, 3, 4)])
def test_multi_label_losses_are_their_formulas(
    name: str, parameters: Mapping[str, Any], row: Row, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(shape[0], C, *shape[1:], generator=generator, dtype=torch.float64) * 3
    labels = torch.rand(logits.shape, generator=generator) < 0.4
    rows = zip(*(x.movedim(1, -1).reshape(-1, C).double().numpy() for x in (logits, labels)), strict=True)
    expected = np.mean([row(z, t) for z, t in rows])
    for target in (labels, labels.double(), labels.to(torch.uint8)):
        assert float(REGISTRY[name](**parameters)(logits, target)) == pytest.approx(expected, rel=1e-9)
