import dataclasses
import os
import subprocess
import sys

from tests import tiny
from tf_finetune import specs, validation


def spec_of(tmp_path, **parts):
    tiny.write_color_folder(tmp_path / "colors", per_class=10)
    tiny.make_classifier().save(tmp_path / "tiny.h5")
    spec = specs.RunSpec(
        model=specs.ModelSpec(model=str(tmp_path / "tiny.h5")),
        data=specs.DataSpec(data=str(tmp_path / "colors")),
        train=specs.TrainSpec(batch_size=8),
    )
    return dataclasses.replace(spec, **parts)


def test_nothing_is_wrong(tmp_path):
    splits, problems = validation.examine(spec_of(tmp_path))
    assert problems == ()
    assert len(splits.train) == 24


def test_a_requirement_needs_its_split(tmp_path):
    spec = spec_of(
        tmp_path,
        export=specs.ExportSpec(require_min=("test/accuracy:0.5",)),
    )
    spec = dataclasses.replace(spec, data=dataclasses.replace(spec.data, split=(0.9, 0.1, 0.0)))
    (problem,) = validation.find_problems(spec)
    assert problem.message == (
        "--require_min=test/accuracy:0.5: the test split has no example. Give --test_data, or a "
        "larger part in --split."
    )


def test_problems_of_model_data_and_export_come_together(tmp_path):
    (tmp_path / "file").write_text("")
    spec = spec_of(tmp_path, export=specs.ExportSpec(export_dir=str(tmp_path / "file")))
    spec = dataclasses.replace(
        spec,
        model=specs.ModelSpec(model=str(tmp_path / "none.h5")),
        data=specs.DataSpec(data=str(tmp_path / "nothing")),
    )
    messages = [problem.message for problem in validation.find_problems(spec)]
    assert len(messages) == 3
    assert "none.h5' does not exist." in messages[0]
    assert messages[1].startswith(f"--data={tmp_path}/nothing does not exist.")
    assert messages[2].startswith("--export_dir")


def test_a_bad_vocabulary_is_told_with_the_rest(tmp_path):
    spec = spec_of(tmp_path)
    words = tmp_path / "words.txt"
    data = dataclasses.replace(
        spec.data, data=str(tmp_path / "nothing"), vocabulary=str(words), sequence_length=8
    )
    spec = dataclasses.replace(spec, data=data)

    def find():
        return [problem.message for problem in validation.find_problems(spec)]

    there = find()
    assert there[0] == f"{words}: cannot be read: No such file or directory."
    assert there[1].startswith(f"--data={tmp_path}/nothing does not exist.")
    words.write_text("a\nb\na\n\nb\n")
    assert find()[:-1] == [
        f"{words}, line 3: 'a' stands in line 1 already. Expected each once.",
        f"{words}, line 4: is empty. Expected a word or piece of a word on each line.",
        f"{words}, line 5: 'b' stands in line 2 already. Expected each once.",
    ]
    words.unlink()
    os.mkfifo(words)
    assert find()[0] == f"{words}: is a pipe, not a file."
    words.unlink()
    words.write_text("a\nb\n")
    assert find() == there[1:]


def test_it_needs_no_tensorflow(tmp_path):
    code = (
        "import sys; from tf_finetune import specs, validation; "
        f"validation.find_problems(specs.RunSpec(model=specs.ModelSpec(model={str(tmp_path)!r}), "
        f"data=specs.DataSpec(data={str(tmp_path)!r}, vocabulary={__file__!r}))); "
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_mixing_needs_companions_and_nothing_beside_the_image(tmp_path):
    spec = spec_of(tmp_path)
    spec = dataclasses.replace(
        spec,
        augment=specs.AugmentSpec(augment="mixup,cutmix:0.5"),
        data=dataclasses.replace(spec.data, image_column="photo", feature_columns="age"),
        train=dataclasses.replace(spec.train, batch_size=1),
    )
    texts = [problem.message for problem in validation.find_problems(spec)]
    assert texts[:2] == [
        "--augment: mixup, cutmix mix the images of a batch, and --batch_size=1 leaves them alone. "
        "Expected --batch_size of at least 2.",
        "--augment: mixup, cutmix mix images, and the columns of --feature_columns would belong to "
        "one of them only. Leave one of the two flags out.",
    ]


def test_a_step_larger_than_the_data_is_told(tmp_path):
    for train, flags in (
        (specs.TrainSpec(batch_size=25), "--batch_size=25"),
        (specs.TrainSpec(batch_size=8, accumulate_steps=4), "--batch_size=8 times --accumulate_st"),
    ):
        (problem,) = validation.find_problems(spec_of(tmp_path / flags, train=train))
        assert problem.severity == "warning"
        assert problem.message.startswith(flags)
        assert problem.message.endswith(
            " is larger than the training split of 24 examples: each epoch is one step."
        )
