"""How this process's Ray Data is set up: it is quiet, and its pools of actors grow while they have work."""

from __future__ import annotations

import logging

# An actor has at most two blocks in hand and computes one: a pool in which most have two has work for more actors.
_GROW_ABOVE = 0.75


def set_up_ray_data() -> None:
    """Keep Ray Data's progress and its account of failures from the terminal, and let its pools grow."""
    import ray

    context = ray.data.DataContext.get_current()
    context.autoscaling_config.actor_pool_util_upscaling_threshold = _GROW_ABOVE
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray's wrapper loses the cause on its way between processes, and with it what to tell the user.
    context.raise_original_map_exception = True
    for name in ("ray.data", "ray.data._internal.execution"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        # What ends the job is raised, and told in one line; the whole of it stays in Ray's own log file.
        if type(handler).__module__.startswith("ray."):
            handler.setLevel(logging.CRITICAL)
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).addFilter(_without_frames)


def _without_frames(record: logging.LogRecord) -> bool:
    """Make text of an exception that Ray Data logs: the frames of its traceback hold handles of actors.

    As long as any handler keeps such a record, a failed attempt's actors would keep the GPU that the next one needs.
    """
    if record.exc_info:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    return True
