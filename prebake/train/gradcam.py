"""Grad-CAM heat maps: the evidence for a class at each place of an image (Selvaraju et al., arXiv 1610.02391)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["grad_cam"]

CHUNK = 16
MIN_SIDE = 3  # a smaller feature map has almost no spatial information


def grad_cam(model: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Tensor | None:
    """Return a heat map of each image for a class, or None if the model has no feature maps.

    The model runs in evaluation mode; its own mode is restored afterwards.

    Args:
        model: any classifier; the output of its last module with 4-dimensional output is used.
        images_NCHW: normalized, float32, on the model's device.
        labels_N: int64, on the same device: the class to explain in each image.

    Returns:
        (N, H, W), float32, on the CPU, from 0 to 1; the maximum of a map is 1, or 0 without evidence for the class.
    """
    training = model.training
    model.eval()
    try:
        module = _last_feature_module(model, images_NCHW[:1])
        if module is None:
            return None
        chunks = zip(images_NCHW.split(CHUNK), labels_N.split(CHUNK), strict=True)
        return torch.cat([_grad_cam(model, module, images, labels) for images, labels in chunks])
    finally:
        model.train(training)


@torch.no_grad()
def _last_feature_module(model: nn.Module, image_1CHW: Tensor) -> nn.Module | None:
    """Return the last module whose feature maps have MIN_SIDE or more; without one, that with the largest maps."""
    found: list[tuple[int, nn.Module]] = []

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            found.append((min(*output.shape[2:], MIN_SIDE), module))

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    try:
        model(image_1CHW)
    finally:
        for hook in hooks:
            hook.remove()
    largest = max((side for side, _ in found), default=0)
    return next((module for side, module in reversed(found) if side == largest), None)


def _grad_cam(model: nn.Module, module: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
    maps: list[Tensor] = []

    def detach(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()  # the next module may work in place

    hook = module.register_forward_hook(detach)
    try:
        with torch.enable_grad():
            logits_NK = model(images_NCHW)
    finally:
        hook.remove()
    class_logits = logits_NK.gather(1, labels_N[:, None]).sum()
    (gradients,) = torch.autograd.grad(class_logits, maps[-1])  # the last call of a module that ran several times
    weights_NF11 = gradients.mean((2, 3), keepdim=True)
    maps_N1HW = F.relu((weights_NF11 * maps[-1].detach()).sum(1, keepdim=True))
    maps_NHW = F.interpolate(maps_N1HW, images_NCHW.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    maximum_N11 = maps_NHW.amax((1, 2), keepdim=True)
    return (maps_NHW / torch.where(maximum_N11 > 0, maximum_N11, 1)).cpu()
