"""Adam with the schedule, clipping and weight decay of a phase.

Reference: Kingma and Ba 2015, "Adam", https://arxiv.org/abs/1412.6980; Loshchilov and Hutter 2017,
"SGDR" (cosine), https://arxiv.org/abs/1608.03983, and 2019, "Decoupled Weight Decay",
https://arxiv.org/abs/1711.05101.
"""

from typing import Any

import keras
import tensorflow as tf

from tf_finetune import specs


class Adam(keras.optimizers.Adam):
    """Keras's Adam, whose clipping sees the gradient of the whole batch on any strategy.

    Keras 3 clips each replica's gradient before it adds them up, so that the result depends on the
    number of devices. Here they are added first; each replica then passes on its equal part.
    """

    def __init__(self, *args: Any, batch_clipnorm: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._batch_clipnorm = batch_clipnorm

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables by gradients; see `keras.Optimizer.apply`."""
        if self._batch_clipnorm and grads:
            # An Embedding's gradient lists a row once per token: only their sum has a true norm.
            grads = [None if grad is None else tf.convert_to_tensor(grad) for grad in grads]
            context = tf.distribute.get_replica_context()
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            if context is not None and replicas > 1:
                grads = context.all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
            grads, _ = tf.clip_by_global_norm(grads, self._batch_clipnorm)
            if context is not None and replicas > 1:
                grads = [gradient / replicas for gradient in grads]
        super().apply(grads, trainable_variables)


def make_schedule(
    phase: specs.PhaseSpec, *, num_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """The learning rate over a phase.

    Args:
      phase: a phase whose fields are all set (`training.plan_phases`).
      num_steps: steps of the whole phase, at least 1.

    Returns:
      A number where it is constant, else a schedule: linear from 0 during the warm-up, then
      constant or along a cosine to 0.
    """
    peak = phase.peak_rate
    warmup_steps = int(num_steps * (phase.warmup_fraction or 0.0))
    if phase.schedule == "constant" and not warmup_steps:
        return peak
    if phase.schedule == "constant":
        return keras.optimizers.schedules.PolynomialDecay(
            initial_learning_rate=0.0, decay_steps=warmup_steps, end_learning_rate=peak
        )
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(peak, num_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, num_steps - warmup_steps),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def make_optimizer(
    phase: specs.PhaseSpec,
    *,
    num_steps: int,
    weight_decay: float,
    variables: list[keras.Variable],
    precision: str,
    schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
) -> keras.optimizers.Optimizer:
    """Adam for one phase.

    Args:
      phase: a phase whose fields are all set.
      num_steps: steps of the whole phase.
      weight_decay: decoupled decay of kernels; 0 for none.
      variables: the model's variables; those of rank 1 or 0 (bias, gamma, beta) never decay.
      precision: "float32", "bfloat16" or "float16"; the last scales the loss dynamically.
      schedule: of the rate, in place of the phase's own.

    Returns:
      An optimizer that is not built yet.
    """
    optimizer: keras.optimizers.Optimizer = Adam(
        schedule or make_schedule(phase, num_steps=num_steps),
        weight_decay=weight_decay or None,
        batch_clipnorm=phase.gradient_clip_norm or 0.0,
    )
    if weight_decay:
        optimizer.exclude_from_weight_decay(
            var_list=[variable for variable in variables if len(variable.shape) < 2]
        )
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
