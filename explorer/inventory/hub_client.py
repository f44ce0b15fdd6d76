"""The hub's own client, an optional package, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import importlib
from collections.abc import Iterator
from typing import Any

from explorer.errors import CheckpointError, StackError, UsageError

FOLDER_VARIABLE, BUDGET_VARIABLE = "EXPLORER_HUB_CACHE", "EXPLORER_HUB_CACHE_GB"
"""Environment variables: the folder of downloaded checkpoints, and how large it may become."""

UNFIT = (TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""What the client raises when an answer is JSON of another form than it expects."""

OTHERS_STAY = "The other checkpoints stay usable."


def load_client() -> Any:
    """Load the hub's client, an optional package."""
    try:
        client = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.file_download")
    except ImportError as error:
        raise UsageError(
            "Stacks of the hub need the package huggingface_hub, which is not installed.",
            "Folders and files on this machine can be opened without it.",
            "Run `pip install 'layer-explorer[hub]'`.",
        ) from error
    return client


@contextlib.contextmanager
def explained(
    what: str, missing: type[StackError] | type[CheckpointError] = CheckpointError
) -> Iterator[None]:
    """Turn what the client raises into an error with its three parts."""
    errors: Any = importlib.import_module("huggingface_hub.errors")
    # of the client's HTTP library, whichever it is
    names = ("HTTPError", "RequestException")
    http = next(one for one in errors.HfHubHTTPError.__mro__ if one.__name__ in names)
    try:
        yield
    except errors.GatedRepoError as error:
        raise missing(
            f"{what} is only given to those who have accepted its terms.",
            "A public repository, or one that your account may read, is needed.",
            "Accept the terms on its page, and log in with `hf auth login`.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise missing(
            f"The hub has no repository {what}, or it is not public.",
            "hub:OWNER/NAME, as on the hub's page, is needed.",
            "Correct the name; for a private one log in with `hf auth login`.",
        ) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise missing(
            f"The hub does not have {what} (any more): {_first_line(error)}",
            "A revision and a file that exist are needed.",
            OTHERS_STAY,
        ) from error
    except errors.HfHubHTTPError as error:
        if getattr(error.response, "status_code", 0) not in (401, 403):
            raise _unreached(what, error) from error
        raise missing(
            f"Your account is not allowed to read {what}: {_first_line(error)}",
            "A public repository, or one that your account may read, is needed.",
            "Log in with `hf auth login`, with a token that may read this repository.",
        ) from error
    except (http, errors.SafetensorsParsingError, OSError, ValueError, *UNFIT) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise CheckpointError(
                f"The disk was full while {what} was downloaded.",
                "Room for the whole file is needed; what had arrived has been removed.",
                f"Free some space, or choose another folder with {FOLDER_VARIABLE}.",
            ) from error
        raise _unreached(what, error) from error


def _unreached(what: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{what} could not be had from the hub: {_first_line(error)}",
        "A connection to the hub is needed for what is not on this machine yet.",
        f"Try again later, or work offline with HF_HUB_OFFLINE=1. {OTHERS_STAY}",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
