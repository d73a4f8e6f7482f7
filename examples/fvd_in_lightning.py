"""FVD in Lightning: `python examples/fvd_in_lightning.py`. Without the package lightning it says so and ends.

The metric is an attribute of the module, so that Lightning moves it to the module's device; under several devices it
gathers all their clips. The toy and its judge are those of fvd_in_training_loop.py.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hpdm_eval
from hpdm.data.procedural import procedural_clip

FVD = hpdm_eval.FVD  # before lightning, which imports torchmetrics

try:
    import lightning
except ImportError:
    sys.exit("this example needs the package lightning: pip install lightning")

FRAMES, SIZE = 8, 32


class Cleaner(lightning.LightningModule):
    """Learns to clean noisy clips."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv3d(3, 16, 3, padding=1), nn.GELU(), nn.Conv3d(16, 3, 3, padding=1))
        self.fvd = FVD(backbone="shapes3d", frames=FRAMES)

    def forward(self, real):
        return self.model(real + torch.randn_like(real) / 2)

    def training_step(self, batch, index):
        return nn.functional.mse_loss(self(batch[0]), batch[0])

    def validation_step(self, batch, index):
        self.fvd.update(batch[0], real=True)
        self.fvd.update(self(batch[0]).clamp(-1, 1))

    def on_validation_epoch_end(self):
        self.log("fvd", float(self.fvd.compute()))
        self.fvd.reset()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


def clips(count, seed):
    """Drawn clips, float32 [N, 3, T, H, W] in [-1, 1]; yours come from files."""
    videos = [torch.from_numpy(procedural_clip(seed, index, FRAMES, SIZE, SIZE)[0]) for index in range(count)]
    return TensorDataset(torch.stack(videos).permute(0, 4, 1, 2, 3) / 127.5 - 1)


def main():
    lightning.seed_everything(0)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="auto",
        devices=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Cleaner(), DataLoader(clips(32, 0), batch_size=8), DataLoader(clips(24, 1), batch_size=8))
    print(f"FVD {trainer.callback_metrics['fvd']:.1f}")


if __name__ == "__main__":
    main()
