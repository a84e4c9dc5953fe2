"""No name and no password of an address is ever told."""

import os
from base64 import b64encode
from unittest.mock import patch
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples

from lossbench.errors import GateError, UserError
from lossbench.telling import exit_code, scrubbed, shown

SECRET = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=6, max_size=20)
PLAIN = SECRET.map(lambda text: "".join(one for one in text if one not in "/?#@")).filter(
    lambda text: len(text) > 5
)
WORDS = "***host.example:5000HTTPConnectionPool(host='', port=5000)Invalid port: cannot parse 'http://'"
TEXTS = (
    "API request to {} failed with exception HTTPConnectionPool",
    "{}",
    "503 Server Error: Service Unavailable for url: {}/api/2.0/mlflow",
    "(psycopg2.OperationalError) could not connect ({}), tried twice: {}",
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2"]),
    PLAIN,
    PLAIN,
    st.sampled_from(TEXTS),
)
def test_an_address_in_a_text_loses_its_name_and_password(scheme, name, password, text):
    told = scrubbed(text.format(*[f"{scheme}://{name}:{password}@host.example:5000/path"] * 2))
    assert f"{name}:{password}" not in told
    assert "@host" not in told
    assert "host.example:5000/path" in told


@settings(max_examples=examples(60), deadline=None)
@given(SECRET.filter(lambda text: ":" not in text), SECRET)
def test_a_password_of_the_tracking_address_is_found_wherever_it_stands(name, password):
    """Whatever signs it is made of, and in pieces: libraries quote addresses in many ways."""
    with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": f"http://{name}:{password}@host.example:5000"}):
        for text in (
            f"cannot parse 'http://{name}:{password}@host.example:5000'",
            f"Invalid port: {password}@host.example",
            f"HTTPConnectionPool(host='{name}:{password}@host.example', port=5000)",
            f"redirected from /login?next={quote(os.environ['MLFLOW_TRACKING_URI'], safe='')}",
            shown(os.environ["MLFLOW_TRACKING_URI"]),
        ):
            told = scrubbed(text)
            if password not in WORDS:  # a password that is a word of the sentence is no secret in it
                assert password not in unquote(told), told


@pytest.mark.parametrize("key", ["password", "ssl_key", "api_token", "client_secret"])
def test_a_secret_in_the_addresss_query_is_found_by_itself_and_escaped(key, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://db.example/mlflow?user=bob&{key}=hunter%2B22")
    for secret in ("hunter%2B22", "hunter+22", "hunter%252B22"):
        assert scrubbed(f"refused: {secret} at db.example") == "refused: *** at db.example"


@pytest.mark.parametrize(
    "address", ["sqlite:////srv/a@b/m.db", "sqlite+pysqlite:////50%25@x/m.db", "file:///a@b"]
)
def test_a_path_with_an_at_sign_is_told_as_it_is(address, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert (
        scrubbed(f"({address}): unable to open database file") == f"({address}): unable to open database file"
    )
    assert shown(address) == address


@pytest.mark.parametrize("error", [UserError, GateError])
def test_entry_points_print_no_password(error, capsys):
    def main():
        raise error("MLflow at https://anna:geheim-7@mlflow.example: 503")

    assert exit_code(main) in (1, 2)
    told = capsys.readouterr().err
    assert "geheim" not in told
    assert "https://mlflow.example" in told


@settings(max_examples=examples(40), deadline=None)
@given(
    st.sampled_from(["databricks", "databricks-uc", "uc"]),
    st.sampled_from(
        ["{0}://{1}", "{0}://{1}:{2}", "{0}://{1}:{2}@host.example", "{0}:https://{1}:{2}@host.example"]
    ),
    st.from_regex(r"[A-Z][A-Za-z0-9_]{7,12}", fullmatch=True),
    st.from_regex(r"[a-z0-9]{3}Q[A-Za-z0-9_.-]{6,12}", fullmatch=True),
)
def test_of_a_hosted_store_nothing_but_its_kind_is_told(kind, form, profile, secret):
    """What follows names a profile, or a scope and a key of secrets: MLflow quotes both."""
    address = form.format(kind, profile, secret)
    assert shown(address) == kind
    texts = (f"cannot read {address}", f"cannot read '{address}/api'", f"put-secret {profile} {secret}-host")
    with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": address}):
        for told in map(scrubbed, texts):
            assert secret not in told or secret not in address
            assert profile not in told or "put-secret" in told


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sampled_from(["http:/{}@host", "http:{}@host", "//{}@host:5000", "{}@host:5000", "https://{}@host"]),
    SECRET.filter(lambda text: ":" not in text and not text.startswith("/")),
    SECRET.filter(lambda text: "/" not in text),
)
def test_an_address_with_too_few_slashes_keeps_its_password_to_itself(form, name, password):
    name = name.replace("/", "")  # it may be told, in place of a scheme
    address = form.format(f"{name}:{password}")
    with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": address}):
        for told in (scrubbed(f"cannot parse {address!r}"), scrubbed(f"pw {password}"), shown(address)):
            if password not in f"{WORDS}pw cannot parse {name}":
                assert password not in told
                assert repr(password)[1:-1] not in told


@each(
    "variable",
    ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABRICKS_TOKEN"],
)
@each("address", ["http://host.example", "databricks://profile", "sqlite:////srv/m.db", ""])
def test_a_secret_in_a_variable_of_its_own_is_told_nowhere(variable, address, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv(variable, "geheim-7ü\\x\n")  # read from a file, with the end of its line
    for secret in ("geheim-7ü\\x", r"geheim-7ü\\x", b64encode("anna:geheim-7ü\\x".encode()).decode()):
        assert scrubbed(f"cannot send header 'Bearer {secret}'") == "cannot send header 'Bearer ***'"


def test_no_secret_leaves_a_text_as_it_is(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "")
    text = "data/a.csv, row 3: 'key' is 'Og==', expected dog@2x.png: 4:3"
    assert scrubbed(text) == text


@each(
    "text",
    [
        "http://anna:it's/geheim@host/x",
        'cannot parse "http://anna:a\'b/geheim@host"',
        "/login?next=https%3A%2F%2Fanna%3Ageheim%40host%2Fx",
        r'{"uri": "http:\/\/anna:geheim@host\/x"}',
        "http://host/x?X-Amz-Signature=geheim&X-Amz-Credential=geheim",
        "http://host/x?sig=geheim",
        "http://host/#access_token=geheim",
        "password='geheim geheim' host=h",
        "password = geheim",
        "http://host/x?password=abc'geheim",
        "http://host/x?password=abc;geheim",
        "mssql:///?odbc_connect=UID%3Da%3BPWD%3Dgeheim%3B",
    ],
)
def test_a_password_is_found_however_its_address_is_written(text):
    assert "geheim" not in scrubbed(text)
    assert "host" not in text or "host" in scrubbed(text)
