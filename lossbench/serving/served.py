"""A replicate as MLflow's own server wants it: what it cannot answer is refused with 400 and a sentence."""

import sys
from pathlib import Path
from typing import Any

from lossbench.errors import UserError
from lossbench.serving.answers import Answer
from lossbench.serving.replicate import ReplicateModel

SERVER = "mlflow.pyfunc.scoring_server"


class Served:
    """A replicate as MLflow wants it: a refusal is MLflow's own error, which its server answers with 400."""

    def __init__(self, model: ReplicateModel) -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[Answer]:
        """Answer for each input; see :meth:`lossbench.serving.replicate.ReplicateModel.predict`."""
        try:
            return self.model.predict(model_input, params)
        except UserError as error:
            raise _bad_request(error) from None


def load_served(folder: Path) -> Served:
    """Load the replicate in a folder; within `mlflow models serve`, checks come before its conversions."""
    model = ReplicateModel(folder)
    if SERVER in sys.modules:
        _check_before_conversion(model)
    return Served(model)


def _check_before_conversion(model: ReplicateModel) -> None:
    """Have `mlflow models serve` check what a client sent, before it converts it to the signature's type.

    MLflow makes uint8 of whatever JSON holds: 0.5 and false become 0, "7" becomes 7, and the model answers,
    confidently. MLflow has no place for a check before that; this one is put around its parser. The version
    of MLflow is pinned among the model's requirements; a test asks its server.
    """
    from mlflow.pyfunc import scoring_server

    parse = scoring_server._parse_json_data

    def checked(data: Any, metadata: Any, input_schema: Any) -> Any:
        sent = scoring_server._decode_json_input(data)
        try:
            for key in ("inputs", "instances"):
                if key in sent:
                    model.checked(sent[key])
        except UserError as error:
            raise _bad_request(error) from None
        return parse(sent, metadata, input_schema)

    scoring_server._parse_json_data = checked


def _bad_request(error: UserError) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST

    refusal: Exception = MlflowException(str(error), error_code=BAD_REQUEST)
    return refusal
