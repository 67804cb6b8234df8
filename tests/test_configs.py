import os
import pathlib

import pytest

from tf_finetune import flagfiles, spec_flags

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(CONFIGS.rglob("*.flags"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CONFIGS)) for path in FILES])
def test_every_config_parses(path):
    arguments = flagfiles.expand_flagfiles([f"--flagfile={path}"])
    assert arguments
    spec_flags.parse_args(arguments)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CONFIGS)) for path in FILES])
def test_every_config_is_listed(path):
    listing = (CONFIGS / "README.md").read_text()
    assert f"| {path.relative_to(CONFIGS)} |" in listing


def test_files_that_configs_name_exist(repository):
    for path in FILES:
        model = spec_flags.read_flagfile(str(path)).model.model
        assert not model or os.path.isfile(repository / model), path


def test_two_phases_are_the_recipe():
    from tf_finetune import layer_table, recipe, specs

    row = layer_table.LayerRow(1, "a", "Conv2D", (None, 1, 1, 1), 1, False)
    table = layer_table.LayerTable(
        tuple(layer_table.LayerRow(n, f"l{n}", *_rest(row)) for n in range(1, 101))
    )
    written = spec_flags.read_flagfile(str(CONFIGS / "two_phases.flags"))

    def plan(train):
        return recipe.plan_phases(train, specs.FreezeSpec(), table=table, num_train_examples=1650)

    assert plan(written.train) == plan(specs.TrainSpec())


def _rest(row):
    return (row.class_name, row.output_shape, row.num_parameters, row.is_batch_norm)
