import logging

__version__ = "0.2.0"

# transformers and peft import bitsandbytes, where it is installed, and on some CPUs it complains of
# the lack of a kernel that nobody has asked for
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
