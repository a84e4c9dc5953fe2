"""What params.yaml says of an experiment that a script trains (``task: command``)."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from lossbench.errors import nearest
from lossbench.recipe import Count, Name, Optimizer, Positive, Recipe, TaskSpec

COMMAND: Final = "command"
"""Name of the task."""
TOLD = ("learning_rate", "weight_decay")
"""What a script is told of its optimizer."""


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(
            "a command is a list of arguments, never a line for a shell: [python, train.py, --out, '{out}']"
        )
    return value


Argument = Annotated[str, Field(min_length=1)]
Arguments = Annotated[tuple[Argument, ...], BeforeValidator(_as_list), Field(min_length=1)]


class ScriptTask(TaskSpec):
    """A command, and what is to be known of it; its keys may stand beside ``task: command`` as well."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    name: Literal["command"] = COMMAND
    """The task's name."""
    command: Arguments
    """Of task `command` alone: arguments, with placeholders as `{seed}`; never given to a shell."""
    metrics: dict[Name, Literal["higher", "lower"]] = Field(min_length=1)
    """Of task `command` alone: what the script writes under "test", and which way is better."""
    monitor: Name | None = None
    """Of task `command`: validation metric that the search goes by; null: the experiment's metric."""
    depends: tuple[str, ...] = ()
    """Of task `command`: further files and folders that decide the result, seen from the study's folder."""
    timeout: Positive | None = None
    """Of task `command`: seconds that one run may take; null: any."""
    writes: tuple[str, ...] = ()
    """Of task `command`: places outside `{out}` that scripts may write to: none reads them (logs)."""

    def higher_is_better(self, metric: str) -> bool:
        """Direction of a declared metric."""
        return self.metrics[metric] == "higher"


class ScriptRecipe(Recipe):
    """What a script is told: epochs, learning rate and weight decay; all else is its own business."""

    batch_size: Count = 1
    """Not told to a script."""

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_told(cls, block: Any) -> Any:
        if isinstance(block, Mapping):
            _allow(block, ("epochs", "optimizer"), "")
            if isinstance(inner := block.get("optimizer"), Mapping):
                _allow(inner, TOLD, "optimizer.")
        return block

    @model_serializer
    def _told(self) -> dict[str, Any]:
        """Without what nobody is told: a script's batch size or schedule is not known."""
        return {"epochs": self.epochs, "optimizer": told(self.optimizer)}


def told(optimizer: Optimizer) -> dict[str, float]:
    """What of an optimizer a script is told."""
    return {name: getattr(optimizer, name) for name in TOLD}


def _allow(block: Mapping[str, Any], allowed: tuple[str, ...], prefix: str) -> None:
    unknown = next((key for key in block if key not in allowed), None)
    if unknown is not None:
        raise ValueError(
            f"a script is not told '{prefix}{unknown}': write it into the command; "
            f"{nearest(str(unknown), allowed)}"
        )
