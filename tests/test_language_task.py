"""What the language task makes of scores: digests, a fitted temperature, metrics, texts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from lossbench.data.dataset import DatasetInfo
from lossbench.data.text import tokenize
from lossbench.errors import UserError
from lossbench.statistics.calibration import fit_temperature
from lossbench.tasks import task_class
from lossbench.tasks.language import TEMPERATURES, LanguageModel, best_temperature, join
from tests.language_cases import NURSERY, dataset, task
from tests.law_cases import examples

CLASSES = ("<unk>", "a", "b", "c", "\n")
V, N, L = len(CLASSES), 40, 16


def made(**options) -> LanguageModel:
    info = DatasetInfo(
        "tokens", CLASSES, (L,), (L,), (0.0,), (1.0,), (0, 50, 30, 10, 10), {"train": 10},
        extra={"level": "char", "length": L, "characters_per_token": 1.0},
    )  # fmt: skip
    return LanguageModel(info, options)


def scored(scale: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores whose softmax at temperature ``scale`` is what tokens are drawn from."""
    random = torch.Generator().manual_seed(seed)
    outputs = torch.randn(N, V, L, generator=random) * 2
    targets = torch.distributions.Categorical(logits=outputs.transpose(1, 2))
    torch.manual_seed(seed)
    return outputs * scale, targets.sample()


def digested(language: LanguageModel, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return language.digest(outputs, targets, targets)


def test_a_digest_holds_the_likeliest_token_and_the_log_probability_of_the_true_one():
    outputs, targets = scored()
    digest = digested(made(), outputs, targets).numpy()
    assert digest.shape == (N, L, 1 + len(TEMPERATURES))
    assert np.array_equal(digest[..., 0], outputs.argmax(1))
    for column, temperature in enumerate(TEMPERATURES, 1):
        logs = log_softmax(outputs.numpy() / temperature, axis=1)
        of_true = np.take_along_axis(logs, targets.numpy()[:, None], 1)[:, 0]
        assert digest[..., column] == pytest.approx(of_true, rel=1e-4, abs=1e-4)


def test_digests_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch):
    outputs, targets = scored()
    whole = digested(made(), outputs, targets)
    monkeypatch.setattr("lossbench.tasks.language.AT_ONCE", V * L * 3)
    assert torch.equal(digested(made(), outputs, targets), whole)


def test_metrics_are_what_they_are_called():
    outputs, targets = scored()
    scores = made().score(digested(made(), outputs, targets).numpy(), targets.numpy())
    nll = torch.nn.functional.cross_entropy(outputs, targets).item()
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    assert scores.metrics["bits_per_character"] == pytest.approx(nll / math.log(2), rel=1e-5)
    assert scores.metrics["top1"] == (outputs.argmax(1) == targets).double().mean()
    assert not LanguageModel.direction(made(), "perplexity").higher_is_better


def test_the_metrics_come_out_of_their_statistics():
    outputs, targets = scored()
    scores = made().score(digested(made(), outputs, targets).numpy(), targets.numpy())
    for name, value in scores.metrics.items():
        assert made().from_statistics(name, scores.statistics[name].sum(axis=0)) == pytest.approx(value)
        assert scores.statistics[name].shape == (N, 3)


@settings(max_examples=examples(25), deadline=None)
@given(st.floats(0.02, 50), st.integers(0, 5))
def test_the_fitted_temperature_is_that_of_the_calibration(scale, seed):
    outputs, targets = scored(scale, seed)
    fitted = made().adapted(digested(made(), outputs, targets).numpy(), targets.numpy())
    flat = outputs.transpose(1, 2).reshape(-1, V).double().numpy()
    expected = fit_temperature(flat, targets.reshape(-1).numpy())
    assert fitted.temperature == pytest.approx(expected, rel=0.05)
    digest = digested(fitted, outputs, targets).numpy()
    assert digest.shape == (N, L, 2)
    exact = log_softmax(flat / expected, axis=1)[np.arange(N * L), targets.reshape(-1)].mean()
    bits = fitted.score(digest, targets.numpy()).metrics["bits_per_character"]
    assert bits == pytest.approx(-exact / math.log(2), abs=0.002)


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_scale_costs_nothing_once_the_temperature_is_fitted(scale):
    outputs, targets = scored()
    language = made()

    def bits(scores: torch.Tensor) -> float:
        held_out = digested(language, scores[:20], targets[:20]).numpy()
        fitted = language.adapted(held_out, targets[:20].numpy())
        digest = digested(fitted, scores[20:], targets[20:]).numpy()
        return fitted.score(digest, targets[20:].numpy()).metrics["bits_per_character"]

    assert bits(outputs * scale) == pytest.approx(bits(outputs), abs=0.005)


def test_the_fit_leaves_the_task_itself_alone():
    language, (outputs, targets) = made(), scored(3.0)
    language.adapted(digested(language, outputs, targets).numpy(), targets.numpy())
    assert language.temperatures == TEMPERATURES
    assert language.temperature == 1


def test_the_monitor_is_the_likelihood_at_the_best_temperature():
    for scale in (0.1, 1.0, 10.0):
        outputs, targets = scored(scale)
        found = made().validate(digested(made(), outputs, targets), targets)
        fitted = made().adapted(digested(made(), outputs, targets).numpy(), targets.numpy())
        bits = fitted.score(digested(fitted, outputs, targets).numpy(), targets.numpy()).metrics
        assert -found[LanguageModel.monitor] == pytest.approx(bits["bits_per_character"], abs=0.01)
        assert found["perplexity"] == pytest.approx(2 ** -found["log2_likelihood"])


def test_a_temperature_at_the_end_of_its_range_stays_there():
    assert best_temperature(torch.tensor([3.0, 2.0, 1.0]), (0.5, 1.0, 2.0)) == (2.0, 1.0)
    temperature, bits = best_temperature(torch.tensor([3.0, math.nan, 1.0]), (0.5, 1.0, 2.0))
    assert temperature == 1
    assert math.isnan(bits)


def test_outputs_that_are_not_finite_do_not_stop_a_validation():
    outputs, targets = scored()
    outputs[0, 0, 0] = math.nan
    assert math.isnan(made().validate(digested(made(), outputs, targets), targets)["perplexity"])


def test_a_diverged_replicate_is_scored_as_the_frequencies_of_training():
    targets = np.array([[1, 1, 2, 3]])
    for language in (made(), made().adapted(digested(made(), *scored()).numpy(), targets)):
        digests = language.majority_digests(targets)
        metrics = language.score(digests, targets).metrics
        shares = np.array([50, 50, 30, 10]) / 101  # <unk>, never seen, counts as once
        assert metrics["bits_per_character"] == pytest.approx(-np.log2(shares).mean())
        assert metrics["top1"] == 0.5
        assert (language.decide(digests) == 1).all()


def test_bits_per_character_spread_a_word_over_its_characters():
    language = made()
    language.info.extra["characters_per_token"] = 4.0
    assert language.from_statistics("bits_per_character", np.array([80.0, 3.0, 10.0])) == 2.0
    assert language.from_statistics("perplexity", np.array([80.0, 3.0, 10.0])) == 256


def test_a_sample_is_shown_as_text():
    language, window = made(), np.array([1, 2, 4, 3])
    assert language.show_input(window).text == "ab⏎c"
    assert language.show_target(window, window).text == "ab⏎c"
    shown = language.show_decision(np.array([1, 1, 1, 1]), window, window)
    assert shown.text == "25% right: aaaa"
    assert shown.pixels is None


@pytest.mark.parametrize("level", ["char", "word"])
def test_tokens_join_to_the_text_they_were_cut_from(level):
    said = "It's 3 o'clock (nearly), she said.\nNo!"
    assert join(tokenize(said, level).tokens, level) == said


def bigram(follows: dict[int, int]):
    """A model that knows which token follows which."""

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(tokens), V, tokens.shape[1])
        for token, after in follows.items():
            scores[:, after, :] += 50.0 * (tokens == token)
        return scores

    return forward


def test_texts_are_generated_token_by_token():
    said = made(generate=7).generate(bigram({4: 1, 1: 2, 2: 3, 3: 1}), seed=0)
    assert said == ["abcabca"]


def test_generation_repeats_with_its_seed_and_varies_with_it():
    language, even = made(generate=50), bigram({})
    assert language.generate(even, seed=0) == language.generate(even, seed=0)
    assert language.generate(even, seed=0) != language.generate(even, seed=1)
    assert made(generate=0).generate(even, seed=0) == []


def test_generation_sees_no_more_than_a_window():
    seen = []

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.shape[1])
        return torch.zeros(1, V, tokens.shape[1])

    made(generate=L + 5).generate(forward, seed=0)
    assert max(seen) == L


def test_the_floors_rise_with_the_order_and_are_scored_like_any_model(tmp_path):
    data = dataset(tmp_path, NURSERY * 60)
    floors = task(data, ngram=4).floors(data)
    assert list(floors) == [
        "constant prediction",
        "unigram (add-1)",
        "bigram (add-0.1)",
        "4-gram (Kneser–Ney)",
    ]
    bits = [one["bits_per_character"] for name, one in floors.items() if name != "constant prediction"]
    assert bits == sorted(bits, reverse=True)
    assert floors["4-gram (Kneser–Ney)"]["perplexity"] == pytest.approx(2 ** bits[-1])
    counts = np.array(data.info.counts, float)
    test = data.split("test").targets.ravel()
    by_hand = -np.log2((counts + 1) / (counts + 1).sum())[test].mean()
    assert bits[0] == pytest.approx(by_hand, rel=0.01), "the first token of the stretch counts too"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"ngram": 0}, "'task.ngram' is 0"), ({"creativity": 0}, "'task.creativity' is 0"), ({"order": 5}, "unknown key 'task.order'")],
)  # fmt: skip
def test_nonsense_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        made(**options)


def test_the_task_needs_text():
    info = DatasetInfo("label", ("a", "b"), (1, 8, 8), (), (0.0,), (1.0,), (1, 1), {})
    with pytest.raises(UserError, match="needs a dataset with targets of kind tokens"):
        task_class("language_model")(info)
