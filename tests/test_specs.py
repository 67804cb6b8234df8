import dataclasses

import pytest

from tf_finetune import options, specs


def problems_of(build, **values):
    with pytest.raises(specs.SpecError) as caught:
        build(**values)
    return list(caught.value.problems)


@pytest.mark.parametrize("text", ["", "half", "until:", "1.5", "-5%", "--3", "conv_1"])
def test_read_freeze_refuses_other_forms(text):
    assert problems_of(specs.FreezeSpec, freeze=text) == [
        f"--freeze expects N, -N, P%, all, none, until:LAYER or match:REGEX. Received {text!r}."
    ]


def test_read_freeze_refuses_a_part_above_the_whole():
    assert problems_of(specs.FreezeSpec, freeze="101%") == [
        "--freeze expects a part from 0% to 100%. Received '101%'."
    ]


def test_read_freeze_refuses_a_malformed_expression():
    (problem,) = problems_of(specs.FreezeSpec, freeze="match:(")
    assert problem.startswith("--freeze=match: expects a regular expression. Received '(': ")


@pytest.mark.parametrize("text", ["accuracy:0.9", "test/accuracy", "test/accuracy:x", "test//a:1"])
def test_read_requirement_refuses_other_forms(text):
    assert problems_of(specs.ExportSpec, require_min=(text,)) == [
        "--require_min expects SPLIT/METRIC:VALUE or SPLIT/HEAD/METRIC:VALUE, for example "
        f"test/accuracy:0.9. Received {text!r}."
    ]


def test_read_requirement_knows_two_splits():
    assert problems_of(specs.ExportSpec, require_max=("train/loss:1",)) == [
        "--require_max knows the splits validation and test. Received 'train/loss:1'."
    ]


@pytest.mark.parametrize("text", ["0", "9000", "12x", "a", "1x2x3", "-4"])
def test_read_image_size_refuses(text):
    assert problems_of(specs.DataSpec, image_size=text) == [
        f"--image_size expects pixels as N or HEIGHTxWIDTH, each from 1 to 8192. Received {text!r}."
    ]


def test_every_range_problem_is_told_at_once():
    assert problems_of(specs.TrainSpec, batch_size=0, weight_decay=2.0, schedule="linear") == [
        "--batch_size must be at least 1. Received 0.",
        "--weight_decay must be from 0.0 to 1.0. Received 2.0.",
        "--schedule must be one of constant, cosine. Received 'linear'.",
    ]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"batch_size": None}, "--batch_size needs a value. Received None."),
        ({"batch_size": "8"}, "--batch_size expects a value of type int or auto. Received '8'."),
        ({"batch_size": True}, "--batch_size expects a value of type int or auto. Received True."),
        (
            {"learning_rate": float("nan")},
            "--learning_rate must be a finite number. Received nan.",
        ),
        ({"cache_max_gb": float("inf")}, "--cache_max_gb must be a finite number. Received inf."),
    ],
)
def test_types_are_checked_for_notebooks_too(values, problem):
    assert problems_of(specs.TrainSpec, **values) == [problem]


def test_a_tuple_is_expected():
    assert problems_of(specs.DataSpec, split=0.8) == ["--split expects a tuple. Received 0.8."]


@pytest.mark.parametrize("split", [(0.5, 0.5), (0.5, 0.5, 0.5), (0.0, 0.5, 0.5)])
def test_split_must_be_three_parts_of_one(split):
    (problem,) = problems_of(specs.DataSpec, split=split)
    assert problem.startswith("--split expects three fractions that sum to 1, the first above 0")


def test_names_of_heads_and_phases():
    assert problems_of(specs.HeadSpec, name="1st")[0].startswith("--head: name expects a letter")
    assert problems_of(specs.PhaseSpec, name="") == ["--phase needs name=NAME. Received none."]
    assert problems_of(specs.PhaseSpec, name="-")[0].startswith("--phase: name expects a letter")
    head = specs.HeadSpec(name="a")
    assert problems_of(specs.RunSpec, heads=(head, head)) == [
        "--head: the name 'a' is used twice. Give each head its own."
    ]
    phase = specs.PhaseSpec(name="p")
    assert problems_of(specs.TrainSpec, phases=(phase, phase)) == [
        "--phase: the name 'p' is used twice. Give each phase its own."
    ]


def test_epochs_and_phases_exclude_each_other():
    assert problems_of(specs.TrainSpec, phases=(specs.PhaseSpec(name="p"),), epochs=3) == [
        "--epochs and --phase exclude each other. Give epochs inside each --phase."
    ]


def test_a_head_is_not_called_loss():
    assert problems_of(specs.HeadSpec, name="loss") == [
        "--head: the name 'loss' is taken by the sum over heads. Choose another."
    ]


def test_a_binary_head_has_two_classes():
    assert problems_of(specs.HeadSpec, kind="binary", num_classes=3) == [
        "--head: kind=binary has num_classes=2. Received num_classes=3."
    ]


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        specs.TrainSpec().batch_size = 3


def test_field_types_leave_nested_specs_out():
    types = options.field_types(specs.RunSpec)
    assert types["max_minutes"] == (float, True, False)
    assert types["mode"] == (str, False, False)
    assert "model" not in types
    assert options.field_types(specs.DataSpec)["split"] == (float, False, True)


@pytest.mark.parametrize("threshold", ["0", "1", "nan", "half"])
def test_thresholds_are_probabilities(threshold):
    assert problems_of(specs.HeadSpec, threshold=threshold) == [
        f"--head: threshold expects auto or a number above 0 and below 1. Received {threshold!r}."
    ]
    assert specs.HeadSpec(threshold="0.3").threshold == "0.3"


def test_thresholds_are_of_sigmoid_heads():
    assert problems_of(specs.HeadSpec, kind="multiclass", threshold="0.3") == [
        "--head: threshold is of kind=binary and kind=multilabel. Received kind=multiclass."
    ]


def test_regression_takes_nothing_about_classes():
    options = {"num_classes": 3, "class_weight": "balanced", "loss": "focal"}
    assert problems_of(specs.HeadSpec, kind="regression", **options) == [
        f"--head: kind=regression has no classes, and {name} is about classes. Leave it out."
        for name in options
    ]


@pytest.mark.parametrize("delimiter", ["", " ", "\n"])
def test_label_delimiter(delimiter):
    assert problems_of(specs.DataSpec, label_delimiter=delimiter) == [
        "--label_delimiter expects a character or more that no name holds, such as ; or |. "
        f"Received {delimiter!r}."
    ]


def test_a_batch_size_is_a_number_where_one_is_needed():
    train = specs.TrainSpec(batch_size=8, accumulate_steps=4)
    assert (train.batch_examples, train.step_examples) == (8, 32)
    with pytest.raises(
        specs.SpecError,
        match=r"^--batch_size=auto is chosen by --mode=train\. Expected a number here, such as "
        r"32\.$",
    ):
        _ = specs.TrainSpec(batch_size="auto").step_examples


def test_what_a_tpu_cannot_do():
    train = specs.TrainSpec(
        strategy="tpu",
        batch_size="auto",
        feature_cache="disk",
        precision="float16",
        steps_per_execution=4,
        phases=(specs.PhaseSpec(name="a", training_precision="bfloat16"),),
    )
    with pytest.raises(options.SpecError) as caught:
        specs.RunSpec(train=train)
    assert caught.value.problems == (
        "--strategy=tpu: --batch_size=auto measures the memory of others. Leave it out.",
        "--strategy=tpu: --feature_cache=disk compiles the frozen layers for a processor. Leave it "
        "out.",
        "--strategy=tpu: --precision=float16 is no arithmetic of a TPU, which has bfloat16. Leave "
        "it out.",
        "--strategy=tpu: --steps_per_execution fails with several devices in Keras 3.15. Leave it "
        "out.",
        "--strategy=tpu: --training_precision=bfloat16 is for processors; --precision=bfloat16 is "
        "for a TPU. Leave it out.",
    )
    specs.RunSpec(train=specs.TrainSpec(strategy="tpu", precision="bfloat16", feature_cache="off"))


def test_a_data_service_is_an_address_and_for_one_process():
    with pytest.raises(options.SpecError, match=r"^--data_service expects the address"):
        specs.TrainSpec(data_service="somewhere")
    train = specs.TrainSpec(data_service="grpc://a:1", strategy="multi_worker")
    with pytest.raises(options.SpecError) as caught:
        specs.RunSpec(train=train)
    assert caught.value.problems == (
        "--strategy=multi_worker: --data_service is for one process. Leave one of them out.",
    )
