"""The explorer as an engine of xarray: ``xr.open_datatree("folder", engine="explorer")``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xarray.backends import BackendEntrypoint

from explorer.errors import unknown_name
from explorer.inventory.store import STACK_FILE

if TYPE_CHECKING:
    import xarray as xr


class StackBackend(BackendEntrypoint):
    """Opens what `explorer.open_stack` opens: names of the catalog, folders, files."""

    description = "Open the checkpoints of a training run as a stack of layers"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "group")
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Say yes to a folder that holds a stack.json, and to nothing else."""
        if not isinstance(filename_or_obj, (str, os.PathLike)):
            return False
        return (Path(filename_or_obj) / STACK_FILE).is_file()

    def open_datatree(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None
    ) -> xr.DataTree:
        """Open a stack as a tree: a node per layer, ``epoch`` at the root."""
        tree = _open(filename_or_obj)
        for node in tree.subtree if drop_variables is not None else ():
            dataset = node.to_dataset(inherit=False)
            node.dataset = dataset.drop_vars(_dropped(drop_variables, dataset))
        return tree

    def open_groups_as_dict(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None
    ) -> dict[str, xr.Dataset]:
        """Open a stack as datasets: its root, and one for each layer."""
        tree = self.open_datatree(filename_or_obj, drop_variables=drop_variables)
        return {node.path: node.to_dataset(inherit=False) for node in tree.subtree}

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
    ) -> xr.Dataset:
        """Open one layer, the `group`; without one, as of any file with groups, the root."""
        tree = _open(filename_or_obj)
        name = (group or "/").strip("/")
        if name and name not in tree.children:
            raise unknown_name("layer", name, tree.attrs["layers"])
        dataset = (tree.children[name] if name else tree).to_dataset()
        return dataset.drop_vars(_dropped(drop_variables, dataset))


def _open(source: Any) -> xr.DataTree:
    from explorer.weights.stack import open_stack  # xarray asks every engine before it opens

    return open_stack(source)


def _dropped(names: str | Iterable[str] | None, dataset: xr.Dataset) -> list[str]:
    wanted = [names] if isinstance(names, str) else list(names or ())
    return [name for name in wanted if name in dataset.variables]
