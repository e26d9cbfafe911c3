def tokens_input(prompt_token_ids):
    return {"type": "token", "prompt_token_ids": prompt_token_ids}


def mm_input(prompt_token_ids, mm_kwargs, mm_hashes, mm_placeholders):
    return {
        "type": "multimodal",
        "prompt_token_ids": prompt_token_ids,
        "mm_kwargs": mm_kwargs,
        "mm_hashes": mm_hashes,
        "mm_placeholders": mm_placeholders,
    }
