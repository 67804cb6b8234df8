import dataclasses
import os

import pytest

from tf_finetune import checkpoints, findings, run_folder, run_lock, spec_paths, specs, workdir

SPEC = spec_paths.absolute_paths(
    specs.RunSpec(
        model=specs.ModelSpec(model="keras:MobileNet,alpha=0.25"),
        data=specs.DataSpec(data="sklearn:digits"),
    )
)


def problem_of(function, *arguments, **keywords):
    with pytest.raises(findings.RefusedError) as caught:
        function(*arguments, **keywords)
    return str(caught.value)


def test_the_hash_is_of_what_the_result_depends_on():
    assert run_folder.spec_hash(SPEC) == run_folder.spec_hash(
        dataclasses.replace(SPEC, mode="evaluate", workdir="w", dry_run=True)
    )
    assert run_folder.spec_hash(SPEC) != run_folder.spec_hash(dataclasses.replace(SPEC, seed=1))


def test_the_default_name_says_what_was_trained_on_what():
    name = run_folder.default_workdir(SPEC)
    assert name.startswith(f"runs{os.sep}sklearn_digits-MobileNet-")
    assert len(name.rpartition("-")[2]) == 8


def test_a_free_folder(tmp_path):
    assert run_folder.find_finished(str(tmp_path / "new"), SPEC) is None
    assert run_folder.find_finished(str(tmp_path), SPEC) is None


def test_a_run_that_ended_before_it_claimed_the_folder_left_only_its_lock(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / run_lock.NAME).write_text("123\n")
    assert run_folder.find_finished(str(tmp_path), SPEC) is None
    # Ended, or without room, while it claimed it.
    (tmp_path / "state" / "request.flags").write_text("half")
    (tmp_path / "state" / ".0123abcd.request.flags").write_text("half")
    (tmp_path / ".0123abcd.run.flags").write_text("half")
    assert run_folder.find_finished(str(tmp_path), SPEC) is None
    (tmp_path / "state" / "notes.txt").write_text("")
    assert "holds files that are no run's" in problem_of(
        run_folder.find_finished, str(tmp_path), SPEC
    )


def test_how_a_run_goes_on_is_no_part_of_what_it_is(tmp_path):
    folder = str(tmp_path / "run")
    train = dataclasses.replace(SPEC.train, resume="must", checkpoint_secs=1.0, keep_checkpoints=9)
    other = dataclasses.replace(SPEC, train=train)
    assert run_folder.spec_hash(other) == run_folder.spec_hash(SPEC)
    run_folder.claim(folder, requested=SPEC)
    checkpoints.write(os.path.join(folder, "state", "checkpoints"), {}, {}, keep=1)
    assert run_folder.has_checkpoint(folder)
    assert run_folder.find_finished(folder, other) is None


def test_without_what_was_asked_for_only_resolved_values_can_be_compared(tmp_path):
    folder = str(tmp_path / "run")
    run_folder.claim(folder, requested=dataclasses.replace(SPEC, seed=1))
    os.remove(os.path.join(folder, "state", "request.flags"))
    assert problem_of(run_folder.find_finished, folder, SPEC) == (
        f"--workdir={folder} holds another run; its flags differ: there --seed=1; here --seed=0 "
        "(state/request.flags, with what was asked for, is missing: these are resolved values). "
        "Choose another --workdir, or remove that one."
    )


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "run").write_text("")
    assert problem_of(run_folder.find_finished, str(tmp_path / "run"), SPEC) == (
        f"--workdir={tmp_path / 'run'} is a file. Expected a folder."
    )


def test_a_claimed_folder_is_found_again(tmp_path):
    folder = str(tmp_path / "run")
    run_folder.claim(folder, requested=SPEC)
    assert run_folder.find_finished(folder, SPEC) is None  # unfinished: it goes on
    workdir.write_json(os.path.join(folder, workdir.SUMMARY), {"status": "completed"})
    assert run_folder.find_finished(folder, SPEC) == {"status": "completed"}
    workdir.write_json(os.path.join(folder, workdir.SUMMARY), {"status": "diverged"})
    assert problem_of(run_folder.find_finished, folder, SPEC) == (
        f"--workdir={folder} holds this run, which diverged: it would again. Expected other flags, "
        "such as a smaller --learning_rate, and another --workdir."
    )
    assert run_folder.read_spec(folder) == SPEC
    assert "--seed=0" in run_folder.read_flag_lines(folder)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert problem_of(run_folder.claim, str(tmp_path / "file" / "run"), requested=SPEC) == (
        f"--workdir={tmp_path / 'file' / 'run'} cannot be written: Not a directory. Choose a "
        "folder that you may write."
    )


def test_a_runs_folder_does_not_say_where_files_go(tmp_path):
    folder = str(tmp_path / "run")
    run_folder.claim(folder, requested=SPEC)

    def choose(own, given=None):
        spec = dataclasses.replace(SPEC, export=specs.ExportSpec(export_dir=own))
        return run_folder.choose_export_dir(spec, folder=folder, given=given)

    assert choose(None) == os.path.join(folder, "export")
    assert choose(f"{folder}/versions") == f"{folder}/versions"
    assert choose("/elsewhere", given="/there") == "/there"
    assert problem_of(choose, "/else\x1bwhere") == (
        f"The run in --workdir={folder} was exported to /else\\x1bwhere, which lies outside of it, "
        "and a run's folder does not decide where files are written. Repeat "
        "--export_dir=/else\\x1bwhere with the verb, or name another folder."
    )


def test_a_runs_folder_does_not_lift_the_limit_of_images(tmp_path):
    default = specs.DataSpec.max_image_pixels
    for own, given, expected in ((10, None, 10), (10**12, None, default), (10, 10**12, 10**12)):
        data = dataclasses.replace(SPEC.data, max_image_pixels=own)
        folder = str(tmp_path / f"{own}-{given}")
        run_folder.claim(folder, requested=dataclasses.replace(SPEC, data=data))
        spec = run_folder.read_spec(folder, max_image_pixels=given)
        assert spec.data.max_image_pixels == expected


def test_flags_that_differ_are_counted_and_escaped(tmp_path):
    folder = tmp_path / "run"
    run_folder.claim(str(folder), requested=SPEC)
    for name in ("run.flags", "state/request.flags"):
        with open(folder / name, "a") as file:
            file.write("".join(f"--x{number}=\x1b\n" for number in range(50)))
    message = problem_of(run_folder.find_finished, str(folder), SPEC)
    assert "there --x0=\\x1b; there --x1=" in message
    assert message.endswith(
        "there --x9=\\x1b; and 40 more. Choose another --workdir, or remove that one."
    )
