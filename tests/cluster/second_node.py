"""A second node on this machine: ``python second_node.py GCS_ADDRESS TEMP_FOLDER``, until SIGTERM.

``ray start --address`` refuses to join a Ray that listens on loopback only, so the node is started as
``ray.cluster_utils`` does it. Its own temporary folder keeps the two nodes' copies of a job's code apart.
"""

import signal
import sys
from types import FrameType

from ray._private.node import Node
from ray._private.parameter import RayParams


def leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main(gcs: str, folder: str) -> None:
    signal.signal(signal.SIGTERM, leave)
    parameters = RayParams(
        gcs_address=gcs,
        node_ip_address="127.0.0.1",
        temp_dir=folder,
        num_cpus=1,
        num_gpus=0,
        resources={"accelerator_type:A10G": 1},
        object_store_memory=128 * 1024**2,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=0,
        include_log_monitor=False,
    )
    node = Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)
    print(f"raylet {node.all_processes['raylet'][0].process.pid} {node.node_id}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
