from collections import UserDict
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlaceholderRange:
    offset: int
    length: int
    is_embed: Any = None


@dataclass
class MultiModalFieldElem:
    data: Any


@dataclass
class MultiModalFieldConfig:
    modality: str
    sizes: Any = None

    @staticmethod
    def batched(modality, *, keep_on_cpu=False):
        return MultiModalFieldConfig(modality)

    @staticmethod
    def flat_from_sizes(modality, size_per_item, dim=0, *, keep_on_cpu=False):
        return MultiModalFieldConfig(modality, size_per_item.tolist())


class MultiModalKwargsItem(UserDict):
    pass


class MultiModalKwargsItems(UserDict):
    @staticmethod
    def from_hf_inputs(hf_inputs, config_by_key):
        columns = {}
        for key, config in config_by_key.items():
            assert config.modality == "video"
            values = hf_inputs[key]
            columns[key] = (
                list(values) if config.sizes is None else list(values.split(config.sizes))
            )
        rows = [
            zip(columns, map(MultiModalFieldElem, row), strict=True)
            for row in zip(*columns.values(), strict=True)
        ]
        items = [MultiModalKwargsItem(row) for row in rows]
        return MultiModalKwargsItems({"video": items})
