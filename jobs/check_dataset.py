"""Check a labelled dataset as a submitted Ray job; ``jobs/check_dataset.yaml`` explains every key."""

from imgcls_ray.cli import run_job

if __name__ == "__main__":
    run_job("check_dataset")
