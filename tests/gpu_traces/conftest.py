"""Makes the machine with a fake GPU known to this folder's tests."""

from tests.gpu_traces.fake_cuda import gpu

__all__ = ["gpu"]
