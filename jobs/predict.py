"""Label images as a submitted Ray job; ``jobs/predict.yaml`` explains every key."""

from imgcls_ray.cli import run_job

if __name__ == "__main__":
    run_job("predict")
