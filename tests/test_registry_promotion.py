"""Who is champion, whoever else promotes, dies, or moves an alias by hand. MLflow's registry in memory."""

import threading
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from law_cases import each, examples

from lossbench.errors import GateError
from lossbench.retraining.registry import (
    ATTEMPT,
    CHAMPION,
    FILES,
    PREVIOUS,
    PROMOTED,
    REPLACES,
    ROLLED_BACK,
    OvertakenError,
    Registry,
    UnsettledError,
)
from lossbench.tracking.server import AbsentError, ServerGoneError, files_at

NAME = "digits"


class Page(list):
    token = None


class Store:
    """What of MlflowClient a registry needs; dies (or lets another act) before the n-th call."""

    def __init__(self):
        self.aliases, self.versions, self.calls = {}, {}, 0
        self.before = lambda call, name: None
        self.after = lambda call, name: None

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if not callable(found) or name in ("before", "after") or name.startswith("_"):
            return found

        def counted(*arguments, **options):
            self.calls += 1
            number = self.calls
            self.before(number, name)
            answer = found(*arguments, **options)
            self.after(number, name)
            return answer

        return counted

    def get_registered_model(self, name):
        if not self.versions:
            raise AbsentError(f"Registered Model with name={name} not found")
        return SimpleNamespace(name=name, aliases=dict(self.aliases), latest_versions=[1])

    def search_registered_models(self, _):
        return []

    def get_model_version_by_alias(self, name, alias):
        if alias not in self.aliases:
            raise AbsentError(f"Registered model alias {alias} not found.")
        return SimpleNamespace(name=name, version=self.aliases[alias])

    def search_model_versions(self, _, page_token=None):
        return Page(
            SimpleNamespace(name=NAME, version=one, tags=dict(tags)) for one, tags in self.versions.items()
        )

    def set_model_version_tag(self, _, version, key, value):
        self.versions[version][key] = value

    def delete_model_version_tag(self, _, version, key):
        self.versions[version].pop(key, None)

    def set_registered_model_alias(self, _, alias, version):
        self.aliases[alias] = version


@pytest.fixture
def store():
    return promoted(Store(), "1", "2")


def promoted(store, *versions):
    for version in versions:
        judged = Registry(store, NAME).standing()
        store.versions[version] = {FILES: f'{{"weights.safetensors": "weights {version}"}}'}
        Registry(store, NAME).take_over(version, judged, {"version": version})
    return store


def test_a_promotion_is_refused_where_another_came_first(store):
    registry = Registry(store, NAME)
    judged = registry.standing()
    store.versions |= {"3": {}, "4": {}}
    store.aliases[CHAMPION] = "3"  # in MLflow's UI
    with pytest.raises(OvertakenError, match="version 3 became champion of 'digits' while version 4"):
        registry.take_over("4", judged, {"version": "4"})
    assert store.aliases[CHAMPION] == "3"


@settings(max_examples=examples(120), deadline=None)
@given(st.integers(1, 24), st.booleans())
def test_of_two_promoters_without_a_common_lock_one_is_champion_and_the_other_knows(moment, first_is_lower):
    """The second acts as a whole between two calls of the first, wherever that is."""
    store = promoted(Store(), "1")
    registry = Registry(store, NAME)
    judged = registry.standing()
    mine, theirs = ("2", "3") if first_is_lower else ("3", "2")
    store.versions |= {"2": {}, "3": {}}
    heard = {}

    def promote(version):
        try:
            registry.take_over(version, judged, {"version": version})
            heard[version] = True
        except OvertakenError:
            heard[version] = False

    def between(call, _):
        if call == start + moment:
            store.before = lambda *_: None
            promote(theirs)

    start = store.calls
    store.before = between
    promote(mine)
    assert heard.get(mine, False) or heard.get(theirs, False)
    champion = store.aliases[CHAMPION]
    assert heard[champion]
    assert store.aliases[PREVIOUS] == store.versions[champion][REPLACES] != champion


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.booleans(), max_size=80), st.booleans())
@example([one == "1" for one in "00001001100110000100100100100"], True)  # both give way, again and again
@example([], False)
@example([], True)
def test_of_two_promoters_whose_calls_mix_in_any_order_none_is_told_what_is_not_so(turns, first_is_lower):
    store = promoted(Store(), "1")
    judged = Registry(store, NAME).standing()
    names = ("2", "3") if first_is_lower else ("3", "2")
    store.versions |= {"2": {}, "3": {}}
    heard, gate, order = {}, threading.Condition(), iter(turns)
    state = {"turn": next(order, True), "over": set()}

    def wait(_call, _name):
        """Let the other go on until it is this thread's turn, as the example has it."""
        mine = threading.current_thread().name == "first"
        with gate:
            assert gate.wait_for(lambda: state["turn"] == mine or (not mine) in state["over"], 10)
            state["turn"] = next(order, not mine)
            gate.notify_all()

    def promote(version):
        try:
            Registry(store, NAME).take_over(version, judged, {"version": version})
            heard[version] = True
        except OvertakenError:
            heard[version] = False
        except UnsettledError:
            heard[version] = None  # both gave way to one another, again and again
        finally:
            with gate:
                state["over"].add(threading.current_thread().name == "first")
                gate.notify_all()

    store.before = wait
    threads = [
        threading.Thread(target=promote, args=(version,), name=name)
        for version, name in zip(names, ("first", "second"), strict=True)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    champion = store.aliases[CHAMPION]
    assert champion in names
    assert heard.keys() == set(names)
    assert heard[champion] is not False
    assert not any(heard[one] for one in names if one != champion)
    assert heard[champion] or len(turns) > 15, "it takes an order that is made for it"
    store.before = lambda *_: None
    if heard[champion] is None:  # the next call completes the rest, as was said
        Registry(store, NAME).settle()
    assert not any(ROLLED_BACK in store.versions[one] for one in names)
    assert store.aliases[PREVIOUS] == store.versions[champion][REPLACES] != champion
    assert Registry(store, NAME).settle() == {"version": champion}  # and the record is completed by it


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 20), st.booleans(), st.booleans())
def test_dead_before_or_after_any_call_one_champion_is_left_and_the_next_call_completes_the_rest(
    moment, before, back
):
    store = promoted(Store(), "1", "2")
    registry = Registry(store, NAME)
    judged = registry.standing()
    store.versions["3"] = {}

    def die(call, _):
        if call == start + moment:
            raise KeyboardInterrupt

    start = store.calls
    setattr(store, "before" if before else "after", die)
    try:
        if back:
            registry.roll_back({"id": "a"})
        else:
            registry.take_over("3", judged, {"version": "3", "id": "a"})
    except KeyboardInterrupt:
        pass
    store.before = store.after = lambda *_: None
    moved = store.aliases[CHAMPION] == ("1" if back else "3")
    assert moved or store.aliases[CHAMPION] == "2"
    row = registry.settle()
    assert (row is not None and row.get("id") == "a") == moved
    champion, former = store.aliases[CHAMPION], store.aliases[PREVIOUS]
    assert (champion, former) == ((("1", "2") if back else ("3", "2")) if moved else ("2", "1"))
    assert ROLLED_BACK not in store.versions[champion]
    assert (ROLLED_BACK in store.versions["2"]) == (back and moved)


def test_an_alias_that_moved_though_the_answer_was_lost_is_a_promotion(store):
    registry = Registry(store, NAME)
    judged = registry.standing()
    store.versions["3"] = {}

    def lost(_, name):
        if name == "set_registered_model_alias":
            store.after = lambda *_: None
            raise ServerGoneError("503")

    store.after = lost
    registry.take_over("3", judged, {"version": "3"})
    assert (store.aliases[CHAMPION], store.aliases[PREVIOUS]) == ("3", "2")


@pytest.mark.parametrize("moved", [True, False])
def test_a_registry_that_goes_away_in_the_very_call_leaves_the_question_open_and_says_so(store, moved):
    registry = Registry(store, NAME)
    judged = registry.standing()
    store.versions["3"] = {}

    def gone(_, name):
        if name == "set_registered_model_alias":
            store.before = store.after = dead
            raise ServerGoneError("503")

    def dead(*_):
        raise ServerGoneError("503")

    setattr(store, "after" if moved else "before", gone)
    with pytest.raises(UnsettledError, match="is not known"):
        registry.take_over("3", judged, {"version": "3"})
    store.before = store.after = lambda *_: None
    assert (registry.settle() == {"version": "3"}) == moved


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_version_that_was_rolled_back_is_refused_until_somebody_allows_it(store, by_hand):
    registry = Registry(store, NAME)
    if by_hand:
        store.aliases[CHAMPION] = "1"  # in MLflow's UI
        registry.settle()
    else:
        assert registry.roll_back({}) == ("1", "2")
    version, why = registry.standing().refused("another key", "weights 2")
    assert (version, "version 1" in why) == ("2", True)
    assert registry.standing().refused("another key", "weights 3") is None
    with pytest.raises(GateError, match="not refused"):
        registry.allow("1")
    with pytest.raises(GateError, match="no version 9"):
        registry.allow("9")
    registry.allow("2")
    assert registry.standing().refused("another key", "weights 2") is None


@pytest.mark.parametrize("nonsense", ["", "{", "[]", "null", "3", '"text"', "<html>", "ⅷ", "-1", "1e3"])
def test_tags_that_somebody_changed_cost_no_champion_and_raise_one_sentence_at_most(store, nonsense):
    registry = Registry(store, NAME)
    for tags in store.versions.values():
        tags |= {ATTEMPT: nonsense, PROMOTED: nonsense, FILES: nonsense}
    assert registry.settle() is None
    assert store.aliases == {CHAMPION: "2", PREVIOUS: "1"}
    assert registry.roll_back({}) == ("1", "2")
    with pytest.raises(GateError, match=f"the tag {FILES} of version 2 cannot be read"):
        registry.standing().refused("another key", "weights 2")


def test_a_newer_version_put_in_place_by_hand_is_no_rollback(store):
    store.versions["3"] = {}
    store.aliases[CHAMPION] = "3"
    Registry(store, NAME).settle()
    assert not any(ROLLED_BACK in tags for tags in store.versions.values())


def test_twice_rolled_back_is_not_rolled_back(store):
    registry = Registry(store, NAME)
    assert registry.roll_back({}) == ("1", "2")
    assert registry.roll_back({}) == ("2", "1")
    assert (store.aliases[CHAMPION], store.aliases[PREVIOUS]) == ("2", "1")
    assert [one for one, tags in store.versions.items() if ROLLED_BACK in tags] == ["1"]
    assert store.versions["2"][REPLACES] == "1"
    assert '"champion": "2"' in store.versions["2"][ATTEMPT]


@each("answer", [b"[]", b"null", b'"files"', b'{"files": 3}', b'{"files": [{"size": 1}]}', b"<html>"])
def test_nonsense_about_a_model_s_files_is_an_error_of_the_server(monkeypatch, tmp_path, answer):
    """Whoever stands before MLflow may answer any JSON; MLflow's own code reads it unseen."""
    import requests
    from mlflow.store.artifact import http_artifact_repo

    def answered(*_, **__):
        response = requests.Response()
        response.status_code, response._content = 200, answer
        return response

    monkeypatch.setattr(http_artifact_repo, "http_request", answered)
    with pytest.raises(ServerGoneError):
        list(files_at("http://127.0.0.1:1/api/2.0/mlflow-artifacts/artifacts/1").list_artifacts("data"))
