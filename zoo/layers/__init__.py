"""Layers and tensor functions that two families really share."""

import torch

# With AVX-512, torch's log1p and expm1 of float32, and with them softplus and the logarithm of a
# sigmoid, read a constant that only -0.0 needs, under a mask. As long as nothing has needed it, its
# page is in no table of this process, and the processor suppresses a fault at every read: 5 to 10
# times the time (torch 2.14; findings/torch_log1p_waits_for_a_page.sh). So it is needed here, once.
torch.log1p(torch.tensor([-0.0], device="cpu"))
