"""PostgreSQL, an S3 server and MLflow on both, on 127.0.0.1 alone: started, killed, and started again.

PostgreSQL is Debian's, the S3 server moto's (requirements-services.lock). As in deploy/compose: only MLflow
knows PostgreSQL's password, and clients send artifacts to MLflow, which has them in S3.
"""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from benchmarks.fault_study import outliving
from lossbench.tracking.ui import HOST, begin_server

ROOT = Path(__file__).parent.parent
PACKAGES = ("boto3", "dvc_s3", "flask", "moto", "psycopg", "s3fs")
USER = "postgres"
"""Debian's, and of databases."""
TABLES = "tables"
"""The database that holds MLflow's tables, and nothing in them."""
PATIENCE = 900.0
"""Seconds that a server has to answer, on a machine that others use as well."""
Begin = Callable[[], "subprocess.Popen[bytes]"]


def missing(packages: tuple[str, ...] = PACKAGES, database: bool = True) -> str:
    """Say what is not installed of all this; empty where everything is."""
    told = [name for name in packages if importlib.util.find_spec(name) is None]
    said = f"{', '.join(told)} not installed: make cluster" if told else ""
    if database and programs() is None:
        said += f"{'; ' if said else ''}no PostgreSQL: apt-get install postgresql"
    return said


def programs() -> Path | None:
    """Find the folder of PostgreSQL's programs, which Debian keeps off the PATH; of several, the newest."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((one.parent for one in found), key=lambda one: float(one.parent.name), default=None)


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        return int(unused.getsockname()[1])


@dataclass
class Service:
    """A server that can be killed and started again at the same address.

    Attributes:
        begin: starts its process.
        answers: says whether it is up.
        process: that runs.

    """

    begin: Begin
    answers: Callable[[], bool]
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: if it does not.

        """
        self.process = self.begin()
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(map(str, self.process.args))}: does not answer")  # type: ignore[arg-type]  # a list
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it and all its children, at once."""
        if self.process is None:
            return
        if self.process.poll() is None:
            own = psutil.Process(self.process.pid)
            everyone = [own, *own.children(recursive=True)]
            for one in everyone:
                with suppress(psutil.NoSuchProcess):  # it ended with the first
                    one.kill()
            outliving(everyone)
        self.process.wait()
        self.process = None

    @contextmanager
    def running(self) -> Iterator["Service"]:
        """Run it while the block does."""
        try:
            self.start()
            yield self
        finally:
            self.kill()


def listens(port: int) -> bool:
    """Say whether somebody listens."""
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


def child(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None, user: str | None = None
) -> "subprocess.Popen[bytes]":
    """Start a process whose output goes to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",  # which every user may enter
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )


def server_user() -> str | None:
    """Name whom PostgreSQL is run by: us, but for the superuser, whom it refuses."""
    return USER if os.geteuid() == 0 else None


@dataclass
class S3:
    """A server with one bucket.

    Attributes:
        service: the server.
        environment: that reaches it.
        bucket: name.

    """

    service: Service
    environment: Mapping[str, str]
    bucket: str = "bucket"

    @classmethod
    def made(cls, folder: Path) -> "S3":
        """Make one whose objects are kept in ``folder``; it is not started."""
        port = free_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "AWS_ACCESS_KEY_ID": f"name-{secrets.token_hex(8)}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": HOST,
        }
        command = [sys.executable, "-m", "benchmarks.s3_server", str(port), str(folder / "s3.recording")]
        begin = partial(child, command, folder / "s3.log", {**environment, "PYTHONPATH": str(ROOT)})
        return cls(Service(begin, partial(listens, port)), environment)

    @contextmanager
    def running(self) -> Iterator["S3"]:
        """Run it while the block does, with its bucket."""
        with self.service.running():
            self.client().create_bucket(Bucket=self.bucket)
            yield self

    def client(self) -> Any:
        """Make a client of it."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip


@dataclass
class Postgres:
    """A server of databases.

    Attributes:
        folder: of its files.
        port: where it listens.
        password: of its superuser, called as USER is.
        service: the server.

    """

    folder: Path
    port: int
    password: str

    def __post_init__(self) -> None:
        self.service = Service(self._begin, self.answers)

    @classmethod
    @contextmanager
    def made(cls) -> Iterator["Postgres"]:
        """Make one in a folder of its own; it is not started."""
        folder = Path(tempfile.mkdtemp(prefix="lossbench-postgres-"))
        try:
            if (user := server_user()) is not None:
                shutil.chown(folder, user, user)
            found = cls(folder, free_port(), secrets.token_hex(16))
            found._initialise()
            yield found
        finally:
            shutil.rmtree(folder)

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        access = ("-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}")
        made = self._run("initdb", *access, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        if made.wait():
            raise RuntimeError((self.folder / "log").read_text())

    def _begin(self) -> "subprocess.Popen[bytes]":
        listening = (f"listen_addresses={HOST}", f"port={self.port}", "unix_socket_directories=")
        return self._run("postgres", *(part for one in listening for part in ("-c", one)))

    def _run(self, program: str, *options: str) -> "subprocess.Popen[bytes]":
        where = programs()
        if where is None:
            raise RuntimeError(missing(()))
        command = [str(where / program), "-D", str(self.folder / "data"), *options]
        return child(command, self.folder / "log", user=server_user())

    def answers(self) -> bool:
        """Say whether it takes questions: not while it reads its log again after a crash."""
        import psycopg

        try:
            self.ask(USER, "SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def ask(self, database: str, question: str) -> list[tuple[Any, ...]]:
        """Put a question to a database."""
        import psycopg

        with psycopg.connect(self._address(database), autocommit=True) as connection:
            found = connection.execute(question.encode())
            return list(found) if found.description else []

    def uri(self, database: str) -> str:
        """Give the address of a database for MLflow."""
        return self._address(database).replace("postgresql:", "postgresql+psycopg:")

    def _address(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{database}"


@dataclass
class Team:
    """A record, a store and a DVC remote of somebody's own on the services.

    Attributes:
        services: that it is on.
        mlflow: the server of its record.
        environment: that reaches all of it.
        ask: puts a question to the record.
        remote: address for DVC.

    """

    services: "Services"
    mlflow: Service
    environment: Mapping[str, str]
    ask: Callable[[str], list[tuple[Any, ...]]]
    remote: str


@dataclass
class Services:
    """What runs for everybody.

    Attributes:
        folder: of logs.
        postgres: for records.
        s3: for artifacts, stores and data.

    """

    folder: Path
    postgres: Postgres
    s3: S3
    _made: bool = False

    @contextmanager
    def team(self, name: str) -> Iterator[Team]:
        """Run a tracking server with a database of its own; its tables are made once and copied."""
        if not self._made:
            self._make_tables()
        self.postgres.ask(USER, f'CREATE DATABASE "{name}" TEMPLATE {TABLES}')
        port, place = free_port(), f"s3://{self.s3.bucket}/{name}"
        begin = partial(
            self._begin, self.postgres.uri(name), self.folder / f"{name}.log", port, f"{place}/artifacts"
        )
        environment = {
            **self.s3.environment,
            "MLFLOW_TRACKING_URI": f"http://{HOST}:{port}",
            "LOSSBENCH_STORE": f"{place}/store",
        }
        with Service(begin, partial(listens, port)).running() as mlflow:
            yield Team(self, mlflow, environment, partial(self.postgres.ask, name), f"{place}/dvc")

    def _make_tables(self) -> None:
        """Have MLflow make its tables, in a database that others are copied from."""
        from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

        self.postgres.ask(USER, f"CREATE DATABASE {TABLES}")
        engine = create_sqlalchemy_engine(self.postgres.uri(TABLES))
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()
        self._made = True

    def _begin(self, *arguments: Any) -> "subprocess.Popen[bytes]":
        """Start MLflow's server, which alone has the artifacts in S3."""
        with patch.dict(os.environ, self.s3.environment):
            return begin_server(*arguments)


@contextmanager
def services(folder: Path) -> Iterator[Services]:
    """Run PostgreSQL and S3 while the block does."""
    folder.mkdir(parents=True, exist_ok=True)
    with Postgres.made() as postgres, postgres.service.running(), S3.made(folder).running() as s3:
        yield Services(folder, postgres, s3)
