"""Train as a submitted Ray job; ``jobs/train.yaml`` explains every key."""

from imgcls_ray.cli import run_job

if __name__ == "__main__":
    run_job("train")
