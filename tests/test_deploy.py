"""Schedules: every one calls the same entry point; installed, replaced and taken out whole; a real cron fires."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes_validate
import pytest
from conftest import ROOT, write_params
from dvc_cases import BIN, environment, python
from retraining_cases import add_images, growing_study, params, records
from ruamel.yaml import YAML

from lossbench.errors import UserError
from lossbench.params import load_params
from lossbench.retraining.backup import RECORDS
from lossbench.retraining.run import retrain
from lossbench.scheduling import cron, systemd
from lossbench.scheduling.address import write_address
from lossbench.scheduling.job import Job
from lossbench.tracking.store import expect_remembered, remember, remembered

ENTRY = "python -m lossbench retrain"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_params(tmp_path, params())
    return Job.of(tmp_path)


def test_cron_s_lines_call_the_entry_point_under_flock(job: Job) -> None:
    lines = cron.lines(job, "17 3 * * *")
    assert "\n17 3 * * * " in lines
    assert ENTRY in lines
    assert "flock --nonblock" in lines


def test_systemd_s_units_catch_up_and_end_all_children(job: Job) -> None:
    units = systemd.units(job, "*-*-* 03:17:00")
    text = "\n".join(units.values())
    assert "-m lossbench retrain" in text
    assert "Persistent=true" in text
    assert "KillMode=control-group" in text
    assert "OnCalendar=*-*-* 03:17:00" in text
    assert f"OnFailure={job.name}-failed.service" in units[f"{job.name}.service"]
    assert "logger --priority user.err" in units[f"{job.name}-failed.service"]
    assert "@" not in text.replace("@hourly", "")


def test_an_installed_package_has_its_templates_and_names_no_page_that_is_not_there(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Documentation=" in "".join(systemd.units(job, "daily").values())
    monkeypatch.setattr("lossbench.scheduling.job.CHECKOUT", tmp_path / "site-packages")
    shown = [cron.lines(job, "@daily"), *systemd.units(job, "daily").values()]
    text = "".join([*shown, *systemd.service(job, "tiny").values()])
    assert ENTRY in text
    assert "Documentation=" not in text
    assert ".venv/bin" not in text.replace(str(job.bin), "")
    assert "make " not in text


def test_a_schedule_that_is_none_is_refused(job: Job) -> None:
    with pytest.raises(UserError, match="five fields"):
        cron.lines(job, "every night; rm -rf /")


def test_the_hosted_retraining_hides_no_failure_and_keeps_its_records() -> None:
    steps = YAML(typ="safe").load((ROOT / "deploy/ci/retrain.yml").read_text())["jobs"]["retrain"]["steps"]
    commands = [one["run"] for one in steps if "run" in one]
    assert "make retrain" in commands
    assert not [one for one in commands if "||" in one]
    kept = [one["with"]["path"].split() for one in steps if "cache/" in one.get("uses", "")]
    # The gate's own memory among them: without it each tick would freeze another reference and look anew.
    assert kept == [["dvc.lock", RECORDS, ".lossbench"]] * 2


@pytest.mark.parametrize("file", [".github/workflows/ci.yml", "deploy/ci/retrain.yml"])
def test_actions_are_pinned_and_rights_are_few(file: str) -> None:
    workflow = YAML(typ="safe").load((ROOT / file).read_text())
    assert workflow["permissions"] == {"contents": "read"}
    used = [one["uses"] for job in workflow["jobs"].values() for one in job["steps"] if "uses" in one]
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w/.-]+@[0-9a-f]{40}", one)] == []


def test_the_cron_job_of_kubernetes_runs_one_at_a_time_without_privileges() -> None:
    manifests = YAML(typ="safe").load_all((ROOT / "deploy/kubernetes/cronjob.yaml").read_text())
    claim, job = manifests
    spec = job["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["python", "-m", "lossbench", "retrain"]
    rights = pod["securityContext"] | container["securityContext"]
    assert (rights["runAsNonRoot"], rights["runAsUser"], rights["fsGroup"]) == (True, 1000, 1000)
    assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
    assert (rights["capabilities"], rights["seccompProfile"]) == (
        {"drop": ["ALL"]},
        {"type": "RuntimeDefault"},
    )
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    volumes = {one.get("persistentVolumeClaim", {}).get("claimName") for one in pod["volumes"]}
    assert claim["metadata"]["name"] in volumes
    assert "MLFLOW" not in str(container)


def test_the_job_of_ray_on_kubernetes_is_reached_by_its_own_pods_alone_and_has_no_privileges() -> None:
    policy, job = YAML(typ="safe").load_all((ROOT / "deploy/kubernetes/rayjob.yaml").read_text())
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements-ray.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert cluster["rayVersion"] == locked[1]
    assert job["spec"]["entrypoint"].startswith("lossbench run --on ray ")
    for group in (cluster["headGroupSpec"], workers):
        template = group["template"]
        assert wanted.items() <= template["metadata"]["labels"].items()
        pod = template["spec"]
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            rights = pod["securityContext"] | container["securityContext"]
            assert (rights["runAsNonRoot"], rights["runAsUser"]) == (True, 1000)
            assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert "AWS" not in str(container)
    # what KubeRay's schema does not look into, Kubernetes' own does
    for template in (cluster["headGroupSpec"]["template"], workers["template"]):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": "pod", **template["metadata"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)


def test_the_image_brings_its_code_to_the_volume_and_leaves_what_is_the_study_s(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    prepare = [str(ROOT / "deploy/prepare"), str(ROOT), str(volume)]
    shown = subprocess.run([*prepare, "echo", "a b"], capture_output=True, text=True, check=True).stdout
    assert shown == "a b\n"
    needed = [
        "Makefile",
        "dvc.yaml",
        "params.yaml",
        "looks.yaml",
        "lossbench/cli.py",
        "stages/check.py",
        ".dvc/config",
        ".git",
    ]
    assert [one for one in needed if not (volume / one).exists()] == []
    (volume / "params.yaml").write_text("mine")
    (volume / "lossbench/cli.py").write_text("of an older image")
    (volume / "lossbench/gone.py").write_text("of an older image")
    (volume / "data").mkdir()
    (volume / "data/mine").write_text("mine")
    assert subprocess.run([*prepare, "sh", "-c", "exit 3"], check=False).returncode == 3
    assert [(volume / one).read_text() for one in ("params.yaml", "data/mine")] == ["mine", "mine"]
    assert (volume / "lossbench/cli.py").read_bytes() == (ROOT / "lossbench/cli.py").read_bytes()
    assert not (volume / "lossbench/gone.py").exists()
    assert not list(volume.glob("*.former"))


def test_the_image_runs_without_rights_and_builds_from_what_is_there() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert text.index("USER 1000") < text.index("RUN make setup")
    parts = re.findall(
        r"[\w.-]+", (ROOT / "deploy/prepare").read_text().split("for part in ")[1].split(";")[0]
    )
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert [one for one in parts if not (ROOT / one).exists() or one in ignored] == []


@pytest.mark.parametrize("file", ["Makefile", "deploy/Dockerfile", "docs/cluster.md"])
def test_what_ray_starts_is_compiled_when_it_is_installed(file: str) -> None:
    """Ray gives its own processes 15 s to start; on a busy node compiling what they import takes longer."""
    found = re.findall(
        r"uv pip install [^\n]*(?:requirements-ray\.lock|\$lock|addprefix)", (ROOT / file).read_text()
    )
    assert found
    assert [one for one in found if "--compile-bytecode" not in one] == []


BUILT = {"/opt/venv": "venv", "/opt/lossbench": "image", "/lossbench": "lossbench"}
"""The image's folders, and what the test has for each."""
OF_ROOT = ("apt-get ", "rm -rf /var/lib/apt/lists", "useradd ")
"""Steps that change the machine itself, and need the network: not run here."""


@pytest.mark.slow
def test_the_image_s_steps_run_as_they_stand_but_for_the_machine_s_own(tmp_path: Path) -> None:
    """What is copied is what git has; the packages are those of the tests, in place of an installation."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "deploy/Dockerfile").read_text())
    lines = [line.partition(" ")[::2] for line in text.splitlines() if line and not line.startswith("#")]
    assert {word for word, _ in lines} <= {
        "ARG",
        "FROM",
        "RUN",
        "USER",
        "WORKDIR",
        "COPY",
        "ENV",
        "ENTRYPOINT",
        "CMD",
    }
    assert [rest for word, rest in lines if word == "COPY"] == ["--chown=1000:1000 . ."]
    inside = {place: tmp_path / name for place, name in BUILT.items()}

    def here(step: str) -> str:
        return re.sub(r"/opt/venv|/opt/lossbench|/lossbench\b", lambda one: str(inside[one[0]]), step)

    def ran(step: str) -> None:
        work = inside["/lossbench"] if inside["/lossbench"].is_dir() else tmp_path
        ended = subprocess.run(["sh", "-ec", step], cwd=work, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{step}: {ended.stdout}{ended.stderr}"

    for word, rest in lines:
        if word == "COPY":
            names = subprocess.run(
                ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
            ).stdout
            ignored = (ROOT / ".dockerignore").read_text().split()
            for name in names.decode().rstrip("\0").split("\0"):
                if name.partition("/")[0] not in ignored and (ROOT / name).exists():
                    (inside["/lossbench"] / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, inside["/lossbench"] / name, follow_symlinks=False)
            # What `make setup` would install.
            (inside["/opt/venv"] / "bin").symlink_to(BIN)
            (inside["/opt/venv"] / "installed").touch()
        if word == "RUN":
            for step in rest.split(" && "):
                if not step.startswith(OF_ROOT):
                    ran(here(re.sub(r"--(owner|group) 1000", "", step)))
    ended = {word: ast.literal_eval(rest) for word, rest in lines if word in ("ENTRYPOINT", "CMD")}
    first = [here(one) for one in ended["ENTRYPOINT"]]
    assert os.access(first[0], os.X_OK)
    said = subprocess.run(
        [*first, *ended["CMD"]], env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        cwd=inside["/lossbench"], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "retrain" in said


def test_airflow_s_dag_compiles_and_calls_the_entry_point() -> None:
    text = (ROOT / "deploy/airflow/lossbench_retrain.py").read_text()
    ast.parse(text)
    assert ENTRY in text
    assert "max_active_runs=1" in text


def test_the_composed_tracking_server_is_reached_through_tls_and_accounts_alone() -> None:
    services = YAML(typ="safe").load((ROOT / "deploy/compose/compose.yaml").read_text())["services"]
    assert {name: one.get("ports") for name, one in services.items()} == {
        "nginx": ["443:443"],
        "mlflow": None,
    }
    assert services["mlflow"]["network_mode"] == "service:nginx"
    assert "--app-name basic-auth --host 127.0.0.1" in services["mlflow"]["command"]
    assert all(":?" in value or value == "true" for value in services["mlflow"]["environment"].values())
    nginx = (ROOT / "deploy/compose/nginx.conf").read_text()
    assert "listen 443 ssl;" in nginx
    assert "listen 80" not in nginx
    assert "proxy_pass http://127.0.0.1:5000;" in nginx


def test_the_composed_services_are_reached_through_tls_and_hold_no_secret() -> None:
    text = (ROOT / "deploy/compose/services.yaml").read_text()
    services = YAML(typ="safe").load(text)["services"]
    assert {name: one["ports"] for name, one in services.items() if "ports" in one} == {
        "nginx": ["9000:9000"]
    }
    secrets = [
        value
        for one in services.values()
        for name, value in one.get("environment", {}).items()
        if re.search("PASSWORD|KEY", name)
    ]
    assert len(secrets) == 6
    assert [one for one in secrets if not re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", one)] == []
    assert "$$POSTGRES_PASSWORD" in str(services["mlflow"]["command"]), "put together within"
    conf = (ROOT / "deploy/compose/s3.conf").read_text()
    assert "listen 9000 ssl;" in conf
    assert "proxy_set_header Host $http_host;" in conf
    version = re.search(
        r"^psycopg-binary==(\S+)", (ROOT / "requirements-services.lock").read_text(), re.MULTILINE
    )
    assert version is not None
    assert f"psycopg[binary]=={version[1]}" in text


@pytest.mark.slow
def test_systemd_itself_finds_no_fault_in_the_units(job: Job, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is not installed; on Debian: apt-get install systemd"
    for name, text in systemd.units(job, "*-*-* 03:17:00").items():
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / f"{job.name}{kind}") for kind in systemd.KINDS]
    verified = subprocess.run([program, "verify", *files], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr
    assert not verified.stderr
    score = subprocess.run(
        [program, "security", "--offline=yes", "--threshold=55", files[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert score.returncode == 0, score.stdout[-300:]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crontab of nobody's, and a program `crontab` that reads and writes it."""
    table = tmp_path / "table"
    table.write_text("0 1 * * * own job\n")
    fake = tmp_path / "bin" / "crontab"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = -l ] && exec cat {table}\ncat > {table}.new && mv {table}.new {table}\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    return table


def test_installing_twice_leaves_one_block_and_removing_leaves_the_other_lines(job: Job, table: Path) -> None:
    cron.install(job, "17 3 * * *")
    cron.install(job, "@hourly")
    text = table.read_text()
    assert text.startswith("0 1 * * * own job\n")
    assert text.count(ENTRY) == 1
    assert "\n@hourly cd " in text
    assert "no longer scheduled" in cron.remove(job)
    assert "nothing to do" in cron.remove(job)
    assert table.read_text() == "0 1 * * * own job\n"


def like_named(folder: Path) -> tuple[Path, Path]:
    """Two studies whose folders have one name, as `lossbench new --folder losses` makes them."""
    studies = folder / "50% cats/losses", folder / "dogs/losses"
    for study in studies:
        study.mkdir(parents=True)
        write_params(study, params())
    return studies


def test_a_schedule_is_not_taken_from_another_study_of_the_same_name(tmp_path: Path, table: Path) -> None:
    cats, dogs = like_named(tmp_path)
    cron.install(Job.of(cats), "@daily")
    for touch in (lambda: cron.install(Job.of(dogs), "@hourly"), lambda: cron.remove(Job.of(dogs))):
        with pytest.raises(UserError, match=r"schedule of another study, .*50% cats/losses; --name"):
            touch()
    cron.install(Job.of(dogs, "dogs"), "@hourly")
    assert table.read_text().count(ENTRY) == 2
    cron.remove(Job.of(dogs, "dogs"))
    cats.rename(tmp_path / "moved")  # what was moved left nothing to protect
    cron.install(Job.of(dogs), "@hourly")
    assert table.read_text().count(ENTRY) == 1
    assert "cats" not in table.read_text()


def test_units_are_not_taken_from_another_study_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats, dogs = like_named(tmp_path)
    for name in ("UNITS", "RUNNING", "ADDRESSES"):
        monkeypatch.setattr(systemd, name, tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(systemd, "called", lambda *_: "")
    systemd.install(Job.of(cats), "daily")
    systemd.install_service(Job.of(cats), "cats")
    touches = (
        lambda: systemd.install(Job.of(dogs), "daily"),
        lambda: systemd.remove(Job.of(dogs)),
        lambda: systemd.install_service(Job.of(dogs), "dogs"),
        lambda: systemd.remove_service(Job.of(dogs), "dogs"),
    )
    for touch in touches:
        with pytest.raises(UserError, match=r"schedule of another study, .*50% cats/losses; --name"):
            touch()
    assert "lossbench-retrain-dogs" in systemd.install(Job.of(dogs, "dogs"), "daily")
    assert "no longer" in systemd.remove(Job.of(cats))
    assert "no longer" in systemd.remove_service(Job.of(cats), "cats")


@pytest.mark.parametrize("label", ["a b", "../x", "a\nb", "@", "%i"])
def test_a_name_that_cannot_stand_in_a_schedule_is_refused(job: Job, label: str) -> None:
    with pytest.raises(UserError, match=r"--name is .*allowed: letters"):
        Job.of(job.study, label)


@pytest.mark.parametrize("name", ["digits", "it's 50% of ours", "a b", "数据", "$HOME"])
@pytest.mark.parametrize("scheduler", ["cron", "systemd", "serving"])
def test_another_study_of_the_same_name_keeps_its_schedule(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch, name: str, scheduler: str
) -> None:
    """Names are made of the folder's name alone; who has moved a study installs it anew all the same."""
    monkeypatch.setattr(systemd, "UNITS", tmp_path)
    monkeypatch.setattr(systemd, "_expect_systemd", lambda: None)
    monkeypatch.setattr(systemd, "called", lambda *_: "")
    jobs = []
    for parent in ("here", "there"):
        (tmp_path / parent / name).mkdir(parents=True)
        write_params(tmp_path / parent / name, params())
        jobs.append(Job.of(tmp_path / parent / name))
    first, second = jobs
    put: Callable[[Job], str]
    put, take = {
        "cron": (lambda job: cron.install(job, "@daily"), cron.remove),
        "systemd": (lambda job: systemd.install(job, "daily"), systemd.remove),
        "serving": (
            lambda job: systemd.install_service(job, "digits"),
            lambda job: systemd.remove_service(job, "digits"),
        ),
    }[scheduler]
    assert first.name == second.name
    put(first)
    for call in (put, take):
        with pytest.raises(UserError, match="the schedule of another study") as refused:
            call(second)
        assert str(first.study) in str(refused.value)
    put(first)
    first.study.rename(tmp_path / "elsewhere")
    put(second)
    assert "nothing to do" not in take(second)


def test_a_percent_sign_in_a_path_is_no_line_end_to_cron_and_no_specifier_to_systemd(tmp_path: Path) -> None:
    study = tmp_path / "50% of it"
    study.mkdir()
    write_params(study, params())
    assert r"50\% of it'" in cron.lines(Job.of(study), "@daily")
    assert "50%% of it\n" in "".join(systemd.units(Job.of(study), "daily").values())


@pytest.fixture
def own_crontab() -> Iterator[None]:
    """The user's own crontab, put back afterwards; a cron that runs."""
    for program in ("cron", "crontab"):
        assert shutil.which(program), f"{program} is not installed; on Debian: apt-get install cron"
    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
    daemon = subprocess.Popen(["cron", "-f"])
    yield
    daemon.terminate()
    daemon.wait()
    if before.returncode:
        subprocess.run(["crontab", "-r"], check=False)
    else:
        subprocess.run(["crontab", "-"], input=before.stdout, text=True, check=True)


def waited(condition: "object", seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]  # a callable
            return True
        time.sleep(1)
    return False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_cron_retrains_when_images_were_added_and_does_nothing_otherwise(
    tmp_path: Path, own_crontab: None
) -> None:
    study = growing_study(tmp_path / "study")
    first = python(study, "lossbench", "retrain")  # which cron would have wait for a minute
    assert first.returncode == 0, first.stdout + first.stderr
    add_images(study / "images", 30, 60)
    code = (
        "import sys\nfrom pathlib import Path\nfrom lossbench.scheduling import cron\n"
        "from lossbench.scheduling.job import Job\n"
        f"job = Job(Path({str(ROOT)!r}), Path({str(study)!r}), Path({str(BIN)!r}))\n"
        "print(cron.install(job, '* * * * *') if sys.argv[1] == 'install' else cron.remove(job))\n"
    )
    schedule = [sys.executable, "-c", code]
    installed = subprocess.run(
        [*schedule, "install"], env=environment(), check=True, capture_output=True, text=True
    )
    assert "runs at '* * * * *'" in installed.stdout
    log = next(iter([study / ".lossbench" / "lossbench-retrain-study.log"]))

    def attempts() -> int:
        return len(records(study)) if (study / "reports/retraining.csv").exists() else 0

    def idle() -> int:
        return log.read_text().count("nothing new") if log.exists() else 0

    try:
        assert waited(lambda: attempts() == 2, 300), log.read_text() if log.exists() else "cron never fired"
        assert [one["outcome"] for one in records(study)] in (["promoted", "promoted"], ["promoted", "kept"])
        assert waited(lambda: idle() >= 1, 150), log.read_text()
        assert attempts() == 2
    finally:
        removed = subprocess.run(
            [*schedule, "remove"], env=environment(), check=True, capture_output=True, text=True
        )
    assert "no longer scheduled" in removed.stdout
    assert os.access(study / "reports/retraining.html", os.R_OK)


SECRET = "https://anna:geheim-7@mlflow.example"  # noqa: S105  # planted, to be found nowhere


def test_the_tracking_address_belongs_to_the_schedule_and_is_for_nobody_s_eyes(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cron.address_file(job)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert write_address(job.study, file) == ""
    assert not file.exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    assert "geheim" not in write_address(job.study, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "geheim" not in cron.lines(job, "@daily") + "".join(systemd.units(job, "daily").values())
    read = subprocess.run(
        ["sh", "-c", f"set -a; . {file}; printenv MLFLOW_TRACKING_URI"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert read.stdout.strip() == SECRET
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert write_address(job.study, file).endswith(f"{file}")  # installed again from a bare shell: it stays
    assert SECRET in file.read_text()


@pytest.mark.parametrize("value", ["a'b", "a\nb", "a\\b"])
def test_a_credential_that_cannot_stand_in_the_file_is_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", value)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD: quotes") as refused:
        write_address(job.study, cron.address_file(job))
    assert value not in str(refused.value)


def test_a_study_recorded_on_a_server_is_neither_scheduled_nor_retrained_without_its_address(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    remember(job.study)
    assert remembered(job.study) == "https://mlflow.example"
    expect_remembered(job.study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET.replace("geheim-7", "another"))  # a password may change
    expect_remembered(job.study)
    for other in ("", "https://other.example"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        remembered_before = remembered(job.study)
        with pytest.raises(UserError, match=r"recorded in https://mlflow\.example, and .* is asked for"):
            write_address(job.study, cron.address_file(job))
        with pytest.raises(UserError, match="--move-store"):
            retrain(load_params(job.study / "params.yaml"), job.study)
        assert remembered(job.study) == remembered_before
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    remember(job.study, moved=True)  # back to the study's own store
    expect_remembered(job.study)


def test_a_study_whose_own_store_was_named_may_be_moved(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `mlflow run . -e retrain` names it, and the shell in which `mlflow models serve` was started."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{job.study / 'mlflow.db'}")
    remember(job.study)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    moved = job.study.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    expect_remembered(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    remember(moved)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="recorded in"):
        expect_remembered(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved / 'mlflow.db'}")
    remember(moved)  # named by hand: recorded here from now on
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    expect_remembered(moved)


@pytest.mark.parametrize("damaged", ["", "{", "[]", "null", '{"stor": 1}', "\0\0"])
def test_a_damaged_word_on_where_a_study_is_recorded_is_no_leave_to_record_elsewhere(
    damaged: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    remember(job.study)
    (file,) = (job.study / ".lossbench").glob("store.json")
    file.write_text(damaged)
    for address in ("", SECRET):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(UserError, match=r"store\.json: not what a record wrote.*--move-store"):
            retrain(load_params(job.study / "params.yaml"), job.study)
    remember(job.study, moved=True)
    expect_remembered(job.study)


def test_the_serving_unit_answers_with_the_champion_and_comes_back_by_itself(job: Job) -> None:
    ((name, text),) = systemd.service(job, "tiny").items()
    assert name.startswith("lossbench-serve")
    assert 'serve --model "models:/tiny@champion"' in text
    assert "Restart=always" in text
    assert "--host" not in text  # 127.0.0.1
