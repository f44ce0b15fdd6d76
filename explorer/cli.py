"""The command `explorer`: the public functions for people who are not in Python."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import explorer
from explorer.commands import compare, criticality, effective, motion, outputs, paths, verdicts
from explorer.doctor import commands as doctor
from explorer.errors import ExplorerError, UsageError

# What a command needs is imported inside it: torch, bokeh and numba take seconds, and
# `explorer --help` needs none of them.

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: done. 2: bad input, explained on standard error. 130: interrupted, what was measured is
    kept.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except ExplorerError as error:
        print(f"explorer: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("explorer: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has left
        sys.stdout = None  # nothing more to flush at exit
        return 0


def _catalog(options: argparse.Namespace) -> int:
    frame = explorer.catalog()
    stacks = frame[frame["kind"] == "stack"]
    print("Stacks (test error, checkpoints, megabytes, parameters, title, dataset):\n")
    for name, row in stacks.iterrows():
        size = f"{row['checkpoints']:>4.0f}{row['megabytes']:>6.1f}{row['parameters']:>12,.0f}"
        print(f"{name:<20}{row['test_error']:>6.1%}{size}  {row['title']} · {row['dataset']}")
    recipes = frame[frame["kind"] == "recipe"]
    if len(recipes):
        print("\nTo be trained with explorer train NAME (parameters, title, dataset):\n")
    for name, row in recipes.iterrows():
        print(f"{name:<20}{row['parameters']:>12,}  {row['title']} · {row['dataset']}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from explorer.training.settings import assignments
    from explorer.weights.folder import seed_folder

    shortcuts = {key: getattr(options, key) for key in ("width", "keep", "steps")}
    settings = {k: v for k, v in shortcuts.items() if v is not None} | assignments(options.set)
    out = Path(options.out or Path("trained") / options.name)
    runs = {options.seed: out}
    if options.seeds:
        runs = {seed: seed_folder(out, seed) for seed in _whole_numbers(options.seeds)}
    for seed, target in runs.items():
        folder = explorer.train(
            options.name,
            out=target,
            device=options.device,
            resume=not options.restart,
            epochs=options.epochs,
            seed=seed,
            progress=not options.quiet,
            settings=settings,
            data=options.data,
        )
        stack = explorer.open_stack(folder)
        numbers = stack.coords["epoch"].values.tolist()
        print(f"Stack with {stack.attrs['checkpoint_unit']}s {numbers} in {folder}", flush=True)
    return 0


def _data(options: argparse.Namespace) -> int:
    from explorer.data.datasets import dataset_names, download_dataset

    if options.name is None:
        print("\n".join(dataset_names()))
        return 0
    if not options.download:
        from explorer.data.datasets import load_test_set

        found = load_test_set(options.name, options.folder)
        shape = "×".join(map(str, found.inputs.shape[1:]))
        print(f"{options.name}: {len(found):,} test examples of {shape}")
        return 0
    print(f"Data: {download_dataset(options.name, options.folder)}")
    return 0


def _whole_numbers(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(
            f"The seeds are {text!r}.",
            "Whole numbers with commas between them are accepted.",
            "Write --seeds 0,1,2.",
        ) from error


def _sweep(options: argparse.Namespace) -> int:
    from explorer.ui.table import sweep_text

    with _cluster(options.cluster) as client:
        result = explorer.sweep(
            explorer.open_stack(options.stack),
            layers=options.layers,
            epochs=options.epochs,
            draws=options.draws,
            seed=options.seed,
            device=options.device,
            batch_size=options.batch_size,
            batchnorm=options.batchnorm,
            store=options.store,
            tolerance=options.tolerance,
            screen=options.screen,
            memory=options.memory,
            client=client,
        )
    print(sweep_text(result, options.threshold))
    if options.out:
        from explorer.api import save_netcdf

        print(f"Data: {save_netcdf(result, options.out)}")
    return 0 if result.attrs["complete"] else EXIT_INTERRUPTED


def _cluster(address: str | None) -> contextlib.AbstractContextManager[Any]:
    """Client of the cluster at an address; None where none is given."""
    if address is None:
        return contextlib.nullcontext()
    from explorer.engine.cluster import connect

    client: contextlib.AbstractContextManager[Any] = connect(address)
    return client


def _distances(options: argparse.Namespace) -> int:
    from explorer.api import save_netcdf
    from explorer.stats.overview import gaps

    stack = explorer.open_stack(options.stack)
    result = explorer.distances(stack, reference=options.reference)
    print(f"{options.measure} from {stack.attrs['checkpoint_unit']} {options.reference}")
    table = result[options.measure].to_pandas().rename_axis(index=None)
    print("\n".join([table.to_string(na_rep="–"), *gaps(result)]))
    if options.out:
        print(f"Data: {save_netcdf(result, options.out)}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from explorer.api import save_netcdf
    from explorer.ui.report import write_report
    from explorer.ui.table import sweep_text

    folder = Path(options.out)
    stack = explorer.open_stack(options.stack)
    result = explorer.sweep(stack, draws=options.draws, seed=options.seed, device=options.device)
    distances = explorer.distances(stack, draws=options.draws, seed=options.seed)
    print(sweep_text(result, options.threshold))
    print(f"\nData:   {save_netcdf(result, folder / 'sweep.nc')}")
    print(f"        {save_netcdf(distances, folder / 'distances.nc')}")
    print(f"Report: {write_report(result, distances, folder / 'report.html')}")
    return 0 if result.attrs["complete"] else EXIT_INTERRUPTED


def _lab(options: argparse.Namespace) -> int:
    from explorer.servers import open_lab

    return open_lab(Path(options.folder), options.port, not options.no_browser)


def _dashboard(options: argparse.Namespace) -> int:
    from explorer.servers import open_dashboard

    return open_dashboard(options.stack, options.port, not options.no_browser)


# --- the command line ------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="explorer",
        description="Which layers of a trained network matter, and since when?",
        epilog="example: explorer sweep fcn3x256-digits",
    )
    parser.add_argument("--version", action="version", version=explorer.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_catalog(commands)
    _add_data(commands)
    _add_train(commands)
    _add_sweep(commands)
    _add_distances(commands)
    _add_report(commands)
    for module in (verdicts, effective, outputs, motion, criticality, paths, compare):
        module.add(_command(commands, module.NAME, module.SUMMARY, module.EXAMPLES))
    _add_check(commands)
    _add_diff(commands)
    _add_lab(commands)
    _add_dashboard(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _add_catalog(commands: Commands) -> None:
    command = _command(commands, "catalog", "list the stacks there are", "explorer catalog")
    command.set_defaults(run=_catalog)


def _add_data(commands: Commands) -> None:
    example = "explorer data\n  explorer data cifar10 --download\n  explorer data folder:/my/images"
    command = _command(commands, "data", "list, check and download datasets", example)
    command.add_argument("name", nargs="?", help="dataset to check; without it all are listed")
    command.add_argument("--download", action="store_true", help="fetch it, files verified")
    command.add_argument("--folder", help="where datasets are kept; default a cache folder")
    command.set_defaults(run=_data)


def _add_train(commands: Commands) -> None:
    example = (
        "explorer train fcn3x256-digits --out my-stack\n"
        "  explorer train fcn3x256-digits --seeds 0,1,2 --epochs 30\n"
        "  explorer train vgg11-cifar10 --width 0.25 --keep 0,1,10,100 --steps 1,2,4,8\n"
        "  explorer train resnet18bn-cifar10 --set weight_decay=5e-4 --set label_noise=1 "
        "--set augment=0\n"
        "  explorer train resnet50-imagenet --set dataset=folder:/data/imagenet "
        "--set precision=bf16"
    )
    command = _command(commands, "train", "train a stack from its recipe", example)
    command.add_argument("name", help="name of the experiment; explorer catalog lists them")
    command.add_argument("--out", help="folder for the checkpoints; default trained/NAME")
    command.add_argument("--epochs", type=int, help="passes over the training set")
    command.add_argument("--width", help="width of the network, as its family counts it")
    seeds = command.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="seed of initial values and order")
    seeds.add_argument("--seeds", help="several, with commas: one folder seed-N per run")
    command.add_argument("--keep", help="epochs whose checkpoint is kept, with commas")
    command.add_argument(
        "--steps", help="optimiser steps whose checkpoint is kept as well; the stack counts steps"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any number of the recipe or size of the family; an unknown key lists those there are",
    )
    command.add_argument("--data", help="folder of downloaded datasets")
    command.add_argument("--restart", action="store_true", help="begin anew instead of going on")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_device(command)
    command.set_defaults(run=_train)


def _add_sweep(commands: Commands) -> None:
    example = (
        "explorer sweep fcn3x256-digits --out sweep.nc\n"
        "  explorer sweep my-stack --layers layer1 layer2 --epochs 0 1 --draws 5"
    )
    command = _command(commands, "sweep", "measure every (layer, epoch)", example)
    _add_stack(command)
    command.add_argument("--layers", nargs="+", help="layers to sweep; default all")
    command.add_argument("--epochs", nargs="+", type=int, help="checkpoints to take; default all")
    command.add_argument("--batch-size", type=int, help="examples per forward pass")
    command.add_argument("--out", help="netCDF file for the data")
    command.add_argument(
        "--tolerance", type=float, default=0.0, help="stop a cell when known to ± this fraction"
    )
    command.add_argument(
        "--screen",
        action="store_true",
        help="lower precision first, float32 where it decides a label",
    )
    command.add_argument(
        "--batchnorm",
        default="with_layer",
        choices=["with_layer", "weights_only", "recalibrate"],
        help="what happens to running statistics",
    )
    command.add_argument("--memory", type=int, help="bytes that the values of one pass may take")
    command.add_argument("--store", help="file that keeps finished cells, to go on after a stop")
    command.add_argument("--cluster", help="measure on a Dask cluster: address of its scheduler")
    _add_measuring(command)
    command.set_defaults(run=_sweep)


def _add_distances(commands: Commands) -> None:
    example = "explorer distances fcn3x256-digits --measure linf --out distances.nc"
    command = _command(commands, "distances", "measure how far weights moved", example)
    _add_stack(command)
    command.add_argument("--reference", type=int, default=0, help="checkpoint to measure from")
    measures = ["l1", "l2", "l2_per_sqrt_m", "l2_per_sqrt_fan_in", "l2_relative", "linf", "cosine"]
    command.add_argument(
        "--measure", choices=measures, default="l2_per_sqrt_m", help="what to print"
    )
    command.add_argument("--out", help="netCDF file for all measures")
    command.set_defaults(run=_distances)


def _add_report(commands: Commands) -> None:
    example = "explorer report fcn3x256-digits --out explorer-report"
    command = _command(
        commands, "report", "sweep, and write report.html and the data as netCDF", example
    )
    _add_stack(command)
    command.add_argument("--out", default="explorer-report", help="folder for the files")
    _add_measuring(command)
    command.set_defaults(run=_report)


def _add_check(commands: Commands) -> None:
    summary = "examine a stack, damaged or not"
    doctor.add_check_options(_command(commands, "check", summary, doctor.CHECK_EXAMPLES))


def _add_diff(commands: Commands) -> None:
    summary = "compare two stacks or checkpoints, layer by layer"
    doctor.add_diff_options(_command(commands, "diff", summary, doctor.DIFF_EXAMPLES))


def _add_lab(commands: Commands) -> None:
    example = "explorer lab\n  explorer lab my-folder --port 8890 --no-browser"
    command = _command(commands, "lab", "open the first notebook in JupyterLab", example)
    command.add_argument("folder", nargs="?", default=".", help="where to put the notebook")
    _add_serving(command)
    command.set_defaults(run=_lab)


def _add_dashboard(commands: Commands) -> None:
    example = "explorer dashboard\n  explorer dashboard vit-digits --port 8891 --no-browser"
    command = _command(commands, "dashboard", "show the explorer alone in a browser", example)
    command.add_argument("stack", nargs="?", help="name of a stack, or a folder of checkpoints")
    _add_serving(command)
    command.set_defaults(run=_dashboard)


def _add_serving(command: argparse.ArgumentParser) -> None:
    command.add_argument("--port", type=int, help="port to listen on; default a free one")
    command.add_argument("--no-browser", action="store_true", help="only print the address")


def _command(commands: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_stack(command: argparse.ArgumentParser) -> None:
    command.add_argument("stack", help="name of a stack, or a folder of checkpoints")


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def _add_measuring(command: argparse.ArgumentParser) -> None:
    command.add_argument("--draws", type=int, default=3, help="fresh draws per layer")
    command.add_argument("--seed", type=int, default=0, help="seed of the fresh draws")
    command.add_argument(
        "--threshold", type=float, default=0.1, help="share of the way to chance that is critical"
    )
    _add_device(command)
