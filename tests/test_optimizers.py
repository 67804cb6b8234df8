import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import distribution, optimizers, specs


def phase(**values):
    defaults = {
        "name": "p",
        "epochs": 1,
        "learning_rate": 0.1,
        "freeze": "all",
        "schedule": "cosine",
        "warmup_fraction": 0.0,
        "gradient_clip_norm": 0.0,
    }
    return specs.PhaseSpec(**{**defaults, **values})


def rates(schedule, num_steps):
    return [float(schedule(step)) for step in range(num_steps + 1)]


def test_a_constant_rate_is_a_number():
    assert optimizers.make_schedule(phase(schedule="constant"), num_steps=10) == 0.1


def test_cosine_falls_to_zero():
    values = rates(optimizers.make_schedule(phase(), num_steps=10), 10)
    expected = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(11) / 10))
    np.testing.assert_allclose(values, expected, atol=1e-8)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warm_up_rises_from_zero_to_the_peak(schedule):
    chosen = phase(schedule=schedule, warmup_fraction=0.2)
    values = rates(optimizers.make_schedule(chosen, num_steps=20), 20)
    np.testing.assert_allclose(values[:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-8)
    assert values[-1] == pytest.approx(0.0 if schedule == "cosine" else 0.1, abs=1e-8)


def make(chosen, variables, **values):
    optimizer = optimizers.make_optimizer(
        chosen,
        num_steps=10,
        weight_decay=values.get("weight_decay", 0.0),
        variables=variables,
        precision=values.get("precision", "float32"),
    )
    optimizer.build(variables)
    return optimizer


def test_weight_decay_spares_vectors():
    kernel = keras.Variable(np.ones((2, 2), np.float32), name="kernel")
    bias = keras.Variable(np.ones(2, np.float32), name="bias")
    optimizer = make(phase(schedule="constant"), [kernel, bias], weight_decay=0.5)
    optimizer.apply([np.zeros((2, 2), np.float32), np.zeros(2, np.float32)], [kernel, bias])
    np.testing.assert_allclose(np.array(kernel), 1 - 0.1 * 0.5)
    np.testing.assert_allclose(np.array(bias), 1.0)


def test_float16_scales_the_loss():
    variable = keras.Variable(np.ones(2, np.float32))
    optimizer = make(phase(), [variable], precision="float16")
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def test_clipping_sees_the_whole_batch_on_any_number_of_devices():
    # Gradients 3 and 5 of two replicas add up to 8; clipped one by one they would be 1 and 1.
    results = []
    for strategy in (
        tf.distribute.get_strategy(),
        distribution.make_strategy("mirrored"),
    ):
        with strategy.scope():
            variable = keras.Variable(np.zeros(1, np.float32), trainable=True)
            # With epsilon this large Adam's step is nearly its gradient, so clipping shows.
            optimizer = optimizers.Adam(1.0, epsilon=1e3, batch_clipnorm=4.0)
            optimizer.build([variable])
        replicas = strategy.num_replicas_in_sync

        def step(value, optimizer=optimizer, variable=variable):
            optimizer.apply([tf.reshape(value, (1,))], [variable])

        values = iter([3.0, 5.0])
        gradients = strategy.experimental_distribute_values_from_function(
            lambda context, replicas=replicas, values=values: tf.constant(
                8.0 if replicas == 1 else next(values)
            )
        )
        strategy.run(step, args=(gradients,))
        results.append(float(np.array(variable)[0]))
    # Adam's first step: rate * sqrt(1 - beta_2) / (1 - beta_1) * (1 - beta_1) * g / epsilon.
    assert results[0] == pytest.approx(-np.sqrt(0.001) * 4.0 / 1e3, rel=1e-3)
    assert results[1] == pytest.approx(results[0], rel=1e-6)


def test_the_gradient_of_an_embedding_is_clipped_by_its_true_norm():
    # The same row twice, 3 and 5, is a gradient of 8; listed apart its norm would be sqrt(34).
    variable = keras.Variable(np.zeros((2, 1), np.float32))
    optimizer = optimizers.Adam(1.0, epsilon=1e3, batch_clipnorm=4.0)
    optimizer.build([variable])
    slices = tf.IndexedSlices(tf.constant([[3.0], [5.0]]), tf.constant([1, 1]), tf.constant([2, 1]))
    optimizer.apply([slices], [variable])
    expected = [[0.0], [-np.sqrt(0.001) * 4.0 / 1e3]]
    np.testing.assert_allclose(np.array(variable), expected, rtol=1e-3)
