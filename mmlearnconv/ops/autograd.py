"""Definition of operators that autograd, torch.compile and torch.func can differentiate once."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def define(
    name: str, schema: str, fake: Callable, flops: Callable[..., int] | None = None
) -> Callable[[Callable], Callable]:
    """Decorator that registers a function as the operator ``mmlearnconv::name``.

    A compiled graph holds the operator as one node, so that data-dependent code inside it causes no
    graph break.

    Args:
        name: name of the operator, without the namespace.
        schema: its arguments and outputs.
        fake: returns empty outputs of the right shapes and dtypes.
        flops: formula for PyTorch's FLOP counter; a multiply-add counts as two. Default: ``None``.
    """

    def register(function: Callable) -> Callable:
        operator = torch.library.custom_op(
            f"mmlearnconv::{name}", function, mutates_args=(), schema=schema
        )
        operator.register_fake(fake)
        if flops is not None:
            register_flop_formula(getattr(torch.ops.mmlearnconv, name))(flops)
        return operator

    return register


def differentiable(name: str, backward: Callable, setup_context: Callable) -> Callable:
    """Register the derivative of an operator, and return the operator as a function.

    ``torch.library.register_autograd`` serves autograd and torch.compile. torch.func ignores it and
    needs an ``autograd.Function`` with a ``setup_context``.

    Args:
        name: name of the operator, without the namespace.
        backward, setup_context: as in ``register_autograd``.
    """
    operator = getattr(torch.ops.mmlearnconv, name)
    torch.library.register_autograd(f"mmlearnconv::{name}", backward, setup_context=setup_context)
    function: Any = type(
        name,
        (torch.autograd.Function,),
        dict(
            forward=staticmethod(lambda *args: operator(*args)),
            setup_context=staticmethod(setup_context),
            backward=staticmethod(backward),
            generate_vmap_rule=True,
        ),
    )

    def call(*args: Any) -> Any:
        return operator(*args) if torch.compiler.is_compiling() else function.apply(*args)

    return call


def forbid_second_derivative(name: str) -> Callable:
    """Return a backward operator as a function that raises an error when it is differentiated.

    Without a derivative formula PyTorch would treat the derivative as zero.
    """

    def refuse(ctx: Any, *grads: Any) -> None:
        _refuse(f"mmlearnconv::{name}")

    return differentiable(name, refuse, lambda ctx, inputs, output: None)


def differentiated_once(tensor: Tensor, name: str) -> Tensor:
    """Return the tensor; a second derivative with respect to it raises an error naming ``name``."""
    return tensor if torch.compiler.is_compiling() else _FirstDerivativeOnly.apply(tensor, name)


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether autograd will ask for a gradient; not in a trace, which sees no custom Function."""
    wants = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wants and not torch.jit.is_tracing()


def _refuse(name: str) -> NoReturn:
    raise RuntimeError(
        f"{name} has no derivative: the operation can be differentiated once, not twice. This "
        "layer does not support second derivatives, such as a loss on gradients (create_graph=True)"
    )


class _FirstDerivativeOnly(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, name: str) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _RefuseSecond.apply(grad, ctx.name), None


class _RefuseSecond(_FirstDerivativeOnly):
    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        _refuse(ctx.name)
