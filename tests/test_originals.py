"""Originals are sacred: for every layout of folders, links and mounts, each original byte is there after all of the chain."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, stage, tiny_params, write_params
from data_cases import class_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from law_cases import each, examples, few

from lossbench import written
from lossbench.checking import check
from lossbench.cleaning import clean
from lossbench.data.fetching import fetch
from lossbench.errors import UserError
from lossbench.originals import Named, _linked_from, keep_apart, named, protect
from lossbench.params import Params, load_params, parse_params
from lossbench.places import Atlas, Mount, read_mounts
from lossbench.studies import new_study

ADDRESSES = (
    "{}",
    "HERE/{}",
    "~/{}",
    "file://HERE/{}",
    "file:HERE/{}",
    "FILE://HERE/{}",
    "local://localhostHERE/{}",
    "dir://{}::file://HERE",
)
"""How LOSSBENCH_STORE may name a folder; HERE is the study's."""
OUTS = ["data/mine", "models/digits/digits-focal", "reports/evaluation/digits", "reports/index.html"]


def content(path: str) -> dict[str, Any]:
    """Params of a study over a folder of images."""
    made = tiny_params()
    made["datasets"] = {"mine": {"source": "image_folder", "path": path, "size": [8, 8], "channels": 1}}
    del made["experiments"]["scenes"]
    made["experiments"]["digits"]["dataset"] = "mine"
    made["arms"] = {
        name: {**arm, "dataset": "mine"}
        for name, arm in made["arms"].items()
        if arm["experiment"] == "digits"
    }
    return made


def study_in(folder: Path, path: str) -> Params:
    """A study with the chain's own dvc.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dvc.yaml").exists():
        shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    write_params(folder, content(path))
    return load_params(folder / "params.yaml")


def files(folder: Path) -> dict[Path, bytes]:
    return {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def whole_chain(study: Path) -> bool:
    """Do what deletes: check, fetch, what DVC deletes before a stage, clean. Say whether it was refused."""
    refused = False
    params = load_params(study / "params.yaml")
    for step in (
        lambda: protect(params, study),
        lambda: fetch(rooted(params, study), "mine", study / "data/mine"),
    ):
        try:
            step()
        except UserError:
            refused = True
    if not refused:
        for _, path, found in [*_present(study)]:
            assert found is None
            _as_dvc_removes(path)
    with suppress(UserError):
        clean(study, dry=False, say=lambda _: None)
    return refused


def _present(study: Path) -> Iterator[Any]:
    from lossbench.originals import present

    return present(study)


def _as_dvc_removes(path: Path) -> None:
    """DVC's own way: a folder with all in it, else the name alone."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def rooted(params: Params, study: Path) -> Any:
    """The dataset's block as a stage in the study's folder sees it."""
    one = params.datasets["mine"]
    return one.model_copy(update={"path": os.fspath(study / Path(one.path).expanduser())})


# Where the originals may be, and how they may be called: relative to a folder that holds the study.
PLACES = [
    "pets", "study/pets", "study/data/pets_raw", "study/data/mine", "study/data/mine/deep", "study/data",
    "study/models/digits", "study/models/digits/digits-focal", "study/reports/evaluation/digits", "study/.lossbench",
    "study/.lossbench/downloads", "study/mlartifacts", "study/data/.mine.part", "study/studies/other/data/theirs",
]  # fmt: skip
LINKS = [
    None,
    "study/data",
    "study/data/mine",
    "study/models",
    "study/reports",
    "study/.lossbench",
    "study/link",
]
SPELLINGS: list[Callable[[str], str]] = [
    lambda path: path,
    lambda path: path + "/",
    lambda path: path if path.startswith("/") else f"./{path}",
    lambda path: path.replace("/", "//"),
    lambda path: f"{path}/../{Path(path).name}",
    lambda path: f"{path}/.",
]


@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    place=st.sampled_from(PLACES),
    link=st.sampled_from(LINKS),
    to=st.sampled_from(["pets", "pets/..", "elsewhere"]),
    spelling=st.sampled_from(SPELLINGS),
    absolute=st.booleans(),
    through=st.booleans(),
)
def test_every_original_byte_is_there_or_it_was_refused(
    place: str, link: str | None, to: str, spelling: Callable[[str], str], absolute: bool, through: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    home = tmp_path_factory.mktemp("layout")
    (home / "elsewhere").mkdir()
    (home / "elsewhere/mine").mkdir()
    (home / "elsewhere/mine/notes.txt").write_text("mine alone")
    (home / "elsewhere/index.html").write_text("my page")
    other = home / "study/studies/other"
    study_in(other, "../../requirements.lock")
    class_folder(home / "pets", 6, ("cat", "dog"))
    if link is not None:
        (home / link).parent.mkdir(parents=True, exist_ok=True)
        (home / link).symlink_to((home / to).resolve())
    with suppress(OSError):  # a link is in the way: then the originals stay where they are
        class_folder(home / place, 6, ("cat", "dog"))
    path = home / ("study/link" if through and link == "study/link" else place)
    text = spelling(os.fspath(path) if absolute else os.path.relpath(path, home / "study"))
    study_in(home / "study", text)
    before = {
        one: data for one, data in files(home).items() if one.suffix in (".png", ".txt", ".html")
    }  # fmt: skip
    whole_chain(home / "study")
    lost = {one for one, data in before.items() if not one.exists() or one.read_bytes() != data}
    assert not lost


@each("out", OUTS[:3])
@each("how", ["is", "lies in", "contains"])
def test_a_path_that_meets_an_out_is_refused_by_check_with_its_key(
    out: str, how: str, tmp_path: Path
) -> None:
    where = {"is": out, "lies in": f"{out}/inside", "contains": out.partition("/")[0]}[how]
    class_folder(tmp_path / where, 2, ("cat", "dog"))
    params = study_in(tmp_path, where)
    with pytest.raises(UserError, match=rf"'datasets.mine.path' is '{where}', which {how} "):
        check(params, study=tmp_path)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("'datasets.mine.mirror'", lambda made, text: made["datasets"]["mine"].update(mirror=text)),
        (
            "'datasets.mine.expectations.extra'",
            lambda made, text: made["datasets"]["mine"].update(expectations={"extra": text}),
        ),
        (
            "'experiments.digits.model.weights'",
            lambda made, text: made["experiments"]["digits"]["model"].update(weights=text, sha256="0" * 64),
        ),
        ("'retraining.notify[1]'", lambda made, text: made.update(retraining={"notify": ["sh", text]})),
    ],
)  # fmt: skip
def test_every_path_that_params_name_is_held_against_the_outs(
    key: str, change: Callable[[dict[str, Any], str], None], tmp_path: Path
) -> None:
    study_in(tmp_path, "pets")
    made = content("pets")
    change(made, "data/mine/inside")
    with pytest.raises(UserError) as refused:
        keep_apart(parse_params(made), tmp_path)
    assert key in str(refused.value)
    assert "data/mine" in str(refused.value)


def test_the_mirror_of_the_environment_is_a_named_path_too(tmp_path: Path, monkeypatch: Any) -> None:
    params = study_in(tmp_path, "pets")
    monkeypatch.setenv("LOSSBENCH_MIRROR", str(tmp_path / "models/digits"))
    with pytest.raises(UserError, match=r"^LOSSBENCH_MIRROR is"):
        keep_apart(params, tmp_path)


def test_a_link_within_the_originals_that_leads_into_an_out_is_refused(tmp_path: Path) -> None:
    class_folder(tmp_path / "pets", 2, ("cat",))
    class_folder(tmp_path / "data/mine", 2, ("dog",))
    (tmp_path / "pets/dog").symlink_to(tmp_path / "data/mine/dog")
    with pytest.raises(UserError, match=r"holds the link .*pets/dog, which .*lies in data/mine"):
        keep_apart(study_in(tmp_path, "pets"), tmp_path)


def test_an_out_of_another_study_counts_and_one_that_cannot_be_read_is_taken_as_a_whole(
    tmp_path: Path,
) -> None:
    other = tmp_path / "studies/other"
    study_in(other, "elsewhere")
    params = study_in(tmp_path, "studies/other/data/mine/x")
    with pytest.raises(UserError, match="an out of the study other"):
        keep_apart(params, tmp_path)
    keep_apart(study_in(tmp_path, "studies/other/data/raw"), tmp_path)
    (other / "params.yaml").write_text("datasets: [")
    with pytest.raises(UserError, match="a folder of outs of the study other"):
        keep_apart(study_in(tmp_path, "studies/other/data/raw"), tmp_path)


@each(
    ("variable", "value"),
    [
        ("LOSSBENCH_HOME", "data/mine/home"),
        ("LOSSBENCH_HOME", "~/data/mine/home"),
        ("MLFLOW_TRACKING_URI", "sqlite:///data/mine/m.db"),
        *(("LOSSBENCH_STORE", spelled.format("data/mine/store")) for spelled in ADDRESSES),
    ],
)
def test_a_store_in_an_out_is_refused(variable: str, value: str, tmp_path: Path, monkeypatch: Any) -> None:
    params = study_in(tmp_path, "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, value.replace("HERE", str(tmp_path)))
    with pytest.raises(UserError, match="lies in data/mine, an out; DVC deletes"):
        keep_apart(params, tmp_path)


def test_originals_in_dvc_s_cache_are_refused_but_links_that_dvc_left_are_read(tmp_path: Path) -> None:
    cached = tmp_path / ".dvc/cache/files/md5/ab/cdef"
    cached.parent.mkdir(parents=True)
    cached.write_text("text")
    (tmp_path / "input.txt").symlink_to(cached)
    keep_apart(study_in(tmp_path, "input.txt"), tmp_path)
    with pytest.raises(UserError, match="lies in DVC's cache"):
        keep_apart(study_in(tmp_path, ".dvc/cache/files"), tmp_path)


@each("spelled", ADDRESSES)
@few(("place", "how"), [("pets", "is"), ("pets/cat", "contains"), ("", "lies in")])
def test_a_store_among_originals_is_refused_however_it_is_written(
    spelled: str, place: str, how: str, tmp_path: Path, monkeypatch: Any
) -> None:
    class_folder(tmp_path / "pets", 2, ("cat", "dog"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOSSBENCH_STORE", spelled.format(place).replace("HERE", str(tmp_path)) or ".")
    with pytest.raises(UserError, match=f"'datasets.mine.path' is 'pets', which {how} the store"):
        keep_apart(study_in(tmp_path, "pets"), tmp_path)


@pytest.mark.parametrize("place", ["data/mine", "models/digits", "reports/checked/x"])
def test_dvc_s_cache_in_an_out_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(f"[cache]\n    dir = ../{place}\n")
    params = study_in(tmp_path, "pets")
    if place == "models/digits":  # holds outs; DVC deletes those alone
        keep_apart(params, tmp_path)
        return
    with pytest.raises(UserError, match=r"DVC's cache, (is|lies in) .* an out"):
        keep_apart(params, tmp_path)


@pytest.mark.parametrize("path", ["~/data/mine", "~/data/mine/cat", "~/data", "~"])
def test_the_home_folder_s_sign_hides_no_out(path: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    class_folder(tmp_path / "data/mine", 2, ("cat", "dog"))
    with pytest.raises(UserError, match=f"'datasets.mine.path' is '{path}', which (is|lies in|contains) "):
        keep_apart(study_in(tmp_path, path), tmp_path)


# Mounts: a table as the kernel writes it, and a real bind mount.


def test_a_folder_mounted_twice_is_one_place_and_so_is_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "disk/pets/cats").mkdir(parents=True)
    (tmp_path / "mnt").mkdir()
    table = [Mount(str(tmp_path / "mnt"), "8:1", "/pets/cats"), Mount(str(tmp_path / "disk"), "8:1", "/")]
    atlas = Atlas(table)
    inside, whole = atlas.place(tmp_path / "mnt"), atlas.place(tmp_path / "disk/pets")
    assert inside.meets(whole) == "lies in"
    assert whole.meets(inside) == "contains"
    assert atlas.place(tmp_path / "mnt/a").meets(atlas.place(tmp_path / "disk/pets/cats/a")) == "is"
    assert atlas.place(tmp_path / "mnt").meets(atlas.place(tmp_path / "disk/pets/dogs")) is None


def test_one_file_under_two_names_is_one_place(tmp_path: Path) -> None:
    """As on a file system without upper and lower case: another text, the same inode."""
    (tmp_path / "Text.txt").write_text("mine")
    os.link(tmp_path / "Text.txt", tmp_path / "text.TXT")
    atlas = Atlas(())
    assert atlas.place(tmp_path / "Text.txt").meets(atlas.place(tmp_path / "text.TXT")) == "is"


def test_the_kernel_s_table_is_read_with_its_escapes(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 22 8:1 /a\\040b /mnt/c\\040d rw - ext4 x rw\n"
    )
    assert read_mounts(tmp_path / "table") == (Mount("/mnt/c d", "8:1", "/a b"), Mount("/", "8:1", "/"))
    assert read_mounts(tmp_path / "none") == ()


BOUND = """
import sys
from pathlib import Path
from lossbench.errors import UserError
from lossbench.originals import protect
from lossbench.params import load_params
try:
    protect(load_params("params.yaml"), Path())
except UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("what", "at", "path"),
    [
        ("pets", "data/mine", "pets"),  # the originals are mounted where the out is
        # a part of them
        pytest.param("pets/cat", "data/mine", "pets", marks=pytest.mark.slow),
        ("data/mine", "view", "view"),  # the out is what is named, under another name
        pytest.param("data/mine/train", "view", "view", marks=pytest.mark.slow),
        pytest.param("data", "view", "view/mine", marks=pytest.mark.slow),
    ],
)
def test_a_bind_mount_hides_nothing(what: str, at: str, path: str, tmp_path: Path) -> None:
    for folder in ("pets/cat", "data/mine/train", "view"):
        (tmp_path / folder).mkdir(parents=True)
    study_in(tmp_path, path)
    mount = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        'mount --bind "$0" "$1" && shift && exec "$@"',
    ]
    ran = subprocess.run(
        [*mount, what, at, sys.executable, "-c", BOUND], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "'datasets.mine.path' is" in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr


# What the chain replaces: only what it wrote.


@pytest.mark.parametrize("layout", [written.DATA, written.ARM, written.EVALUATION])
def test_what_the_chain_writes_is_known_as_its_own(
    layout: written.Layout, trained_study: Path, tmp_path: Path
) -> None:
    study = copy_of(trained_study, tmp_path / "study")
    (where,) = (name for name, one in written.LAYOUTS.items() if one is layout)
    found = [out for out in written.outs(study) if written.layout_of(out.path) is layout]
    assert found
    for out in found:
        assert out.path.startswith(where)
        assert written.foreign(study / out.path, layout) is None


def copy_of(trained: Path, study: Path) -> Path:
    """A copy of the trained study, with the chain's own dvc.yaml and a store."""
    shutil.copytree(trained, study)
    shutil.copy(ROOT / "dvc.yaml", study / "dvc.yaml")
    (study / ".lossbench/timings").mkdir(parents=True, exist_ok=True)
    (study / "reports").mkdir(exist_ok=True)
    (study / "reports/metrics.json").write_text("{}")
    return study


@each("out", ["data/digits", "models/digits/digits-focal", "reports/evaluation/digits"])
@few("harm", ["a file more", "a folder more", "a link", "a linked folder", "no marker"])
def test_a_folder_that_is_not_wholly_the_chain_s_is_refused_and_left(
    out: str, harm: str, trained_study: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    copy_of(trained_study, study)
    folder, layout = study / out, written.layout_of(out)
    assert layout is not None
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"mine")
    match harm:
        case "a file more":
            (folder / "notes.txt").write_text("mine")
        case "a folder more":
            shutil.copytree(mine, folder / "holiday")
        case "a link":
            shutil.rmtree(folder)
            folder.symlink_to(mine)
        case "a linked folder":
            (folder / "statistics_").symlink_to(mine)
        case "no marker":
            for name in layout.marker:
                (folder / name).unlink()
    before = files(study) | files(mine)
    with pytest.raises(UserError, match="move it elsewhere"):
        written.make_room(folder, layout)
    params = load_params(study / "params.yaml")
    with pytest.raises(UserError, match="DVC deletes what stands there"):
        protect(params, study)
    said: list[str] = []
    clean(study, dry=False, say=said.append)
    assert any(line.startswith(f"left: {folder}") for line in said)
    for path in before:
        if path.is_relative_to(folder) or path.is_relative_to(mine):
            assert path.read_bytes() == before[path]


def test_fetch_by_hand_replaces_no_folder_that_it_did_not_write(tmp_path: Path) -> None:
    class_folder(tmp_path / "data/mine", 40, ("cat", "dog"))
    study_in(tmp_path, "data/mine")
    before = files(tmp_path / "data")
    assert len(before) == 80
    ran = stage(tmp_path, "fetch", "mine")
    assert ran.returncode == 2
    assert "'datasets.mine.path' is 'data/mine', which is data/mine, an out" in ran.stderr
    with pytest.raises(UserError, match="which the chain did not write"):
        fetch(load_params(tmp_path / "params.yaml").datasets["mine"], "mine", tmp_path / "data/mine")
    assert files(tmp_path / "data") == before


def test_fetch_again_replaces_its_own(tmp_path: Path) -> None:
    class_folder(tmp_path / "pets", 20, ("cat", "dog"))
    params = study_in(tmp_path, "pets")
    for _ in range(2):
        fetch(rooted(params, tmp_path), "mine", tmp_path / "data/mine")
        protect(params, tmp_path)
    assert not (tmp_path / "data/.mine.part").exists()


def test_new_study_refuses_a_folder_in_which_the_chain_would_write(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    with pytest.raises(UserError, match="contains data, a folder of outs"):
        new_study("all", class_folder(tmp_path / "studies", 8, ("cat", "dog")), tmp_path)


# Cleaning.


def test_clean_removes_named_outs_alone_and_says_so(trained_study: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    copy_of(trained_study, study)
    class_folder(study / "data/pets_raw", 40, ("cat", "dog"))
    (study / ".lossbench/weights.pt").write_bytes(b"mine")
    (study / "mlflow.db").write_bytes(b"record")
    before = files(study)
    said: list[str] = []
    clean(study, dry=True, say=said.append)
    assert files(study) == before
    assert f"would remove: {study / 'data/digits'}" in said
    said.clear()
    clean(study, dry=False, say=said.append)
    left = files(study)
    assert len([one for one in left if "pets_raw" in one.parts]) == 80
    assert {"params.yaml", "dvc.yaml", "mlflow.db", "weights.pt", "metrics.json"} <= {
        one.name for one in left
    }
    assert not (study / "data/digits").exists()
    assert not (study / "models").exists()
    assert f"removed: {study / 'data/digits'}" in said
    assert f"left: {study / '.lossbench/weights.pt'}: holds weights.pt, which the chain did not write" in said


def test_clean_leaves_in_a_private_folder_whatever_it_does_not_know(
    trained_study: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    study = tmp_path / "study"
    copy_of(trained_study, study)
    names = ("downloads", "report", "pictures", "timings/mine", "checkpoints", "replicates", "journal/a/b/c")
    for name in names:
        (tmp_path / "me" / name).mkdir(parents=True)
        (tmp_path / "me" / name / "photo.jpg").write_bytes(b"mine")
    monkeypatch.setenv("LOSSBENCH_HOME", str(tmp_path / "me"))
    clean(study, dry=False, say=lambda _: None)
    assert len([one for one in files(tmp_path / "me") if one.name == "photo.jpg"]) == len(names)


def test_the_sources_that_download_are_known_to_clean() -> None:
    from lossbench.data.sources import SOURCES

    found = {name for name, source in SOURCES.items() if "mirror" in source.options.model_fields}
    assert found == set(written.DOWNLOADED)


def test_clean_with_an_original_in_an_out_removes_nothing(tmp_path: Path) -> None:
    class_folder(tmp_path / "data/mine", 3, ("cat", "dog"))
    study_in(tmp_path, "data/mine/cat")
    with pytest.raises(UserError, match="lies in data/mine"):
        clean(tmp_path, dry=False)
    assert len(files(tmp_path / "data")) == 6


def test_the_command_lists_and_cleans(tmp_path: Path) -> None:
    class_folder(tmp_path / "pets", 20, ("cat", "dog"))
    fetch(rooted(study_in(tmp_path, "pets"), tmp_path), "mine", tmp_path / "data/mine")
    for flags, verb in ((["--dry-run"], "would remove"), ([], "removed")):
        ran = subprocess.run(
            [sys.executable, "-m", "lossbench", "clean", "--study", str(tmp_path), *flags],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert f"{verb}: {tmp_path / 'data/mine'}" in ran.stdout
    assert not (tmp_path / "data/mine").exists()
    assert len(files(tmp_path / "pets")) == 40


@pytest.mark.slow
def test_outs_are_those_that_dvc_itself_finds() -> None:
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        theirs = {os.path.relpath(out.fs_path, ROOT) for out in repo.index.outs}
    ours = {
        os.path.normpath(one.relative_to(ROOT) / out.path)
        for one in written.studies(ROOT)
        for out in written.outs(one)
    }
    assert ours == theirs


def test_every_committed_study_names_its_paths(tmp_path: Path) -> None:
    """A law over what exists: whatever key holds a path is found by :func:`named`."""
    for file in [ROOT / "params.yaml", *ROOT.glob("studies/*/params.yaml")]:
        params = load_params(file)
        found = {one.key for one in named(params, tmp_path) if isinstance(one, Named)}
        assert {f"'datasets.{name}.path'" for name in params.datasets} <= found


@pytest.mark.slow
def test_stages_called_by_hand_write_over_nobody_s_files(trained_study: Path, tmp_path: Path) -> None:
    from lossbench.reporting.write import write_report

    study = copy_of(trained_study, tmp_path / "study")
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    (study / "reports/index.html").unlink(missing_ok=True)
    (study / "reports/index.html").symlink_to(mine)
    write_report(load_params(study / "params.yaml"), study, study / ".lossbench")
    assert mine.read_text() == "mine"
    assert not (study / "reports/index.html").is_symlink()
    for name in ("reports/index.html", "reports/metrics.json", "reports/curves.csv"):  # `cache.type hardlink`
        kept = tmp_path / name.replace("/", "-")
        kept.hardlink_to(study / name)
        kept.write_text("kept")
    write_report(load_params(study / "params.yaml"), study, study / ".lossbench")
    assert {one.read_text() for one in tmp_path.glob("reports-*")} == {"kept"}
    folder = study / "models/digits/digits-focal"
    (folder / "notes.txt").write_text("mine")
    ran = stage(study, "train", "digits-focal")
    assert ran.returncode == 2
    assert "holds notes.txt, which the chain did not write" in ran.stderr
    (study / "reports/evaluation/digits/notes.txt").write_text("mine")
    ran = stage(study, "evaluate", "digits")
    assert ran.returncode == 2
    assert "holds notes.txt" in ran.stderr


def test_links_that_lead_in_a_circle_are_passed_over(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "a").mkdir(parents=True)
    (mine / "a" / "self").symlink_to("self")
    (mine / "a" / "up").symlink_to("..")
    (mine / "there").symlink_to("back")
    (mine / "back").symlink_to("there")
    assert {one.name for one in _linked_from(mine)} == {"self", "up", "there", "back"}
