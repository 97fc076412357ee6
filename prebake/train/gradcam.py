"""Heat maps: which places of an image spoke for a class (Grad-CAM; Selvaraju et al., arXiv 1610.02391)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["grad_cam"]

CHUNK = 16
LEAST_SIDE = 3  # a map of fewer places tells next to nothing of where


def grad_cam(model: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Tensor | None:
    """Return where the model finds each image's class, from 0 to 1, or None where it has no maps of features.

    The model runs in evaluation mode, and is left in the mode that it was in.

    Args:
        model: any; what its last module with a map for output gives is looked at.
        images_NCHW: normalized, float32, on the model's device.
        labels_N: int64, on the same device: the class to look for in each.

    Returns:
        (N, H, W), float32, on the CPU; each map's highest value is 1, or 0 where nothing speaks for the class.
    """
    training = model.training
    model.eval()
    try:
        module = _last_map(model, images_NCHW[:1])
        if module is None:
            return None
        chunks = zip(images_NCHW.split(CHUNK), labels_N.split(CHUNK), strict=True)
        return torch.cat([_grad_cam(model, module, images, labels) for images, labels in chunks])
    finally:
        model.train(training)


@torch.no_grad()
def _last_map(model: nn.Module, image_1CHW: Tensor) -> nn.Module | None:
    """Find the module that ends last of those with maps of LEAST_SIDE or more, or else with the largest maps."""
    found: list[tuple[int, nn.Module]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            found.append((min(*output.shape[2:], LEAST_SIDE), module))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(image_1CHW)
    finally:
        for hook in hooks:
            hook.remove()
    largest = max((side for side, _ in found), default=0)
    return next((module for side, module in reversed(found) if side == largest), None)


def _grad_cam(model: nn.Module, module: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
    maps: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()  # what follows may work in place

    hook = module.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits_NK = model(images_NCHW)
    finally:
        hook.remove()
    of_class = logits_NK.gather(1, labels_N[:, None]).sum()
    (gradients,) = torch.autograd.grad(of_class, maps[-1])  # a module that ran several times has several
    weights_NF11 = gradients.mean((2, 3), keepdim=True)
    heat = F.relu((weights_NF11 * maps[-1].detach()).sum(1, keepdim=True))
    heat = F.interpolate(heat, images_NCHW.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest = heat.amax((1, 2), keepdim=True)
    return (heat / torch.where(highest > 0, highest, 1)).cpu()
