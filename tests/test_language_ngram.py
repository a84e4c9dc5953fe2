"""The n-gram floor: hand-computed counts, a definition written out, nltk, and the laws of probability."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from losses_cases import Late

from lossbench.tasks.ngram import NGram, stretches

lm, util = Late("nltk.lm"), Late("nltk.util")
A, B, C, D = range(4)
TEXT = np.array([A, B, A, B, A, C])


def distribution(model: NGram, *context: int) -> np.ndarray:
    """p(· | context): the last row after a text that continues with anything."""
    return np.concatenate(list(model.probabilities(np.array([*context, 0]))))[-1]


def test_kneser_ney_of_a_text_counted_by_hand():
    # Bigrams: ab 2, ba 2, ac 1, so D = 1 / (1 + 2·2) = 0.2. Each of a, b, c follows one token, so at order 1
    # all count 1 of 3 and D is capped at 0.95; d is never seen, and 1/4 is uniform.
    model = NGram([TEXT], tokens=4, order=2)
    unigram = np.array([(1 - 0.95) / 3 + 0.95 / 4] * 3 + [0.95 / 4])
    assert distribution(model) == pytest.approx(unigram)
    after_a = np.array([0, (2 - 0.2) / 3, (1 - 0.2) / 3, 0]) + 0.2 * 2 / 3 * unigram
    after_b = np.array([(2 - 0.2) / 2, 0, 0, 0]) + 0.2 * 1 / 2 * unigram
    assert distribution(model, A) == pytest.approx(after_a)
    assert distribution(model, B) == pytest.approx(after_b)
    assert distribution(model, D) == pytest.approx(unigram), "a context never seen says nothing"


def test_perplexity_of_a_text_counted_by_hand():
    low = 0.05 / 3 + 0.95 / 4
    b_after_a, a_after_b = 0.6 + 0.4 / 3 * low, 0.9 + 0.1 * low
    c_after_a = 0.8 / 3 + 0.4 / 3 * low
    logs, hits = NGram([TEXT], 4, 2).score(np.array([A, B, A, C]), first=1)
    perplexity = (b_after_a * a_after_b * c_after_a) ** (-1 / 3)
    assert 2 ** -logs.mean() == pytest.approx(perplexity)
    assert hits.tolist() == [True, True, False]


def test_add_k_adds_k_to_every_count():
    assert distribution(NGram([TEXT], 4, 1, "add_k", k=1)) == pytest.approx([0.4, 0.3, 0.2, 0.1])
    bigram = NGram([TEXT], 4, 2, "add_k", k=0.5)
    assert distribution(bigram, A) == pytest.approx([0.5 / 5, 2.5 / 5, 1.5 / 5, 0.5 / 5])
    assert distribution(bigram, D) == pytest.approx([0.25] * 4)


texts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=3)


@settings(max_examples=examples(60), deadline=None)
@given(texts, st.integers(1, 4), st.lists(st.integers(0, 4), max_size=5))
def test_kneser_ney_is_its_definition_whatever_the_texts(some, order, context):
    model = NGram([np.array(one) for one in some], 5, order)
    expected = [_defined(some, 5, order, tuple(context), word) for word in range(5)]
    assert distribution(model, *context) == pytest.approx(expected)


def _defined(some, tokens: int, order: int, context: tuple[int, ...], word: int) -> float:
    """Interpolated Kneser–Ney, word for word."""
    p = 1 / tokens
    for n in range(1, order + 1):
        counts = _counts(some, n, n == order)
        before = context[len(context) - (n - 1) :]
        total = sum(count for gram, count in counts.items() if gram[:-1] == before)
        if len(before) < n - 1 or not total:
            continue
        once, twice = (sum(count == k for count in counts.values()) for k in (1, 2))
        discount = min(once / (once + 2 * twice), 0.95) if once else 0.5
        followers = sum(gram[:-1] == before for gram in counts)
        own = max(counts.get((*before, word), 0) - discount, 0)
        p = own / total + discount * followers / total * p
    return p


def _counts(some, n: int, highest: bool) -> dict[tuple[int, ...], int]:
    if highest:
        found: dict[tuple[int, ...], int] = defaultdict(int)
        for text in some:
            for i in range(len(text) - n + 1):
                found[tuple(text[i : i + n])] += 1
        return dict(found)
    longer = {tuple(text[i : i + n + 1]) for text in some for i in range(len(text) - n)}
    preceded: dict[tuple[int, ...], int] = defaultdict(int)
    for gram in longer:
        preceded[gram[1:]] += 1
    return dict(preceded)


@settings(max_examples=examples(40), deadline=None)
@given(
    texts,
    st.integers(1, 4),
    st.sampled_from(["kneser_ney", "add_k"]),
    st.lists(st.integers(0, 4), max_size=5),
)
def test_probabilities_are_positive_and_sum_to_one(some, order, smoothing, context):
    p = distribution(NGram([np.array(one) for one in some], 5, order, smoothing), *context)
    assert p.sum() == pytest.approx(1)
    assert (p > 0).all()


SAYING = "the cat sat on the mat the cat ran to the mat on the cat"


@pytest.fixture(scope="module")
def words():
    # The beginning stands again at the end: nltk counts followers of contexts that nothing precedes.
    said = f"{SAYING} the cat sat".split()
    names = sorted(set(said))
    return said, names, np.array([names.index(one) for one in said])


@pytest.mark.slow
def test_kneser_ney_agrees_with_nltk(words):
    said, names, text = words
    theirs = lm.KneserNeyInterpolated(3, discount=0.1)
    theirs.fit([list(util.everygrams(said, max_len=3))], names)
    ours = NGram([text], len(names), 3, discounts=(0.0, 0.1, 0.1))
    for i in range(2, len(said)):
        p = distribution(ours, *text[i - 2 : i])
        assert p == pytest.approx([theirs.score(word, said[i - 2 : i]) for word in names])


def test_add_k_agrees_with_nltk(words):
    said, names, text = words
    theirs = lm.Lidstone(0.3, 2)
    theirs.fit([list(util.everygrams(said, max_len=2))], names)
    ours = NGram([text], len(names) + 1, 2, "add_k", k=0.3)  # nltk's vocabulary holds <UNK> too
    for i in range(1, len(said)):
        p = distribution(ours, text[i - 1])[:-1]
        assert p == pytest.approx([theirs.score(word, said[i - 1 : i]) for word in names])


def test_a_longer_context_predicts_a_patterned_text_better():
    text = np.array([A, A, B, C] * 50)
    bits = [-NGram([text], 4, n).score(text[:80], first=4)[0].mean() for n in (1, 2, 3)]
    assert bits[0] > bits[1] > bits[2]
    assert bits[2] < 0.1


def test_texts_do_not_run_into_one_another():
    apart = NGram([np.array([A, B]), np.array([C, D])], 4, 2)
    together = NGram([np.array([A, B, C, D])], 4, 2)
    assert distribution(together, B)[C] > distribution(together)[C]
    assert distribution(apart, B) == pytest.approx(distribution(apart)), "nothing follows b"


def test_chunks_make_no_difference(monkeypatch):
    model = NGram([TEXT], 4, 3)
    whole = np.concatenate(list(model.probabilities(TEXT)))
    monkeypatch.setattr("lossbench.tasks.ngram.CHUNK", 8)
    assert np.array_equal(np.concatenate(list(model.probabilities(TEXT))), whole)


def test_windows_are_put_together_again():
    text = np.arange(13)
    inputs, targets = text[:12].reshape(4, 3), text[1:13].reshape(4, 3)
    assert [one.tolist() for one in stretches(inputs, targets)] == [text.tolist()]
    kept = [0, 2, 3]
    apart = stretches(inputs[kept], targets[kept])
    assert [one.tolist() for one in apart] == [[0, 1, 2, 3], [6, 7, 8, 9, 10, 11, 12]]


@pytest.mark.parametrize("wrong", [{"order": 0}, {"k": 0}, {"discounts": (1.0, 0.1)}, {"texts": []}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="found"):
        NGram(**{"texts": [TEXT], "tokens": 4, "order": 2, **wrong})
