"""A hook for the time of a block, in passes of the thread that asked for it."""

import threading

import pytest
import torch
from torch import Tensor, nn

from atlas.networks.hooks import hooked


def test_an_output_is_seen_and_may_be_replaced() -> None:
    module, outputs = nn.Identity(), list[Tensor]()
    with hooked(module, outputs.append):
        assert module(torch.ones(2)).tolist() == [1, 1]
    with hooked(module, lambda output: 3 * output):
        assert module(torch.ones(2)).tolist() == [3, 3]
    assert [output.tolist() for output in outputs] == [[1, 1]]
    assert module(torch.ones(2)).tolist() == [1, 1]


def test_the_hook_is_gone_after_an_error() -> None:
    module = nn.Identity()
    with pytest.raises(RuntimeError), hooked(module, lambda output: 3 * output):
        raise RuntimeError
    assert not module._forward_hooks


def test_passes_of_other_threads_are_left_alone() -> None:
    module, outputs = nn.Identity(), list[list[float]]()
    thread = threading.Thread(target=lambda: outputs.append(module(torch.ones(2)).tolist()))
    with hooked(module, lambda output: 3 * output):
        thread.start()
        thread.join()
        outputs.append(module(torch.ones(2)).tolist())
    assert outputs == [[1, 1], [3, 3]]
