def packed_nccl_broadcast_producer(iterator, group, src, post_iter_func):
    """Sends nothing: hands the tensors over in the same process. `group` is a function that takes them."""
    group([(name, tensor.clone()) for name, tensor in iterator])
