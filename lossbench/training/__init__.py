"""Training many replicates on equal terms. Imports neither mlflow nor dvc nor Great Expectations."""
