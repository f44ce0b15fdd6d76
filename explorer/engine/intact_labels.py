"""The labels that the intact network predicts, with which every intervention is compared."""

from __future__ import annotations

import torch
from torch import Tensor

from explorer.engine.estimate import Ranking
from explorer.engine.execution import Execution
from explorer.engine.screen import Watch, margins
from explorer.errors import DataError


class IntactLabels:
    """Labels of the intact network, slice by slice, as far as they have been asked for.

    Where its logits come in lower precision, float32 decides what they do not settle, before
    anything is compared with a slice's labels.

    Parameters
    ----------
    execution : Execution
        Runs slices of its batch size.
    inputs : Tensor
        (example, …), filled up to whole slices where these are of a fixed size.
    labels : Tensor
        (example,) or (example, position) true labels.
    dataset : str
        Its name, for error messages.

    Attributes
    ----------
    predicted : Tensor
        (label,) predicted labels; those of slices that are not known mean nothing.
    changes : int
        How often labels have become others after they were known.
    """

    def __init__(self, execution: Execution, inputs: Tensor, labels: Tensor, dataset: str) -> None:
        self._execution, self._inputs, self._dataset = execution, inputs, dataset
        self._labels, self._examples = labels.flatten(), len(labels)
        self._per_example = labels[0].numel()
        self._size = execution.batch_size
        self.predicted = torch.empty_like(self._labels)
        self.changes = 0
        self._known: dict[int, bool] = {}  # slice → whether it rests on the lower precision
        error = execution.intact_error
        self._watch = None if error is None else Watch.knowing(error)
        self._check = execution.prepare_check({}) if self._watch else None

    def __contains__(self, start: int) -> bool:
        """Whether the labels of the slice that begins there are known."""
        return start in self._known

    def __len__(self) -> int:
        """Slices that are known."""
        return len(self._known)

    @property
    def low(self) -> bool:
        """Whether logits in lower precision will do."""
        return self._watch is not None

    def all(self) -> Tensor:
        """Predict for all examples, (label,); only slices that are not known yet are run."""
        for start in range(0, self._examples, self._size):
            self.need(start)
        return self.predicted

    def need(self, start: int) -> None:
        """Run a slice in float32, unless its labels are known."""
        if start not in self:
            self.run(start)

    def run(self, start: int) -> None:
        """Run a slice in float32 and learn its labels."""
        first = self._execution.first_logits
        if start == 0 and first is not None:
            self.learn(first, start)
            return
        inputs = self._inputs[start : start + self._size]
        for _, logits in self._execution.run(inputs, [], True):
            self.learn(logits, start)

    def learn(self, logits: Tensor, start: int, *, low: bool = False) -> None:
        """Learn the labels of a slice; what is known stays.

        Parameters
        ----------
        logits : Tensor
            (example, …, class) of the slice, which may be filled up.
        start : int
            Its first example.
        low : bool
            Whether they were computed in lower precision, which takes a label per example.

        Raises
        ------
        DataError
            The labels are not those of this network.
        """
        if start in self:  # they came by themselves, since other logits had to wait for them
            return
        examples = range(start, min(start + self._size, self._examples))
        chosen = slice(start * self._per_example, examples.stop * self._per_example)
        ranking = Ranking(logits[: len(examples)].flatten(0, -2))
        self._refuse(self._labels[chosen], ranking.logits)
        self.predicted[chosen] = ranking.label
        self._known[start] = low
        if low:
            self._settle(ranking, examples)

    def _refuse(self, labels: Tensor, logits: Tensor) -> None:
        """Raise an error where labels cannot be those of the network's logits (label, class)."""
        if len(logits) != len(labels):
            raise DataError(
                f"The network gives {len(logits)} rows of logits for {len(labels)} labels.",
                "One row per label is needed.",
                "Use the dataset the network was trained on.",
            )
        highest, classes = int(self._labels.max()), logits.shape[1]
        if highest >= classes:
            raise DataError(
                f"The dataset {self._dataset} has a label {highest}.",
                f"The network has {classes} outputs: labels 0 to {classes - 1}.",
                "Use the dataset the network was trained on.",
            )

    def _settle(self, ranking: Ranking, examples: range) -> None:
        """Let float32 decide where a margin is thin; in earlier slices, too, as errors grow."""
        assert self._watch is not None
        numbers = torch.arange(examples.start, examples.stop, device=self.predicted.device)
        self._watch.keep(numbers, margins(ranking), ranking.logits)
        for some, low in self._watch.thinnest(self._execution.check_size):
            (exact,) = self._execution.exact(self._inputs[some], [({}, self._check)])
            self._watch.learn(low, exact)
            label = exact.argmax(1)
            earlier = some < examples.start
            self.changes += not torch.equal(self.predicted[some][earlier], label[earlier])
            self.predicted[some] = label
        if self._watch.failed:
            self._give_up(examples.start)

    def _give_up(self, current: int) -> None:
        """Run in float32 what has been screened, and screen no more."""
        self._watch = None
        for start in [start for start, low in self._known.items() if low]:
            chosen = slice(start, start + self._size)
            before = self.predicted[chosen].clone()
            del self._known[start]
            self.run(start)
            self.changes += start != current and not torch.equal(before, self.predicted[chosen])
