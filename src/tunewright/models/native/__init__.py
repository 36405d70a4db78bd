"""Kernels in C++ for CPUs, compiled once on the machine they run on; without a compiler torch does it all."""
