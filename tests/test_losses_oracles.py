"""Agreement with other libraries where they define the same thing; elsewhere the difference, measured."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from law_cases import each
from losses_cases import Late
from torch import Tensor

from lossbench.losses import (
    Asymmetric,
    BinaryCrossEntropy,
    Brier,
    CrossEntropy,
    Dice,
    Focal,
    FocalTversky,
    GeneralizedDice,
    HausdorffDistance,
    Hinge,
    Jaccard,
    Lovasz,
    LovaszHinge,
    MatthewsCorrelation,
    MultilabelMargin,
    Poly1,
    ReducedFocal,
    Tversky,
    TwoWay,
    UnifiedFocal,
    ZeroBoundedRanking,
)

torch.set_num_threads(1)
kornia, monai, sklearn, timm, torchvision = map(Late, ("kornia", "monai", "sklearn", "timm", "torchvision"))
smp = Late("segmentation_models_pytorch.losses")
C = 4
WEIGHTS = [0.5, 1.0, 2.0, 0.25]
SHAPES = {"points": (), "sequence": (6,), "image": (5, 4), "volume": (3, 4, 2)}
any_shape = pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES)
close = torch.testing.assert_close


def single(spatial: tuple[int, ...] = (5, 6), ignored: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return float64 logits and class indices; in the first image class 3 is absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, C, *spatial, generator=generator, dtype=torch.float64)
    target = torch.randint(C, (3, *spatial), generator=generator)
    target[0] = target[0].clamp_max(2)
    target[2] = (
        torch.where(torch.rand(spatial, generator=generator) < 0.3, 255, target[2]) if ignored else target[2]
    )
    return logits, target


def multi(spatial: tuple[int, ...] = (5, 6), seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, C, *spatial, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(logits.shape, generator=generator) < 0.4).double()


def one_hot(target: Tensor) -> Tensor:
    return F.one_hot(target, C).movedim(-1, 1).double()


# --- torch ---


@any_shape
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_torchs(
    spatial: tuple[int, ...], smoothing: float, weights: list[float] | None, reduction: str
) -> None:
    logits, target = single(spatial, ignored=True)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(
        logits, target, tensor, ignore_index=255, label_smoothing=smoothing, reduction=reduction
    )
    loss = CrossEntropy(
        class_weights=weights, label_smoothing=smoothing, ignore_index=255, reduction=reduction
    )
    close(loss(logits, target), expected)


def test_where_all_is_ignored_torch_gives_nan_and_we_give_zero() -> None:
    logits, target = single()
    target = torch.full_like(target, 255)
    assert F.cross_entropy(logits, target, ignore_index=255).isnan()
    assert CrossEntropy(ignore_index=255)(logits, target) == 0


@any_shape
def test_binary_cross_entropy_is_torchs(spatial: tuple[int, ...]) -> None:
    logits, target = multi(spatial)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64).view(-1, *[1] * len(spatial))
    expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    close(BinaryCrossEntropy(pos_weight=WEIGHTS)(logits, target), expected)
    soft = torch.rand(target.shape, dtype=torch.float64)
    close(BinaryCrossEntropy()(logits, soft), F.binary_cross_entropy_with_logits(logits, soft))


@pytest.mark.parametrize("power", [1, 2])
def test_torchs_multi_margin_is_weston_watkins_divided_by_the_classes(power: int) -> None:
    logits, target = single(())
    ours = Hinge(variant="weston_watkins", squared=power == 2)(logits, target)
    close(ours / C, F.multi_margin_loss(logits, target, p=power))


def test_multilabel_margin_is_torchs() -> None:
    logits, target = multi(())
    wanted = torch.full((3, C), -1)
    for row, labels in enumerate(target):
        places = labels.nonzero().flatten()
        wanted[row, : len(places)] = places
    close(MultilabelMargin()(logits, target), F.multilabel_margin_loss(logits, wanted))


@any_shape
def test_brier_averaged_over_classes_is_torchs_mse_of_softmax_and_one_hot(spatial: tuple[int, ...]) -> None:
    logits, target = single(spatial)
    close(Brier(classes="mean")(logits, target), F.mse_loss(logits.softmax(1), one_hot(target)))


# --- scikit-learn ---


def test_hinge_is_scikit_learns() -> None:
    logits, target = single((), seed=1)
    expected = sklearn.metrics.hinge_loss(target.numpy(), logits.numpy(), labels=range(C))
    assert float(Hinge()(logits, target)) == pytest.approx(expected)


def test_brier_is_scikit_learns_sum_over_classes() -> None:
    logits, target = single((), seed=1)
    expected = sklearn.metrics.brier_score_loss(target.numpy(), logits.softmax(1).numpy(), labels=range(C))
    assert float(Brier()(logits, target)) == pytest.approx(expected)


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    logits, target = single((), seed=1)
    expected = sklearn.metrics.log_loss(target.numpy(), logits.softmax(1).numpy(), labels=range(C))
    assert float(CrossEntropy()(logits, target)) == pytest.approx(expected)


def test_region_losses_of_certain_predictions_are_scikit_learns_metrics() -> None:
    """One minus Dice, IoU and Matthews' correlation of predictions without doubt."""
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randint(2, (2, 200), generator=generator)
    logits = (one_hot(predicted)[:, :2] * 200 - 100).double()
    macro = {"average": "macro", "zero_division": 0.0}
    dice = sklearn.metrics.f1_score(target, predicted, **macro)
    jaccard = sklearn.metrics.jaccard_score(target, predicted, **macro)
    matthews = sklearn.metrics.matthews_corrcoef(target, predicted)
    assert float(Dice(smooth=0.0)(logits, target)) == pytest.approx(1 - dice)
    assert float(Jaccard(smooth=0.0)(logits, target)) == pytest.approx(1 - jaccard)
    assert float(MatthewsCorrelation(smooth=1e-12)(logits, target)) == pytest.approx(1 - matthews)
    assert float(Lovasz()(logits, target)) == pytest.approx(1 - jaccard), (
        "exact where predictions are certain"
    )


# --- focal: torchvision, smp, kornia, MONAI ---


@pytest.mark.slow
@any_shape
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_sigmoid_focal_is_torchvisions(spatial: tuple[int, ...], alpha: float | None) -> None:
    logits, target = multi(spatial)
    expected = torchvision.ops.sigmoid_focal_loss(
        logits, target, alpha=-1 if alpha is None else alpha, gamma=1.7, reduction="mean"
    )
    close(Focal(gamma=1.7, alpha=alpha)(logits, target), expected)
    close(Focal(gamma=1.7, alpha=alpha)(logits, target.bool()), expected)


@pytest.mark.slow
def test_torchvisions_focal_has_nan_gradients_at_saturation_and_ours_has_not() -> None:
    for focal, finite in ((torchvision.ops.sigmoid_focal_loss, False), (Focal(gamma=0.5), True)):
        logits = torch.full((1, 2), 100.0).requires_grad_()
        options = {} if finite else {"gamma": 0.5, "alpha": -1}
        focal(logits, torch.ones(1, 2), **options).sum().backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all()) is finite


@pytest.mark.slow
@any_shape
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_focal_is_the_classes_times_kornias_and_monais(
    spatial: tuple[int, ...], gamma: float
) -> None:
    """Both divide by C: at γ = 0 they are cross-entropy / C, ours is cross-entropy."""
    logits, target = single(spatial)
    ours = Focal(gamma=gamma)(logits, target)
    if len(spatial) >= 1:
        theirs = kornia.losses.focal_loss(logits, target, alpha=None, gamma=gamma, reduction="mean")
        close(ours, C * theirs)
    monais = monai.losses.FocalLoss(gamma=gamma, use_softmax=True)(logits, one_hot(target))
    close(ours.float(), C * monais)
    if gamma == 0:
        close(ours, F.cross_entropy(logits, target))


@pytest.mark.slow
def test_smps_multiclass_focal_is_sigmoids_not_a_softmax() -> None:
    """smp #671: a sigmoid per class, averaged over classes.

    0.34 where the softmax focal loss is 1.30 here.
    """
    logits, target = single()
    theirs = smp.FocalLoss("multiclass", gamma=2.0)(logits, target)
    sigmoids = Focal(gamma=2.0)(logits, one_hot(target).bool())
    close(theirs, sigmoids)
    assert float(theirs) == pytest.approx(0.343, abs=1e-3)
    assert float(Focal(gamma=2.0)(logits, target)) == pytest.approx(1.301, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_reduced_focal_is_smps(threshold: float) -> None:
    logits, target = multi()
    theirs = smp.FocalLoss("multilabel", gamma=1.5, reduced_threshold=threshold)(logits, target)
    close(ReducedFocal(gamma=1.5, threshold=threshold)(logits, target), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_smp_and_kornia_leave_ignored_positions_in_the_mean() -> None:
    """smp #852: half the map ignored halves their focal loss; ours is that of the other half."""
    logits, target = single((5, 6))
    half = target.clone()
    half[..., 3:] = 255
    valid = Focal(gamma=2.0)(logits[..., :3], target[..., :3])
    close(Focal(gamma=2.0, ignore_index=255)(logits, half), valid)
    theirs = kornia.losses.focal_loss(logits, half, alpha=None, gamma=2.0, reduction="mean", ignore_index=255)
    close(C * theirs, valid / 2)


# --- Dice and relatives: presets and settings ---


def nnunet_dice(logits: Tensor, target: Tensor) -> Tensor:
    """nnU-Net's MemoryEfficientSoftDiceLoss (per image, background too, smooth 1), from its formula."""
    p, g = logits.softmax(1).flatten(2), one_hot(target).flatten(2)
    score = (2 * (p * g).sum(2) + 1) / (p.sum(2) + g.sum(2) + 1).clamp_min(1e-8)
    return -score.mean()


def mmseg_dice(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """mmseg's DiceLoss (0.x: smooth 1, exponent 2), written from its formula.

    The mask is missing below the line.
    """
    p, g = logits.softmax(1).flatten(2), one_hot(target).flatten(2)
    mask = torch.ones_like(p[:, :1]) if valid is None else valid.flatten(1).unsqueeze(1).double()
    return (1 - (2 * (p * g * mask).sum(2) + 1) / ((p**2 + g**2).sum(2) + 1)).mean()


def monai_dice(logits: Tensor, target: Tensor) -> Tensor:
    return monai.losses.DiceLoss(softmax=True)(logits, one_hot(target))


def smp_dice(logits: Tensor, target: Tensor) -> Tensor:
    found: Tensor = smp.DiceLoss("multiclass")(logits, target)
    return found


def kornia_dice(logits: Tensor, target: Tensor) -> Tensor:
    found: Tensor = kornia.losses.dice_loss(logits, target)
    return found


PRESETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "monai": monai_dice,
    "smp": smp_dice,
    "kornia": kornia_dice,
    "nnunet": nnunet_dice,
    "mmseg": mmseg_dice,
}


@pytest.mark.slow
@each("preset", PRESETS)
@each("seed", range(3))
def test_a_dice_preset_reproduces_the_library(preset: str, seed: int) -> None:
    logits, target = single((7, 6), seed=seed)
    for dtype in (torch.float64, torch.float32):
        ours = Dice(preset=preset)(logits.to(dtype), target)
        assert float(ours) == pytest.approx(float(PRESETS[preset](logits.to(dtype), target)), abs=1e-6)


@pytest.mark.slow
def test_a_dice_preset_reproduces_the_gradient_of_the_library() -> None:
    for preset, library in PRESETS.items():
        logits, target = single((7, 6))
        ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
        Dice(preset=preset)(ours, target).backward()
        library(theirs, target).backward()
        close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_the_libraries_dice_losses_differ_on_the_same_input() -> None:
    """0.756 MONAI, 0.744 smp, 0.740 kornia, 0.594 mmseg; nnU-Net's is a negative score, −0.283."""
    logits, target = single((7, 6))
    values = {name: float(library(logits, target)) for name, library in PRESETS.items() if name != "nnunet"}
    expected = {"monai": 0.7559, "smp": 0.7444, "kornia": 0.7399, "mmseg": 0.5938}
    assert values == pytest.approx(expected, abs=1e-4)


def test_mmseg_leaves_ignored_positions_in_the_denominator() -> None:
    """mmseg #1088: predictions at ignored positions take its loss from 0.762 to 0.785; ours stays 0.536."""
    logits, target = single((7, 6))
    valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    changed = torch.where(valid.unsqueeze(1), logits, logits * 3)
    assert float(mmseg_dice(logits, target, valid) - mmseg_dice(changed, target, valid)) != pytest.approx(
        0, abs=1e-3
    )
    loss, ignoring = Dice(preset="mmseg", ignore_index=255), target.masked_fill(~valid, 255)
    close(loss(logits, ignoring), loss(changed, ignoring))


@pytest.mark.slow
def test_kornias_macro_dice_averages_the_present_classes_of_each_image() -> None:
    logits, target = single()
    ours = Dice(over="image", absent="skip", smooth=0.0)
    close(ours(logits, target), kornia.losses.dice_loss(logits, target, average="macro"))
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    weighted = Dice(over="image", absent="skip", smooth=0.0, class_weights=WEIGHTS)
    close(weighted(logits, target), kornia.losses.dice_loss(logits, target, average="macro", weight=weights))
    micro = Dice(preset="kornia", class_weights=WEIGHTS)
    close(micro(logits, target), kornia.losses.dice_loss(logits, target, average="micro", weight=weights))


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_dice_with_ignored_positions_is_smps(ignored: bool) -> None:
    logits, target = single(ignored=ignored)
    theirs = smp.DiceLoss("multiclass", ignore_index=255)(logits, target)
    close(Dice(preset="smp", ignore_index=255)(logits, target), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [False, True])
def test_multi_label_dice_is_monais(batch: bool) -> None:
    logits, target = multi()
    theirs = monai.losses.DiceLoss(sigmoid=True, batch=batch)(logits, target)
    close(Dice(preset="monai", over="batch" if batch else "image")(logits, target), theirs)


@pytest.mark.slow
def test_squared_dice_is_monais() -> None:
    logits, target = single()
    theirs = monai.losses.DiceLoss(softmax=True, squared_pred=True)(logits, one_hot(target))
    close(Dice(preset="monai", power=2)(logits, target), theirs)


@pytest.mark.slow
@each("weighting", ["square", "simple", "uniform"])
@each("batch", [False, True])
def test_generalized_dice_is_monais(weighting: str, batch: bool) -> None:
    logits, target = single((7, 6))
    theirs = monai.losses.GeneralizedDiceLoss(softmax=True, w_type=weighting, batch=batch)(
        logits, one_hot(target)
    )
    ours = GeneralizedDice(weighting=weighting, over="batch" if batch else "image")
    close(ours(logits, target), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_jaccard_is_smps_and_monais() -> None:
    logits, target = single()
    close(Jaccard(smooth=0.0, absent="zero")(logits, target), smp.JaccardLoss("multiclass")(logits, target))
    theirs = monai.losses.DiceLoss(softmax=True, jaccard=True, smooth_nr=0.0, smooth_dr=0.0)(
        logits[1:], one_hot(target[1:])
    )
    close(Jaccard(smooth=0.0, over="image")(logits[1:], target[1:]), theirs)


@pytest.mark.slow
def test_tversky_weighs_false_positives_by_alpha_as_smp_monai_and_kornia_do() -> None:
    logits, target = single((7, 6))
    weights = {"alpha": 0.2, "beta": 0.7}
    ours = Tversky(smooth=0.0, absent="zero", **weights)
    close(ours(logits, target), smp.TverskyLoss("multiclass", **weights)(logits, target))
    theirs = monai.losses.TverskyLoss(softmax=True, **weights)(logits, one_hot(target))
    close(Tversky(smooth=1e-5, over="image", **weights)(logits, target), theirs)


@pytest.mark.slow
def test_focal_tversky_is_smps_except_at_a_perfect_prediction_where_smp_has_nan() -> None:
    logits, target = single((7, 6))
    weights = {"alpha": 0.2, "beta": 0.7, "gamma": 0.75}
    labels = one_hot(target)
    theirs = smp.TverskyLoss("binary", **weights)(logits[:, :1], labels[:, :1])
    close(FocalTversky(smooth=0.0, **weights)(logits[:, :1], labels[:, :1]), theirs)
    perfect = (one_hot(target) * 200 - 100).float().requires_grad_()
    smp.TverskyLoss("multiclass", **weights)(perfect, target).backward()
    assert perfect.grad is not None
    assert not perfect.grad.isfinite().all()
    perfect.grad = None
    FocalTversky(smooth=0.0, **weights)(perfect, target).backward()
    assert perfect.grad.isfinite().all()


@pytest.mark.slow
def test_matthews_correlation_is_smps() -> None:
    """smp has a binary one, of probabilities; a channel of ours is that."""
    logits, target = multi((7, 6))
    theirs = smp.MCCLoss(eps=1e-12)(logits[:, :1].sigmoid(), target[:, :1])
    close(MatthewsCorrelation(smooth=1e-12)(logits[:, :1], target[:, :1]), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_is_bermans_as_in_smp(ignored: bool, per_image: bool) -> None:
    logits, target = single((7, 6), ignored=ignored)
    smps = smp.LovaszLoss("multiclass", per_image=per_image, ignore_index=255 if ignored else None)
    ours = Lovasz(over="image" if per_image else "batch", ignore_index=255)
    values, grads = [], []
    for loss in (smps, ours):
        leaf = logits.float().requires_grad_()  # smp's works in float32 only
        value = loss(leaf, target)
        value.backward()
        values.append(value)
        grads.append(leaf.grad)
    close(*values)
    close(*grads)


@pytest.mark.slow
def test_lovasz_per_image_with_absent_classes_is_kornias() -> None:
    logits, target = single((7, 6))
    close(
        Lovasz(over="image", absent="include")(logits, target),
        kornia.losses.lovasz_softmax_loss(logits, target),
    )


@pytest.mark.slow
def test_lovasz_hinge_is_smps_and_kornias() -> None:
    logits, target = multi((7, 6))
    theirs = smp.LovaszLoss("binary")(logits[:, :1].float(), target[:, :1])
    close(LovaszHinge()(logits[:, :1].float(), target[:, :1]), theirs)
    per_image = kornia.losses.lovasz_hinge_loss(logits[:, :1], target[:, 0])
    close(LovaszHinge(over="image")(logits[:, :1], target[:, :1]), per_image)


@pytest.mark.slow
def test_unified_focal_is_monais_for_two_classes() -> None:
    """MONAI takes logits for probabilities, and averages the focal part over both classes.

    Half the paper's.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(2, (2, 6, 5), generator=generator)
    options = {"delta": 0.7, "gamma": 0.4}
    hot = F.one_hot(target, 2).movedim(-1, 1).double()
    for weight, factor in ((1.0, 0.5), (0.0, 1.0)):
        theirs = monai.losses.AsymmetricUnifiedFocalLoss(weight=weight, **options)(logits.softmax(1), hot)
        ours = UnifiedFocal(focal_weight=weight, over="image", **options)(logits, target)
        close(factor * ours, theirs, rtol=1e-5, atol=1e-6)


# --- timm ---


@pytest.mark.slow
def test_poly1_is_timms() -> None:
    logits, target = single(())
    close(Poly1(epsilon=2.0)(logits, target).float(), timm.loss.PolyCrossEntropy(epsilon=2.0)(logits, target))


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_asymmetric_is_timms(clip: float) -> None:
    logits, target = multi(())
    theirs = timm.loss.AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=clip, reduction="mean")
    ours = Asymmetric(gamma_positive=1.0, gamma_negative=4.0, clip=clip)
    close(ours(logits, target).float(), theirs(logits, target), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_zlpr_is_timms() -> None:
    logits, target = multi(())
    close(ZeroBoundedRanking()(logits, target).float(), timm.loss.ZlprLoss()(logits, target))


@pytest.mark.slow
def test_two_way_is_timms() -> None:
    logits, target = multi(())
    close(TwoWay()(logits, target).float(), timm.loss.TwoWayLoss()(logits, target))


@pytest.mark.slow
def test_asymmetric_with_a_detached_focus_has_timms_gradient() -> None:
    """disable_torch_grad_focal_loss of the authors' code."""
    logits, target = multi(())
    theirs = timm.loss.AsymmetricLossMultiLabel(
        gamma_neg=4, gamma_pos=1, clip=0.05, reduction="mean", disable_torch_grad_focal_loss=True
    )
    for detached in (True, False):
        ours = Asymmetric(gamma_positive=1.0, gamma_negative=4.0, clip=0.05, detached=detached)
        grads = []
        for loss in (ours, theirs):
            leaf = logits.clone().requires_grad_()
            loss(leaf, target).backward()
            grads.append(leaf.grad)
        assert torch.allclose(*grads, rtol=1e-5, atol=1e-7) is detached


# --- soft targets under a softmax ---


def soft(spatial: tuple[int, ...] = (5, 6)) -> tuple[Tensor, Tensor]:
    """Return logits and a distribution over the classes."""
    logits, _ = single(spatial)
    generator = torch.Generator().manual_seed(7)
    return logits, torch.randn(logits.shape, generator=generator, dtype=torch.float64).softmax(1)


@pytest.mark.slow
@any_shape
def test_soft_cross_entropy_is_torchs_and_timms(spatial: tuple[int, ...]) -> None:
    logits, target = soft(spatial)
    ours = CrossEntropy(labels="exclusive")(logits, target)
    close(ours, F.cross_entropy(logits, target), rtol=1e-12, atol=0)
    if not spatial:
        close(ours, timm.loss.SoftTargetCrossEntropy()(logits, target), rtol=1e-12, atol=0)
    for smoothing, reduction in ((0.0, "none"), (0.2, "none"), (0.2, "mean"), (0.2, "sum")):
        mine = CrossEntropy(labels="exclusive", label_smoothing=smoothing, reduction=reduction)
        theirs = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction=reduction)
        close(mine(logits, target), theirs)


def test_weighted_soft_cross_entropy_is_torchs_but_for_the_mean() -> None:
    """torch divides by the number of positions; so its one-hot and index forms differ, and ours do not."""
    logits, target = soft()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    ours = CrossEntropy(labels="exclusive", class_weights=WEIGHTS, reduction="sum")(logits, target)
    close(ours, F.cross_entropy(logits, target, weight=weights, reduction="sum"))
    mean = CrossEntropy(labels="exclusive", class_weights=WEIGHTS)(logits, target)
    close(mean, ours / (target * weights.view(1, C, 1, 1)).sum())


@pytest.mark.parametrize("loss", [CrossEntropy, Focal, Poly1, ReducedFocal, Hinge])
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(loss: type[CrossEntropy]) -> None:
    """Mixup in one call: λ ℓ(a) + (1 − λ) ℓ(b) is the loss of λ a + (1 − λ) b."""
    logits, one = single()
    other = one.flip(0)
    mixed = 0.3 * one_hot(one) + 0.7 * one_hot(other)
    expected = 0.3 * loss()(logits, one) + 0.7 * loss()(logits, other)
    close(loss(labels="exclusive")(logits, mixed), expected)


def test_soft_dice_and_jaccard_are_the_semimetric_and_metric_losses() -> None:
    """2303.16296, DML1, and 2302.05666, JML1: 1 − (|x| + |y| − |x − y|) / (|x| + |y| (+ |x − y|))."""
    logits, target = soft()
    p = logits.softmax(1)
    total, apart = (p + target).sum((0, 2, 3)), (p - target).abs().sum((0, 2, 3))
    settings = {"labels": "exclusive", "smooth": 0.0}
    close(Dice(**settings)(logits, target), (1 - (total - apart) / total).mean())
    close(Jaccard(**settings)(logits, target), (1 - (total - apart) / (total + apart)).mean())


# --- weights of samples and positions ---


def test_weighted_samples_are_scikit_learns_and_torchs() -> None:
    logits, target = single(())
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    log_loss = sklearn.metrics.log_loss(
        target, logits.softmax(1).numpy(), sample_weight=weights.numpy(), labels=range(C)
    )
    assert float(CrossEntropy()(logits, target, weights=weights)) == pytest.approx(log_loss)
    hinge = sklearn.metrics.hinge_loss(target, logits.numpy(), sample_weight=weights.numpy(), labels=range(C))
    assert float(Hinge()(logits, target, weights=weights)) == pytest.approx(hinge)
    labels = multi(())[1]
    each = F.binary_cross_entropy_with_logits(logits, labels, weights.view(-1, 1), reduction="none")
    close(BinaryCrossEntropy()(logits, labels, weights=weights), each.sum() / (C * weights.sum()))


def test_weighted_positions_are_in_the_means_and_in_the_counts() -> None:
    logits, target = single()
    weights = torch.rand(target.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    each = F.cross_entropy(logits, target, reduction="none")
    close(CrossEntropy()(logits, target, weights=weights), (each * weights).sum() / weights.sum())
    p, g, w = logits.softmax(1), one_hot(target), weights.unsqueeze(1)
    for over, dims in (("batch", (0, 2, 3)), ("image", (2, 3))):
        expected = 1 - (2 * (w * p * g).sum(dims) + 1) / ((w * p).sum(dims) + (w * g).sum(dims) + 1)
        close(Dice(over=over)(logits, target, weights=weights), expected.mean())


def test_weighted_samples_weigh_the_images_of_a_loss_per_image() -> None:
    logits, target = single()
    weights = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    each = Dice(over="image", reduction="none")(logits, target).mean(1)
    close(Dice(over="image")(logits, target, weights=weights), (each * weights).sum() / weights.sum())


# --- background, reduction, smoothing apart, nnU-Net's settings ---


def trainers_dice(logits: Tensor, target: Tensor, batch: bool) -> Tensor:
    """nnU-Net's MemoryEfficientSoftDiceLoss as its trainer makes it: do_bg=False, smooth=1e-5."""
    dims = (0, 2, 3) if batch else (2, 3)
    p, g = logits.softmax(1)[:, 1:], one_hot(target)[:, 1:].to(logits.dtype)
    both, total = (p * g).sum(dims), p.sum(dims) + g.sum(dims)
    return -((2 * both + 1e-5) / (total + 1e-5).clamp_min(1e-8)).mean()


@pytest.mark.parametrize("batch", [False, True])
def test_the_trainers_presets_are_nnunets(batch: bool) -> None:
    preset = "nnunet_trainer_batch" if batch else "nnunet_trainer"
    for seed, dtype in ((0, torch.float64), (1, torch.float64), (2, torch.float32)):
        logits, target = single((7, 6), seed=seed)
        leaves = [logits.to(dtype).clone().requires_grad_() for _ in range(2)]
        ours, theirs = Dice(preset=preset)(leaves[0], target), trainers_dice(leaves[1], target, batch)
        close(ours, theirs, rtol=0, atol=1e-6)
        (ours + theirs).backward()
        close(leaves[0].grad, leaves[1].grad, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_every_setting_of_monais_dice_has_its_own(batch: bool, background: bool) -> None:
    logits, target = single((7, 6))
    theirs = {"softmax": True, "batch": batch, "include_background": background}
    ours = {"over": "batch" if batch else "image", "include_background": background}
    apart = monai.losses.DiceLoss(smooth_nr=0.5, smooth_dr=2.0, **theirs)
    close(Dice(smooth=0.5, smooth_denominator=2.0, **ours)(logits, target), apart(logits, one_hot(target)))
    tversky = monai.losses.TverskyLoss(smooth_nr=0.5, smooth_dr=2.0, alpha=0.2, beta=0.7, **theirs)
    mine = Tversky(smooth=0.5, smooth_denominator=2.0, alpha=0.2, beta=0.7, **ours)
    close(mine(logits, target), tversky(logits, one_hot(target)))
    general = monai.losses.GeneralizedDiceLoss(softmax=True, batch=batch, include_background=background)
    close(GeneralizedDice(**ours)(logits, target), general(logits, one_hot(target)), rtol=1e-6, atol=1e-7)
    for reduction in ("none", "sum"):
        full = monai.losses.DiceLoss(reduction=reduction, **theirs)(logits, one_hot(target))
        mine = Dice(preset="monai", reduction=reduction, **ours)(logits, target)
        mine = mine[:, 0 if background else 1 :] if reduction == "none" else mine
        close(mine.squeeze(), full.squeeze())


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_two_sided_and_log_hausdorff_are_monais(background: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (2, 6, 5), generator=generator)
    hot = F.one_hot(target, 3).movedim(-1, 1).double()
    theirs = {"alpha": 1.5, "softmax": True, "include_background": background}
    ours = {"alpha": 1.5, "sides": "two", "include_background": background}
    for log, library in ((False, monai.losses.HausdorffDTLoss), (True, monai.losses.LogHausdorffDTLoss)):
        loss = HausdorffDistance(log=log, **ours)
        found = loss(logits, target, loss.prepare(target, 3))
        close(found, library(**theirs)(logits, hot), rtol=1e-5, atol=1e-6)


# --- precision ---


@pytest.mark.slow
def test_half_precision_dice_is_right_where_monais_is_not() -> None:
    """fp16 at 512²: MONAI gives 1.0 and smp NaN for 0.750; ours agrees with float64 to 1e-3."""
    logits = torch.zeros(1, C, 512, 512, dtype=torch.float16)
    target = torch.randint(C, (1, 512, 512), generator=torch.Generator().manual_seed(0))
    exact = float(Dice(preset="monai")(logits.double(), target))
    assert float(Dice(preset="monai")(logits, target)) == pytest.approx(exact, abs=1e-3)
    theirs = float(monai.losses.DiceLoss(softmax=True)(logits, one_hot(target).half()))
    assert theirs == pytest.approx(1.0)
    assert smp.DiceLoss("multiclass")(logits, target).isnan()
