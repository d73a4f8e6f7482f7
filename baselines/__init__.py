"""What HPDM is compared with, each as a method of `hpdm.methods`: same RIN blocks, data, training loop and sampler.

method.py            what those with settings of their own derive from
full_resolution.py   one RIN on whole videos
cascade.py           cascaded diffusion: an independent network per level
patch_diffusion.py   one network on random patches of whole videos
latent.py            latent diffusion, in the latent space of
autoencoder.py       a 3-D convolutional autoencoder, which is trained first
reconstruct.py       how well the autoencoder reconstructs
budget.py            how many steps of each cost as much as a run of HPDM
"""
