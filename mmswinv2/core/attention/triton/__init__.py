"""Window attention by Triton kernels; :mod:`.kernels` imports Triton, and :mod:`.launch` imports it at a launch."""
