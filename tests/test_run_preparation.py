from tf_finetune import run_preparation, specs


def test_sizes_are_settled():
    spec = specs.RunSpec(train=specs.TrainSpec(batch_size="auto"))
    assert run_preparation.settle_size(spec, 64).train.batch_size == 64
    spec = specs.RunSpec()
    assert run_preparation.settle_size(spec) is spec
    assert run_preparation.suit_device(spec) is spec


def test_what_is_made_for_processors_is_off_on_a_tpu():
    spec = specs.RunSpec(train=specs.TrainSpec(strategy="tpu", batch_size=128))
    train = run_preparation.suit_device(spec).train
    assert (train.feature_cache, train.training_precision) == ("off", "float32")
    assert train.batch_size == 128
