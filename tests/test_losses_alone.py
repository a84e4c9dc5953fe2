"""The built wheel beside torch and nothing else, as `pip install lossbench` into an environment of torch's gives it."""

import importlib.metadata
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossbench.losses import REGISTRY

ROOT = Path(__file__).parent.parent
USE = """
import sys, time
import torch
start = time.perf_counter()
import lossbench.losses as losses
took = time.perf_counter() - start
assert lossbench_is_from_the_wheel(losses.__file__)
target = torch.zeros(2, 4, 4, dtype=torch.long)
target[:, 2:] = 1
for name, cls in losses.REGISTRY.items():
    loss = cls(class_counts=[3, 1]) if "class_counts" in cls.declared else cls()
    labels = target if cls.single else torch.stack([target == 0, target == 1], 1)
    maps = torch.zeros(2, 2, 4, 4) if cls.auxiliary else None
    assert loss(torch.randn(2, 2, 4, 4), labels, maps).isfinite(), name
assert not {"numpy", "scipy", "sklearn", "pydantic", "dvc", "mlflow"} & set(sys.modules)
print(took, len(losses.REGISTRY))
""".replace("lossbench_is_from_the_wheel(losses.__file__)", "losses.__file__.startswith(sys.path[0])")


def needed(name: str, seen: set[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield what a package needs, itself included; what was not installed for this machine is left out."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    yield found
    for line in found.requires or []:
        other = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        if "extra ==" not in line and other.lower() not in seen:
            seen.add(other.lower())
            yield from needed(other, seen)


@pytest.mark.slow
def test_the_wheel_beside_torch_alone_gives_every_loss(tmp_path: Path) -> None:
    """Every loss is made and run without numpy, and importing them costs 0.2 s beyond torch's own."""
    wheels, alone = tmp_path / "wheels", tmp_path / "alone"
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([sys.executable, *build, str(copied(tmp_path))], check=True)
    (wheel,) = wheels.glob("lossbench-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(alone)
    for package in needed("torch", {"torch"}):
        for top in {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}:
            link, place = alone / top, Path(str(package.locate_file(top)))
            if place.exists() and not link.exists():
                link.symlink_to(place)
    assert not (alone / "numpy").exists()
    code = f"import sys; sys.path.insert(0, {str(alone)!r})\n{USE}"
    times = []
    for _ in range(3):
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert ran.returncode == 0, ran.stderr
        took, count = ran.stdout.split()
        assert int(count) == len(REGISTRY)
        times.append(float(took))
    assert statistics.median(times) < 1.0  # 0.2 on a quiet machine; CI's may be busy


def copied(folder: Path) -> Path:
    """Copy what a wheel is built from, so that building leaves nothing in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "lossbench", "stages", "pyproject.toml", "README.md", "LICENSE", "NOTICE"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)  # the package links what lies beside it
    return folder / "source"
