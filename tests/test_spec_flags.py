import pytest

from tf_finetune import spec_flags, spec_paths, specs


def problems_of(*arguments):
    with pytest.raises(specs.SpecError) as caught:
        spec_flags.parse_args(arguments)
    return list(caught.value.problems)


def test_flags_become_a_spec():
    parsed = spec_flags.parse_args(
        [
            "--model=a.h5",
            "--data",
            "photos",
            "--split=0.6,0.2,0.2",
            "--head=name=breed,kind=multiclass,hidden_units=64x32,dropout=0.1",
            "--phase=name=head,epochs=3,freeze=all",
            "--phase=name=fine,epochs=2,freeze=67%,learning_rate=1e-4",
            "--require_min=test/accuracy:0.9",
            "--require_min=test/f1_macro:0.8",
            "--dry_run",
        ]
    )
    spec = parsed.spec
    assert spec.model.model == "a.h5"
    assert spec.data.data == "photos"
    assert spec.data.split == (0.6, 0.2, 0.2)
    assert spec.heads == (
        specs.HeadSpec(name="breed", kind="multiclass", hidden_units=(64, 32), dropout=0.1),
    )
    assert [phase.name for phase in spec.train.phases] == ["head", "fine"]
    assert spec.train.phases[1].learning_rate == 1e-4
    assert spec.export.require_min == ("test/accuracy:0.9", "test/f1_macro:0.8")
    assert spec.dry_run
    assert parsed.given == {
        "model", "data", "split", "head", "phase", "require_min", "dry_run",
    }  # fmt: skip


def test_all_mistakes_are_told_together():
    assert problems_of("--modle=a", "stray", "--seed=x", "--batch_size=0", "--split=1,b,0") == [
        "Unknown flag --modle. Did you mean --mode or --model? --help lists all flags.",
        "Unexpected argument 'stray'. Every value belongs to a flag: --flag=value (a yes-or-no "
        "flag takes no separate value).",
        "--seed expects a whole number. Received 'x'.",
        "--split expects numbers joined by ','. Received '1,b,0'.",
        "--batch_size must be at least 1. Received 0.",
    ]


def test_a_yes_or_no_flag_takes_no_separate_value():
    assert problems_of("--dry_run", "false")[0].startswith("Unexpected argument 'false'.")


def test_a_flag_without_its_value():
    assert problems_of("--model") == ["Missing value for flag --model. --help lists all flags."]


def test_composite_mistakes():
    assert problems_of("--head=nme=a", "--phase=name=p,epochs", "--head=name=b,dropout=2") == [
        "--head has no key 'nme'. Did you mean 'name'? Keys: name, kind, label, empty, "
        "num_classes, hidden_units, dropout, loss_weight, label_smoothing, class_weight, loss, "
        "focal_gamma, threshold.",
        "--head: dropout must be from 0.0 to 0.99. Received 2.0.",
        "--phase expects key=value pairs joined by commas. Received 'epochs'.",
    ]


def test_composite_values_are_converted():
    assert problems_of("--head=name=a,hidden_units=64xb") == [
        "--head: hidden_units expects numbers joined by 'x'. Received '64xb'."
    ]
    assert problems_of("--phase=name=a,freeze=half")[0].startswith("--freeze expects N, -N")


def test_a_comma_in_a_composite_value_is_quoted_as_in_csv():
    head = spec_flags.read_composite('name=a,"label=size, mm"', flag="head")
    assert head.label == "size, mm"
    assert spec_flags.read_composite("name=a,label=x=y", flag="head").label == "x=y"


def test_a_repeated_name_replaces_the_earlier_one_in_its_place():
    parsed = spec_flags.parse_args(
        ["--head=name=a,dropout=0.1", "--head=name=b", "--head=name=a,dropout=0.3"]
    )
    assert [(head.name, head.dropout) for head in parsed.spec.heads] == [("a", 0.3), ("b", 0.2)]


def test_run_flags_repeat_the_run(tmp_path):
    spec = spec_flags.parse_args(
        [
            "--model=keras:MobileNet,alpha=0.25,weights=w.h5",
            "--data=sklearn:digits",
            '--head=name=a,"label=x, y",hidden_units=8x4',
            "--phase=name=fine,freeze=match:^a,learning_rate=1e-05",
            "--require_max=test/log_loss:0.3",
            "--learning_rate=0.001",
            "--max_minutes=2.5",
            "--classes=@names.txt",
            "--mode=evaluate",
            "--workdir=w",
        ]
    ).spec
    absolute = spec_paths.absolute_paths(spec)
    path = tmp_path / "run.flags"
    path.write_text(spec_flags.write_flags(absolute))
    again = spec_flags.read_flagfile(str(path), mode="evaluate", workdir="w")
    assert again == absolute
    assert spec_paths.absolute_paths(again) == absolute
    assert absolute.model.model.startswith("keras:MobileNet,alpha=0.25,weights=/")
    assert absolute.data.data == "sklearn:digits"


@pytest.mark.parametrize("path", ["a\nb", "a # b", "a "])
def test_a_value_that_no_flagfile_can_hold(path):
    spec = specs.RunSpec(data=specs.DataSpec(data=path))
    with pytest.raises(specs.SpecError, match="--data has a line end, ' # ' or a blank at its end"):
        spec_flags.write_flags(spec)


def test_read_flagfile_takes_overrides(tmp_path):
    path = tmp_path / "a.flags"
    path.write_text("--model=a.h5\n--epochs=3\n--head=name=a\n")
    spec = spec_flags.read_flagfile(
        str(path), epochs=None, seed=4, batch_size="8", head=[specs.HeadSpec(name="b")]
    )
    assert (spec.train.epochs, spec.seed, spec.train.batch_size) == (None, 4, 8)
    assert [head.name for head in spec.heads] == ["b"]
    with pytest.raises(specs.SpecError, match="Unknown flag --epoch"):
        spec_flags.read_flagfile(str(path), epoch=3)


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    spec = spec_flags.parse_args(["--data=~/photos", "--workdir=~/runs/a"]).spec
    assert (spec.data.data, spec.workdir) == ("/home/someone/photos", "/home/someone/runs/a")


def test_help_names_every_flag():
    text = spec_flags.format_help()
    for name in spec_flags.define_flags():
        assert f"--{name}" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_word_may_stand_in_the_place_of_a_number():
    spec = spec_flags.parse_args(["--batch_size=auto"]).spec
    assert spec.train.batch_size == "auto"
    assert "--batch_size=auto\n" in spec_flags.write_flags(spec)
    assert "  --batch_size=N|auto\n" in spec_flags.format_help()
    assert problems_of("--batch_size=Auto") == [
        "--batch_size expects a whole number or auto. Received 'Auto'."
    ]
