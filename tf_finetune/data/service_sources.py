"""Whether the workers of a tf.data service can read a run's examples; told before anything starts.

One idea: a worker is another process, on another machine. It opens files, but has no part of this
process's memory and runs none of its Python.
"""

from tf_finetune import findings, specs
from tf_finetune.data import columns, image_stores, loading, memory_source, text_store

FLAG = "--data_service"
# What a worker cannot read, by the class of the store.
_HOLDS = {
    columns.Columns: "columns, which are in this process's memory and need no service",
    text_store.Texts: "texts, which are in this process's memory and need no service",
    image_stores.SliceImages: "images inside of larger files, which this process reads by Python",
    image_stores.ArrayImages: "images in this process's memory",
    image_stores.StreamImages: "images that come one after another to this process",
}


def find_problems(spec: specs.DataSpec, splits: loading.Splits) -> list[findings.Problem]:
    """Sources whose examples the workers of a service cannot read.

    Args:
      spec: the data options, for the names of sources.
      splits: the data, as they are listed.

    Returns:
      An error for each such source.
    """
    problems = {}
    for part in splits.parts:
        reason = _HOLDS.get(type(part.inputs))
        if not len(part) or reason is None:
            continue
        flag = f"{part.name}_data"
        if not getattr(spec, flag, None):
            flag = "data"
        source = memory_source.name_source(getattr(spec, flag), flag=flag)
        problems[source] = findings.Problem(
            f"{FLAG}: its workers read images that are files of their own, and {source} holds "
            f"{reason}. Leave {FLAG} out, or give a folder of images or a table of their paths.",
            flag=FLAG,
        )
    return list(problems.values())
