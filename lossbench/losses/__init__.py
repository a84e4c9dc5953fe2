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
from lossbench.losses.focusing import AsymmetricSingle, ExponentialLogarithmic, Poly
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
from lossbench.losses.ordinal import ConditionalOrdinal, ExpectedCost
from lossbench.losses.rebalanced import DistributionBalanced
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
from lossbench.losses.robust import (
    ActivePassive,
    JensenShannon,
    NormalizedCrossEntropy,
    PartiallyHuberisedCrossEntropy,
    PartiallyHuberisedGeneralizedCrossEntropy,
    Unhinged,
)
from lossbench.losses.structure import Blob, CenterlineDice, NeighbourAwareCalibration, blobs
from lossbench.losses.weights import balanced, class_balanced

__all__ = [
    "REGISTRY",
    "ActivePassive",
    "Asymmetric",
    "AsymmetricSingle",
    "BalancedSoftmax",
    "BiTempered",
    "BinaryCrossEntropy",
    "Blob",
    "Bootstrapped",
    "Boundary",
    "Brier",
    "CenterlineDice",
    "Combo",
    "ConditionalOrdinal",
    "CrossEntropy",
    "Dice",
    "DicePlusPlus",
    "DistributionBalanced",
    "DoubleSoftmaxCrossEntropy",
    "DoubleSoftmaxWarning",
    "Equalization",
    "ExpectedCost",
    "ExponentialLogarithmic",
    "Focal",
    "FocalTversky",
    "GeneralizedCrossEntropy",
    "GeneralizedDice",
    "GradientLoss",
    "HausdorffDistance",
    "Hinge",
    "Jaccard",
    "JensenShannon",
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
    "NeighbourAwareCalibration",
    "NormalizedCrossEntropy",
    "ParameterError",
    "PartiallyHuberisedCrossEntropy",
    "PartiallyHuberisedGeneralizedCrossEntropy",
    "Poly",
    "Poly1",
    "ReducedFocal",
    "SoftmaxMultilabelCrossEntropy",
    "SquaredLogits",
    "Sum",
    "SymmetricCrossEntropy",
    "TopK",
    "Tversky",
    "TwoWay",
    "Unhinged",
    "UnifiedFocal",
    "ZeroBoundedRanking",
    "balanced",
    "blobs",
    "build",
    "check",
    "check_targets",
    "class_balanced",
    "register",
    "signed_distances",
]
