"""Finished replicates, kept outside the outs: more seeds cost only the new ones."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import lossbench
from lossbench.training.checkpoint import Checkpoint
from lossbench.training.replicate import Record, Replicate
from lossbench.training.setting import Member, Setting

CODE = ("losses", "models", "tasks", "training", "data/dataset.py", "params.py", "options.py")
"""What of the library decides a replicate's bits."""


def code_hash() -> str:
    """SHA-256 over the source files that decide a replicate's bits."""
    root = Path(lossbench.__file__).parent
    files = sorted(
        file
        for part in CODE
        for file in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def data_hash(folder: Path) -> str:
    """SHA-256 over what describes the data, content hashes of all samples and targets included."""
    digest = hashlib.sha256()
    for name in ("dataset.json", "manifest.parquet", "provenance.json"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """The replicates of one arm's identity (all that decides its bits, but the member)."""

    home: Path
    identity: str
    read: bool = True

    @classmethod
    def of(cls, home: Path, setting: Setting, data: Path) -> "Store":
        """Open the store for an arm; ``LOSSBENCH_FRESH=1`` makes it forget what it holds."""
        what = {
            "code": code_hash(),
            "data": data_hash(data),
            "task": [setting.task.name, setting.task.options.model_dump(mode="json")],
            "network": setting.network.model_dump(mode="json"),
            "recipe": setting.recipe.model_dump(mode="json"),
            "loss": dict(setting.loss),
            "compute": setting.compute.model_dump(mode="json"),
            "torch": torch.__version__,
            "processor": _processor(),
            "gpu": torch.cuda.get_device_name() if setting.compute.device == "cuda" else None,
        }
        return cls(home, _hash(what), read=os.environ.get("LOSSBENCH_FRESH") != "1")

    def key(self, member: Member, company: Sequence[Member] = ()) -> str:
        """Identity of one replicate; ``company`` are the members of its population, for bits depend on it."""
        return _hash([self.identity, _own(member), *map(_own, company)])

    def checkpoint(self, member: Member, company: Sequence[Member] = ()) -> Checkpoint:
        """Where the unfinished training of a replicate (or of the population that it begins) stands."""
        made = Checkpoint(self.home / "checkpoints" / f"{self.key(member, company)}.pt")
        if not self.read:
            made.remove()
        return made

    def get(self, member: Member, company: Sequence[Member] = ()) -> Replicate | None:
        """Return the finished replicate, if there is one."""
        folder = self._folder(member, company)
        if not self.read or not folder.is_dir():
            return None
        try:
            content = json.loads((folder / "replicate.json").read_bytes())
            state = load_file(folder / "state.safetensors")
        except (OSError, ValueError, SafetensorError) as error:  # half a file, after a crash of the machine
            print(f"warning: {folder} cannot be read ({error}); training it anew", file=sys.stderr)
            return None
        return Replicate(
            seed=member.seed,
            state=state,
            history=tuple(Record(*one) for one in content["history"]),
            epoch=content["epoch"],
            diverged=content["diverged"],
            seconds=content["seconds"],
            fresh=False,
        )

    def put(self, member: Member, replicate: Replicate, company: Sequence[Member] = ()) -> None:
        """Keep a finished replicate; it appears whole or not at all."""
        folder = self._folder(member, company)
        for left in folder.parent.glob(f"{folder.name}.*.part"):  # by a killed writer
            shutil.rmtree(left, ignore_errors=True)
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        part.mkdir(parents=True)
        save_file(replicate.state, part / "state.safetensors")
        content: Mapping[str, Any] = {
            "epoch": replicate.epoch,
            "diverged": replicate.diverged,
            "seconds": replicate.seconds,
            "history": [(one.epoch, one.split, one.metric, one.value) for one in replicate.history],
        }
        (part / "replicate.json").write_text(json.dumps(content), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)

    def _folder(self, member: Member, company: Sequence[Member]) -> Path:
        return self.home / "replicates" / self.key(member, company)


def _own(member: Member) -> list[Any]:
    return [member.seed, member.learning_rate, member.weight_decay, member.loss and dict(member.loss)]


def _processor() -> str:
    """Instruction set and model: kernels, and so bits, are chosen by them."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{torch.backends.cpu.get_cpu_capability()} {model}".strip()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()
