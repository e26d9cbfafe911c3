def trainer_init(init_info):
    raise NotImplementedError("needs CUDA")
