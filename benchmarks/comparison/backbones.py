"""The networks that are compared, as each library knows them. Standard library only."""

import dataclasses

WHATS = ("frozen", "partial", "unfrozen")


@dataclasses.dataclass(frozen=True)
class Network:
    """One architecture.

    Attributes:
      keras_name: in keras.applications.
      keras_module: of keras.applications, with its preprocess_input.
      pixel_range: what that preprocess_input does, as a value of --pixel_range.
      frozen_until: last frozen layer where only the last block trains.
      torch_name: in torchvision.models; None: torchvision has no such network.
      torch_last: (attribute, first trained child; None: all of it) of the last block there.
    """

    keras_name: str
    keras_module: str
    pixel_range: str
    frozen_until: str
    torch_name: str | None = None
    torch_last: tuple[str, int | None] = ("", None)


NETWORKS = {
    "resnet50": Network(
        keras_name="ResNet50",
        keras_module="resnet",
        pixel_range="caffe",
        frozen_until="conv4_block6_out",
        torch_name="resnet50",
        torch_last=("layer4", None),
    ),
    "mobilenetv2": Network(
        keras_name="MobileNetV2",
        keras_module="mobilenet_v2",
        pixel_range="-1..1",
        frozen_until="block_15_add",
        torch_name="mobilenet_v2",
        torch_last=("features", 17),
    ),
    "efficientnetv2b0": Network(
        keras_name="EfficientNetV2B0",
        keras_module="efficientnet_v2",
        pixel_range="0..255",
        frozen_until="block6g_add",
    ),
}
