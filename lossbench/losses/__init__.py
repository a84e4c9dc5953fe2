"""Training losses: one interface, one numerical contract, by name from params.yaml.

``loss(logits, target) -> scalar``; see ``Loss`` for shapes and ``REGISTRY`` for all of them. Each is imported
when it is asked for.
"""

from typing import TYPE_CHECKING

from lossbench.lookup import lazily
from lossbench.losses.names import EXPORTS

if TYPE_CHECKING:
    from lossbench.losses.base import Loss as Loss
    from lossbench.losses.boundary import Boundary as Boundary
    from lossbench.losses.boundary import GradientLoss as GradientLoss
    from lossbench.losses.boundary import HausdorffDistance as HausdorffDistance
    from lossbench.losses.boundary import signed_distances as signed_distances
    from lossbench.losses.building import LossContext as LossContext
    from lossbench.losses.building import build as build
    from lossbench.losses.building import check as check
    from lossbench.losses.combined import Combo as Combo
    from lossbench.losses.combined import UnifiedFocal as UnifiedFocal
    from lossbench.losses.compound import Sum as Sum
    from lossbench.losses.declare import ParameterError as ParameterError
    from lossbench.losses.distribution import CrossEntropy as CrossEntropy
    from lossbench.losses.distribution import DoubleSoftmaxCrossEntropy as DoubleSoftmaxCrossEntropy
    from lossbench.losses.distribution import Focal as Focal
    from lossbench.losses.distribution import LogitNormalized as LogitNormalized
    from lossbench.losses.distribution import Poly1 as Poly1
    from lossbench.losses.distribution import ReducedFocal as ReducedFocal
    from lossbench.losses.distribution import TopK as TopK
    from lossbench.losses.focusing import AsymmetricSingle as AsymmetricSingle
    from lossbench.losses.focusing import ExponentialLogarithmic as ExponentialLogarithmic
    from lossbench.losses.focusing import Poly as Poly
    from lossbench.losses.imbalance import BalancedSoftmax as BalancedSoftmax
    from lossbench.losses.imbalance import Equalization as Equalization
    from lossbench.losses.imbalance import LabelDistributionAwareMargin as LabelDistributionAwareMargin
    from lossbench.losses.imbalance import LogitAdjusted as LogitAdjusted
    from lossbench.losses.inputs import DoubleSoftmaxWarning as DoubleSoftmaxWarning
    from lossbench.losses.inputs import check_targets as check_targets
    from lossbench.losses.lovasz import Lovasz as Lovasz
    from lossbench.losses.lovasz import LovaszHinge as LovaszHinge
    from lossbench.losses.margin import Hinge as Hinge
    from lossbench.losses.multilabel import Asymmetric as Asymmetric
    from lossbench.losses.multilabel import BinaryCrossEntropy as BinaryCrossEntropy
    from lossbench.losses.multilabel import MultilabelMargin as MultilabelMargin
    from lossbench.losses.multilabel import SoftmaxMultilabelCrossEntropy as SoftmaxMultilabelCrossEntropy
    from lossbench.losses.multilabel import TwoWay as TwoWay
    from lossbench.losses.multilabel import ZeroBoundedRanking as ZeroBoundedRanking
    from lossbench.losses.noise import BiTempered as BiTempered
    from lossbench.losses.noise import Bootstrapped as Bootstrapped
    from lossbench.losses.noise import GeneralizedCrossEntropy as GeneralizedCrossEntropy
    from lossbench.losses.noise import SymmetricCrossEntropy as SymmetricCrossEntropy
    from lossbench.losses.ordinal import ConditionalOrdinal as ConditionalOrdinal
    from lossbench.losses.ordinal import ExpectedCost as ExpectedCost
    from lossbench.losses.rebalanced import DistributionBalanced as DistributionBalanced
    from lossbench.losses.region import Dice as Dice
    from lossbench.losses.region import DicePlusPlus as DicePlusPlus
    from lossbench.losses.region import FocalTversky as FocalTversky
    from lossbench.losses.region import GeneralizedDice as GeneralizedDice
    from lossbench.losses.region import Jaccard as Jaccard
    from lossbench.losses.region import LogCoshDice as LogCoshDice
    from lossbench.losses.region import MatthewsCorrelation as MatthewsCorrelation
    from lossbench.losses.region import Tversky as Tversky
    from lossbench.losses.registry import REGISTRY as REGISTRY
    from lossbench.losses.registry import register as register
    from lossbench.losses.regression import Brier as Brier
    from lossbench.losses.regression import MeanAbsoluteError as MeanAbsoluteError
    from lossbench.losses.regression import SquaredLogits as SquaredLogits
    from lossbench.losses.robust import ActivePassive as ActivePassive
    from lossbench.losses.robust import JensenShannon as JensenShannon
    from lossbench.losses.robust import NormalizedCrossEntropy as NormalizedCrossEntropy
    from lossbench.losses.robust import PartiallyHuberisedCrossEntropy as PartiallyHuberisedCrossEntropy
    from lossbench.losses.robust import (
        PartiallyHuberisedGeneralizedCrossEntropy as PartiallyHuberisedGeneralizedCrossEntropy,
    )
    from lossbench.losses.robust import Unhinged as Unhinged
    from lossbench.losses.structure import Blob as Blob
    from lossbench.losses.structure import CenterlineDice as CenterlineDice
    from lossbench.losses.structure import NeighbourAwareCalibration as NeighbourAwareCalibration
    from lossbench.losses.structure import blobs as blobs
    from lossbench.losses.weights import balanced as balanced
    from lossbench.losses.weights import class_balanced as class_balanced

__getattr__ = lazily(__name__, EXPORTS)
