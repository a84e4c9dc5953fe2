"""Training losses: one interface, one numerical contract, by name from params.yaml.

``loss(logits, target) -> scalar``; see ``Loss`` for shapes and ``REGISTRY`` for all of them.
"""

from lossbench.losses.base import Loss
from lossbench.losses.boundary import Boundary, GradientLoss, HausdorffDistance, signed_distances
from lossbench.losses.building import LossContext, build, check
from lossbench.losses.combined import Combo, UnifiedFocal
from lossbench.losses.compound import Sum
from lossbench.losses.declare import ParameterError
from lossbench.losses.distribution import (
    CrossEntropy,
    DoubleSoftmaxCrossEntropy,
    Focal,
    LogitNormalized,
    Poly1,
    ReducedFocal,
    TopK,
)
from lossbench.losses.imbalance import (
    BalancedSoftmax,
    Equalization,
    LabelDistributionAwareMargin,
    LogitAdjusted,
)
from lossbench.losses.inputs import DoubleSoftmaxWarning, check_targets
from lossbench.losses.lovasz import Lovasz, LovaszHinge
from lossbench.losses.margin import Hinge
from lossbench.losses.multilabel import (
    Asymmetric,
    BinaryCrossEntropy,
    MultilabelMargin,
    SoftmaxMultilabelCrossEntropy,
    TwoWay,
    ZeroBoundedRanking,
)
from lossbench.losses.noise import BiTempered, Bootstrapped, GeneralizedCrossEntropy, SymmetricCrossEntropy
from lossbench.losses.region import (
    Dice,
    DicePlusPlus,
    FocalTversky,
    GeneralizedDice,
    Jaccard,
    LogCoshDice,
    MatthewsCorrelation,
    Tversky,
)
from lossbench.losses.registry import REGISTRY, register
from lossbench.losses.regression import Brier, MeanAbsoluteError, SquaredLogits
from lossbench.losses.weights import balanced, class_balanced

__all__ = [
    "REGISTRY",
    "Asymmetric",
    "BalancedSoftmax",
    "BiTempered",
    "BinaryCrossEntropy",
    "Bootstrapped",
    "Boundary",
    "Brier",
    "Combo",
    "CrossEntropy",
    "Dice",
    "DicePlusPlus",
    "DoubleSoftmaxCrossEntropy",
    "DoubleSoftmaxWarning",
    "Equalization",
    "Focal",
    "FocalTversky",
    "GeneralizedCrossEntropy",
    "GeneralizedDice",
    "GradientLoss",
    "HausdorffDistance",
    "Hinge",
    "Jaccard",
    "LabelDistributionAwareMargin",
    "LogCoshDice",
    "LogitAdjusted",
    "LogitNormalized",
    "Loss",
    "LossContext",
    "Lovasz",
    "LovaszHinge",
    "MatthewsCorrelation",
    "MeanAbsoluteError",
    "MultilabelMargin",
    "ParameterError",
    "Poly1",
    "ReducedFocal",
    "SoftmaxMultilabelCrossEntropy",
    "SquaredLogits",
    "Sum",
    "SymmetricCrossEntropy",
    "TopK",
    "Tversky",
    "TwoWay",
    "UnifiedFocal",
    "ZeroBoundedRanking",
    "balanced",
    "build",
    "check",
    "check_targets",
    "class_balanced",
    "register",
    "signed_distances",
]
