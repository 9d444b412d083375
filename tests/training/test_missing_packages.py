"""What the commands say where a package of an extra is not installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.colours import tree, write_data, write_encoder
from tests.commands import COMMAND_S, ROOT

EXTRAS = ("mlflow", "peft", "wandb")
RUN = "import sys; from training.adapt import main; print([main(a.split()) for a in sys.argv[1:]])"


def link_others(folder: Path) -> None:
    """Link all that is installed into a folder, besides the packages of extras."""
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(EXTRAS):
            (folder / entry.name).symlink_to(entry)


@pytest.mark.slow
def test_each_missing_package_is_one_line_with_how_to_install_it(tmp_path: Path) -> None:
    """Python without site-packages (`-S`) finds what the folder of links has."""
    packages = tmp_path / "packages"
    packages.mkdir()
    link_others(packages)
    write_encoder(tmp_path / "bert")
    write_data(tmp_path)
    config = tmp_path / "rove.yaml"
    config.write_text(yaml.safe_dump(tree(tmp_path, tmp_path)), "utf-8")
    overrides = (
        "adapt.method=adalora",
        "adapt.tracking.wandb_project=p",
        "adapt.tracking.mlflow_uri=sqlite:///outputs/runs",
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUN, *(f"{config} {one}" for one in overrides)],
        env={"PYTHONPATH": f"{ROOT}:{packages}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    assert done.stdout.splitlines()[-1] == "[2, 2, 2]", done.stderr
    assert done.stderr.splitlines() == [
        "training.adapt: adapt.method adalora needs peft, which is not installed: "
        "pip install 'rove[adapt]', or choose adapt.method=houlsby",
        "training.adapt: tracking.wandb_project is set, but wandb is not installed: "
        "pip install 'rove[tracking]'",
        "training.adapt: tracking.mlflow_uri is set, but mlflow is not installed: "
        "pip install 'rove[tracking]'",
    ]
