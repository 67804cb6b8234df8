"""Flags against those of the run that they must be of: in a workdir, or of other workers."""

import os

from tf_finetune import remote_paths, run_folder, spec_flags, spec_paths, specs

# Flags that may differ from the run's own when a verb starts from its workdir.
_MEASURING = {"batch_size", "max_image_pixels", "require_min", "require_max"}
_MAY_DIFFER = {
    "evaluate": _MEASURING | {"data", "test_data"},
    "export": _MEASURING | {"export_dir", "warmup_examples"},
    "predict": {
        "input",
        "output",
        "top_k",
        "batch_size",
        "text_column",
        "encoding",
        "header",
        "max_image_pixels",
    },
}
# A run's folder may be a stranger's: what runs code is asked for again.
_ALWAYS = {"mode", "workdir", "custom_objects", "trust_model"}
# Of no run: where another verb is asked for them they are a mistake.
_ONE_VERB_ONLY = {"data_service", "dry_run", "input", "output", "top_k", "inspect_format"}


def list_options(request: specs.RunSpec, folder: str) -> dict[str, str | None]:
    """What workers that train together must have been given alike.

    Args:
      request: with absolute paths.
      folder: the workdir.

    Returns:
      {flag: its lines in run.flags}, and the workdir, which has none there.
    """
    place = folder if remote_paths.is_remote(folder) else os.path.abspath(folder)
    found: dict[str, str | None] = {"--workdir": place}
    for line in spec_flags.write_flags(request).splitlines():
        name = line.partition("=")[0]
        found[name] = f"{found.get(name, '')}{line}\n"
    return found


def check_flags(spec: specs.RunSpec, given: frozenset[str]) -> None:
    """Refuses a flag that has another value than the run's, and so no effect any more.

    Args:
      spec: the parsed flags.
      given: names of the flags that were given.

    Raises:
      SpecError: there are such flags, or some that are of no run.
      RefusedError: the workdir holds no run.
    """
    if spec.mode not in _MAY_DIFFER or not spec.workdir:
        return
    names = given - _ALWAYS - _MAY_DIFFER[spec.mode]
    lines = spec_flags.write_flags(spec_paths.absolute_paths(spec)).splitlines()
    stored = run_folder.read_flag_lines(spec.workdir or "")
    wrong = [line for line in lines if line[2:].partition("=")[0] in names and line not in stored]
    useless = sorted(names & _ONE_VERB_ONLY)
    if spec.mode == "evaluate" and {"data", "test_data"} <= given:
        useless.append("data")
    if wrong or useless:
        raise specs.SpecError(
            *[f"--{name} has no effect with --mode={spec.mode}. Leave it out." for name in useless],
            *[
                f"{line} differs from the run in --workdir={spec.workdir}, and --mode={spec.mode} "
                "starts from that run. Leave it out, or train a new run."
                for line in wrong
            ],
        )
