"""A replica group of torchft, of one process."""
import os
import time
from datetime import timedelta

import torch.distributed as dist
from torchft import Manager, ProcessGroupGloo
from torchft.optim import OptimizerWrapper

import core

rank, life, directory = int(os.environ["PEER_RANK"]), int(os.environ["PEER_LIFE"]), os.environ["PEER_DIR"]
event = core.Events(directory, rank=rank, life=life)
store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
net, optimizer = core.build()
limit = timedelta(seconds=30)


def take(state):
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])


manager = Manager(pg=ProcessGroupGloo(timeout=limit), min_replica_size=2, load_state_dict=take,
                  state_dict=lambda: {"net": net.state_dict(), "optimizer": optimizer.state_dict()},
                  replica_id=f"group{rank}", store_addr="localhost", store_port=store.port, rank=0, world_size=1,
                  timeout=limit, hostname="localhost")
wrapped = OptimizerWrapper(manager, optimizer)
if life == 0:  # both are there before the first quorum
    open(os.path.join(directory, f"ready-{rank}"), "w").close()
    while not all(os.path.exists(os.path.join(directory, f"ready-{k}")) for k in range(2)):
        time.sleep(0.02)
    time.sleep(0.5)
while manager.current_step() < core.STEPS:
    step = manager.current_step()
    core.backward(net, wrapped, step, rank)
    for p in net.parameters():
        manager.allreduce(p.grad).wait()
    wrapped.step()
    if manager.current_step() > step:
        event("step", step=manager.current_step())
event("done", digest=core.digest(net, optimizer))
time.sleep(0.5)
manager.shutdown(wait=False)
os._exit(0)  # its threads do not end by themselves
