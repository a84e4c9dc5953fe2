"""The same entry point as cron and systemd call, as an Airflow DAG: copy it into the DAGs folder.

Exit code 0 is a success (promoted, kept, nothing new, or another is at work), 1 a failure that the next
tick tries again, 2 a mistake in params.yaml that no retry mends.
"""

from datetime import datetime, timedelta

from airflow import DAG
from airflow.operators.bash import BashOperator

STUDY = "/srv/lossbench"

with DAG(
    dag_id="lossbench_retrain",
    schedule="17 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
) as dag:
    BashOperator(
        task_id="retrain",
        bash_command=f"cd {STUDY} && PATH={STUDY}/.venv/bin:$PATH exec python -m lossbench retrain ",
        retries=0,
        execution_timeout=timedelta(hours=12),
    )
