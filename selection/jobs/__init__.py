"""Where work runs: in this process, or on the machines of a Ray cluster. It knows nothing of what the work is."""

from selection.jobs.cluster import Cluster
from selection.jobs.failures import Failures
from selection.jobs.job import Failure, Job, Outcome, Runner, itself
from selection.jobs.running import running_on

__all__ = ["Cluster", "Failure", "Failures", "Job", "Outcome", "Runner", "itself", "running_on"]
