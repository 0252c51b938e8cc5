"""Installs the three folders under one import root: revit.common, revit.image, revit.video."""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("common", "image", "video")
VIDEO_READERS = ["av>=17", "decord>=0.6; sys_platform != 'darwin' and platform_machine in 'x86_64 AMD64'"]

setup(
    name="revit-video",
    version="0.1.0",
    description="Video and image transformers that spend few tokens on easy inputs and many on hard ones",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # Explicit names: automatic discovery does not see packages mapped by package_dir.
    packages=[
        name
        for folder in FOLDERS
        for name in (f"revit.{folder}", *(f"revit.{folder}.{sub}" for sub in find_packages(folder)))
    ],
    package_dir={f"revit.{folder}": folder for folder in FOLDERS},
    package_data={
        **{f"revit.{folder}": ["py.typed"] for folder in FOLDERS},
        "revit.common.config": ["schemas/*.json"],
        "revit.common.report": ["template.html", "style.css", "sort.js"],
    },
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "timm>=1.0.20",
        "pillow",
        "numpy>=1.26",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "rich>=13.7",
        "safetensors>=0.4.3",
        "fvcore>=0.1.5.post20221221",
        "pytorchvideo>=0.1.5",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        *VIDEO_READERS,
    ],
    extras_require={
        "train": ["deepspeed>=0.19.8; sys_platform == 'linux'", "tensorboard>=2.14"],
        "peers": ["transformers>=4.46"],
        "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.8", "mypy>=1.13", "types-PyYAML", "pip-tools>=7.4"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
    },
)
