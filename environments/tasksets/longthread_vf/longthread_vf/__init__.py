"""longthread's tasks for verifiers 0.4: `vf-eval longthread-vf`."""

from longthread_vf.taskset import LongthreadTaskset

__all__ = ["LongthreadTaskset"]
