"""A stranger's run folder through the door: one line, exit code 2, nothing written outside."""

import json
import os
import shutil

import PIL.Image
import pytest

from tf_finetune import main, workdir

EVALUATE = ("--mode=evaluate",)
EXPORT = ("--mode=export",)
PREDICT = ("--mode=predict",)


@pytest.fixture
def place(run, tmp_path):
    """A copy of the finished run beside a folder that nothing may be written to."""
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "outside").mkdir()
    PIL.Image.new("RGB", (12, 12)).save(tmp_path / "image.png")
    return tmp_path


def files_below(folder):
    """{path: size and time} of everything, links as links."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in folders + names:
            status = os.lstat(os.path.join(root, name))
            found[os.path.join(root, name)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def ask(place, capsys, verb, *flags):
    """(exit code, lines of stderr, lines of stdout); nothing may be written outside of the run."""
    if verb == PREDICT:
        flags = (*flags, f"--input={place}/image.png", f"--output={place}/p.csv")
    before = files_below(place / "outside")
    capsys.readouterr()
    code = main.main([*verb, f"--workdir={place}/run", *flags])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert all(line.isprintable() for line in (printed.out + printed.err).splitlines())
    assert files_below(place / "outside") == before
    return code, printed.err.splitlines(), printed.out.splitlines()


def refusal(place, capsys, verb, *flags):
    """The line of a refusal that has left the run's folder as it was, too."""
    before = files_below(place / "run")
    code, (line, *more), _ = ask(place, capsys, verb, *flags)
    assert (code, more) == (2, [])
    assert files_below(place / "run") == before
    assert not (place / "p.csv").exists()
    return line


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def add_flags(place, *lines):
    with open(place / "run" / "run.flags", "a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def test_where_files_go_is_not_the_folders_to_say(place, capsys):
    target = place / "outside" / "versions"
    add_flags(place, f"--export_dir={target}")
    assert refusal(place, capsys, EXPORT) == (
        f"error: The run in --workdir={place}/run was exported to {target}, which lies outside of "
        "it, and a run's folder does not decide where files are written. Repeat "
        f"--export_dir={target} with the verb, or name another folder."
    )
    for sly in (f"{place}/run/../outside/v", f"{place}/run/out/v", "relative"):
        if not (place / "run" / "out").is_symlink():
            (place / "run" / "out").symlink_to(place / "outside")
        add_flags(place, f"--export_dir={sly}")
        assert "lies outside of it" in refusal(place, capsys, EXPORT)
    # A folder of versions inside is the run's own affair; the verb's own flag is obeyed.
    add_flags(place, f"--export_dir={place}/run/versions")
    assert ask(place, capsys, EXPORT)[0] == 0
    assert (place / "run" / "versions" / "1" / "saved_model.pb").is_file()
    assert main.main([*EXPORT, f"--workdir={place}/run", f"--export_dir={target}"]) == 0
    assert (target / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize("link", ["evaluation", "evaluation/test", "evaluation/test/report.md"])
def test_reports_do_not_follow_links_out(place, capsys, link):
    path = place / "run" / link
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(place / "outside")
    line = refusal(place, capsys, EVALUATE)
    assert line.startswith(f"error: {place}/run/evaluation/")
    assert " leads out of the run's folder, to " in line
    assert line.endswith(". Nothing is written there. Replace the link by a folder.")


def test_other_links_out(place, run, capsys):
    (place / "run" / "other_data").symlink_to(place / "outside")
    flags = (f"--test_data={run.data}",)
    assert "other_data/evaluation" in refusal(place, capsys, EVALUATE, *flags)
    shutil.rmtree(place / "run" / "export")
    (place / "run" / "export").symlink_to(place / "outside")
    assert refusal(place, capsys, EXPORT) == (
        f"error: {place}/run/export leads out of the run's folder, to {place}/outside. Nothing is "
        "written there. Replace the link by a folder."
    )


def test_a_workdir_that_is_a_link_itself_and_one_with_a_file_in_the_way(place, capsys):
    (place / "link").symlink_to(place / "run")
    assert main.main([*EVALUATE, f"--workdir={place}/link"]) == 0
    shutil.rmtree(place / "run" / "evaluation")
    (place / "run" / "evaluation").write_text("")
    line = refusal(place, capsys, EVALUATE)
    assert line.startswith(f"error: The reports cannot be written to {place}/run/evaluation/")


def test_evaluate_says_which_data_it_reads(place, run, capsys):
    code, _, lines = ask(place, capsys, EVALUATE)
    assert code == 0
    assert lines[0] == f"Reading the data that the run's run.flags names: --data={run.data}"


def test_the_limit_of_images_is_not_the_folders_to_lift(place, run, capsys):
    bomb = run.data.parent / "bomb"
    (bomb / "red").mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", (10_000, 9_000)).save(bomb / "red" / "a.png")
    add_flags(place, "--max_image_pixels=1000000000")
    line = refusal(place, capsys, EVALUATE, f"--test_data={bomb}")
    assert "--max_image_pixels=89478485" in line
    flags = (f"--test_data={bomb}", "--max_image_pixels=90000000")
    assert ask(place, capsys, EVALUATE, *flags)[0] == 0


FLAGFILES = {
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: os.symlink("/dev/zero", path),
    "not there": lambda path: None,
    "empty": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("kind", FLAGFILES)
def test_run_flags_names_no_other_flagfile(place, capsys, kind):
    FLAGFILES[kind](place / "run" / "nested")
    add_flags(place, f"--flagfile={place}/run/nested")
    assert refusal(place, capsys, EVALUATE) == (
        f"error: {place}/run/run.flags: is damaged, or was not written by this package (it names "
        f"another flagfile: --flagfile={place}/run/nested). Copy the run's folder again."
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe--x\x1b[31m\n", "not UTF-8 text"),
        (b"--seed=1\n" * 200_000, "has more than 1,048,576 bytes"),
        (b"--seed=-1\n", "--seed must be from 0 to 2147483647. Received -1"),
        (b"--\x1b[31mx=1\n", "expected --flag=value. Received '--\\x1b[31mx=1'"),
        (b"--head=" + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b"--freeze=match:" + b"(" * 50_000 + b"\n", "expects a regular expression"),
        (b"--head=name=other,kind=binary\n", "and those of model.json are [('label', "),
    ],
)
def test_a_damaged_run_flags_is_one_line(place, capsys, content, reason):
    with open(place / "run" / "run.flags", "ab") as file:
        file.write(content)
    line = refusal(place, capsys, EVALUATE)
    assert line.startswith(f"error: {place}/run/run.flags: is damaged, or was not written by ")
    assert reason in line and line.endswith(". Copy the run's folder again.")


OF_KINDS = (
    "kind must be one of multiclass, binary, multilabel, regression, segmentation, "
    "token_classification."
)


def of_head(**values):
    return lambda info: info["heads"][0].update(values)


def of_images(**values):
    return lambda info: info["preprocessing"].update(values)


MODEL_INFOS = {
    "height": (of_images(height=10**9, width=10**9), "together of at most 89,478,485 pixels"),
    "height2": (of_images(height=40_000, width=40_000), "together of at most 89,478,485 pixels"),
    "height3": (of_images(height=13), "the model takes {'image': (12, 12, 3)}"),
    "height4": (of_images(height=True), "height and width must be whole numbers"),
    "channels": (of_images(channels=7), "channels must be 1 or 3"),
    "pixmax": (of_images(pixel_max="x"), "pixel_max must be null or a number from 1 to 65535"),
    "resize": (of_images(resize=[]), "resize must be one of squash, crop, pad"),
    "unknown": (of_images(x=1), "unexpected keyword argument 'x'"),
    "text": (lambda info: info.update(preprocessing={"kind": "text"}), "the model takes"),
    "kind of text": (lambda info: info.update(preprocessing={"kind": 3}), "kind must be text"),
    "column": (
        lambda info: info.update(preprocessing={"kind": "text", "column": "\x1b"}),
        "column must be a text of one line",
    ),
    "headname": (of_head(name="../../outside/h"), "Received '../../outside/h'"),
    "othername": (
        lambda info: (of_head(name="other")(info), info.update(loss_weights={"other": 1})),
        "the model has the outputs ['label'], not ['other']",
    ),
    "classesint": (of_head(classes=[1, 2, 3]), "head label: classes must be texts of one line"),
    "classesesc": (of_head(classes=["a\x1b[31m\nb", "b"]), "classes must be texts of one line"),
    "surrogate": (of_head(classes=["\ud800", "b"]), "classes must be texts of one line"),
    "twice": (of_head(classes=["a", "a", "b"]), "expected two or more different classes"),
    "fewer": (of_head(classes=["a", "b"]), "the model gives (3,) numbers, and its classes need"),
    "kind": (
        of_head(kind="zzz"),
        OF_KINDS,
    ),
    "kind2": (
        of_head(kind=[]),
        OF_KINDS,
    ),
    "thr": (of_head(kind="multilabel", thresholds=["x"] * 3), "expected 3 thresholds, numbers"),
    "thr2": (of_head(thresholds=[0.5]), "expected 0 thresholds"),
    "thr3": (of_head(kind="multilabel", thresholds=[float("nan")] * 3), "numbers from 0 to 1"),
    "headlist": (lambda info: info.update(heads=[]), "expected a list of at least one head"),
    "headtwice": (lambda info: info.update(heads=info["heads"] * 2), "a name is there twice"),
    "lossw": (lambda info: info.update(loss_weights=[]), "loss_weights: expected a number"),
}


def test_a_damaged_model_json_is_one_line(place, capsys):
    path = place / "run" / "model.json"
    good = path.read_text()
    for name, (change, reason) in MODEL_INFOS.items():
        edit_json(path, change)
        line = refusal(place, capsys, PREDICT)
        assert line.startswith(f"error: {path}: is damaged, or was not written by this "), name
        assert reason in line and line.endswith("). Copy the run's folder again."), (name, line)
        path.write_text(good)
    edit_json(path, lambda info: info.update(format="\x1b[31m"))
    assert "expected format 1. Received \\x1b[31m. Use" in refusal(place, capsys, EXPORT)


DEEP = "[" * 100_000 + "]" * 100_000
JSON = {
    DEEP: "it is nested more than 80 levels deep",
    "[" * 90 + "]" * 90: "it is nested more than 80 levels deep",
    "{": "no JSON: Expecting property name",
    "[]": "expected a JSON object",
    "\udcff": "no JSON: 'utf-8' codec can't decode",
}


@pytest.mark.parametrize(
    ("name", "verb"),
    [("model.json", PREDICT), ("summary.json", EXPORT), ("dataset_info.json", EVALUATE)],
)
def test_json_of_any_kind(place, capsys, name, verb):
    path = place / "run" / name
    for content, reason in JSON.items():
        path.write_text(content, errors="surrogateescape")
        line = refusal(place, capsys, verb)
        assert line.startswith(f"error: {path}: is damaged, or was not written by this package (")
        assert reason in line
    with open(path, "wb") as file:
        file.truncate(2**40)
    assert "has more than 33,554,432 bytes" in refusal(place, capsys, verb)


def test_a_summary_that_no_run_writes(place, run, capsys):
    path = place / "run" / "summary.json"
    for content, reason in (
        ({}, "status must be one of completed, requirement_not_met, diverged"),
        ({"status": []}, "status must be one of"),
        ({"status": "completed", "test": {"label": 3}}, "test: expected a number for each metric"),
        ({"status": "completed", "test": {"label": {"a": "x"}}}, "test: expected a number"),
        ({"status": "completed", "export": {"path": 3}}, "export: expected null or a path"),
    ):
        path.write_text(json.dumps(content))
        assert f"({reason}" in refusal(place, capsys, EXPORT)
    # The same run asked for again prints what it found.
    found = {"a\x1b[31m": {"b\x1b": 0.5}}
    path.write_text(json.dumps({"status": "completed", "test": found, "export": {"path": "\x1b"}}))
    flagfile = f"--flagfile={place}/run/{workdir.RUN_FLAGS}"
    code, _, lines = ask(place, capsys, ("--mode=train",), flagfile)
    assert code == 0
    assert lines[1:] == ["test, a\\x1b[31m: b\\x1b 0.5000", "Exported for TF Serving: \\x1b"]


def test_dataset_info_and_classes_that_are_not_the_runs(place, run, capsys):
    path = place / "run" / "dataset_info.json"
    good = path.read_text()
    edit_json(path, lambda info: info.update(num_examples="\x1b"))
    assert "(expected a fingerprint and the number of" in refusal(place, capsys, EVALUATE)
    path.unlink()
    assert "(No such file or directory)" in refusal(place, capsys, EVALUATE)
    path.write_text(good)
    edit_json(place / "run" / "model.json", of_head(classes=["red", "green", "blue"]))
    assert refusal(place, capsys, EVALUATE) == (
        f"error: {run.data} has other classes than head 'label' was trained on. Expected 'red', "
        "'green', 'blue'. Received 'blue', 'green', 'red'. Put the data back, or measure other "
        "examples with --test_data."
    )


def test_what_the_folder_tells_of_its_model_is_escaped(place, capsys):
    notes = ["\x1b[31mX\n# forged \u202e"]
    edit_json(
        place / "run" / "model.json",
        lambda info: info.update(trust={"trust_model": True, "findings": notes}),
    )
    assert ask(place, capsys, EVALUATE)[0] == 0
    report = (place / "run" / "evaluation" / "test" / "report.md").read_text()
    assert "forged" in report
    assert "\n# forged" not in report and all(map(str.isprintable, report.splitlines()))


def test_pipes_in_the_place_of_files(place, capsys):
    for name, verb in (("model.json", PREDICT), ("run.flags", EVALUATE), ("split.csv", EVALUATE)):
        path = place / "run" / name
        good = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert name in refusal(place, capsys, verb)
        path.unlink()
        path.write_bytes(good)
