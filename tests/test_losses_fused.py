"""The hand-written backward passes are those of their plain twins."""

import itertools

import pytest
import torch
from law_cases import each

from lossbench.losses import Lovasz, LovaszHinge, functional, fused
from lossbench.losses.batch import Batch

torch.set_num_threads(1)
masks = pytest.mark.parametrize("masked", [False, True], ids=["all", "some-ignored"])


def case(
    masked: bool, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, generator=generator, dtype=dtype).requires_grad_()
    index = torch.randint(3, (2, 6), generator=generator)  # class 3 is absent
    return logits, index, torch.rand(2, 6, generator=generator) < 0.7 if masked else None


def mixture(found: fused.Summary) -> torch.Tensor:
    """A scalar in which every output has a part of its own."""
    assert found.true_log_probs is not None
    total = (found.true_log_probs.exp() * torch.arange(6.0)).sum()
    if found.both is None or found.predicted is None:
        return total
    return total + (found.both**2 * torch.arange(4.0)).sum() - (found.both / (found.predicted + 1)).sum()


@pytest.fixture(params=[1 << 18, 17, 100], ids=["one-block", "blocks-of-positions", "blocks-of-samples"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "BLOCK", request.param)
    monkeypatch.setattr(fused, "TOGETHER", 1)


@masks
@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("counts", [False, True])
def test_summary_is_its_twin(masked: bool, counts: bool) -> None:
    logits, index, valid = case(masked)
    found = fused.summary(logits, index, valid, counts)
    expected = fused.plain_summary(logits, index, valid, counts)
    torch.testing.assert_close(tuple(found), tuple(expected))
    grads = [torch.autograd.grad(mixture(one), logits)[0] for one in (found, expected)]
    torch.testing.assert_close(*grads)


@masks
def test_counts_alone_need_no_logarithm(masked: bool) -> None:
    logits, index, valid = case(masked)
    found, full = (fused.summary(logits, index, valid, counts=True, logs=logs) for logs in (False, True))
    assert found.true_log_probs is None
    torch.testing.assert_close(found[1:], full[1:])
    grads = [torch.autograd.grad((one.both / (one.predicted + 1)).sum(), logits)[0] for one in (found, full)]
    torch.testing.assert_close(*grads)


@masks
def test_summary_has_the_first_and_second_derivatives_of_its_values(masked: bool) -> None:
    logits, index, valid = case(masked)

    def outputs(z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = fused.summary(z, index, valid, counts=True)
        assert found.both is not None
        assert found.predicted is not None
        assert found.true_log_probs is not None
        return found.true_log_probs, found.both, found.predicted

    assert torch.autograd.gradcheck(outputs, logits)
    assert torch.autograd.gradgradcheck(outputs, logits)


@pytest.mark.parametrize("kind", [Lovasz, LovaszHinge])
def test_lovasz_is_its_twin(kind: type[Lovasz]) -> None:
    """However positions are ranked, whichever classes count, with and without ties and ignored positions."""
    both = (False, True)
    for over, absent in itertools.product(["batch", "image"], ["auto", "skip", "include"]):
        for masked, labels, ties in itertools.product(both, both, both):
            is_its_twin(kind, masked, over, absent, labels, ties)


def is_its_twin(kind: type[Lovasz], masked: bool, over: str, absent: str, labels: bool, ties: bool) -> None:
    logits, index, _ = case(masked)
    logits = (logits.detach().round() if ties else logits.detach()).requires_grad_()
    target = torch.nn.functional.one_hot(index, 4).movedim(-1, 1) if labels else index
    if masked:
        drop = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.3
        drop[0] = True  # an image without a valid position
        target = target.masked_fill(drop, 255)
    loss = kind(over=over, absent=absent, ignore_index=255)
    batch = Batch(logits, target, 255)
    found, expected = loss.value(batch), loss.plain_value(Batch(logits, target, 255))
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(one, logits)[0] for one in (found, expected)]
    torch.testing.assert_close(*grads)


def test_only_positions_with_a_weight_are_ranked() -> None:
    errors, truth = torch.tensor([0.9, 0.1, 0.4, 0.3, 0.2]), torch.tensor([True, False, False, True, False])
    found = fused.ranked(errors, truth, None, absent=False)
    assert found is not None
    assert found.at.tolist() == [0, 2, 3]
    whole = functional.lovasz_weights(errors, truth, None)
    torch.testing.assert_close(torch.zeros(5).scatter(0, found.at, found.weights), whole)


@each("share", [0.0, 0.01, 0.5, 1.0])
@each("dtype", [torch.float32, torch.float64])
def test_many_positions_are_ranked_as_few_are(share: float, dtype: torch.dtype) -> None:
    """From 2¹⁵ positions on their bits are sorted as whole numbers; ties, zeros and NaN keep their order."""
    generator = torch.Generator().manual_seed(0)
    errors = (torch.rand(1 << 16, generator=generator, dtype=dtype) ** 8).mul(4096).round().div(4096)
    errors[7], errors[9] = -0.0, 1e-30
    truth = torch.rand(errors.shape, generator=generator) < share
    order = fused.descending(errors)
    assert torch.equal(order, errors.argsort(descending=True, stable=True))
    expected = functional.lovasz_weights(errors.double(), truth, None)[order]
    torch.testing.assert_close(fused.jaccard_steps(truth[order], torch.float64), expected)
    errors[11] = torch.nan
    assert fused.descending(errors)[0] == 11
    found = fused.ranked(errors, truth, None, absent=True)
    assert found is not None
    assert (found.weights * found.errors).sum().isnan()
