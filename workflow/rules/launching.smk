import functools
import inspect

from cdgmae.settings.base import Settings
from cdgmae.workflow.messages.unknown_names import unknown_name


def of(function):
    """A function of cdgmae.workflow as rules take it: of the wildcards that its arguments after the configuration are named like. What it
    gives is asked once for all shards; settings become their JSON text."""
    wanted = list(inspect.signature(function).parameters)[1:]

    def value(*arguments):
        try:
            found = function(CONFIG, *arguments)
        except KeyError as error:
            raise unknown_name(CONFIG, dict(zip(wanted, arguments))) or error from None
        return found.canonical_json() if isinstance(found, Settings) else found

    known = value if "shard" in wanted else functools.cache(value)
    return lambda wildcards: known(*(wildcards[name] for name in wanted))


# How jobs whose outputs are kept start their command. Those on a GPU: here as it is, on a cluster as the profile says
# (workflow/profiles/slurm). Resources, not params: where a job runs reruns nothing. That `mpi` is there, if only empty, leaves
# starting processes to the command itself.
ON_CPUS = {"nodes": 1, "tasks_per_node": 1, "launcher": "none"}
ON_GPUS = {"mpi": "", **ON_CPUS}


def launched(command):
    """The shell text that starts a command so; what it finished before is put back from work/finished/ instead."""
    processes = "--nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node}"
    return f"cdgmae cluster launch {{resources.launcher}} {processes} --keep '{{output}}' -- {command}"
