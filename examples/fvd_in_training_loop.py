"""FVD in a training loop, on one process or several:

    python examples/fvd_in_training_loop.py
    torchrun --nproc-per-node 2 examples/fvd_in_training_loop.py

The model is a toy that learns to clean noisy clips; the shipped network `shapes3d` judges it, since it needs no
download and knows these clips. For real video leave `backbone` out: FVD's own I3D is the default.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import hpdm_eval
from hpdm.data.procedural import procedural_clip

FRAMES, SIZE = 8, 32


class Clips(Dataset):
    """Drawn clips, float32 [3, T, H, W] in [-1, 1]; yours come from files."""

    def __init__(self, count, seed):
        self.count, self.seed = count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        video, label = procedural_clip(self.seed, index, FRAMES, SIZE, SIZE)
        return torch.from_numpy(video).permute(3, 0, 1, 2) / 127.5 - 1, label


def main():
    several = "WORLD_SIZE" in os.environ
    if several:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) if several else 0)
    device = device if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 16, 3, padding=1), nn.GELU(), nn.Conv3d(16, 3, 3, padding=1)).to(device)
    if several:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)

    def loader(count, seed):
        clips = Clips(count, seed)
        return DataLoader(clips, batch_size=8, sampler=DistributedSampler(clips, shuffle=False) if several else None)

    training, validation = loader(32, seed=0), loader(24, seed=1)
    # num_samples: a sampler repeats clips where they do not divide by the number of processes; those do not count
    wanted = {"num_samples": 24, "num_reference": 24}
    fvd = hpdm_eval.FVD(backbone="shapes3d", frames=FRAMES, reset_real_features=False, **wanted).to(device)
    for real, _ in validation:
        fvd.update(real.to(device), real=True)

    for epoch in range(2):
        for real, _ in training:
            real = real.to(device)
            loss = nn.functional.mse_loss(model(real + torch.randn_like(real) / 2), real)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for real, _ in validation:
                real = real.to(device)
                fvd.update(model(real + torch.randn_like(real) / 2).clamp(-1, 1))
        figure = fvd.compute()  # gathers the clips of all processes
        if not several or dist.get_rank() == 0:
            print(
                f"epoch {epoch}: loss {loss.item():.3f}, FVD {float(figure):.1f} of {figure.record.num_samples} clips"
            )
        fvd.reset()
    if several:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
