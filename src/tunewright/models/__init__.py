import logging

from tunewright.models.deferred import defer_compiling

# PEFT imports bitsandbytes wherever that is installed, and this then reports that it finds no kernels on the
# hub. Here as few as everywhere: no code is fetched, and the path those kernels serve is never taken.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "kernels-community" not in record.getMessage()
)
defer_compiling()
