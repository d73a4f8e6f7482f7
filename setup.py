from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="hpdm",
    version="0.1.0",
    description="Hierarchical Patch Diffusion Models for video, and the bench that judges video generators",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["hpdm", "hpdm.*", "hpdm_eval", "hpdm_eval.*", "baselines", "baselines.*"]),
    package_data={
        "hpdm": ["configs/*.yaml", "prompts/*.yaml", "weights/*"],
        "hpdm_eval": [
            "protocols/*.yaml", "backbones/weights/*", "backbones/*.yaml", "studies/*.yaml", "report/layouts/*.yaml",
            "report/page.*",
        ],
        "baselines": ["*.yaml", "published/*.yaml", "published/peers/*.yaml"],
    },
    # torch is bounded above because torchvision's newest release asks for a newer torch than it is tested with;
    # the bound is part of one resolve, so nothing below can pull another torch.
    install_requires=[
        "torch>=2.6,<2.14",
        "torch-fidelity>=0.4,<0.5",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-learn>=1.4",
        "pandas>=2.1",
        "matplotlib>=3.8",
        "click>=8.1",
        "pyyaml>=6",
        "safetensors>=0.4",
        "timm>=1.0.31",
        "tqdm>=4.65",
        "av>=12",
        'decord>=0.6; platform_machine=="x86_64" and sys_platform=="linux"',
    ],
    extras_require={
        "tb": ["tensorboard>=2.15"],
        "video": ["transformers>=4.53"],
        "text": ["transformers>=4.53", "sentencepiece>=0.2"],
        "test": ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.5", "hypothesis>=6.100", "mpmath>=1.3"],
    },
    entry_points={
        "console_scripts": [
            "hpdm-train = hpdm.cli:train",
            "hpdm-sample = hpdm.cli:sample",
            "hpdm-info = hpdm.cli:info",
            "hpdm-eval = hpdm_eval.cli:main",
            "hpdm-reconstruct = baselines.reconstruct:reconstruct",
        ],
        # What `hpdm-train --baseline NAME` finds.
        "hpdm.methods": [
            "full-resolution = baselines.full_resolution:FullResolution",
            "cascade = baselines.cascade:Cascade",
            "patch-diffusion = baselines.patch_diffusion:PatchDiffusion",
            "autoencoder = baselines.autoencoder:Autoencoder",
            "latent = baselines.latent:Latent",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
