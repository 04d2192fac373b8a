"""What the tests of lift share: tiny models are fastest on one thread, and do not wait for each other there."""

import torch

torch.set_num_threads(1)
