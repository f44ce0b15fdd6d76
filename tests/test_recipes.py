"""Recipes: their numbers, settings by name, and the experiments that there are."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from explorer.data.datasets import dataset_names
from explorer.errors import ManifestError, StackError, UnknownNameError, UsageError
from explorer.inventory.manifest import SCHEMA_FILE, load_manifest, parse_manifest
from explorer.inventory.store import manifest_path
from explorer.training.recipe import OPTIMISERS, PRECISIONS, SCHEDULES, Recipe
from explorer.training.recipes import BUNDLED, EXPERIMENTS, find_experiment
from explorer.training.settings import assignments, with_settings
from explorer.training.train import CITATION
from explorer.weights.families.known import find_family

FCN = EXPERIMENTS["fcn3x256-digits"]
VGG = EXPERIMENTS["vgg11-cifar10"]


# --- the numbers of a recipe -----------------------------------------------------------------


def test_the_learning_rate_falls_to_a_fifth_after_30_60_and_90_percent():
    recipe = Recipe(epochs=100, learning_rate=1.0)
    rates = [recipe.rate(epoch) for epoch in (1, 30, 31, 60, 61, 90, 91, 100)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008])


def test_a_run_of_one_epoch_begins_with_the_full_rate():
    assert Recipe(epochs=1, learning_rate=1.0).rate(1) == 1.0


def test_within_an_epoch_the_rate_of_steps_stays_the_same():
    recipe = Recipe(epochs=10, learning_rate=1.0)
    assert {recipe.rate(4, step, 12) for step in range(1, 13)} == {0.2}


def test_the_cosine_begins_at_the_rate_is_half_of_it_in_the_middle_and_ends_near_zero():
    recipe = Recipe(epochs=4, learning_rate=2.0, schedule="cosine")
    rates = [recipe.rate(e, s, 5) for e in range(1, 5) for s in range(1, 6)]
    assert rates[0] == 2.0
    assert rates[10] == pytest.approx(1.0)
    assert 0 < rates[-1] < 0.02
    assert rates == sorted(rates, reverse=True)


def test_a_warm_up_is_a_straight_line_over_its_epochs():
    recipe = Recipe(learning_rate=1.0, warmup=2)
    rates = [recipe.rate(e, s, 4) for e in (1, 2, 3) for s in (1, 2, 3, 4)]
    assert rates == pytest.approx([k / 8 for k in range(1, 9)] + [1.0] * 4)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"epochs": 0}, r"epochs is 0(.|\n)*at least 1(.|\n)*default, 100"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, r"learning_rate is 0.0(.|\n)*above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"decay_at": (0.3, 30)}, r"decay_at is \(0.3, 30\)(.|\n)*fractions"),
        ({"decay_factor": 2.0}, "decay_factor is 2.0"),
        ({"threads": 0}, "threads is 0"),
        ({"optimiser": "adagrad"}, r"optimiser is adagrad(.|\n)*sgd, adam, adamw"),
        ({"betas": (0.9,)}, r"betas is \(0.9,\)(.|\n)*pair"),
        ({"schedule": "linear"}, r"schedule is linear(.|\n)*steps, cosine"),
        ({"warmup": -1.0}, "warmup is -1.0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"precision": "float16"}, r"precision is float16(.|\n)*float32, tf32, bf16"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"label_noise": 30.0}, r"label_noise is 30.0(.|\n)*share from 0 to 1"),
    ],
)
def test_a_number_that_nothing_can_be_trained_with_is_refused(values, match):
    with pytest.raises(UsageError, match=match):
        Recipe(**values)


def test_every_number_of_a_recipe_survives_the_manifest():
    other = Recipe(
        **{"epochs": 7, "batch_size": 9, "learning_rate": 0.5, "momentum": 0.0, "threads": 2},
        **{"weight_decay": 0.1, "decay_at": (0.5,), "decay_factor": 0.1, "optimiser": "adamw"},
        **{"betas": (0.8, 0.99), "schedule": "cosine", "warmup": 1.5, "accumulate": 3},
        **{"precision": "bf16", "clip_norm": 1.0, "augment": False, "label_noise": 0.25},
        **{"frozen": ("layer2", "layer3")},
    )
    assert all(getattr(other, field.name) != field.default for field in dataclasses.fields(Recipe))
    assert Recipe.from_json(json.loads(json.dumps(other.as_json()))) == other


def test_a_recipe_written_before_the_newer_fields_takes_their_defaults():
    old = dict(load_manifest()["fcn3x256-digits"].recipe)
    assert "optimiser" not in old
    assert Recipe.from_json(old) == FCN.recipe
    assert FCN.recipe.as_json() == old


def test_the_schema_knows_every_field_of_a_recipe_and_its_choices():
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    known = schema["$defs"]["stack"]["properties"]["recipe"]["properties"]
    assert list(known) == [field.name for field in dataclasses.fields(Recipe)]
    choices = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "precision": PRECISIONS}
    assert {name: tuple(known[name]["enum"]) for name in choices} == choices


# --- settings by name ------------------------------------------------------------------------


def test_text_and_python_values_set_the_same():
    as_text = {
        **{"weight_decay": "5e-4", "frozen": "layer2,layer3", "augment": "0", "width": "64"},
        **{"decay_at": "0.5,0.75", "keep": "0,1,10", "steps": "1,2", "optimiser": "adam"},
        **{"batchnorm": "1", "epochs": "12", "dataset": "digits28"},
    }
    as_values = {
        **{"weight_decay": 5e-4, "frozen": ["layer2", "layer3"], "augment": False, "width": 64},
        **{"decay_at": (0.5, 0.75), "keep": [0, 1, 10], "steps": [1, 2], "optimiser": "adam"},
        **{"batchnorm": True, "epochs": 12, "dataset": "digits28"},
    }
    changed = with_settings(FCN, as_text)
    assert changed == with_settings(FCN, as_values)
    assert changed.recipe == dataclasses.replace(
        FCN.recipe,
        **{"weight_decay": 5e-4, "frozen": ("layer2", "layer3"), "augment": False},
        **{"decay_at": (0.5, 0.75), "optimiser": "adam", "epochs": 12},
    )
    assert changed.sizes == {**FCN.sizes, "width": 64, "batchnorm": 1}
    assert (changed.keep, changed.steps, changed.unit) == ((0, 1, 10, 12), (1, 2), "step")


def test_without_settings_nothing_changes():
    for experiment in EXPERIMENTS.values():
        assert with_settings(experiment, {}) == experiment


def test_the_title_says_what_was_set_differently_and_not_what_was_not():
    settings = {"weight_decay": 0.1, "momentum": 0.9, "width": 0.25, "epochs": 3, "batchnorm": 0}
    titled = with_settings(VGG, settings).title
    assert titled == f"{VGG.title}, weight_decay 0.1, width 0.25"
    titled = with_settings(FCN, {"frozen": "layer2,layer3"}).title
    assert titled == f"{FCN.title}, frozen layer2,layer3"


def test_fewer_epochs_drop_the_checkpoints_beyond_them_and_keep_the_last():
    assert with_settings(FCN, {"epochs": 5}).keep == (0, 1, 2, 3, 5)
    assert with_settings(FCN, {"epochs": 200}).keep == (*FCN.keep, 200)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (
            {"weight_deacy": 1},
            UnknownNameError,
            r"no setting 'weight_deacy'(.|\n)*epochs, batch_size(.|\n)*width(.|\n)*keep, steps"
            r"(.|\n)*Did you mean 'weight_decay'",
        ),
        ({"epochs": "ten"}, UsageError, r"epochs is 'ten'(.|\n)*A whole number is accepted"),
        ({"epochs": "1.5"}, UsageError, r"epochs is '1.5'(.|\n)*A whole number"),
        ({"weight_decay": "much"}, UsageError, r"'much'(.|\n)*A number(.|\n)*weight_decay=5e-4"),
        ({"augment": "maybe"}, UsageError, r"augment is 'maybe'(.|\n)*0 or 1"),
        ({"label_noise": "2"}, UsageError, r"label_noise is 2.0"),
        ({"width": "0.25"}, UsageError, r"width is '0.25'(.|\n)*A whole number"),
        ({"width": "0"}, StackError, r"width is 0(.|\n)*a whole number from 1"),
        ({"keep": "1,101"}, UsageError, r"keep holds 101(.|\n)*from 0 to 100"),
        ({"keep": "1;2"}, UsageError, r"keep is '1;2'(.|\n)*keep=0,1,10,100"),
        ({"steps": "0,1"}, UsageError, r"steps holds 0(.|\n)*counted from 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_can(settings, error, match):
    with pytest.raises(error, match=match):
        with_settings(FCN, settings)


def test_a_width_is_what_the_family_counts():
    assert with_settings(VGG, {"width": "0.25"}).sizes["width"] == 0.25
    with pytest.raises(StackError, match=r"width is -1.0(.|\n)*a positive number"):
        with_settings(VGG, {"width": "-1"})


def test_typed_assignments_are_split_at_the_first_equals_sign():
    assert assignments(["a=1", "dataset=folder:x,side=64", "a=2"]) == {
        "a": "2",
        "dataset": "folder:x,side=64",
    }
    for typed in ("width", "=3"):
        with pytest.raises(UsageError, match=rf"'{typed}' has no name and value(.|\n)*key=value"):
            assignments([typed])


# --- the experiments -------------------------------------------------------------------------


def test_the_papers_experiments_are_there():
    wanted = {f"fcn{size}-{data}" for size in ("3x256", "5x512") for data in ("mnist", "cifar10")}
    wanted |= {f"vgg{d}{bn}-cifar10" for d in (11, 13, 16, 19) for bn in ("", "bn")}
    wanted |= {f"resnet{d}{bn}-cifar10" for d in (18, 34, 50, 101, 152) for bn in ("", "bn")}
    assert wanted | {"resnet50-imagenet", "transformer-lm1b", *BUNDLED} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_fits_its_family_and_its_dataset(name):
    experiment = find_experiment(name)
    family = find_family(experiment.family)
    assert set(experiment.sizes) <= set(family.takes)
    family.settled(experiment.sizes)
    plain = re.sub(r":.*", ":PATH", experiment.dataset)
    assert plain in dataset_names()
    assert experiment.keep[0] == 0
    assert experiment.keep[-1] == experiment.recipe.epochs
    assert list(experiment.keep) == sorted(set(experiment.keep))


def test_the_papers_numbers_stand_in_its_recipes():
    for name in set(EXPERIMENTS) - set(BUNDLED) - {"transformer-lm1b"}:
        recipe = EXPERIMENTS[name].recipe
        assert (recipe.optimiser, recipe.momentum, recipe.batch_size) == ("sgd", 0.9, 128)
        assert (recipe.epochs, recipe.schedule, recipe.augment) == (100, "steps", True)
        assert (recipe.decay_at, recipe.decay_factor) == ((0.3, 0.6, 0.9), 0.2)
    language = EXPERIMENTS["transformer-lm1b"]
    assert (language.recipe.optimiser, language.recipe.epochs) == ("adam", 20)
    assert language.sizes["vocabulary"] == 30_000


@pytest.mark.parametrize("name", [name for name in BUNDLED if name != "fcn3x256-digits"])
def test_a_bundled_stack_stays_below_six_megabytes(name):
    experiment = EXPERIMENTS[name]
    state = find_family(experiment.family).skeleton(experiment.sizes).state_dict()
    checkpoint = sum(t.numel() * t.element_size() for t in state.values())
    assert checkpoint < 450_000
    assert len(experiment.keep) * checkpoint < 6_000_000
    assert experiment.keep[:4] == (0, 1, 2, 3)


def test_the_manifest_lists_every_experiment_that_is_not_bundled_as_it_is():
    manifest = load_manifest()
    assert set(manifest.stacks) | set(manifest.recipes) == set(EXPERIMENTS)
    assert len(manifest.recipes) >= 20
    for name, entry in manifest.recipes.items():
        experiment = EXPERIMENTS[name]
        assert (entry.title, entry.family) == (experiment.title, experiment.family)
        assert dict(entry.sizes) == dict(experiment.sizes)
        assert (entry.dataset, entry.seed) == (experiment.dataset, experiment.seed)
        assert dict(entry.recipe) == experiment.recipe.as_json()
        assert (entry.keep, entry.citation) == (experiment.keep, CITATION)
        skeleton = find_family(entry.family).skeleton(entry.sizes)
        assert entry.parameters == sum(p.numel() for p in skeleton.parameters())


@pytest.mark.parametrize("name", ["fcn3x256-digits", "vgg11-cifar10"])
def test_a_recipe_with_the_name_of_a_stack_or_of_another_recipe_is_refused(name, tmp_path):
    content = json.loads(manifest_path().read_text(encoding="utf-8"))
    content["recipes"].append({**content["recipes"][-1], "name": name})
    with pytest.raises(ManifestError, match=rf"recipes\[\d+\].name: '{name}' stands there twice"):
        parse_manifest(content, tmp_path / "stack.json", tmp_path)
