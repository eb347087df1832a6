"""A worker under torchrun: trains with the other one, saves every ten steps, goes on from the last save."""
import os

import torch.distributed as dist

import core


def main(directory=None):
    directory = directory or os.environ["PEER_DIR"]
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    event = core.Events(directory, rank=rank, life=again)
    net, optimizer = core.build()
    path = os.path.join(directory, "checkpoint.pt")
    step = core.load(path, net, optimizer)
    event("resume", step=step)
    while step < core.STEPS:
        core.backward(net, optimizer, step, rank)
        for p in net.parameters():
            dist.all_reduce(p.grad)
            p.grad /= world
        optimizer.step()
        step += 1
        event("step", step=step)
        if rank == 0 and step % core.EVERY == 0:
            core.save(path, net, optimizer, step)
    event("done", digest=core.digest(net, optimizer))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
