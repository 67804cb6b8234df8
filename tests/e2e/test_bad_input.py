"""Bad input of every kind: its exact line, exit code 2 before any training, and nothing left behind."""

import os
import shutil

import pytest

from tests import tiny
from tf_finetune import main


@pytest.fixture
def place(tmp_path, colors, classifier, monkeypatch):
    """A folder with good data and a good model, to be spoilt by the test."""
    shutil.copytree(colors, tmp_path / "photos")
    shutil.copy(classifier, tmp_path / "tiny.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *flags, model="tiny.h5", data="photos", code=2):
    """The lines that a run is refused with; nothing may be left behind."""
    before = sorted(os.walk("."))
    given = [f"--model={model}", f"--data={data}", "--pixel_range=0..1", "--workdir=run"]
    named = {flag.partition("=")[0] for flag in flags}
    arguments = [flag for flag in given if flag.partition("=")[0] not in named]
    assert main.main([*arguments, *flags]) == code
    assert sorted(os.walk(".")) == before
    captured = capsys.readouterr()
    assert "Phase" not in captured.out
    assert "Traceback" not in captured.err
    return captured.err.splitlines()


def test_unknown_flag(place, capsys):
    assert refused(capsys, "--epoch=3") == [
        "error: Unknown flag --epoch. Did you mean --epochs? --help lists all flags."
    ]


def test_flag_out_of_range(place, capsys):
    assert refused(capsys, "--learning_rate=-1") == [
        "error: --learning_rate must be from 1e-12 to 100.0. Received -1.0."
    ]


def test_positional_argument(place, capsys):
    assert refused(capsys, "photos") == [
        "error: Unexpected argument 'photos'. Every value belongs to a flag: --flag=value (a yes-or-no flag takes no separate value)."
    ]


def test_missing_data_folder(place, capsys):
    assert refused(capsys, data="fotos") == [
        "error: --data=fotos does not exist. Expected a folder of class folders, a .csv, .tsv or .jsonl, a .tfrecord, tfds:NAME or sklearn:NAME."
    ]


def test_empty_data_folder(place, capsys):
    os.mkdir("empty")
    assert refused(capsys, data="empty") == [
        "error: --data=empty is empty. Expected a folder for each class, with JPEG, PNG, BMP, GIF or WebP files in it."
    ]


def test_one_class_only(place, capsys):
    shutil.rmtree("photos/blue")
    shutil.rmtree("photos/green")
    assert refused(capsys) == ["error: photos has only one class, 'red'. Expected two or more."]


def test_empty_class(place, capsys):
    os.mkdir("photos/white")
    assert refused(capsys) == [
        "error: photos/white: the class folder has no image. Add some, or remove the folder."
    ]


def test_files_that_are_no_images(place, capsys):
    for name in ("photos/red/000.png", "photos/blue/007.png"):
        with open(name, "w") as file:
            file.write("no image")
    with open("photos/green/001.png", "r+b") as file:
        file.truncate(60)
    assert refused(capsys) == [
        "error: photos/blue/007.png is no image that can be decoded: it begins with 'no image'. Expected JPEG, PNG, BMP, GIF or WebP; --on_bad_example=skip leaves it out.",
        "error: photos/green/001.png is no image that can be decoded: its PNG data is damaged, cut off or of an unsupported kind. Expected JPEG, PNG, BMP, GIF or WebP; --on_bad_example=skip leaves it out.",
        "error: photos/red/000.png is no image that can be decoded: it begins with 'no image'. Expected JPEG, PNG, BMP, GIF or WebP; --on_bad_example=skip leaves it out.",
    ]


def test_label_column_that_does_not_exist(place, capsys):
    with open("labels.csv", "w") as file:
        file.write("path,color\n" + "".join(f"photos/red/{n:03d}.png,a\n" for n in range(9)))
    assert refused(capsys, "--label_column=colour", data="labels.csv") == [
        "error: labels.csv has no label column 'colour'. Did you mean 'color'? It has 'color'."
    ]


def test_table_with_bad_rows(place, capsys):
    rows = ["path,label", *(f"photos/red/{n:03d}.png,a" for n in range(9))]
    rows[3] += ",more"
    rows.append("photos/red/900.png,b")
    with open("labels.csv", "w") as file:
        file.write("\n".join(rows) + "\n")
    assert refused(capsys, data="labels.csv") == [
        "error: labels.csv, line 4: expected 2 columns (path, label). Received 3.",
        "error: labels.csv, line 11: 'photos/red/900.png' does not exist. Paths are relative to the table's folder.",
        "error: labels.csv has only one class, 'a'. Expected two or more.",
    ]


def test_cut_layer_that_does_not_exist(place, capsys):
    assert refused(capsys, "--cut_layer=relu_c") == [
        "error: --cut_layer: unknown layer 'relu_c'. Did you mean 'relu_b'? --mode=inspect lists all 9."
    ]


def test_freeze_layer_that_does_not_exist(place, capsys):
    assert refused(capsys, "--freeze=until:conv_c") == [
        "error: --freeze: unknown layer 'conv_c'. Did you mean 'conv_b'? --mode=inspect lists all 6."
    ]


def test_freeze_more_than_there_are(place, capsys):
    assert refused(capsys, "--freeze=100") == [
        "error: --freeze=100 is more than the 6 layers of the backbone. --mode=inspect lists them."
    ]


def test_freeze_that_matches_nothing(place, capsys):
    assert refused(capsys, "--freeze=match:^block") == [
        "error: --freeze=match:^block matches none of the 6 layers of the backbone. --mode=inspect lists them."
    ]


def test_model_that_does_not_exist(place, capsys):
    assert refused(capsys, model="tiny.hdf5") == [
        "error: --model: 'tiny.hdf5' does not exist. Did you mean 'tiny.h5'? Expected a .h5, .hdf5, .keras or .json file, a SavedModel folder or a .tar or .tar.gz of one, an address (https://, http://, gs://, hf://), keras:NAME, hf:FOLDER or kerashub:NAME."
    ]


def test_preprocessor_for_a_model_of_images(place, capsys):
    assert refused(capsys, "--preprocessor=nonsense") == [
        "error: --preprocessor is for a SavedModel that takes tokens. --model=tiny.h5 is none: leave --preprocessor out."
    ]


def test_workdir_of_a_run_as_model(place, capsys):
    os.mkdir("old")
    tiny.make_classifier().save("old/model.keras")
    assert refused(capsys, model="old") == [
        "error: old: is a folder without saved_model.pb. Did you mean 'old/model.keras'? Expected a .h5, .hdf5, .keras or .json file, a SavedModel folder or a .tar or .tar.gz of one, an address (https://, http://, gs://, hf://), keras:NAME, hf:FOLDER or kerashub:NAME."
    ]


def test_text_file_named_h5(place, capsys):
    with open("text.h5", "w") as file:
        file.write("not a model\n")
    assert refused(capsys, model="text.h5") == [
        "error: text.h5: is a text file, not a model. Expected a .h5, .hdf5, .keras or .json file, a SavedModel folder or a .tar or .tar.gz of one, an address (https://, http://, gs://, hf://), keras:NAME, hf:FOLDER or kerashub:NAME."
    ]


def test_truncated_h5(place, capsys):
    with open("tiny.h5", "rb") as file:
        content = file.read()
    with open("cut.h5", "wb") as file:
        file.write(content[: len(content) // 2])
    assert refused(capsys, model="cut.h5") == [
        "error: cut.h5: the HDF5 file is truncated: its header says 35,024 bytes, it has 17,512. Copy or download it again."
    ]


def test_unknown_application(place, capsys):
    assert refused(capsys, model="keras:MobilNet,weights=none") == [
        "error: Unknown Keras application 'MobilNet'. Did you mean 'keras:MobileNet'? Keras has ConvNeXtBase, ConvNeXtLarge, ConvNeXtSmall, ConvNeXtTiny, ConvNeXtXLarge, DenseNet121, DenseNet169, DenseNet201, EfficientNetB0, EfficientNetB1, EfficientNetB2, EfficientNetB3, EfficientNetB4, EfficientNetB5, EfficientNetB6, EfficientNetB7, EfficientNetV2B0, EfficientNetV2B1, EfficientNetV2B2, EfficientNetV2B3, EfficientNetV2L, EfficientNetV2M, EfficientNetV2S, InceptionResNetV2, InceptionV3, MobileNet, MobileNetV2, MobileNetV3Large, MobileNetV3Small, NASNetLarge, NASNetMobile, ResNet101, ResNet101V2, ResNet152, ResNet152V2, ResNet50, ResNet50V2, VGG16, VGG19, Xception."
    ]


def test_workdir_with_other_files(place, capsys):
    os.mkdir("run")
    with open("run/thesis.txt", "w") as file:
        file.write("mine")
    assert refused(capsys) == [
        "error: --workdir=run holds files that are no run's. Expected a new or empty folder, or one with run.flags. Choose another --workdir."
    ]


def test_class_name_with_a_comma(place, capsys):
    os.rename("photos/red", "photos/red, dark")
    assert refused(capsys) == [
        "error: photos: class name 'red, dark' has a comma. Rename the class."
    ]


def test_export_dir_that_cannot_be_written(place, capsys):
    with open("file", "w") as file:
        file.write("")
    assert refused(capsys, "--export_dir=file/export") == [
        "error: --export_dir expects a folder. Received 'file/export', where a file is in the way. Choose another folder."
    ]


def test_requirement_on_a_metric_that_does_not_exist(place, capsys):
    assert refused(capsys, "--require_min=test/acuracy:0.9") == [
        "error: --require_min=test/acuracy:0.9: head 'label' has no metric 'acuracy'. Did you mean 'accuracy'? It has accuracy, precision_macro, recall_macro, f1_macro, roc_auc, log_loss."
    ]


def test_monitor_that_does_not_exist(place, capsys):
    assert refused(capsys, "--monitor=f1") == [
        "error: --monitor expects one of cross_entropy, accuracy. Received 'f1'."
    ]


def test_classes_that_the_data_do_not_have(place, capsys):
    assert refused(capsys, "--classes=red,green") == [
        "error: photos/blue/000.png: label 'blue' (30 examples) is not a class of --classes: 'red', 'green'."
    ]


def test_wrong_number_of_classes(place, capsys):
    assert refused(capsys, "--head=name=label,num_classes=4") == [
        "error: --head=name=label has num_classes=4. The data has 3: 'blue', 'green', 'red'."
    ]


def test_image_size_against_the_model(place, capsys):
    assert refused(capsys, "--image_size=24") == [
        "error: --image_size=24 contradicts the model, whose input is 12x12 (height x width). Leave --image_size out, or choose a model of that size."
    ]


def test_test_data_that_are_trained_on(place, capsys):
    error = "error: %d files are in the %s and in the test split: "
    for line, (count, split) in zip(
        refused(capsys, "--test_data=photos"), ((81, "train"), (9, "validation")), strict=True
    ):
        assert line.startswith(error % (count, split))
        assert line.endswith("Expected each file in one split. Give other --test_data.")


def test_workdir_inside_the_data(place, capsys):
    assert refused(capsys, "--workdir=photos/run") == [
        "error: --workdir=photos/run lies inside the data folder photos, and would be read as a class. Choose a folder elsewhere."
    ]


def test_export_below_a_folder_that_tensorflow_takes_for_a_pattern(place, capsys):
    (line,) = refused(capsys, "--workdir=run [2]")
    assert line.endswith(
        "has one of [ ] * ? in its path, which TensorFlow takes for a pattern when it loads a SavedModel. Give an --export_dir without."
    )


def test_freeze_beside_phases_that_name_their_own(place, capsys):
    assert refused(capsys, "--freeze=3", "--phase=name=a,epochs=1,freeze=all") == [
        "error: --freeze=3 has no effect: every --phase names its own freeze. Leave one of them out."
    ]


def test_requirement_beyond_the_metric(place, capsys):
    assert refused(capsys, "--require_min=test/accuracy:90") == [
        "error: --require_min=test/accuracy:90: accuracy is at most 1. Write 0.9 for 90 %."
    ]


def test_missing_flagfile(place, capsys):
    assert refused(capsys, "--flagfile=no.flags") == [
        "error: --flagfile=no.flags cannot be read: No such file or directory."
    ]


def test_mistakes_are_told_together(place, capsys):
    os.rename("photos/red", "photos/red, dark")
    os.mkdir("photos/white")
    assert refused(capsys, "--require_max=test/los:1", model="no.h5") == [
        "error: --model: 'no.h5' does not exist. Expected a .h5, .hdf5, .keras or .json file, a SavedModel folder or a .tar or .tar.gz of one, an address (https://, http://, gs://, hf://), keras:NAME, hf:FOLDER or kerashub:NAME.",
        "error: photos/white: the class folder has no image. Add some, or remove the folder.",
        "error: photos: class name 'red, dark' has a comma. Rename the class.",
    ]


def test_mode_evaluate_without_a_run(place, capsys):
    assert main.main(["--mode=evaluate", "--workdir=nothing"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --workdir=nothing holds no run: expected run.flags in it. Give the folder that --mode=train named at its end."
    ]


def test_a_batch_larger_than_the_data_is_a_warning(place, capsys):
    assert main.main(["--model=tiny.h5", "--data=photos", "--batch_size=500", "--dry_run"]) == 0
    assert (
        "Warning: --batch_size=500 is larger than the training split of 72 examples: each epoch is one step."
        in capsys.readouterr().out
    )


def test_unreadable_images_can_be_skipped(place, capsys):
    with open("photos/red/000.png", "w") as file:
        file.write("no image")
    flags = ["--model=tiny.h5", "--data=photos", "--on_bad_example=skip", "--dry_run"]
    assert main.main(flags) == 0
    out = capsys.readouterr().out
    assert (
        "1 of 90 images are left out because they cannot be read or decoded: 'photos/red/000.png'"
        in out
    )


def test_data_of_another_kind_than_the_model(place, capsys):
    tiny.make_classifier(channels=1).save("gray.h5")
    assert main.main(["--model=gray.h5", "--data=photos", "--dry_run"]) == 0
    assert "12x12x1 pixels" in capsys.readouterr().out
