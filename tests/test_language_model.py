"""The LSTM: what it sees, where its gradient ends, and how it behaves once trained."""

import hashlib

import numpy as np
import pytest
import torch
from law_cases import mostly_slow

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.errors import UserError
from lossbench.models.base import build
from lossbench.recipe import Compute, Network
from lossbench.tasks.ngram import NGram, stretches
from lossbench.training.determinism import deterministic
from lossbench.training.fitting import fit
from lossbench.training.prediction import predicting
from lossbench.training.setting import Member
from tests.language_cases import NURSERY, SMALL, block, dataset, score_test, setting, task, train

LOSSES = {
    "cross_entropy": {"name": "cross_entropy"},
    "focal": {"name": "focal", "gamma": 2.0},
    "label_smoothing": {"name": "cross_entropy", "label_smoothing": 0.1},
    "mse": {"name": "brier"},
    "hinge": {"name": "hinge", "variant": "weston_watkins"},
}


def model(tokens: int = 7, length: int = 12, seed: int = 0, **options) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build(Network(**{**SMALL, "layers": 2, **options}), (length,), tokens)


def window(length: int = 12, count: int = 3) -> torch.Tensor:
    return torch.randint(0, 7, (count, length), generator=torch.Generator().manual_seed(1))


def test_outputs_are_scores_of_every_token_at_every_position():
    assert model()(window()).shape == (3, 7, 12)
    assert model()(window(length=5)).shape == (3, 7, 5)


def test_the_articles_network_has_its_size():
    full = build(Network(name="lstm"), (35,), 10_000)
    layers = 4 * 512 * (256 + 512) + 4 * 512 * (512 + 512) + 2 * 2 * 4 * 512
    assert sum(one.numel() for one in full.parameters()) == 10_000 * 256 + layers + 512 * 10_000 + 10_000


def test_no_position_sees_a_later_token():
    tokens = window()
    other = tokens.clone()
    other[:, 6] = (other[:, 6] + 1) % 7
    same = (model()(tokens) == model()(other)).all(1)
    assert same[:, :6].all()
    assert not same[:, 6:].any()


def reach(truncate: int) -> list[int]:
    """Positions whose embedding has a gradient from the last position's scores."""
    network = model(tokens=12, truncate=truncate)
    network(torch.arange(12)[None])[0, :, -1].square().sum().backward()
    gradient = network.get_parameter("embed.weight").grad
    return torch.nonzero(gradient.abs().sum(1)).flatten().tolist()


def test_truncation_stops_the_gradient_and_nothing_else():
    assert reach(0) == list(range(12))
    assert reach(4) == [8, 9, 10, 11]
    assert reach(5) == [10, 11]
    assert torch.allclose(model(truncate=4)(window()), model()(window()), atol=1e-6), "the state passes on"


def test_dropout_acts_in_training_only():
    network = model(dropout=0.5)
    assert not torch.equal(network.train()(window()), network(window()))
    assert torch.equal(network.eval()(window()), network(window()))
    assert torch.allclose(network(window()), model().eval()(window()))


def test_the_weights_are_plain_tensors():
    names = set(model().state_dict())
    assert "embed.weight" in names
    assert "layers.1.weight_hh_l0" in names
    assert all(value.dtype == torch.float32 for value in model().state_dict().values())


def test_images_are_refused():
    with pytest.raises(UserError, match=r"model 'lstm' reads tokens.*\(3, 8, 8\)"):
        build(Network(name="lstm"), (3, 8, 8), 10)


def test_the_population_engine_says_that_it_cannot_train_an_lstm(tmp_path):
    made = setting(dataset(tmp_path, NURSERY * 10), compute={"engine": "population"})
    with pytest.raises(UserError, match=r"cannot train this loss with this model.*lstm.*allowed: loop"):
        fit(made, [Member(0), Member(1)])


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("nursery"), NURSERY * 40, length=32)


@pytest.mark.parametrize("loss", mostly_slow(LOSSES, 5))
def test_every_loss_trains_a_model_that_beats_the_unigram(nursery, loss):
    made = setting(nursery, loss=LOSSES[loss], epochs=8)
    scores = score_test(made, train(made), nursery)
    floor = task(nursery).floors(nursery)["unigram (add-1)"]
    assert scores["bits_per_character"] < 0.75 * floor["bits_per_character"]
    assert scores["top1"] > 2 * floor["top1"]


def test_a_margin_is_judged_after_its_temperature_is_fitted(nursery):
    made = setting(nursery, loss=LOSSES["hinge"], epochs=8)
    replicate = train(made)
    raw, fitted = (score_test(made, replicate, nursery, fitted=one) for one in (False, True))
    assert fitted["bits_per_character"] < raw["bits_per_character"]
    assert fitted["top1"] == raw["top1"]


def test_training_repeats_to_the_bit(nursery):
    def digest() -> str:
        with deterministic(Compute()):
            state = train(setting(nursery, {**SMALL, "dropout": 0.2, "truncate": 8}, epochs=1)).state
        return hashlib.sha256(b"".join(one.numpy().tobytes() for one in state.values())).hexdigest()

    assert digest() == digest()


# Behaviour of trained models: minimum functionality, direction, invariance.


@pytest.fixture(scope="module")
def alternating(tmp_path_factory):
    data = dataset(tmp_path_factory.mktemp("ab"), "ab" * 1500)
    made = setting(data, epochs=3)
    return data, made, train(made)


def predict(trained, text: str) -> list[str]:
    data, made, replicate = trained
    classes = list(data.info.classes)
    tokens = np.array([[classes.index(one) for one in text]], np.uint8)
    with predicting(made.task, made.network, replicate.state, tokens, made.compute) as predictor:
        scores = predictor.forward(torch.from_numpy(tokens).long())
    return [classes[int(one)] for one in scores[0].argmax(0)]


def test_after_an_alternating_text_it_predicts_the_alternation(alternating):
    data, made, replicate = alternating
    assert predict(alternating, "abababab") == list("babababa")
    assert score_test(made, replicate, data)["perplexity"] < 1.05


def test_after_an_alternating_text_it_writes_the_alternation(alternating):
    data, made, replicate = alternating
    with predicting(made.task, made.network, replicate.state, data.split("test").inputs, made.compute) as one:
        (said,) = task(data, generate=40).generate(one.forward, seed=0)
    assert said in ("ab" * 20, "ba" * 20)


def test_its_prediction_does_not_depend_on_where_in_a_window_a_pattern_stands(alternating):
    assert predict(alternating, "ab" * 8)[-1] == predict(alternating, "ab" * 3)[-1] == "a"


def test_more_text_lowers_the_perplexity(tmp_path):
    def bits(share: int) -> float:
        data = dataset(tmp_path / str(share), NURSERY * 60, length=32, subset=share)
        made = setting(data, epochs=4)
        return score_test(made, train(made), data)["bits_per_character"]

    assert bits(100) < bits(8)


def test_it_remembers_what_no_bigram_can(tmp_path):
    # After "x" the next letter is the one two before it: a bigram cannot know which.
    random = np.random.default_rng(0)
    text = "".join(f"{one}x{one}." for one in random.choice(list("abcd"), 1500))
    data = dataset(tmp_path, text, length=32)
    made = setting(data, epochs=6)
    train_split, test_split = data.split("train"), data.split("test")
    counted = NGram(stretches(train_split.inputs, train_split.targets), len(data.info.classes), 2)
    bigram = -counted.score(stretches(test_split.inputs, test_split.targets)[0], first=1)[0].mean()
    assert score_test(made, train(made), data)["bits_per_character"] < bigram - 0.3


@pytest.mark.slow
def test_on_real_prose_it_is_far_below_the_bigram(tmp_path):
    options = {"level": "char", "lower": True, "length": 32, "subset": 2000}
    fetch(block("embedded_text", **options), "prose", tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    network = {**SMALL, "embedding": 32, "hidden": 64, "truncate": 16}
    recipe = {"epochs": 8, "batch_size": 32, "gradient_clip": 1.0, "schedule": {"name": "cosine"}}
    made = setting(data, network, optimizer={"name": "adam", "learning_rate": 0.03}, **recipe)
    floor = task(data).floors(data)["bigram (add-0.1)"]["bits_per_character"]
    assert score_test(made, train(made), data)["bits_per_character"] < floor - 0.7
