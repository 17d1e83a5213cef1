"""Evaluate a model as a submitted Ray job; ``jobs/evaluate.yaml`` explains every key."""

from imgcls_ray.cli import run_job

if __name__ == "__main__":
    run_job("evaluate")
