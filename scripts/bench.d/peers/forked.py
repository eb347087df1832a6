"""torchrun's agent by its API, with workers forked from a process that has torch in memory: the best that can be had
of it."""
import os

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import core
import worker

if __name__ == "__main__":
    core.build()  # what is imported late is imported once
    elastic_launch(LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="peers", rdzv_backend="c10d",
                                rdzv_endpoint="localhost:0", max_restarts=1000, monitor_interval=0.02,
                                start_method="fork"), worker.main)(os.environ["PEER_DIR"])
