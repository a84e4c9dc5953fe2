"""Finished replicates come from the store, and only those that are still what params, data and code say."""

import shutil

import pytest
from training_cases import digest, labels_dataset, setting

from lossbench.training import Member, Store, fit, store

SEEDS = [Member(seed) for seed in range(3)]


@pytest.fixture
def data(tmp_path):
    return labels_dataset(tmp_path / "data")


@pytest.fixture
def made(data):
    return setting(data, epochs=1)


@pytest.fixture
def kept(tmp_path, made, data):
    return Store.of(tmp_path / "home", made, data.folder)


def test_a_further_seed_costs_one_replicate(made, kept):
    first = fit(made, SEEDS, store=kept)
    again = fit(made, [*SEEDS, Member(3)], store=kept)
    assert [one.fresh for one in first] == [True] * 3
    assert [one.fresh for one in again] == [False] * 3 + [True]
    assert [digest(one) for one in again[:3]] == [digest(one) for one in first]


def test_fresh_forgets_the_store(made, kept, tmp_path, data, monkeypatch):
    fit(made, SEEDS[:1], store=kept)
    monkeypatch.setenv("LOSSBENCH_FRESH", "1")
    assert fit(made, SEEDS[:1], store=Store.of(tmp_path / "home", made, data.folder))[0].fresh


def test_a_members_own_learning_rate_is_part_of_what_it_is(made, kept):
    fit(made, SEEDS[:1], store=kept)
    assert fit(made, [Member(0, learning_rate=0.5)], store=kept)[0].fresh


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 2},
        {"epochs": 1, "loss": {"name": "focal", "gamma": 1.0}},
        {"epochs": 1, "network": {"name": "mnist_cnn"}},
        {"epochs": 1, "compute": {"precision": "bf16"}},
        {"epochs": 1, "compute": {"threads": 2}},
    ],
)
def test_another_setting_is_another_identity(data, kept, other):
    assert Store.of(kept.home, setting(data, **other), data.folder).identity != kept.identity


def test_other_data_are_another_identity(made, kept, data):
    (data.folder / "manifest.parquet").write_bytes(b"other hashes")
    assert Store.of(kept.home, made, data.folder).identity != kept.identity


def test_edited_code_is_another_identity(made, kept, data, tmp_path, monkeypatch):
    root = tmp_path / "lossbench"
    shutil.copytree(store.Path(store.lossbench.__file__).parent, root)
    monkeypatch.setattr(store.lossbench, "__file__", str(root / "__init__.py"))
    assert Store.of(kept.home, made, data.folder).identity == kept.identity
    with (root / "losses" / "base.py").open("a") as file:
        file.write("# edited\n")
    assert Store.of(kept.home, made, data.folder).identity != kept.identity
    assert store.code_hash() != ""


def test_a_torn_replicate_is_said_so_and_trained_anew(made, kept, capsys):
    fit(made, SEEDS[:1], store=kept)
    (file,) = (kept.home / "replicates").glob("*/state.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    assert fit(made, SEEDS[:1], store=kept)[0].fresh
    assert "cannot be read" in capsys.readouterr().err


def test_in_a_population_the_company_is_part_of_what_a_replicate_is(data, tmp_path):
    made = setting(data, epochs=1, compute={"engine": "population"})
    kept = Store.of(tmp_path / "home", made, data.folder)
    fit(made, SEEDS, store=kept)
    assert not any(one.fresh for one in fit(made, SEEDS, store=kept))
    assert all(one.fresh for one in fit(made, SEEDS[:2], store=kept))
