import base64
import io

import torch

from vllm.multimodal.inputs import MultiModalFieldElem, MultiModalKwargsItem


def encode_mm_kwargs_item(item):
    buffer = io.BytesIO()
    torch.save({name: elem.data for name, elem in item.items()}, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def decode_mm_kwargs_item(text):
    data = torch.load(io.BytesIO(base64.b64decode(text)))
    return MultiModalKwargsItem({name: MultiModalFieldElem(value) for name, value in data.items()})
