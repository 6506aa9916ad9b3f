"""One small network for each kind of layer and architecture, with the name of its classifier."""

import timm
import torch
from torch import nn
from torch.nn import functional as F


class CalledTwice(nn.Module):
    """One convolution and one linear layer that are each used twice, and one use that the output ignores."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = self.conv(F.relu(self.conv(F.relu(self.first(x))))).mean((2, 3))
        self.linear(x)
        return self.fc(self.linear(torch.tanh(self.linear(x))))


def convolutions(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


NETWORKS = {
    "resnet basic": lambda: (timm.create_model("resnet10t", num_classes=3), "fc"),
    "resnet bottleneck": lambda: (timm.create_model("resnet26t", num_classes=3), "fc"),
    "vit": lambda: (timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2), "head"),
    "deit": lambda: (timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2), "head"),
    "swin": lambda: (
        timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(2, 2), num_heads=(3, 6)),
        "head.fc",
    ),
    "convnext": lambda: (timm.create_model("convnext_atto", depths=(1, 1, 1, 1)), "head.fc"),
    "mobilenetv3": lambda: (timm.create_model("mobilenetv3_small_050"), "classifier"),
    "efficientnet": lambda: (timm.create_model("efficientnet_lite0"), "classifier"),
    "mixer": lambda: (timm.create_model("mixer_s32_224", img_size=64), "head"),
    "bundled resnet": lambda: (timm.create_model("task2vec_resnet_32"), "fc"),
    "bundled vit": lambda: (timm.create_model("task2vec_vit_patch4_32"), "head"),
    "called twice": lambda: (CalledTwice(), "fc"),
    "grouped": lambda: (convolutions(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=4)), "5"),
    "depthwise": lambda: (convolutions(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)), "5"),
    "dilated": lambda: (convolutions(nn.Conv2d(3, 8, 3, dilation=2, padding=3)), "3"),
    "padded to same": lambda: (convolutions(nn.Conv2d(3, 8, 4, padding="same")), "3"),
    "padded by reflection": lambda: (convolutions(nn.Conv2d(3, 8, 3, padding=(1, 2), padding_mode="reflect")), "3"),
    "uneven stride": lambda: (convolutions(nn.Conv2d(3, 8, (1, 1), stride=(2, 3))), "3"),
    "few positions": lambda: (convolutions(nn.Conv2d(3, 16, 16, stride=8), nn.Conv2d(16, 8, 2)), "4"),
}

# The images these need are larger than 32 px.
LARGER = {"swin": 64, "mixer": 64}
