"""No secret leaves the environment; every server listens to this machine alone."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from retraining_cases import growing_study, records, retrain

from lossbench.telling import shown
from lossbench.tracking.ui import mlflow_server

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-7f3a",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-91c2",
    "MLFLOW_TRACKING_USERNAME": "planted-user-55aa",
    "AZURE_STORAGE_CONNECTION_STRING": "planted-azure-0b1d",
    "HF_TOKEN": "planted-token-e4e4",
}
IN_ADDRESS = "planted-address-c0de"


def holding(folder: Path, words: list[str]) -> Iterator[str]:
    """Every file that holds one of the words, as text or packed into another file as UTF-16."""
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for word in words:
                if word.encode() in content or word.encode("utf-16-le") in content:
                    yield f"{file.relative_to(folder)}: {word}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_that_a_retraining_writes_or_prints_holds_a_secret_of_the_environment(tmp_path: Path) -> None:
    study = growing_study(tmp_path / "study")
    words = [*SECRETS.values(), IN_ADDRESS]
    address = f"http://somebody:{IN_ADDRESS}@127.0.0.1:9/"
    away = retrain(study, MLFLOW_TRACKING_URI=address, **SECRETS)
    assert away.returncode == 1
    assert "127.0.0.1:9" in away.stdout + away.stderr
    done = retrain(study, **SECRETS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(study)[-1]["outcome"] == "promoted"
    for ended in (away, done):
        assert not [word for word in words if word in ended.stdout + ended.stderr]
    assert (study / "mlflow.db").stat().st_size > 100_000
    assert list(study.glob(".lossbench/journal/**/*.jsonl"))
    assert not list(holding(study, words))


def test_the_search_for_secrets_finds_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/log").write_text(f"password={IN_ADDRESS}")
    assert list(holding(tmp_path, [IN_ADDRESS])) == [f"a/log: {IN_ADDRESS}"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://me:pw@mlflow.example:5000/x", "http://mlflow.example:5000/x"),
        ("https://token@mlflow.example", "https://mlflow.example"),
        ("postgresql+psycopg2://me:p@ss@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        ("sqlite:////srv/a@b/mlflow.db", "sqlite:////srv/a@b/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_credentials(uri: str, expected: str) -> None:
    assert shown(uri) == expected


@pytest.mark.slow
def test_the_ui_listens_to_this_machine_alone(tmp_path: Path) -> None:
    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "log", port=0):
        family = psutil.Process().children(recursive=True)
        bound = {
            one.laddr.ip for each in family for one in each.net_connections("inet") if one.status == "LISTEN"
        }
    assert bound == {"127.0.0.1"}


def test_no_page_of_the_documentation_opens_a_server_to_all() -> None:
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*"), ROOT / "README.md", ROOT / "Makefile"]
    hosts = [
        (page.name, host)
        for page in pages
        if page.is_file()
        for host in re.findall(r"(?<!never `)--host[= ](\S+)", page.read_text(encoding="utf-8"))
    ]
    assert ("security.md", "127.0.0.1") in hosts
    assert {host.strip("`") for _, host in hosts} == {"127.0.0.1"}
