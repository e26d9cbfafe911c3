"""Lets accelerate divide a model by FSDP on CPUs: PyTorch can, accelerate 1.15 does not.

Python imports a module of this name by itself, in every process of a launch that has this folder on
its PYTHONPATH. accelerate's own state is left as it is but for this: several processes on CPUs that
were asked for FSDP are a launch with FSDP, as several on GPUs are.
"""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder


class Patch(MetaPathFinder):
    """Changes `accelerate.state` when it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "accelerate.state":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module):
            load(module)
            change(module)

        spec.loader.exec_module = load_and_change
        return spec


def change(state):
    """Let a state on several CPUs be one of FSDP."""
    kinds, plain = state.DistributedType, state.AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **options):
        plain(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if self.distributed_type == kinds.MULTI_CPU and fsdp_plugin is not None:
            self.distributed_type = kinds.FSDP
            state.PartialState._shared_state["distributed_type"] = kinds.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin

    state.AcceleratorState.__init__ = init


if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    sys.meta_path.insert(0, Patch())
