"""Layers that Keras 1 and 2 had and Keras 3 has not, computed exactly as they were.

One idea: a translated model must give its old outputs, so what has no equivalent is written again,
small, and registered: a saved model with one of them opens in plain Keras once this module is
imported.

Reference: Chollet et al., 2017, Keras 1.2.2, keras/layers,
https://github.com/keras-team/keras/tree/1.2.2.
"""

import typing

import keras
from keras import ops

Config = dict[str, typing.Any]


@keras.saving.register_keras_serializable(package="tf_finetune")
class Highway(keras.layers.Layer):
    """A dense layer mixed with its own input by a learned gate.

    Weights: kernel and gate_kernel [features, features], bias and gate_bias [features].

    Reference: Srivastava et al., 2015, Highway Networks, https://arxiv.org/abs/1505.00387.
    """

    def __init__(
        self,
        activation: typing.Any = "linear",
        *,
        use_bias: bool = True,
        kernel_initializer: typing.Any = "glorot_uniform",
        kernel_regularizer: typing.Any = None,
        bias_regularizer: typing.Any = None,
        kernel_constraint: typing.Any = None,
        bias_constraint: typing.Any = None,
        **kwargs: typing.Any,
    ):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def build(self, input_shape: tuple) -> None:
        """See `keras.layers.Layer`."""
        size = input_shape[-1]
        self.kernel = self.add_weight(
            shape=(size, size),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )
        self.gate_kernel = self.add_weight(
            shape=(size, size), initializer=self.kernel_initializer, name="gate_kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight(
                shape=(size,),
                initializer="zeros",
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                name="bias",
            )
            self.gate_bias = self.add_weight(shape=(size,), initializer="ones", name="gate_bias")

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        gate, values = ops.matmul(inputs, self.gate_kernel), ops.matmul(inputs, self.kernel)
        if self.use_bias:
            gate, values = gate + self.gate_bias, values + self.bias
        gate = ops.sigmoid(gate)
        return self.activation(values) * gate + (1 - gate) * inputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """See `keras.layers.Layer`."""
        return input_shape

    def get_config(self) -> Config:
        """See `keras.layers.Layer`."""
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            **kernel_config(self),
        }


@keras.saving.register_keras_serializable(package="tf_finetune")
class MaxoutDense(keras.layers.Layer):
    """The largest of several dense layers, element by element.

    Weights: kernel [pieces, features, units], bias [pieces, units].

    Reference: Goodfellow et al., 2013, Maxout Networks, https://arxiv.org/abs/1302.4389.
    """

    def __init__(
        self,
        units: int,
        nb_feature: int = 4,
        *,
        use_bias: bool = True,
        kernel_initializer: typing.Any = "glorot_uniform",
        kernel_regularizer: typing.Any = None,
        bias_regularizer: typing.Any = None,
        kernel_constraint: typing.Any = None,
        bias_constraint: typing.Any = None,
        **kwargs: typing.Any,
    ):
        super().__init__(**kwargs)
        self.units = units
        self.nb_feature = nb_feature
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def build(self, input_shape: tuple) -> None:
        """See `keras.layers.Layer`."""
        shape = (self.nb_feature, input_shape[-1], self.units)
        add_kernel_and_bias(self, shape, bias=(self.nb_feature, self.units))

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        pieces = ops.einsum("bi,fio->bfo", inputs, self.kernel)
        if self.use_bias:
            pieces = pieces + self.bias
        return ops.max(pieces, axis=1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """See `keras.layers.Layer`."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> Config:
        """See `keras.layers.Layer`."""
        return {
            **super().get_config(),
            "units": self.units,
            "nb_feature": self.nb_feature,
            "use_bias": self.use_bias,
            **kernel_config(self),
        }


@keras.saving.register_keras_serializable(package="tf_finetune")
class ParametricSoftplus(keras.layers.Layer):
    """alpha * softplus(beta * x), both learned for each position that is not shared."""

    def __init__(
        self, *, shared_axes: typing.Sequence[int] | None = None, **kwargs: typing.Any
    ) -> None:
        super().__init__(**kwargs)
        self.shared_axes = shared_axes

    def build(self, input_shape: tuple) -> None:
        """See `keras.layers.Layer`."""
        shape = _unshared(input_shape, self.shared_axes)
        self.alpha = self.add_weight(
            shape=shape, initializer=keras.initializers.Constant(0.2), name="alpha"
        )
        self.beta = self.add_weight(
            shape=shape, initializer=keras.initializers.Constant(5.0), name="beta"
        )

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        return ops.softplus(self.beta * inputs) * self.alpha

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """See `keras.layers.Layer`."""
        return input_shape

    def get_config(self) -> Config:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "shared_axes": self.shared_axes}


@keras.saving.register_keras_serializable(package="tf_finetune")
class SReLU(keras.layers.Layer):
    """A rectifier of three learned straight pieces.

    Reference: Jin et al., 2015, Deep Learning with S-shaped Rectified Linear Activation Units,
    https://arxiv.org/abs/1512.07030.
    """

    def __init__(
        self, *, shared_axes: typing.Sequence[int] | None = None, **kwargs: typing.Any
    ) -> None:
        super().__init__(**kwargs)
        self.shared_axes = shared_axes

    def build(self, input_shape: tuple) -> None:
        """See `keras.layers.Layer`."""
        shape = _unshared(input_shape, self.shared_axes)
        self.t_left = self.add_weight(shape=shape, initializer="zeros", name="t_left")
        self.a_left = self.add_weight(shape=shape, initializer="glorot_uniform", name="a_left")
        self.t_right = self.add_weight(shape=shape, initializer="glorot_uniform", name="t_right")
        self.a_right = self.add_weight(shape=shape, initializer="ones", name="a_right")

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        right = self.t_left + ops.abs(self.t_right)
        shifted = inputs - self.t_left
        middle = ops.minimum(ops.relu(shifted), right - self.t_left)
        below = self.a_left * ops.relu(-shifted)
        return self.t_left + middle - below + self.a_right * ops.relu(inputs - right)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """See `keras.layers.Layer`."""
        return input_shape

    def get_config(self) -> Config:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "shared_axes": self.shared_axes}


@keras.saving.register_keras_serializable(package="tf_finetune")
class SampleNormalization(keras.layers.Layer):
    """Keras 1's BatchNormalization(mode=1): each vector by its own mean and deviation.

    It is no LayerNormalization: epsilon is added to the variance and to the deviation. The moving
    statistics are unused, kept because the file has them.
    """

    def __init__(self, epsilon: float = 1e-3, **kwargs: typing.Any) -> None:
        for name in ("gamma_regularizer", "beta_regularizer"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tuple) -> None:
        """See `keras.layers.Layer`."""
        _add_statistics(self, input_shape[-1])

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        mean, variance = ops.moments(inputs, axes=[-1], keepdims=True)
        deviation = ops.sqrt(variance + self.epsilon)
        return self.gamma * (inputs - mean) / (deviation + self.epsilon) + self.beta

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """See `keras.layers.Layer`."""
        return input_shape

    def get_config(self) -> Config:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="tf_finetune")
class CurrentBatchNormalization(keras.layers.Layer):
    """Keras 1's BatchNormalization(mode=2): by the current batch, in training and prediction.

    So a prediction depends on what else is in its batch. The moving statistics are unused, kept
    because the file has them.
    """

    def __init__(self, axis: int = -1, epsilon: float = 1e-3, **kwargs: typing.Any) -> None:
        for name in ("gamma_regularizer", "beta_regularizer"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.axis = axis
        self.epsilon = epsilon

    def build(self, input_shape: tuple) -> None:
        """See `keras.layers.Layer`."""
        _add_statistics(self, input_shape[self.axis])

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        rank = len(inputs.shape)
        axis = self.axis % rank
        mean, variance = ops.moments(
            inputs, axes=[a for a in range(rank) if a != axis], keepdims=True
        )
        shape = [-1 if a == axis else 1 for a in range(rank)]
        scaled = (inputs - mean) / ops.sqrt(variance + self.epsilon)
        return scaled * ops.reshape(self.gamma, shape) + ops.reshape(self.beta, shape)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """See `keras.layers.Layer`."""
        return input_shape

    def get_config(self) -> Config:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "axis": self.axis, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="tf_finetune")
class CosineMerge(keras.layers.Layer):
    """Keras 1's Merge(mode="cos"): the dot product of two inputs over that of each with itself.

    Of vectors it is their cosine, with the output [batch, 1, 1] that Keras 1 computed.
    """

    def __init__(self, axes: typing.Any = -1, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        self.axes = axes

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        left, right = inputs
        axes = self.axes
        if isinstance(axes, int):
            axes = [axes % len(left.shape), axes % len(right.shape)]
        norms = ops.sqrt(_batch_dot(left, left, axes) * _batch_dot(right, right, axes))
        cosine = _batch_dot(left, right, axes) / ops.maximum(norms, 1e-7)
        return ops.expand_dims(cosine, 1)

    def get_config(self) -> Config:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "axes": self.axes}


def kernel_config(layer: typing.Any) -> Config:
    """The arguments of a kernel and its bias, for `get_config`.

    Args:
      layer: has the attributes kernel_initializer, kernel_regularizer and so on.

    Returns:
      Their configurations.
    """
    return {
        "kernel_initializer": keras.initializers.serialize(layer.kernel_initializer),
        "kernel_regularizer": keras.regularizers.serialize(layer.kernel_regularizer),
        "bias_regularizer": keras.regularizers.serialize(layer.bias_regularizer),
        "kernel_constraint": keras.constraints.serialize(layer.kernel_constraint),
        "bias_constraint": keras.constraints.serialize(layer.bias_constraint),
    }


def add_kernel_and_bias(layer: typing.Any, kernel: tuple, *, bias: tuple) -> None:
    """Makes the weights `kernel` and, where the layer uses one, `bias`.

    Args:
      layer: as for `kernel_config`; gets the weights as attributes.
      kernel: shape of the kernel.
      bias: shape of the bias.
    """
    layer.kernel = layer.add_weight(
        shape=kernel,
        initializer=layer.kernel_initializer,
        regularizer=layer.kernel_regularizer,
        constraint=layer.kernel_constraint,
        name="kernel",
    )
    if layer.use_bias:
        layer.bias = layer.add_weight(
            shape=bias,
            initializer="zeros",
            regularizer=layer.bias_regularizer,
            constraint=layer.bias_constraint,
            name="bias",
        )


def _add_statistics(layer: typing.Any, size: int) -> None:
    layer.gamma = layer.add_weight(shape=(size,), initializer="ones", name="gamma")
    layer.beta = layer.add_weight(shape=(size,), initializer="zeros", name="beta")
    for name, initializer in (("moving_mean", "zeros"), ("moving_variance", "ones")):
        weight = layer.add_weight(
            shape=(size,), initializer=initializer, trainable=False, name=name
        )
        setattr(layer, name, weight)


def _unshared(input_shape: tuple, shared_axes: typing.Sequence[int] | None) -> tuple:
    shared = shared_axes or ()
    return tuple(1 if axis in shared else size for axis, size in enumerate(input_shape) if axis)


def _batch_dot(left: typing.Any, right: typing.Any, axes: typing.Sequence[int]) -> typing.Any:
    if len(left.shape) == 2 and len(right.shape) == 2:
        return ops.sum(left * right, axis=1, keepdims=True)
    if axes[0] != len(left.shape) - 1:
        left = ops.swapaxes(left, -1, -2)
    if axes[1] == len(right.shape) - 1:
        right = ops.swapaxes(right, -1, -2)
    return ops.matmul(left, right)
