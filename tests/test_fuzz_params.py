"""params.yaml and expectations of any content: accepted or refused in a sentence; no traceback, no hang."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, tiny_params
from fuzz_cases import damaged, fuzzed, sandbox
from hypothesis import strategies as st

from lossbench.checking import check
from lossbench.data.expectations.extra import read_extra
from lossbench.errors import UserError
from lossbench.params import load_params, parse_params

SHIPPED = (ROOT / "params.yaml").read_bytes()
EXTRA = b"""- name: bright_enough
  table: samples
  type: ExpectColumnMeanToBeBetween
  arguments: {column: mean, min_value: 40}
  sentence: images are bright
  severity: warning
"""
ODD = [  # what YAML makes of short words, beyond what st.text finds
    b"&a [*a]", b"!!int x", b"!!bool maybe", b"!!float x", b"2001-99-99", b"0x" + b"f" * 5000, b"9" * 5000, b"!!set {a}",
    b".nan", b"-.inf", b"{[1]: 2}", b"? {a: b}", b"<<: 1", b"!!python/object/apply:os.system [id]", b"[" * 70, b"\x00",
    b"\xff", b"!<tag:x> y", b"*unknown", b"%YAML 9.9", b"---\n---", b"!!binary x", b"1_000", b"~", b"|\n x\n", b"'\\",
    b"!!timestamp x", b"!!omap [a]", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\t", b"@", b"`", b'"\\ud800"', b"1:30:00",
]  # fmt: skip


@st.composite
def documents(draw: st.DrawFn, whole: bytes) -> bytes:
    """Documents with damage, with odd values in place of good ones, or without any sense."""
    kind = draw(st.sampled_from(["damage", "value", "value", "noise"]))
    if kind == "damage":
        return draw(damaged(whole))
    if kind == "noise":
        return draw(
            st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
        )
    lines = whole.splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    odd = draw(st.sampled_from(ODD) | st.text(max_size=12).map(lambda text: text.encode("utf-8", "replace")))
    lines[place] = lines[place].partition(b":")[0] + b": " + odd
    return b"\n".join(lines) + b"\n"


@fuzzed(long=600, content=documents(SHIPPED))
def test_params_of_any_bytes_are_accepted_or_refused_in_one_sentence(content: bytes) -> None:
    with sandbox() as folder:
        (folder / "params.yaml").write_bytes(content)
        try:
            check(load_params(folder / "params.yaml"))
        except UserError as refusal:
            assert str(refusal).startswith(("params.yaml", str(folder / "params.yaml")))
            assert len(str(refusal)) < 3000


@fuzzed(content=documents(EXTRA))
def test_extra_expectations_of_any_bytes_are_read_or_refused(content: bytes) -> None:
    with sandbox() as folder:
        (folder / "extra.yaml").write_bytes(content)
        with contextlib.suppress(UserError):
            read_extra(folder / "extra.yaml")


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.dates()
    | st.sampled_from(["cross_entropy", "digits", "~nobody/x", "\0", "../..", "/", "", "a" * 5000, "1e400", "-0"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(block: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into nested mappings and lists."""
    inner = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    return [path, *(found for key, one in inner for found in places(one, (*path, key)))]


PLACES = places(tiny_params())[1:]


@fuzzed(long=200, path=st.sampled_from(PLACES), value=VALUES, key=st.none() | st.text(max_size=5))
def test_nonsense_at_any_place_is_refused_in_one_sentence(
    path: tuple[Any, ...], value: Any, key: str | None
) -> None:
    content = copy.deepcopy(tiny_params())
    block: Any = content
    for part in path[:-1]:
        block = block[part]
    block[path[-1] if key is None or isinstance(block, list) else key] = value
    with sandbox(), contextlib.suppress(UserError):
        check(parse_params(content))


@pytest.mark.parametrize("read", [load_params, read_extra])
def test_a_bomb_of_aliases_is_refused_before_it_is_built(read: Any, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="more than 200000 values once its aliases are written out"):
        read(tmp_path / "params.yaml")


@pytest.mark.parametrize("read", [load_params, read_extra])
def test_a_hundred_thousand_brackets_are_refused_not_recursed_into(read: Any, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: " + "[" * 100_000)
    with pytest.raises(UserError, match="nested more than 50 deep"):
        read(tmp_path / "params.yaml")


@pytest.mark.parametrize("read", [load_params, read_extra])
def test_a_tag_that_names_code_is_refused(read: Any, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"a: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read(tmp_path / "params.yaml")
    assert not (tmp_path / "made").exists()


def test_shared_blocks_by_alias_are_allowed(tmp_path: Path) -> None:
    text = SHIPPED.decode().replace("seeds: [0,", "seeds: &seeds [0,")
    (tmp_path / "params.yaml").write_text(text)
    load_params(tmp_path / "params.yaml")
