"""One rank of a step over eight utterances: torchrun --nproc_per_node=N rank_attach.py MODE FOLDER OUT.

MODE is ddp or fsdp2. Saves the gradient of what the handle adds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from families.base import TEXTS, waveforms
from families.qwen2_audio import FAMILY
from families_at_hand import EIGHT_S, steady
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from otreg import OTReg, attach
from otreg.objectives import OnPair


def main(mode: str, folder: str, out: str) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model, processor = FAMILY.load(Path(folder))
    steady(model)
    objectives = {
        "otreg": (OTReg(tol=1e-5, max_iter=5000, vocabulary=20), 0.3),
        "layer": (OnPair(OTReg(loss="cost", tol=1e-5, max_iter=5000), layer=1), 0.3),
    }
    trained = model
    if mode == "fsdp2":
        mesh = dist.init_device_mesh("cpu", (world,))
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        handle = attach(model, objectives, processor=processor)
    else:
        handle = attach(model, objectives, processor=processor)
        trained = DistributedDataParallel(model)
    sounds, texts = waveforms(*EIGHT_S), [*TEXTS, *TEXTS[::-1]]
    mine = range(8)[rank::world] if world > 1 else range(8)  # utterances of every length on each
    first = 1 if rank == 0 else 3  # uneven micro-batches
    batches = [
        FAMILY.batch(processor, [sounds[i] for i in cut], [texts[i] for i in cut])
        for cut in (mine[:first], mine[first:])
    ]
    handle.begin_step(batches=batches)
    for batch in batches:
        output = trained(**batch)
        # Only what the handle adds: the model's own loss depends on how a step is cut.
        (output.loss * 0 + handle.loss).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad
            whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            gradients[name] = whole
    if rank == 0:
        torch.save(gradients, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
