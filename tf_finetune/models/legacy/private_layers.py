"""Layers that keras.applications and Keras 2 had and Keras 3 keeps private or dropped.

Reference: tf_keras 2.21, src/applications/convnext.py and inception_resnet_v2.py,
src/layers/activation/thresholded_relu.py.
"""

import typing

import keras


@keras.saving.register_keras_serializable(package="tf_finetune")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a trained factor.

    Attributes:
      init_values: initial factor.
      projection_dim: number of channels.

    Reference: Touvron et al., 2021, "Going deeper with image transformers",
    https://arxiv.org/abs/2103.17239.
    """

    def __init__(self, init_values: float, projection_dim: int, **options: typing.Any):
        super().__init__(**options)
        self.init_values = init_values
        self.projection_dim = projection_dim

    def build(self, input_shape: typing.Any) -> None:
        """Makes the factors.

        Args:
          input_shape: [..., channels].
        """
        self.gamma = self.add_weight(
            name="gamma",
            shape=(self.projection_dim,),
            initializer=keras.initializers.Constant(self.init_values),
        )
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Scales.

        Args:
          inputs: float [..., channels].

        Returns:
          The same shape.
        """
        return inputs * keras.ops.cast(self.gamma, inputs.dtype)

    def get_config(self) -> dict[str, typing.Any]:
        """The configuration.

        Returns:
          JSON.
        """
        own = {"init_values": self.init_values, "projection_dim": self.projection_dim}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tf_finetune")
class StochasticDepth(keras.layers.Layer):
    """Drops a residual branch of single examples in training; the identity otherwise.

    Attributes:
      drop_path_rate: probability, 0 to 1.

    Reference: Huang et al., 2016, "Deep networks with stochastic depth",
    https://arxiv.org/abs/1603.09382.
    """

    def __init__(self, drop_path_rate: float, **options: typing.Any):
        super().__init__(**options)
        self.drop_path_rate = drop_path_rate
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, inputs: typing.Any, training: bool | None = None) -> typing.Any:
        """Drops.

        Args:
          inputs: float [batch, ...].
          training: whether to drop.

        Returns:
          The same shape.
        """
        if not training or not self.drop_path_rate:
            return inputs
        keep = 1.0 - self.drop_path_rate
        shape = (keras.ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        noise = keras.random.uniform(shape, dtype=inputs.dtype, seed=self.seed_generator)
        return inputs / keep * keras.ops.floor(keep + noise)

    def get_config(self) -> dict[str, typing.Any]:
        """The configuration.

        Returns:
          JSON.
        """
        return {**super().get_config(), "drop_path_rate": self.drop_path_rate}


@keras.saving.register_keras_serializable(package="tf_finetune")
class ScaledAdd(keras.layers.Layer):
    """Adds a scaled residual: the CustomScaleLayer of InceptionResNetV2.

    Attributes:
      scale: factor of the second input.
    """

    def __init__(self, scale: float, **options: typing.Any):
        super().__init__(**options)
        self.scale = scale
        self.built = True

    def call(self, inputs: typing.Sequence[typing.Any]) -> typing.Any:
        """Adds.

        Args:
          inputs: two tensors of one shape.

        Returns:
          first + scale * second.
        """
        return inputs[0] + inputs[1] * self.scale

    def get_config(self) -> dict[str, typing.Any]:
        """The configuration.

        Returns:
          JSON.
        """
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="tf_finetune")
class ThresholdedReLU(keras.layers.Layer):
    """x where x > theta, else 0.

    Attributes:
      theta: threshold, at least 0.

    Reference: Konda et al., 2014, "Zero-bias autoencoders", https://arxiv.org/abs/1402.3337.
    """

    def __init__(self, theta: float = 1.0, **options: typing.Any):
        super().__init__(**options)
        self.theta = theta
        self.supports_masking = True
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Cuts.

        Args:
          inputs: float tensor.

        Returns:
          The same shape.
        """
        return inputs * keras.ops.cast(inputs > self.theta, inputs.dtype)

    def get_config(self) -> dict[str, typing.Any]:
        """The configuration.

        Returns:
          JSON.
        """
        return {**super().get_config(), "theta": self.theta}


@keras.saving.register_keras_serializable(package="tf_finetune")
class CausalSeparableConv1D(keras.layers.SeparableConv1D):
    """A separable convolution that sees no later step: padding="causal" of Keras 2.

    Its own padding is "valid"; the earlier steps that are missing are zeros.

    Reference: tf_keras 2.21, src/layers/convolutional/separable_conv1d.py.
    """

    def call(self, inputs: typing.Any) -> typing.Any:
        """Convolves.

        Args:
          inputs: float [batch, time, channels].

        Returns:
          float [batch, time / stride, filters].
        """
        missing = self.dilation_rate[0] * (self.kernel_size[0] - 1)
        return super().call(keras.ops.pad(inputs, ((0, 0), (missing, 0), (0, 0))))

    def compute_output_shape(self, input_shape: typing.Any) -> tuple[int | None, ...]:
        """The shape of what `call` returns.

        Args:
          input_shape: [batch, time, channels].

        Returns:
          [batch, time / stride, filters].
        """
        batch, time, channels = input_shape
        missing = self.dilation_rate[0] * (self.kernel_size[0] - 1)
        longer = None if time is None else time + missing
        return super().compute_output_shape((batch, longer, channels))


@keras.saving.register_keras_serializable(package="tf_finetune")
class TimeMajor(keras.layers.Wrapper):
    """A recurrent layer whose input has the time first: time_major=True of Keras 2.

    Attributes:
      layer: the recurrent layer, for inputs with the batch first.

    Reference: tf_keras 2.21, src/layers/rnn/base_rnn.py.
    """

    def build(self, input_shape: typing.Any = None) -> None:
        """Builds the layer.

        Args:
          input_shape: [time, batch, features].
        """
        time, batch, *rest = input_shape
        super().build((batch, time, *rest))

    def call(
        self,
        inputs: typing.Any,
        initial_state: typing.Any = None,
        mask: typing.Any = None,
        training: bool | None = None,
    ) -> typing.Any:
        """Calls the layer.

        Args:
          inputs: float [time, batch, features].
          initial_state: float [batch, units], one for each state.
          mask: bool [time, batch].
          training: passed on.

        Returns:
          Sequences as [time, batch, units], everything else as the layer returns it.
        """
        options = {"initial_state": initial_state, "training": training}
        if mask is not None:
            options["mask"] = keras.ops.swapaxes(mask, 0, 1)
        found = self.layer(keras.ops.swapaxes(inputs, 0, 1), **options)
        rank = len(inputs.shape)
        return keras.tree.map_structure(
            lambda tensor: (
                keras.ops.swapaxes(tensor, 0, 1) if len(tensor.shape) == rank else tensor
            ),
            found,
        )
