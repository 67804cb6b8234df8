"""The names that a stored Keras configuration may use, as data.

One idea: what is not on a list is not built. The lists are Keras's public names, those of Keras 1
and 2 that `models` translates, and nothing that carries code or opens a file; a test compares them
with the Keras that is installed.

Reference: keras.layers and its sisters of Keras 3.15; keras 1.2.2; tf_keras 2.21.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Class -> why it is refused wherever it stands, even where the rest of the file is trusted less.
EXCLUDED_LAYERS = {
    "FlaxLayer": "it is stored Python code of JAX",
    "JaxLayer": "it is stored Python code of JAX",
    "Lambda": "it is stored Python code",
    "TFSMLayer": "it loads a SavedModel from a path of the file's choice",
    "TorchModuleWrapper": "it holds a Python pickle, which is a program",
}
# Names of keras.layers that no stored model has: they are bases, or functions that make layers.
NOT_STORED = frozenset({"Input", "InputSpec", "Layer"})

# keras.layers.
LAYERS = _names(
    """Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D
    AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization
    Bidirectional CategoryEncoding CenterCrop Concatenate
    ContrastLimitedAdaptiveHistogramEqualization Conv1D Conv1DTranspose Conv2D Conv2DTranspose
    Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Convolution1D Convolution1DTranspose
    Convolution2D Convolution2DTranspose Convolution3D Convolution3DTranspose Cropping1D
    Cropping2D Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot
    Dropout ELU EinsumDense Embedding Equalization Flatten GRU GRUCell GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalAvgPool1D GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D
    GlobalMaxPool3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization
    GroupQueryAttention HashedCrossing Hashing Identity InputLayer IntegerLookup LSTM LSTMCell
    LayerNormalization LeakyReLU Masking MaxNumBoundingBoxes MaxPool1D MaxPool2D MaxPool3D
    MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp
    MultiHeadAttention Multiply Normalization PReLU Permute Pipeline RMSNormalization RNN
    RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
    RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
    RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector
    Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram SeparableConv1D
    SeparableConv2D SeparableConvolution1D SeparableConvolution2D SimpleRNN SimpleRNNCell
    Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D
    SpectralNormalization StackedRNNCells StringLookup Subtract TextVectorization
    TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D Wrapper
    ZeroPadding1D ZeroPadding2D ZeroPadding3D"""
)

# By the name of the class in Python, which an .h5 of Keras 3 has, where Keras exports another.
PYTHON_NAMES = frozenset({"GroupedQueryAttention"})

# Of Keras 1 and 2, keras-applications and old copies of it.
LEGACY_LAYERS = _names(
    """AddLoss AddMetric AtrousConv1D AtrousConv2D AtrousConvolution1D AtrousConvolution2D
    AtrousSeparableConvolution2D BatchNormalizationV1 BatchNormalizationV2 ClassMethod
    ConvLSTM2DCell ConvRecurrent2D CuDNNGRU CuDNNLSTM CustomScaleLayer Deconv2D Deconv3D
    Deconvolution2D Deconvolution3D FixedDropout GRUCellV1 GRUCellV2 GRUV1 GRUV2 Highway
    InstanceMethod InstanceProperty LSTMCellV1 LSTMCellV2 LSTMV1 LSTMV2 LayerScale
    LocallyConnected1D LocallyConnected2D MaxoutDense Merge NormalizationLayer
    ParametricSoftplus RandomHeight RandomWidth SReLU SlicingOpLambda StochasticDepth
    SyncBatchNormalization TFOpLambda TensorFlowOpLayer ThresholdedReLU TimeDistributedDense
    UnifiedGRU UnifiedLSTM"""
)

# What this package registers; nothing else of it is for stored models.
OWN = _names(
    """Add Average Bidirectional BytePairTokenizer CausalSeparableConv1D Concatenate CosineMerge
    CurrentBatchNormalization Embedding FirstPieces Highway Identity LayerScale LocallyConnected1D
    LocallyConnected2D MaskOf Masking Maximum MaxoutDense Minimum ModuleModel
    MultiHeadAttention Multiply Normalization OneHotColumns ParametricSoftplus Rescaling SReLU
    SampleNormalization SavedModelLayer ScaledAdd Softmax SplitAtSpace StochasticDepth Subtract
    TensorOperation ThresholdedReLU TimeDistributed TimeMajor TokenEmbeddings TokenMask TokenPooling
    TransformerBlock WordPieceTokenizer WordTokenizer hard_sigmoid"""
)

# Of these a vocabulary is the text itself and never a path.
INLINE_TEXTS = frozenset({"BytePairTokenizer", "WordPieceTokenizer", "WordTokenizer"})

CONTAINERS = _names("""Container Functional Graph Model Pipeline Sequential""")

INITIALIZERS = _names(
    """Constant GlorotNormal GlorotNormalV2 GlorotUniform GlorotUniformV2 HeNormal HeNormalV2
    HeUniform Identity IdentityInitializer LecunNormal LecunNormalV2 LecunUniform Normal One
    Ones OnesV2 Orthogonal OrthogonalInitializer RandomNormal RandomNormalV2 RandomUniform STFT
    STFTInitializer TruncatedNormal Uniform VarianceScaling Zero Zeros ZerosV2 constant
    glorot_normal glorot_uniform glorotnormal glorotuniform he_normal he_uniform henormal
    heuniform identity lecun_normal lecun_uniform lecunnormal lecununiform normal one ones
    orthogonal random_normal random_uniform stft truncated_normal uniform variance_scaling zero
    zeros"""
)

REGULARIZERS = _names(
    """ActivityRegularizer L1 L1L2 L1L2Regularizer L1Regularizer L2 L2Regularizer
    OrthogonalRegularizer WeightRegularizer l1 l1_l2 l1l2 l2 orthogonal_regularizer"""
)

CONSTRAINTS = _names(
    """MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm max_norm maxnorm min_max_norm minmaxnorm
    non_neg nonneg radial_constraint unit_norm unitnorm"""
)

ACTIVATIONS = _names(
    """ELU LeakyReLU PReLU ReLU Softmax celu elu exponential gelu gelu_v2 glu hard_shrink
    hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear linear_v2 log_sigmoid
    log_softmax mish relu relu6 relu_v2 selu sigmoid silu soft_shrink softmax softmax_v2
    softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink
    threshold"""
)

# Functions of TensorFlow as activations of Keras 2.
TENSORFLOW_ACTIVATIONS = _names(
    """abs acos acosh asin asinh atan atanh ceil cos cosh crelu_v2 erf erfc exp expm1 floor identity
    log log1p log_softmax_v2 negative reciprocal round rsqrt sign sin sinh sqrt square tan"""
)

DTYPE_POLICIES = _names(
    """AWQDTypePolicy DTypePolicy DTypePolicyMap FloatDTypePolicy GPTQDTypePolicy Int4DTypePolicy
    Policy PolicyV1 QuantizedDTypePolicy QuantizedFloat8DTypePolicy"""
)

QUANTIZERS = _names(
    """AWQConfig AbsMaxQuantizer Float8QuantizationConfig GPTQConfig Int4QuantizationConfig
    Int8QuantizationConfig"""
)

LOSSES = _names(
    """BinaryCrossentropy BinaryFocalCrossentropy CTC CategoricalCrossentropy
    CategoricalFocalCrossentropy CategoricalGeneralizedCrossEntropy CategoricalHinge Circle
    CosineSimilarity Dice Hinge Huber KLD KLDivergence LogCosh LossFunctionWrapper MAE MAPE MSE
    MSLE MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError
    MeanSquaredLogarithmicError Poisson Reduction SparseCategoricalCrossentropy SquaredHinge
    Tversky binary_crossentropy binary_focal_crossentropy categorical_crossentropy
    categorical_focal_crossentropy categorical_generalized_cross_entropy categorical_hinge
    circle cosine_proximity cosine_similarity ctc dice hinge huber kl_divergence kld
    kullback_leibler_divergence log_cosh logcosh mae mape mean_absolute_error
    mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error mse msle
    poisson sparse_categorical_crossentropy squared_hinge tversky"""
)

METRICS = _names(
    """AUC Accuracy BinaryAccuracy BinaryCrossentropy BinaryIoU CategoricalAccuracy
    CategoricalCrossentropy CategoricalHinge CompileMetrics ConcordanceCorrelation
    CosineSimilarity F1Score FBetaScore FalseNegatives FalsePositives Hinge IoU KLDivergence
    LogCoshError LossesContainer Mean MeanAbsoluteError MeanAbsolutePercentageError MeanIoU
    MeanMetricWrapper MeanSquaredError MeanSquaredLogarithmicError MetricsList OneHotIoU
    OneHotMeanIoU PearsonCorrelation Poisson Precision PrecisionAtRecall R2Score Recall
    RecallAtPrecision RootMeanSquaredError SensitivityAtSpecificity SparseCategoricalAccuracy
    SparseCategoricalCrossentropy SparseTopKCategoricalAccuracy SpecificityAtSensitivity
    SquaredHinge Sum TopKCategoricalAccuracy TrueNegatives TruePositives acc accuracy
    binary_accuracy binary_crossentropy binary_focal_crossentropy categorical_accuracy
    categorical_crossentropy categorical_focal_crossentropy categorical_hinge
    concordance_correlation hinge huber kl_divergence log_cosh mae mean_absolute_error
    mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error mse
    pearson_correlation poisson sparse_categorical_accuracy sparse_categorical_crossentropy
    sparse_top_k_categorical_accuracy squared_hinge top_k_categorical_accuracy"""
)

OPTIMIZERS = _names(
    """Adadelta Adafactor Adagrad Adam AdamW Adamax CosineDecay CosineDecayRestarts
    ExponentialDecay Ftrl InverseTimeDecay Lamb Lion LossScaleOptimizer LossScaleOptimizerV1
    LossScaleOptimizerV3 MultiOptimizer Muon Nadam NadamV2 OptimizerMap PiecewiseConstantDecay
    PolynomialDecay RMSprop SGD ScheduleFreeAdamW TFOptimizer adagrad adam rmsprop sgd"""
)

# Beside these a configuration may hold the generator of a random layer's seeds.
OTHERS = frozenset({"SeedGenerator"})

OBJECTS = (
    LAYERS
    | PYTHON_NAMES
    | LEGACY_LAYERS
    | CONTAINERS
    | INITIALIZERS
    | REGULARIZERS
    | CONSTRAINTS
    | ACTIVATIONS
    | DTYPE_POLICIES
    | QUANTIZERS
    | LOSSES
    | METRICS
    | OPTIMIZERS
    | OTHERS
)
# What an entry of class "function" may name.
FUNCTIONS = (
    ACTIVATIONS
    | TENSORFLOW_ACTIVATIONS
    | INITIALIZERS
    | REGULARIZERS
    | CONSTRAINTS
    | LOSSES
    | METRICS
)

# Modules of Keras where these live, in all versions; "keras.src.layers" stands for all below it.
MODULES = tuple(
    f"{root}{name}"
    for root in ("", "src.")
    for name in (
        "activations",
        "applications",
        "constraints",
        "dtype_policies",
        "engine",
        "initializers",
        "layers",
        "legacy",
        "losses",
        "metrics",
        "mixed_precision",
        "models",
        "optimizers",
        "quantizers",
        "random",
        "regularizers",
        "trainers",
    )
)
