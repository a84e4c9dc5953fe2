"""Finished replicates, kept outside the outs: more seeds cost only the new ones."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
            "task": [setting.task.name, setting.task.options],
            "network": setting.network.model_dump(mode="json"),
            "recipe": setting.recipe.model_dump(mode="json"),
            "loss": dict(setting.loss),
            "compute": setting.compute.model_dump(mode="json"),
            "torch": torch.__version__,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if setting.compute.device == "cuda" else None,
        }
        return cls(home, _hash(what), read=os.environ.get("LOSSBENCH_FRESH") != "1")

    def key(self, member: Member) -> str:
        """Identity of one replicate."""
        own = [member.seed, member.learning_rate, member.weight_decay, member.loss and dict(member.loss)]
        return _hash([self.identity, own])

    def checkpoint(self, member: Member) -> Checkpoint:
        """Where the replicate's unfinished training stands."""
        made = Checkpoint(self.home / "checkpoints" / f"{self.key(member)}.pt")
        if not self.read:
            made.remove()
        return made

    def get(self, member: Member) -> Replicate | None:
        """Return the finished replicate, if there is one."""
        folder = self._folder(member)
        if not self.read or not folder.is_dir():
            return None
        content = json.loads((folder / "replicate.json").read_bytes())
        return Replicate(
            seed=member.seed,
            state=load_file(folder / "state.safetensors"),
            history=tuple(Record(*one) for one in content["history"]),
            epoch=content["epoch"],
            diverged=content["diverged"],
            seconds=content["seconds"],
            fresh=False,
        )

    def put(self, member: Member, replicate: Replicate) -> None:
        """Keep a finished replicate; it appears whole or not at all."""
        folder = self._folder(member)
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
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
        self.checkpoint(member).remove()

    def _folder(self, member: Member) -> Path:
        return self.home / "replicates" / self.key(member)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()
