"""Keys: the hash of all that decides a result's bits, computed without torch.

A replicate's key holds its experiment's and its loss's block, the data, the point and seed, device and
precision, versions and processor, and the code that it really runs. Scores are kept by the weights they
belong to: who only reads ``models/`` finds them too.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lossbench import losses, models, tasks
from lossbench.closure import Closure, closure, hashes_of, versions_of
from lossbench.folds import fold_folder
from lossbench.losses import names as loss_names
from lossbench.models import names as model_names
from lossbench.params import Params
from lossbench.plugins import is_path, use_code
from lossbench.recipe import WORKSPACE, Compute, Recipe
from lossbench.store import hashed
from lossbench.tasks import names as task_names
from lossbench.training.member import Member
from lossbench.written import SAMPLES

DATA_FILES = ("dataset.json", "manifest.parquet", "provenance.json")
"""What describes a dataset, content hashes of all samples and targets included."""
NUMERIC = frozenset({"numpy", "pycocotools", "scipy", "sklearn", "torch", "torchvision"})
"""Packages that compute; others read, write and check."""
MEASURED = "lossbench.training.measure"
ENGINES = {
    "loop": ("lossbench.training.loop", MEASURED),
    "population": ("lossbench.training.population", MEASURED),
}
SEVERAL = ("lossbench.training.rank", "lossbench.training.ranks")
"""What several processes of one replicate run beside the loop."""
SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
"""Variables that choose the processor's kernels, and so the bits."""
GPU_SWITCHES = (
    "CUBLASLT_HEURISTICS_LUT_FILE",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_EMULATE_DOUBLE_PRECISION",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_SPECIAL_VALUES_SUPPORT_MASK",
    "CUBLAS_EMULATION_STRATEGY",
    "CUBLAS_FIXEDPOINT_EMULATION_MANTISSA_BIT_COUNT",
    "CUDNN_CONV_WSCAP_DBG",
    "CUDNN_ERRATA_JSON_FILE",
    "DISABLE_ADDMM_CUDA_LT",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE",
    "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_LINALG_PREFER_CUSOLVER",
)
"""Those that choose a GPU's."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")
DRIVER = re.compile(r"Kernel Module\D*([\d.]+)")


class Identity:
    """What all replicates of an arm, and their scores, have in common.

    Args:
        params: of the study.
        arm: its name.
        study: the study's folder.
        fold: which, where the dataset has any.

    """

    def __init__(self, params: Params, arm: str, study: Path, fold: int = 0) -> None:
        chosen = params.arms[arm]
        self.params, self.arm, self.study = params, arm, study
        self.experiment = params.experiments[chosen.experiment]
        self.loss = params.losses[chosen.loss]
        self.data = fold_folder(study / "data" / chosen.dataset, fold)

    def training(self, member: Member, recipe: Recipe, company: Sequence[Member] = ()) -> str:
        """Key of one replicate; ``company`` are the members of its population, for bits depend on it."""
        own = [member.own, *(one.own for one in company)]
        content = [self._shared, recipe.model_dump(mode="json"), own]
        metric = self.experiment.metric
        if not is_path(metric) and metric != task_names.MONITORS.get(self.experiment.task.name):
            content.append(metric)  # it may choose the epoch and a search's point; the user's own does not
        return hashed(content)

    def described(self, recipe: Recipe) -> dict[str, Any]:
        """Say what a replicate's key was made of."""
        return {**self._shared, "recipe": recipe.model_dump(mode="json")}

    def scores(self, weights: str) -> str:
        """Key of the scores of a replicate whose weights have this SHA-256."""
        return hashed([self._evaluation, weights])

    def shown(self, weights: str) -> str:
        """Key of what is shown of such a replicate: its decisions, and texts."""
        return hashed([self._evaluation, weights, "shown"])

    @cached_property
    def costs(self) -> str:
        """Key of what an epoch takes: of any arm of the experiment, on such a machine."""
        experiment = self.experiment.model_dump(mode="json", exclude={"metric", "margin", "tuning"})
        return hashed([experiment, data_hash(self.data.resolve()), self._common(self.scoring)["machine"]])

    @cached_property
    def code(self) -> Closure:
        """The code that a replicate runs."""
        loss_modules = [module_of(name, losses, loss_names.MODULES) for name in losses_named(self.loss)]
        if own := self.experiment.recipe.augmentation.own:
            loss_modules.append(own.partition(":")[0])
        compute = self.params.compute
        engine = [*ENGINES[compute.engine], *(SEVERAL if compute.processes > 1 else ())]
        roots = [*engine, "lossbench.training.setting", *self._task_and_model]
        parts = self.loss.get("sum", {"": self.loss})
        named = [one for key, one in parts.items() if is_path(_named(key, one))]
        return self._with_files([*roots, *loss_modules], [*self._own_blocks, named])

    @property
    def _own_blocks(self) -> list[Any]:
        """What params say to a model and a task that are not ours; a file of weights has a hash there."""
        model, task = self.experiment.model, self.experiment.task
        options = {key: one for key, one in model.options.items() if key != "weights_file"}
        told = ((model.name, options), (task.name, task.options))
        return [block for name, block in told if is_path(name)]

    def _with_files(self, roots: Sequence[str], blocks: Sequence[Any]) -> Closure:
        """Follow imports, and hash the files that params name to code that is not ours (a checkpoint)."""
        code = user_code(self.params, self.study)
        made = closure(roots, code)
        folders = [one for one in dict.fromkeys((self.study.resolve(), code)) if one is not None]
        named = {word: hashes_of(word, folders) for word in _words(blocks)}
        files = {f"params.yaml: {word}": " ".join(found) for word, found in named.items() if found}
        return replace(made, files={**made.files, **files})

    @cached_property
    def scoring(self) -> Closure:
        """The code that scores a replicate."""
        roots = ["lossbench.evaluation.replicates", *self._task_and_model, *self._own_metric]
        return self._with_files(roots, self._own_blocks)

    @cached_property
    def task(self) -> dict[str, Any]:
        """What floors and gallery follow from, beside the replicates."""
        module = module_of(self.experiment.task.name, tasks, task_names.MODULES)
        roots = ["lossbench.evaluation.gallery", module, *self._own_metric]
        code = closure(roots, user_code(self.params, self.study))
        made = {key: value for key, value in self._common(code).items() if key not in ("model", "compute")}
        return made | ({"metric": self.experiment.metric} if self._own_metric else {})

    @property
    def _task_and_model(self) -> list[str]:
        return [
            module_of(self.experiment.task.name, tasks, task_names.MODULES),
            module_of(self.experiment.model.name, models, model_names.MODULES),
        ]

    @property
    def _own_metric(self) -> list[str]:
        """Module of a metric of the user's own, which scores and floors run; no training does."""
        metric = self.experiment.metric
        return [metric.partition(":")[0]] if is_path(metric) else []

    @cached_property
    def _shared(self) -> dict[str, Any]:
        return {**self._common(self.code), "loss": dict(self.loss)}

    @cached_property
    def _evaluation(self) -> dict[str, Any]:
        return {**self._common(self.scoring), "metric": self.experiment.metric}

    def _common(self, code: Closure) -> dict[str, Any]:
        return {
            "code": code.digest,
            "data": data_hash(self.data.resolve()),
            "task": self.experiment.task.model_dump(mode="json"),
            "model": self.experiment.model.model_dump(mode="json"),
            "compute": deciding(self.params.compute),
            "versions": versions(code),
            "machine": machine(self.params.compute.device),
        }


def deciding(compute: Compute) -> dict[str, Any]:
    """Say what of the device decides bits: of populations who shares one does, not how many may."""
    return compute.model_copy(update={"members": None}).model_dump(mode="json")


def versions(code: Closure) -> dict[str, str]:
    """Versions of what computes: the numeric packages, and all that the user's own code stands on."""
    known = versions_of(code.foreign & NUMERIC)
    if "torch" in code.foreign:
        known["torch"] = torch_version()
    return known | versions_of(code.foreign - NUMERIC - READERS, deep=True)


READERS = frozenset({"packaging", "pydantic", "pydantic_core", "safetensors", "tqdm"})
"""Packages that our code reads and checks with; no number comes from them."""


@cache
def torch_version() -> str:
    """Return torch's version, its build included, without importing it."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "none"
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__ = ['\"](.+)['\"]$", text, re.MULTILINE)
    return found[1] if found else versions_of(["torch"])["torch"]


def data_hash(folder: Path) -> str:
    """SHA-256 over what training and scoring read: samples, and ``dataset.json`` but for what is kept aside.

    So the same arrays have the same replicates, whichever source, table or notebook they came from.
    """
    return _of_files(_data_hash, folder)


def described_hash(folder: Path) -> str:
    """SHA-256 over all that describes the data: names, columns and provenance too."""
    return _of_files(_described_hash, folder)


def _of_files(made: Callable[..., str], folder: Path) -> str:
    found = [(folder / name).stat() for name in DATA_FILES]
    return made(folder, tuple((one.st_mtime_ns, one.st_size) for one in found))


@cache
def _data_hash(folder: Path, as_of: tuple[tuple[int, int], ...]) -> str:
    samples = json.loads((folder / "provenance.json").read_bytes()).get(SAMPLES)
    if samples is None:  # not written by `fetch`, or before it said so
        return _described_hash(folder, as_of)
    info = json.loads((folder / "dataset.json").read_bytes())
    info["sizes"].pop("reference", None)
    return hashed([info, samples])


@cache
def _described_hash(folder: Path, _as_of: tuple[tuple[int, int], ...]) -> str:
    return hashed([(folder / name).read_bytes().hex() for name in DATA_FILES])


@cache
def machine(device: str) -> dict[str, str]:
    """Name what chooses kernels: the processor, and the GPU with its driver."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    read = {}
    for name in ("model name", "cpu family", "flags", "Features"):
        read[name] = next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
    vectors = [one for one in (read["flags"] or read["Features"]).split() if VECTOR.match(one)]
    chosen = {name: os.environ[name] for name in SWITCHES if name in os.environ}
    found = {
        "processor": read["model name"],
        "family": read["cpu family"],
        "instructions": " ".join(sorted(vectors)),
        **chosen,
    }
    return found | (_gpu() if device == "cuda" else {})


VECTOR = re.compile(r"(avx|amx|fma|sse4|asimd|sve|bf16)")


def _gpu() -> dict[str, str]:
    import torch  # a GPU's name is known to no file

    known = torch.cuda.get_device_properties()
    found = DRIVER.search(DRIVER_FILE.read_text(errors="replace")) if DRIVER_FILE.exists() else None
    return {
        "gpu": known.name,
        "capability": f"{known.major}.{known.minor}",
        "multiprocessors": str(known.multi_processor_count),  # a MIG instance has some of a GPU's
        "driver": found[1] if found else "unknown",
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]  # torch's own
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", WORKSPACE),
        **{name: os.environ[name] for name in GPU_SWITCHES if name in os.environ},
    }


def _named(key: str, part: Any) -> Any:
    """Name of a part of a loss: its own, or its key."""
    return part.get("name", key) if isinstance(part, Mapping) else key


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _words(one)


def module_of(name: str, package: Any, table: Mapping[str, str]) -> str:
    """Name the module that defines a name of params.yaml: by our table, or as ``module:Object`` says."""
    if ":" in name:
        return name.partition(":")[0]
    return f"{package.__name__}.{table[name]}" if name in table else package.__name__


def losses_named(block: Mapping[str, Any]) -> list[str]:
    """Name the losses of a block of params.yaml: one, or the parts of a sum."""
    if "sum" not in block:
        return [str(block.get("name"))]
    parts = block["sum"].items()
    return [str(one.get("name", key)) if isinstance(one, Mapping) else str(key) for key, one in parts]


def user_code(params: Params, study: Path) -> Path | None:
    """Find the folder of the user's own modules."""
    folder = study / params.code
    return folder.resolve() if folder.is_dir() else None


def use_own_code(params: Params, study: Path) -> None:
    """Let the user's own modules be imported, as params name them."""
    use_code(user_code(params, study))
