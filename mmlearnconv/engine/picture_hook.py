"""Pictures while a model trains."""

from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..analysis import SamplingPoints
from ..datasets import InputPipeline
from ..errors import UserValueError
from .model import unwrap_model


@HOOKS.register_module()
class LearnableConvPictureHook(Hook):
    """Gives pictures of what the layers learned to every backend of the run's visualiser.

    These are the pictures of ``tools/visualize.py``; with ``LocalVisBackend`` they are files in
    ``vis_data/vis_image``, with ``TensorboardVisBackend`` or ``WandbVisBackend`` they are there.

    .. code-block:: python

        custom_hooks = [dict(type='LearnableConvPictureHook', image='demo.jpg')]
        vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]

    Args:
        interval: epochs, or iterations, between two drawings. Default: 1.
        by_epoch: whether ``interval`` counts epochs. Default: ``True``.
        image: file on which DRConv's regions, DK's kernels and sampling points are shown, read by
            the config's test pipeline. Default: none; they are then not drawn.
        size: longer side that the image gets. Default: 512.
        point: column and row of the sampling points, in shares of width and height. Default: the
            centre.

    Raises:
        FileNotFoundError: there is no such image.
        ValueError: the config cannot read the file, which shows when training begins; ``interval``
            is below 1, or ``size`` below 32.
    """

    priority = "LOW"

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        image: str | None = None,
        size: int = 512,
        point: tuple[float, float] = (0.5, 0.5),
    ) -> None:
        if interval < 1:
            raise UserValueError(f"interval: {interval!r}; must be at least 1")
        if size < 32:
            raise UserValueError(f"size: {size!r}; must be at least 32")
        if image is not None and not Path(image).is_file():
            raise FileNotFoundError(f"image: {image!r} does not exist")
        self.interval, self.by_epoch, self.size, self.point = interval, by_epoch, size, point
        self.image = image

    def before_train(self, runner: Any) -> None:
        if self.image is not None:
            from ..visualization import size_for

            pipeline = InputPipeline(runner.cfg, unwrap_model(runner.model))
            loaded = pipeline.load(self.image)
            self._picture = loaded.picture
            self._pixels = pipeline.tensor(loaded, size_for(loaded.pixels, self.size))

    def after_train_epoch(self, runner: Any) -> None:
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.epoch + 1)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    @master_only
    def _draw(self, runner: Any, step: int) -> None:
        # matplotlib takes its time to load.
        from ..visualization import draw_layers, draw_point, layers_to_show

        model = unwrap_model(runner.model)
        training = {module: module.training for module in model.modules()}
        # Batch statistics must not see the image.
        model.eval()
        try:
            pictures = []
            if self.image is None:
                pictures = draw_layers(model)
            else:
                looked = SamplingPoints(model, self._pixels)
                layers = layers_to_show(model, looked)
                pictures = [draw_point(looked, layers, self._picture, self.point)] if layers else []
                pictures += draw_layers(model, looked.calls, self._picture)
        finally:
            for module, was in training.items():
                module.training = was
        for picture in pictures:
            runner.visualizer.add_image(picture.name, picture.pixels(), step)
