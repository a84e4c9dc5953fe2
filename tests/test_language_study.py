"""A study of text runs from fetch to report like any other."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, tiny_params, train_study
from safetensors.torch import load_file

from lossbench.checking import check
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.errors import UserError
from lossbench.evaluation.replicates import predict_replicate, score_predicted
from lossbench.params import load_params
from lossbench.reporting.write import write_report
from tests.language_cases import NURSERY, SMALL, task


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("text") / "study"
    root.mkdir()
    text = root / "nursery.txt"
    text.write_text(NURSERY * 30, encoding="utf-8")
    content = tiny_params()
    content["datasets"] = {"nursery": {"source": "text_file", "path": str(text), "length": 16}}
    content["experiments"] = {
        "text": {
            "task": {"name": "language_model", "ngram": 3, "generate": 30},
            "dataset": "nursery",
            "model": dict(SMALL),
            "recipe": {"epochs": 4, "batch_size": 8, "optimizer": {"name": "adam", "learning_rate": 0.02}},
            "metric": "bits_per_character",
            "margin": 0.02,
        }
    }
    content["losses"]["hinge"] = {"name": "hinge", "variant": "weston_watkins"}
    content["arms"] = {
        f"text-{loss}": {"experiment": "text", "dataset": "nursery", "loss": loss}
        for loss in content["losses"]
    }
    content["seeds"] = [0, 1]
    content["hypotheses"] = {
        "hinge_loses": {
            "claim": "Cross-entropy beats hinge at predicting text.", "experiment": "text", "better": "cross_entropy",
            "than": "hinge", "on": "bits_per_character",
        }
    }  # fmt: skip
    train_study(root, content)
    check(load_params(root / "params.yaml"))
    write_report(load_params(root / "params.yaml"), root, root / ".lossbench")
    return root


def test_every_replicate_has_every_metric_and_the_gap(study):
    scores = pd.read_csv(study / "reports/evaluation/text/scores.csv")
    metrics = {"perplexity", "bits_per_character", "top1", "generalisation_gap"}
    assert set(scores["metric"]) == metrics
    assert len(scores) == 3 * 2 * len(metrics)
    assert scores["value"].notna().all()


def test_trained_models_beat_the_unigram_floor(study):
    floors = pd.read_csv(study / "reports/evaluation/text/floors.csv").set_index(["floor", "metric"])["value"]
    board = pd.read_csv(study / "reports/leaderboard.csv").set_index(["loss", "metric"])["mean"]
    unigram = floors["unigram (add-1)", "bits_per_character"]
    assert board["cross_entropy", "bits_per_character"] < unigram
    assert ("3-gram (Kneser–Ney)", "perplexity") in floors.index


def test_the_report_shows_floors_windows_and_generated_texts(study):
    page = (study / "reports/index.html").read_text(encoding="utf-8")
    assert "3-gram (Kneser–Ney)" in page
    assert "% right: " in page
    texts = json.loads((study / "reports/evaluation/text/gallery.json").read_bytes())["texts"]
    assert {len(said) for said in texts.values()} == {1}
    assert texts["text-cross_entropy"][0].splitlines()[0] in page


@pytest.mark.parametrize("name", ["a3_characters", "a3_words"])
def test_the_article_sized_studies_need_a_text_and_nothing_else(name, tmp_path, monkeypatch):
    shutil.copy(ROOT / "studies" / name / "params.yaml", tmp_path)
    assert (ROOT / "studies" / name / "dvc.yaml").resolve() == ROOT / "dvc.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"path' is 'input.txt': no such file; name a file of UTF-8 text"):
        check(load_params())
    (tmp_path / "input.txt").write_text(NURSERY * 200, encoding="utf-8")
    check(load_params())
    params = load_params()
    (dataset,) = params.datasets
    fetch(params.datasets[dataset], dataset, tmp_path / "data")
    assert Dataset.open(tmp_path / "data").info.kind == "tokens"


def test_every_arm_is_scored_at_the_temperature_that_its_validation_data_chose(study):
    params = load_params(study / "params.yaml")
    data = Dataset.open(study / "data/nursery")
    folder = study / "models/text/text-hinge"
    network = params.experiments["text"].model
    plain = task(data)
    plain.adapts = False  # type: ignore[misc]  # of this one instance
    scores = pd.read_csv(study / "reports/evaluation/text/scores.csv")
    for seed in params.seeds:
        state = load_file(folder / f"seed-{seed}.safetensors")
        predicted = predict_replicate(state, network, seed, plain, "perplexity", data, params.compute)
        raw = score_predicted(predicted, plain, "perplexity", data)
        mine = scores.query("loss == 'hinge' and metric == 'perplexity'").set_index("seed")["value"]
        assert mine[seed] < raw.scores.metrics["perplexity"]
