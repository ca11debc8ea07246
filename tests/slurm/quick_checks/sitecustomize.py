"""Python loads this when it starts on the tests' cluster: a Snakemake there looks after its jobs every two seconds.

Its Slurm executor waits ten seconds longer after every look that finds no ended job, up to three minutes, whatever its settings are: right
for a busy controller and jobs of hours, but most of the time of jobs that take seconds.
"""

import sys

SECONDS = 2.0

if "snakemake" in sys.orig_argv:
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    RemoteExecutor.next_seconds_between_status_checks = property(lambda self: SECONDS, lambda self, seconds: None)
