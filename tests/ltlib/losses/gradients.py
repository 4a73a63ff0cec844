"""Value and gradient of a loss."""

import torch


def value_and_gradient(loss, logits, labels, **fixed):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels, **fixed)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient
