"""Jobs by submitit's local and debug executors, which take the place of a site's Slurm."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from conftest import stage
from test_execution import own, study, written

from lossbench.errors import UserError

__all__ = ["own", "study"]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        importlib.util.find_spec("submitit") is None, reason="submitit is not installed: make cluster"
    ),
]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partion: gpu", "slurm.yaml: 'partion': .*known are cluster, partition"),
        ("minutes: soon", "slurm.yaml: 'minutes': "),
        ("minutes: [", "slurm.yaml: "),
        ("- a", "slurm.yaml: 'the file': "),
    ],
)
def test_options_that_are_none_are_refused_in_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    from lossbench.execution.slurm import SlurmOptions

    (tmp_path / "slurm.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as refused:
        SlurmOptions.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_options_reach_sbatch(own: Path) -> None:
    import submitit

    from lossbench.execution.slurm import SlurmOptions
    from lossbench.params import load_params

    (own / "slurm.yaml").write_text(
        "partition: cpu\nminutes: 90\nmemory_gb: 4\nat_a_time: 2\nsetup: [module load x]\n"
    )
    options = SlurmOptions.read(own).parameters(load_params(own / "params.yaml"))
    executor = submitit.AutoExecutor(folder=own / "jobs", cluster="local")
    executor.update_parameters(**options)
    script = submitit.slurm.slurm._make_sbatch_string(
        command="run", folder=own, time=90, cpus_per_task=1, mem="4GB", setup=options["slurm_setup"], additional_parameters=options["slurm_additional_parameters"], map_count=3, array_parallelism=options["slurm_array_parallelism"],
    )  # fmt: skip
    for line in ("#SBATCH --partition=cpu", "#SBATCH --array=0-2%2", "module load x"):
        assert line in script


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["local", pytest.param("debug", marks=pytest.mark.long)])
def test_the_same_bytes_as_at_home(own: Path, study: Path, tmp_path: Path, cluster: str) -> None:
    shutil.rmtree(own / "models")
    (own / "slurm.yaml").write_text(f"cluster: {cluster}\n")
    store = tmp_path / "shared"
    for arm in ("digits-focal", "digits-cross_entropy"):
        run = stage(own, "train", arm, LOSSBENCH_EXECUTOR="slurm", LOSSBENCH_STORE=str(store))
        assert run.returncode == 0, run.stderr[-3000:]
    assert written(own) == written(study)
