"""Every environment variable that is read here, with what it does: docs/environment.md is made from this."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        name: as it is set.
        value: what it may hold.
        told: what it does.
        internal: set by Lossbench for its own processes; nothing to set by hand.

    """

    name: str
    value: str
    told: str
    internal: bool = False


VARIABLES = (
    Variable(
        "DEVICE",
        "`cpu`, `cuda`, `cuda:1`",
        "Of `make repro`: where to train; `compute.device` is written so.",
    ),
    Variable(
        "JOBS", "whole number from 1", "Of `make repro`: trainings side by side; as `lossbench run --jobs`."
    ),
    Variable("STUDY", "folder", "Of every target of make: the study; as `--study`."),
    Variable(
        "LOSSBENCH_HOME",
        "folder",
        "The private folder: the store, checkpoints, journals, logs. Default: `.lossbench` in the study.",
    ),
    Variable(
        "LOSSBENCH_STORE",
        "folder, or an address that fsspec knows (`s3://bucket/folder`)",
        "Where trained replicates are kept and looked up. Default: `store` in the private folder.",
    ),
    Variable(
        "LOSSBENCH_FRESH",
        "`1`",
        "An empty store for this run: everything is computed anew, and what was kept stays where it is.",
    ),
    Variable(
        "LOSSBENCH_WORKERS",
        "whole number from 1",
        "Trainings side by side. Default: as many as processors and memory have room for, one a GPU.",
    ),
    Variable(
        "LOSSBENCH_EXECUTOR",
        "`local`, `ray`, `slurm`",
        "Where trainings run; as `lossbench run --on` (cluster.md). Default: `local`.",
    ),
    Variable("RAY_ADDRESS", "`host:port`, `auto`", "The Ray cluster; Ray reads it, too."),
    Variable(
        "LOSSBENCH_GPU_SHARE",
        "number above 0, up to 1",
        "Part of a GPU that a job takes on a Ray cluster. Default: 1.",
    ),
    Variable(
        "LOSSBENCH_SLURM",
        "file",
        "Options for Slurm. Default: `slurm.yaml` in the study, where there is one (cluster.md).",
    ),
    Variable(
        "LOSSBENCH_MEMORY",
        "whole number of MiB",
        "What training data may take in a process's memory before they are read in portions. Default: half "
        "of what is free on a GPU; on the CPU 256, for portions come from the page cache, which all share.",
    ),
    Variable(
        "LOSSBENCH_MIRROR",
        "folder",
        "Where `mnist`, `fashion_mnist` and `cifar10` find their files first (own-data.md tells the layout).",
    ),
    Variable("MLFLOW_TRACKING_URI", "address", "MLflow's store. Default: `mlflow.db` in the study."),
    Variable("MLFLOW_TRACKING_USERNAME", "text", "Name at a tracking server; MLflow reads it."),
    Variable(
        "MLFLOW_TRACKING_PASSWORD",
        "text",
        "Password at a tracking server; MLflow reads it, and no text shows it.",
    ),
    Variable("CUDA_VISIBLE_DEVICES", "GPUs", "Which GPUs there are; as CUDA reads it."),
    Variable(
        "CUBLAS_WORKSPACE_CONFIG",
        "`:4096:8`, `:16:8`, `:4096:2`",
        "What deterministic products need on CUDA; `:4096:8` where unset. Recurrent layers need one of the "
        "latter two.",
    ),
    Variable(
        "LOSSBENCH_OUTCOME", "text", "What became of a retraining; in the environment of `retraining.notify`."
    ),
    Variable("LOSSBENCH_REASON", "text", "Why; in the environment of `retraining.notify`."),
    Variable("LOSSBENCH_RESULTS", "folder", "Where benchmarks write. Default: `benchmarks/results`."),
    Variable("LOSSBENCH_SCREENSHOTS", "folder", "Where browser tests keep what they saw."),
    Variable(
        "LOSSBENCH_CHECKED", "", "A run tells its stages that params.yaml has been checked.", internal=True
    ),
    Variable("LOSSBENCH_DRIVER", "", "A worker is told whose it is.", internal=True),
    Variable("LOSSBENCH_SCRIPT", "", "What a script starts is known and ended by it.", internal=True),
    Variable("LOSSBENCH_PROGRESS_LINES", "", "Progress in lines, as into a log file.", internal=True),
    Variable("LOSSBENCH_TEST_NETWORK", "", "Tests run in a network of their own.", internal=True),
    Variable("LOSSBENCH_PROBE", "", "Where a benchmark's probe writes.", internal=True),
    Variable("LOSSBENCH_CLOCK_BACK_AT", "", "When a fault benchmark turns the clock back.", internal=True),
)
