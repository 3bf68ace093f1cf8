"""AlexNet, CIFAR-100 (DKE, table 1: the base network); as alexnet_cifar10."""

_base_ = "./alexnet_cifar10.py"
model = dict(backbone=dict(num_classes=100))
data_preprocessor = dict(
    num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418]
)
train_dataloader = dict(dataset=dict(type="CIFAR100", data_root="data/cifar100"))
val_dataloader = dict(dataset=dict(type="CIFAR100", data_root="data/cifar100"))
test_dataloader = dict(dataset=dict(type="CIFAR100", data_root="data/cifar100"))
