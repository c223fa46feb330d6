"""What the heads learn by."""
import torch
from torch import Tensor
from torch.nn import functional

SSIM_WINDOW = 7


def outline_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy and Dice of masks that may overlap, both (B, K, ...); Dice is counted over the batch, so that empty slices do no harm."""
    crossed = functional.binary_cross_entropy_with_logits(logits, masks, pos_weight=torch.tensor(2.0, device=logits.device))
    return 2 * crossed + dice_loss(torch.sigmoid(logits), masks)


def classes_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy and Dice of exclusive classes: (B, K + 1, ...) logits, background first, against codes (B, ...)."""
    masks = functional.one_hot(codes, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return functional.cross_entropy(logits, codes) + dice_loss(torch.softmax(logits, 1)[:, 1:], masks[:, 1:])


def dice_loss(soft: Tensor, masks: Tensor) -> Tensor:
    axes = (0, *range(2, soft.ndim))
    overlap = 2 * (soft * masks).sum(axes) + 20
    return (1 - overlap / (soft.sum(axes) + masks.sum(axes) + 20)).mean()


def ssim_map(image: Tensor, truth: Tensor, value_range: float | Tensor = 1.0) -> Tensor:
    """Structural similarity at each point of (B, C, H, W), uniform window of 7 (Wang 2004)."""
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(x, (SSIM_WINDOW // 2,) * 4, mode="reflect"), SSIM_WINDOW, stride=1)

    a, b = mean(image), mean(truth)
    spread_a, spread_b, both = mean(image * image) - a * a, mean(truth * truth) - b * b, mean(image * truth) - a * b
    return ((2 * a * b + c1) * (2 * both + c2)) / ((a * a + b * b + c1) * (spread_a + spread_b + c2))


def image_loss(image: Tensor, truth: Tensor, kind: str) -> Tensor:
    """`kind` names the parts: l1, mse, ssim."""
    loss = functional.mse_loss(image, truth) if "mse" in kind else functional.l1_loss(image, truth)
    if "ssim" in kind:
        span = truth.detach().amax().clamp_min(1e-3)
        loss = loss + 0.3 * (1 - ssim_map(image.float(), truth.float(), span).mean())
    return loss


def judge_loss(measured: Tensor, made: Tensor) -> Tensor:
    """What the patch discriminator learns by (least squares, Mao, arXiv 1611.04076)."""
    return 0.5 * ((measured - 1) ** 2).mean() + 0.5 * (made**2).mean()


def fool_loss(made: Tensor) -> Tensor:
    return ((made - 1) ** 2).mean()
