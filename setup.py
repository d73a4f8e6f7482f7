import json
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
DECORD = 'decord>=0.6; platform_machine=="x86_64" and sys_platform=="linux"'  # built for nothing else
TORCH_FIDELITY = "torch-fidelity>=0.4,<0.5"
BUILD_FILE = Path("hpdm", "_build.json")


def revision():
    """Commit of this tree, "-dirty" with local changes; that of the source archive it is; or None."""
    if not (ROOT / ".git").exists():
        file = ROOT / BUILD_FILE
        return json.loads(file.read_text(encoding="utf-8"))["git"] if file.is_file() else None

    def git(*words):
        command = ["git", "-c", f"safe.directory={ROOT.resolve()}", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def write_revision(folder):
    path = Path(folder) / BUILD_FILE
    path.write_text(json.dumps({"git": revision()}) + "\n", encoding="utf-8")


class BuildWithCommit(build_py):
    """Records of an installed package name the commit it was built from."""

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            write_revision(self.build_lib)


class SdistWithCommit(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        write_revision(base_dir)


setup(
    name="hpdm",
    version="0.1.0",
    description="Hierarchical Patch Diffusion Models for video, and an evaluation suite with traceable results",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit},
    packages=find_packages(include=["hpdm", "hpdm.*", "hpdm_eval", "hpdm_eval.*", "baselines", "baselines.*"]),
    package_data={
        "hpdm": ["py.typed", "configs/*.yaml", "prompts/*.yaml", "weights/*"],
        "hpdm_eval": [
            "py.typed",
            "*.pyi",
            "protocols/*.yaml",
            "backbones/weights/*",
            "backbones/*.yaml",
            "studies/*.yaml",
            "report/layouts/*.yaml",
            "records/*.json",
            "report/page.*",
            "report/*.html",
            "report/*.jinja*",
            "report/*.md",
        ],
        "baselines": ["*.yaml", "published/*.yaml", "published/peers/*.yaml"],
    },
    # No upper bounds: whoever has a torch keeps it. Nothing here needs torchvision, whose releases each ask for one
    # exact torch and would exchange the one that is installed; it comes with the extras `fid` and `test`. The versions
    # that this tree is tested with are in constraints.txt.
    install_requires=[
        "torch>=2.6",
        "torchmetrics>=1.4",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-learn>=1.4",
        "threadpoolctl>=3.1",
        "pandas>=2.1",
        "pyarrow>=15",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "click>=8.1",
        "pyyaml>=6",
        "safetensors>=0.4",
        "huggingface_hub>=0.30",
        "fsspec>=2023.1",
        "platformdirs>=4",
        "lazy_loader>=0.4",
        "tqdm>=4.65",
        "av>=18",
    ],
    extras_require={
        # What reading videos is compared with; no command needs it.
        "bench": [DECORD],
        # The network of FID, as its authors' TensorFlow graph computes it.
        "fid": [TORCH_FIDELITY],
        # Kept for `pip install 'hpdm[shards]'`; s3fs, gcsfs or huggingface_hub bring the kind of address.
        "shards": [],
        "tb": ["tensorboard>=2.15"],
        "video": ["transformers>=4.53"],
        "text": ["transformers>=4.53", "sentencepiece>=0.2"],
        "slurm": ["submitit>=1.5"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "mpmath>=1.3",
            "submitit>=1.5",
            "webdataset>=0.2.86",
            "jsonschema>=4.20",
            "timm>=1.0.31",
            TORCH_FIDELITY,
            DECORD,
        ],
    },
    entry_points={
        "console_scripts": [
            "hpdm-train = hpdm.commands.entry:train",
            "hpdm-sample = hpdm.commands.entry:sample",
            "hpdm-info = hpdm.commands.entry:info",
            "hpdm-data = hpdm.commands.entry:data",
            "hpdm-eval = hpdm_eval.commands.entry:main",
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
        # What `hpdm-train --eval-every` finds.
        "hpdm.evaluators": ["hpdm-eval = hpdm_eval.evaluation.while_training:Evaluator"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
