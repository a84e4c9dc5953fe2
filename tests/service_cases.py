"""Services that tests start on 127.0.0.1; what is not installed is said, and its tests are skipped."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.services import S3, free_port, missing

__all__ = ["free_port"]
MISSING_S3 = missing(("s3fs", "moto", "boto3", "flask"), database=False)
needs_s3 = pytest.mark.skipif(bool(MISSING_S3), reason=MISSING_S3)
needs_services = pytest.mark.skipif(bool(missing()), reason=missing())


@contextmanager
def s3_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """An S3 server with a bucket; gives the environment that reaches it."""
    with S3.made(folder).running() as found:
        yield found.environment
