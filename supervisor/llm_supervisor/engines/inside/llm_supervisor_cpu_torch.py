"""Lets the torch packages of PyPI that are linked against CUDA be imported beside a CPU build of torch, and vLLM ask
whether CUDA records a graph.

Copied into the site-packages of a CPU vLLM environment, where `llm_supervisor_cpu_torch.pth` imports it at each
start of the interpreter: so it imports nothing but sys until one of the packages is asked for, and nothing of
llm_supervisor ever. Where their extensions load after all (+cpu builds), it changes nothing.
"""

import sys

TYPE_CHECKING = False  # typing's own constant would cost its import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_graphs(module: "ModuleType", execute: "Callable[[ModuleType], None]") -> None:
    """Import torch.cuda.graphs; without CUDA, no stream is recorded. Asking raises, and vLLM's resampler (MiniCPM-V)
    asks at each image: the first one ended the server.
    """
    execute(module)

    import torch

    if torch.version.cuda is None:
        module.__dict__["is_current_stream_capturing"] = lambda: False


def import_torchvision(module: "ModuleType", execute: "Callable[[ModuleType], None]") -> None:
    """Define the operators that torchvision registers fake kernels for, then import it.

    It shrugs when its extension does not load, and then dies with `operator torchvision::nms does not exist`, and
    with it every vision model of vLLM. The schemas are all that is missing; calling such an operator still fails.
    """
    from importlib.machinery import PathFinder

    import torch

    extension = PathFinder.find_spec("_C", module.__path__)
    try:
        if extension is not None and extension.origin is not None:
            torch.ops.load_library(extension.origin)  # as torchvision does; loading it twice is loading it once
    except OSError:
        pass
    for operator, schema in OPERATORS.items():
        if not hasattr(torch.ops.torchvision, operator.removeprefix("torchvision::")):
            torch.library.define(operator, schema)
    execute(module)


def import_torchaudio_loader(module: "ModuleType", execute: "Callable[[ModuleType], None]") -> None:
    """Import torchaudio's loader of extensions, and let a library that does not load count as one that is absent.

    torchaudio does well without (resampling, which is what vLLM wants of it, is plain torch), but raises when the
    file is there and does not load; and transformers imports torchaudio wherever it is installed.
    """
    execute(module)
    load: Callable[[str], bool] = module._load_lib

    def load_where_possible(name: str) -> bool:
        try:
            return load(name)
        except OSError:
            return False

    module.__dict__["_load_lib"] = load_where_possible


def import_torchcodec(module: "ModuleType", execute: "Callable[[ModuleType], None]") -> None:
    """Import torchcodec, or say that it cannot be in the words vLLM expects and does without it: ImportError."""
    try:
        execute(module)
    except OSError as problem:
        raise ImportError(f"torchcodec does not load beside this torch: {problem}") from problem


class Finder:
    """Finds, first on `sys.meta_path`, the modules that are to be imported differently, and no other."""

    differently = {  # noqa: RUF012 - ClassVar would cost the import of typing
        "torch.cuda.graphs": import_graphs,
        "torchvision": import_torchvision,
        "torchaudio._extension.utils": import_torchaudio_loader,
        "torchcodec": import_torchcodec,
    }

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name not in self.differently:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        # At the execution and not here: many a library only asks whether torchvision is there (find_spec).
        def exec_module(module: "ModuleType") -> None:
            self.differently[name](module, execute)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
