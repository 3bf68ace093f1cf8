"""Operators that autograd, torch.compile and torch.func differentiate, once."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def define(
    name: str, schema: str, fake: Callable, flops: Callable[..., int] | None = None
) -> Callable[[Callable], Callable]:
    """Decorator: an operator, ``mmlearnconv::name``, of a function.

    Compiled graphs hold it as one node, so that what it does, which may depend on numbers, does
    not break them.

    Args:
        name: of the operator, without its namespace.
        schema: its arguments and outputs.
        fake: gives its outputs' shapes and dtypes.
        flops: operations for PyTorch's counter; a multiply-add is two.
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
    """Give an operator its derivative, and return it as a function.

    ``torch.library.register_autograd`` serves autograd and torch.compile; torch.func asks for an
    ``autograd.Function`` with a ``setup_context``, and does not see the former.

    Args:
        name: of the operator, without its namespace.
        backward, setup_context: as ``register_autograd``.
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


def once(name: str) -> Callable:
    """A backward operator as a function whose own derivative is refused.

    Without a formula PyTorch would take it for zero.
    """

    def refuse(ctx: Any, *grads: Any) -> None:
        _refuse(f"mmlearnconv::{name}")

    return differentiable(name, refuse, lambda ctx, inputs, output: None)


def differentiated_once(tensor: Tensor, name: str) -> Tensor:
    """The tensor, where what is computed from it, ``name``, has no second derivative by it."""
    return tensor if torch.compiler.is_compiling() else _Once.apply(tensor, name)


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether autograd will ask for a gradient; not in a trace, which sees no custom Function."""
    wants = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return wants and not torch.jit.is_tracing()


def _refuse(name: str) -> NoReturn:
    raise RuntimeError(
        f"{name} has no derivative: the operation can be differentiated once, not twice. Leave "
        "out create_graph=True unless you differentiate a gradient again, which this layer cannot"
    )


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, name: str) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _NoMore.apply(grad, ctx.name), None


class _NoMore(_Once):
    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        _refuse(ctx.name)
