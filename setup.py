"""Package metadata for setuptools, read from settings.ini (the one place to edit).

Every `NAME_requirements` key of settings.ini becomes the extra `NAME`. A built package also carries
the tiny base models, which in a clone lie in data/tiny-*.
"""

import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

LICENSES = {"apache2": "Apache-2.0", "mit": "MIT"}
STATUSES = {"2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}

ini = ConfigParser(delimiters=["="])
ini.read("settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
lib = cfg["lib_path"]
readme = Path("README.md")
extras = {
    k.removesuffix("_requirements"): shlex.split(v)
    for k, v in cfg.items()
    if k.endswith("_requirements")
}


class BuildWithBase(build_py):
    """Copies data/tiny-* into the package; an editable installation finds them where they are."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        for base in Path("data").glob("tiny-*"):
            if not self.editable_mode:
                target = Path(self.build_lib) / lib / "presets" / base.name
                shutil.copytree(base, target, dirs_exist_ok=True)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"],
    license=LICENSES[cfg["license"]],
    classifiers=[
        f"Development Status :: {STATUSES[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    url=cfg["git_url"],
    python_requires=">=" + cfg["min_python"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    packages=find_packages(include=[lib, f"{lib}.*"]),
    include_package_data=True,
    cmdclass={"build_py": BuildWithBase},
    package_data={lib: cfg["package_data"].split()},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
)
