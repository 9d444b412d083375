"""Where tokens and checkpoints are: a folder that all workers see, or an address on S3.

S3's key, region and endpoint are those of the AWS clients: `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION` and `AWS_ENDPOINT_URL` in the surroundings of the
command, `~/.aws`, or the machine's role. The endpoint goes to every node; a key is never written or
sent, each node needs its own.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from rove.errors import ConfigError, DataError, shown

_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of what it would go on from


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A place that can be written."""

    address: str
    """An absolute path or an address."""
    filesystem: pa.fs.FileSystem
    folder: str
    """`address` within the file system."""

    @classmethod
    def open(cls, wanted: str | Path, section: str = "pretrain") -> Storage:
        """Make the place and try to write to it; `section` names the settings in errors."""
        text = str(wanted)
        address = text if "://" in text else str(Path(text).resolve())
        try:
            filesystem, folder = pa.fs.FileSystem.from_uri(address)
            filesystem.create_dir(folder)
            probe = f"{folder}/.probe-{uuid.uuid4().hex}"
            with filesystem.open_output_stream(probe) as sink:
                sink.write(b"rove")
            filesystem.delete_file(probe)
        except (OSError, pa.ArrowException) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            reason = reason.partition(". To create buckets, ")[0]  # Arrow's option, not Rove's
            raise ConfigError(
                f"{shown(text)} ({section}.path, .storage) cannot be written: {reason}; "
                "give a folder or an s3:// address with permission to write"
            ) from None
        return cls(address=address, filesystem=filesystem, folder=folder)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a file of the folder, none if it is not there."""
        path = f"{self.folder}/{name}"
        if self.filesystem.get_file_info(path).type != pa.fs.FileType.File:
            return None
        with self.filesystem.open_input_stream(path) as source:
            try:
                tree: dict[str, Any] = json.loads(source.read())
            except ValueError as error:
                raise DataError(
                    f"{self.address}/{name} is damaged: {error}; remove {self.address} to start "
                    "anew, or give another folder"
                ) from None
        return tree

    def write_json(self, name: str, tree: dict[str, Any]) -> None:
        """Write a file of the folder."""
        with self.filesystem.open_output_stream(f"{self.folder}/{name}") as sink:
            sink.write(json.dumps(tree, indent=1).encode())

    def checkpoints(self, run: str) -> list[str]:
        """Return the folders of the checkpoints that Ray Train knows, oldest first."""
        path = f"{self.folder}/{run}/{_SNAPSHOT}"
        if self.filesystem.get_file_info(path).type != pa.fs.FileType.File:
            return []
        with self.filesystem.open_input_stream(path) as source:
            known = source.read().decode()
        selector = pa.fs.FileSelector(f"{self.folder}/{run}")
        folders = [one.base_name for one in self.filesystem.get_file_info(selector)]
        return [f"{run}/{name}" for name in sorted(folders) if f'"{name}"' in known]

    @contextmanager
    def latest(self, run: str) -> Iterator[Path | None]:
        """Give a local copy of the latest checkpoint, none if there is none, for a while."""
        known = self.checkpoints(run)
        with tempfile.TemporaryDirectory() as folder:
            if known:
                self.fetch(known[-1], Path(folder))
            yield Path(folder) if known else None

    def fetch(self, folder: str, target: Path) -> None:
        """Copy a folder of the storage to a local one."""
        pa.fs.copy_files(f"{self.folder}/{folder}", str(target), source_filesystem=self.filesystem)
