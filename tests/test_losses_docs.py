"""docs/losses.md says what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest
from law_cases import shared, some

from lossbench.losses import REGISTRY

DOCS = Path(__file__).parent.parent / "docs"
NUMBER = re.compile(r"-?\d+\.\d+")


@shared
def test_the_page_of_losses_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_losses", DOCS / "make_losses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wanted = module.pages(some(REGISTRY))
    on_disk = {path.name for path in (DOCS / "losses").iterdir()}
    assert on_disk == {f"{name}.svg" for name in REGISTRY}, "run `python docs/make_losses.py`"
    for name, text in wanted.items():
        found = (DOCS / name).read_text(encoding="utf-8")
        if name.endswith(".md"):
            assert found == text, "run `python docs/make_losses.py`"
        else:  # another processor may round the last digit of a coordinate the other way
            assert NUMBER.sub("", found) == NUMBER.sub("", text), f"{name}: run `python docs/make_losses.py`"
            numbers = [[float(number) for number in NUMBER.findall(one)] for one in (found, text)]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.2), (
                f"{name}: run `python docs/make_losses.py`"
            )
